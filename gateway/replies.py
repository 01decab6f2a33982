"""From the bytes of a reply to the body of a response."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor
from protobuf import DescField, DescFieldValueMessage, DescMessage, Message, message_to_json_value

from gateway import etags
from gateway.bindings import Binding
from gateway.contract import Contract
from gateway.requests import HTTP_BODY
from gateway.statuses import internal

JSON = b"application/json"
OCTETS = b"application/octet-stream"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response's body and media type; ``etag`` is the resource's, "" if it has none.

    ``event_id`` is that of a message that says which event it is, "" for others.
    """

    body: bytes
    media_type: bytes = JSON
    etag: str = ""
    event_id: str = ""


class ReplyWriter:
    """Writes the replies of one binding.

    Fields without presence are always written, so that a client needn't know that a
    missing balance is 0.
    """

    def __init__(self, contract: Contract, binding: Binding) -> None:
        message = binding.rpc.output_type
        self._registry = contract.registry
        self._type = contract.message(message.full_name)
        described = self._type.desc()
        self._etag = _fields(described, etags.path_in_reply(message))
        self._event_id = _fields(described, ("event_id",)) if _has_text(message, "event_id") else ()
        self._part = _fields(described, (binding.response_body,) if binding.response_body else ())
        whole = _message_in(self._part[0]) if self._part else described
        self.raw = whole is not None and whole.type_name == HTTP_BODY
        self._content = (
            [_fields(whole, (name,)) for name in ("content_type", "data")]
            if self.raw and whole is not None
            else []
        )

    def write(self, raw: bytes) -> Reply:
        """The body for a reply's bytes. Raises Refused for bytes that are no such reply."""
        try:
            message = self._type.from_binary(raw)
            if self.raw:
                return self._http_body(message)
            return Reply(
                self._json(message),
                etag=_text(message, self._etag),
                event_id=_text(message, self._event_id),
            )
        except (ValueError, TypeError, RecursionError):
            raise internal("the reply is not what the contract says") from None

    def _json(self, message: Message) -> bytes:
        if not self._part:
            return message.to_json(registry=self._registry, always_emit_implicit=True).encode()
        tree: Any = message_to_json_value(message, registry=self._registry, always_emit_implicit=True)
        part = tree.get(self._part[0].json_name)
        return json.dumps(part, separators=(",", ":"), ensure_ascii=False).encode()

    def _http_body(self, message: Message) -> Reply:
        held: Any = message[self._part[0]] if self._part else message
        if held is None:
            return Reply(b"", OCTETS)
        kind, data = (_at(held, path) for path in self._content)
        return Reply(bytes(data), str(kind).encode("ascii", "replace") or OCTETS)


def _fields(message: DescMessage, names: Iterable[str]) -> tuple[DescField, ...]:
    """The fields that a path of names leads through; each name is there."""
    found: list[DescField] = []
    holder: DescMessage | None = message
    for name in names:
        assert holder is not None
        found.append(next(field for field in holder.fields if field.name == name))
        holder = _message_in(found[-1])
    return tuple(found)


def _message_in(field: DescField) -> DescMessage | None:
    return field.value.message if isinstance(field.value, DescFieldValueMessage) else None


def _at(message: Message, path: tuple[DescField, ...]) -> Any:
    held: Any = message
    for field in path:
        held = held[field] if held is not None else None
    return held


def _text(message: Message, path: tuple[DescField, ...]) -> str:
    return str(_at(message, path) or "") if path else ""


def _has_text(message: Descriptor, name: str) -> bool:
    field = message.fields_by_name.get(name)
    return field is not None and not field.is_repeated and field.type == field.TYPE_STRING
