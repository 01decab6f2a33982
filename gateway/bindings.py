"""What contracts say about HTTP: from google.api.http options to bindings, checked.

Each binding is one HTTP method and one path template of one RPC. A rule that can't work
is an error here, at the start, and never a surprise in a call.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from gateway.templates import Template, TemplateError, parse

ANY_METHOD = "*"
WHOLE = "*"
# Messages whose proto3 JSON is one string or number, so that they fit into a path or a query.
SCALAR_MESSAGES = frozenset(
    f"google.protobuf.{name}"
    for name in (
        "Timestamp", "Duration", "FieldMask", "DoubleValue", "FloatValue", "Int64Value", "UInt64Value",
        "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue",
    )
)  # fmt: skip

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class RuleError(ValueError):
    """An HTTP rule that can't work; the message names the RPC and the rule."""


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One way to call an RPC over HTTP.

    ``verb`` is the HTTP method, or ``ANY_METHOD``. ``body`` is ``WHOLE``, the name of a
    field of the request, or "" if there is no body; ``response_body`` the name of the field
    of the response that is the whole body, or "". ``fully`` decodes paths as
    Http.fully_decode_reserved_expansion says. ``place`` is 0 for an RPC's own rule, and
    counts on through its additional bindings.
    """

    rpc: MethodDescriptor
    verb: str
    template: Template
    body: str = ""
    response_body: str = ""
    fully: bool = False
    place: int = 0

    @property
    def path(self) -> str:
        """What gRPC calls the method."""
        return f"/{self.rpc.containing_service.full_name}/{self.rpc.name}"

    @property
    def streams(self) -> bool:
        """Whether either side sends any number of messages."""
        return bool(self.rpc.client_streaming or self.rpc.server_streaming)

    def __str__(self) -> str:
        return f"{self.verb} {self.template} of {self.rpc.full_name}"


def read(services: Iterable[ServiceDescriptor], http: http_pb2.Http | None = None) -> list[Binding]:
    """Every binding of the services, in the order of the contracts. Raises RuleError.

    The rules of ``http``, a service configuration, replace those of the RPCs that they
    select; of several that select one RPC the last counts. An RPC without a rule has no
    binding.
    """
    configuration = http or http_pb2.Http()
    return [binding for service in services for rpc in service.methods for binding in _of(rpc, configuration)]


def field_at(message: Descriptor, path: Iterable[str]) -> FieldDescriptor | None:
    """The field that a path of names leads to through singular messages; None if none does."""
    names = list(path)
    holder: Descriptor | None = message
    field: FieldDescriptor | None = None
    for place, name in enumerate(names):
        field = holder.fields_by_name.get(name) if holder is not None else None
        if field is None or (field.is_repeated and place < len(names) - 1):
            return None
        holder = field.message_type
    return field


def is_scalar(field: FieldDescriptor) -> bool:
    """Whether one value of the field fits into a text, as in a path or a query."""
    if field.message_type is None:
        return True
    return field.message_type.full_name in SCALAR_MESSAGES


def _of(rpc: MethodDescriptor, http: http_pb2.Http) -> Iterator[Binding]:
    rule = _rule(rpc, http)
    if rule is None:
        return
    fully = http.fully_decode_reserved_expansion
    yield _binding(rpc, rule, fully, 0)
    for place, additional in enumerate(rule.additional_bindings, start=1):
        if additional.additional_bindings:
            raise RuleError(f"{rpc.full_name}: an additional binding has additional bindings itself")
        yield _binding(rpc, additional, fully, place)


def _rule(rpc: MethodDescriptor, http: http_pb2.Http) -> http_pb2.HttpRule | None:
    selecting = [rule for rule in http.rules if _selects(rule.selector, rpc.full_name)]
    if selecting:
        return selecting[-1]
    options = rpc.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return None
    return options.Extensions[annotations_pb2.http]


def _selects(selector: str, name: str) -> bool:
    """As google.api.DocumentationRule.selector: a name, or names ending in a ".*", by commas."""
    for one in (part.strip() for part in selector.split(",")):
        if one in {"*", name} or (one.endswith(".*") and name.startswith(one[:-1])):
            return True
    return False


def _binding(rpc: MethodDescriptor, rule: http_pb2.HttpRule, fully: bool, place: int) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise RuleError(f"{rpc.full_name}: a rule has no HTTP method and path")
    verb, text = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind, getattr(rule, kind))
    verb = verb.upper()
    if not _TOKEN.fullmatch(verb):
        raise RuleError(f"{rpc.full_name}: {rule.custom.kind!r} is no HTTP method")
    try:
        template = parse(text)
    except TemplateError as error:
        raise RuleError(f"{rpc.full_name}: {error}") from None
    binding = Binding(rpc, verb, template, rule.body, rule.response_body, fully, place)
    _check_variables(binding)
    _check_body(binding)
    _check_response_body(binding)
    return binding


def _check_variables(binding: Binding) -> None:
    request = binding.rpc.input_type
    names = [variable.field for variable in binding.template.variables]
    for path in names:
        name = ".".join(path)
        field = field_at(request, path)
        if field is None:
            raise RuleError(f"{binding}: {request.full_name} has no field {name}")
        if field.is_repeated or not is_scalar(field):
            raise RuleError(f"{binding}: {name} is no single value, so it can't stand in a path")
        for other in names:
            if other != path and other[: len(path)] == path:
                raise RuleError(f"{binding}: {'.'.join(other)} is a part of {name}, which is bound too")


def _check_body(binding: Binding) -> None:
    if not binding.body:
        return
    if binding.verb in {"GET", "HEAD"}:
        raise RuleError(f"{binding}: {binding.verb} has no body")
    if binding.body == WHOLE:
        return
    if binding.body not in binding.rpc.input_type.fields_by_name:
        raise RuleError(
            f"{binding}: the body {binding.body!r} is no field of {binding.rpc.input_type.full_name}"
        )
    if (binding.body,) in {variable.field for variable in binding.template.variables}:
        raise RuleError(f"{binding}: {binding.body} is bound to the path and to the body")


def _check_response_body(binding: Binding) -> None:
    name = binding.response_body
    if name and name not in binding.rpc.output_type.fields_by_name:
        raise RuleError(
            f"{binding}: the response body {name!r} is no field of {binding.rpc.output_type.full_name}"
        )
