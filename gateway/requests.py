"""From path, query, body and headers to the bytes of a request.

All of them become one JSON tree, which the message is then read from: so there is one
place that knows how a text becomes a value, and one that tells what is wrong with it.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from protobuf import Message, message_from_json_value

from gateway import etags, masks
from gateway.bindings import WHOLE, Binding
from gateway.bodies import ABSENT
from gateway.contract import Contract
from gateway.idempotency import REQUEST_ID
from gateway.shapes import MOST_VIOLATIONS, Field, Shape, Shapes, mistakes, overlooked
from gateway.statuses import Refused, Violation, invalid, wrong

HTTP_BODY = "google.api.HttpBody"
LAST_EVENT_ID = "last_event_id"
MOST_PARAMETERS = 1000
# How far a parameter's name may reach into messages.
MOST_PARTS = 32
# A body that a client sends to an RPC whose rule has none.
NOTHING: tuple[Any, ...] = (ABSENT, {})

Chain = tuple[Field, ...]
_UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)


class RequestReader:
    """Reads the requests of one binding."""

    def __init__(self, contract: Contract, shapes: Shapes, binding: Binding) -> None:
        request = binding.rpc.input_type
        self._contract = contract
        self._binding = binding
        self._shape = shapes.of(request)
        self._type = contract.message(request.full_name)
        self._variables = {
            variable.name: self._chain(variable.field) for variable in binding.template.variables
        }
        self._body = self._shape.fields[binding.body] if binding.body not in ("", WHOLE) else None
        self._parameters: dict[str, Chain] = {}
        self._request_id = self._text_field(REQUEST_ID)
        self._last_event_id = self._text_field(LAST_EVENT_ID)
        self._etag = self._chain(etags.path_in_request(request, binding.body))
        self._mask = self._mask_field()

    @property
    def takes_bytes(self) -> bool:
        """Whether the body is any bytes instead of JSON."""
        if self._body is not None:
            return not self._body.many and _is_http_body(self._body.descriptor.message_type)
        return self._binding.body == WHOLE and _is_http_body(self._shape.descriptor)

    @property
    def takes_etag(self) -> bool:
        """Whether the request has a place for what If-Match asks for."""
        return bool(self._etag)

    @property
    def takes_key(self) -> bool:
        """Whether the request has a place for an Idempotency-Key."""
        return bool(self._request_id)

    def read(
        self,
        values: dict[str, str],
        query: bytes,
        body: Any,
        *,
        request_id: str = "",
        etag: str = "",
        last_event_id: str = "",
    ) -> bytes:
        """The request's bytes. Raises Refused.

        ``values`` are those of the path's variables; ``body`` is JSON or ABSENT; the others
        are what headers ask for, "" for nothing.
        """
        tree = self._from_body(body)
        for name, text in values.items():
            self._put(tree, self._variables[name], text, "path")
        if query:
            self._add_parameters(tree, query)
        if request_id and self._request_id:
            self._put(tree, self._request_id, request_id, "idempotency-key")
        if last_event_id and self._last_event_id:
            self._put(tree, self._last_event_id, last_event_id, "last-event-id")
        if etag and self._etag:
            self._put(tree, self._etag, etag, "if-match")
        raw = self._parsed(tree)
        if self._mask is not None and not _given(tree, self._shape.fields[self._mask.name]):
            raw += self._inferred_mask(self._mask, body)
        return raw

    def _from_body(self, body: Any) -> dict[str, Any]:
        if not self._binding.body:
            if body not in NOTHING:
                raise invalid(f"{self._binding.verb} {self._binding.template} takes no body")
            return {}
        if body is ABSENT:
            return {}
        if self._body is not None:
            return {self._body.json: body}
        if not isinstance(body, dict):
            raise wrong("body", "must be an object")
        return body

    def _add_parameters(self, tree: dict[str, Any], query: bytes) -> None:
        violations: list[Violation] = []
        seen: set[Chain] = set()
        for name, text in _parameters(query):
            try:
                chain = self._parameter(name)
                field = chain[-1]
                if field.many:
                    _holder(tree, chain).setdefault(field.json, []).append(_value(field, text, name))
                elif chain in seen:
                    raise wrong(name, "is given twice")
                else:
                    self._put(tree, chain, text, "query")
                seen.add(chain)
            except Refused as refused:
                violations += refused.violations
        if violations:
            raise invalid(_message(violations), *violations[:MOST_VIOLATIONS])

    def _parameter(self, name: str) -> Chain:
        """The field that a parameter names. Raises Refused, with the reason why it can't be given."""
        chain = self._parameters.get(name)
        if chain is None:
            chain = self._find(name)
            if len(self._parameters) < MOST_PARAMETERS:
                self._parameters[name] = chain
        return chain

    def _find(self, name: str) -> Chain:
        if self._binding.body == WHOLE:
            raise wrong(name, "there is no such parameter; everything stands in the body")
        shape: Shape | None = self._shape
        chain: list[Field] = []
        parts = name.split(".")
        if len(parts) > MOST_PARTS:
            raise wrong(f"{name[:60]}...", "reaches too deep")
        for part in parts:
            field = shape.fields.get(part) if shape is not None else None
            if field is None:
                raise wrong(name, "there is no such parameter")
            chain.append(field)
            shape = field.shape if not field.many and not field.map else None
        found = tuple(chain)
        if found in self._variables.values():
            raise wrong(name, "stands in the path")
        if self._body is not None and found[0] is self._body:
            raise wrong(name, "stands in the body")
        if found[-1].text is None:
            raise wrong(name, "can't be given as a parameter")
        return found

    def _put(self, tree: dict[str, Any], chain: Chain, text: str, source: str) -> None:
        """Add a value to the tree; one that is there already must be the same."""
        field = chain[-1]
        name = ".".join(part.name for part in chain)
        value = _value(field, text, name)
        holder = _holder(tree, chain)
        for key in {field.json, field.name}:
            there = holder.get(key)
            if there is None or there == value:
                holder.pop(key, None)
            elif not self._same(field, there, value):
                raise wrong(name, f"is not what the {source} says")
            else:
                holder.pop(key)
        holder[field.json] = value

    def _same(self, field: Field, one: Any, other: Any) -> bool:
        """Whether two ways to write a value mean the same."""
        assert field.descriptor.containing_type is not None
        holder = self._contract.message(field.descriptor.containing_type.full_name)
        try:
            return _bytes(holder, {field.json: one}) == _bytes(holder, {field.json: other})
        except _UNREADABLE:
            return False

    def _parsed(self, tree: dict[str, Any]) -> bytes:
        if self._shape.careful:
            violations = list(islice(overlooked(self._shape, tree), MOST_VIOLATIONS))
            if violations:
                raise invalid(_message(violations), *violations)
        try:
            return message_from_json_value(self._type, tree, registry=self._contract.registry).to_binary()
        except _UNREADABLE:
            pass
        found = list(islice(mistakes(self._shape, tree, self._fits), MOST_VIOLATIONS))
        raise invalid(_message(found), *found)

    def _fits(self, message: Descriptor, tree: dict[str, Any]) -> bool:
        try:
            _bytes(self._contract.message(message.full_name), tree, self._contract)
        except _UNREADABLE:
            return False
        return True

    def _inferred_mask(self, field: FieldDescriptor, body: Any) -> bytes:
        resource = self._body
        if resource is None or resource.shape is None:
            return b""
        named = {
            ".".join(part.name for part in chain[1:])
            for chain in self._variables.values()
            if chain[0] is resource
        }
        paths = list(masks.inferred(resource.shape, body, named))
        return masks.encoded(field, paths) if paths else b""

    def _mask_field(self) -> FieldDescriptor | None:
        if self._binding.verb != "PATCH" or self._body is None or self._body.shape is None:
            return None
        return masks.field_of(self._binding.rpc.input_type)

    def _text_field(self, name: str) -> Chain:
        field = self._shape.fields.get(name)
        if field is None or field.many or field.descriptor.type != FieldDescriptor.TYPE_STRING:
            return ()
        return (field,)

    def _chain(self, path: Sequence[str]) -> Chain:
        shape: Shape | None = self._shape
        chain: list[Field] = []
        for name in path:
            assert shape is not None
            chain.append(shape.fields[name])
            shape = chain[-1].shape
        return tuple(chain)


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise invalid("the query is not percent-encoded UTF-8") from None
    except ValueError:
        raise invalid(f"the query has at most {MOST_PARAMETERS} parameters") from None


def _is_http_body(message: Descriptor | None) -> bool:
    return message is not None and message.full_name == HTTP_BODY


def _holder(tree: dict[str, Any], chain: Chain) -> dict[str, Any]:
    """The object that holds the chain's last field, made where it isn't there. Raises Refused."""
    for field in chain[:-1]:
        inner = tree.get(field.json)
        if inner is None:
            inner = tree.pop(field.name, None)
            tree[field.json] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise wrong(".".join(part.name for part in chain[:-1]), "must be an object")
        tree = inner
    return tree


def _value(field: Field, text: str, name: str) -> Any:
    assert field.text is not None
    try:
        return field.text(text)
    except ValueError:
        raise wrong(name, f"must be {field.wants}") from None


def _given(tree: dict[str, Any], field: Field) -> bool:
    return tree.get(field.json) is not None or tree.get(field.name) is not None


def _bytes(message: type[Message], tree: dict[str, Any], contract: Contract | None = None) -> bytes:
    registry = contract.registry if contract is not None else None
    return message_from_json_value(message, tree, registry=registry).to_binary()


def _message(violations: Sequence[Violation]) -> str:
    if not violations:
        return "the request can't be read; it may be nested too deep"
    first = violations[0]
    more = f", and {len(violations) - 1} more" if len(violations) > 1 else ""
    return f"{first.field}: {first.description}{more}"
