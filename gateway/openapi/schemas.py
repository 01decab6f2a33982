"""JSON Schema of protobuf messages as proto3 JSON writes them.

It describes what the shim writes, and what everybody should send. It reads more than
that: numbers for 64-bit integers, the fields' names as in the contract, null for absent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor

from gateway.openapi.comments import Comments

Schema = dict[str, Any]

COMPONENTS = "#/components/schemas/"
# Headers can fill it, so that no body needs it.
REQUEST_ID = "request_id"

SIGNED_64 = {"type": "string", "format": "int64", "pattern": "^-?(0|[1-9][0-9]{0,18})$"}
UNSIGNED_64 = {"type": "string", "format": "uint64", "pattern": "^(0|[1-9][0-9]{0,19})$"}
SIGNED_32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
UNSIGNED_32 = {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1}
BYTES = {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
NO_NUMBERS = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
DOUBLE = {"anyOf": [{"type": "number", "format": "double"}, NO_NUMBERS]}
FLOAT = {"anyOf": [{"type": "number", "format": "float"}, NO_NUMBERS]}
BOOLEAN = {"type": "boolean"}
STRING = {"type": "string"}

SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: BOOLEAN,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_DOUBLE: DOUBLE,
    FieldDescriptor.TYPE_FIXED32: UNSIGNED_32,
    FieldDescriptor.TYPE_FIXED64: UNSIGNED_64,
    FieldDescriptor.TYPE_FLOAT: FLOAT,
    FieldDescriptor.TYPE_INT32: SIGNED_32,
    FieldDescriptor.TYPE_INT64: SIGNED_64,
    FieldDescriptor.TYPE_SFIXED32: SIGNED_32,
    FieldDescriptor.TYPE_SFIXED64: SIGNED_64,
    FieldDescriptor.TYPE_SINT32: SIGNED_32,
    FieldDescriptor.TYPE_SINT64: SIGNED_64,
    FieldDescriptor.TYPE_STRING: STRING,
    FieldDescriptor.TYPE_UINT32: UNSIGNED_32,
    FieldDescriptor.TYPE_UINT64: UNSIGNED_64,
}

# Messages that proto3 JSON writes in a way of their own. Where one stands alone, its
# schema is written out, because generators make poor classes of references to strings.
WRAPPED: Mapping[str, Schema] = {
    "google.protobuf.BoolValue": BOOLEAN,
    "google.protobuf.BytesValue": BYTES,
    "google.protobuf.DoubleValue": DOUBLE,
    "google.protobuf.FloatValue": FLOAT,
    "google.protobuf.Int32Value": SIGNED_32,
    "google.protobuf.Int64Value": SIGNED_64,
    "google.protobuf.StringValue": STRING,
    "google.protobuf.UInt32Value": UNSIGNED_32,
    "google.protobuf.UInt64Value": UNSIGNED_64,
}
WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Any": {
        "type": "object",
        "description": "A message of any type, with its type beside its fields.",
        "properties": {"@type": {"type": "string", "description": "What type it is, as a URL."}},
    },
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?s$",
        "examples": ["1.5s"],
    },
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["givenName,address.lines"]},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Timestamp": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$",
    },
    "google.protobuf.Value": {},
}
NULL_VALUE = "google.protobuf.NullValue"

MAP_KEYS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"enum": ["true", "false"]},
    FieldDescriptor.TYPE_STRING: {},
}
INTEGER_KEYS = {"pattern": "^-?[0-9]{1,20}$"}


class Schemas:
    """The schemas that a document needs, each written once and referred to by name.

    A message that stands in ``answers``, or in one of them, may get fields that today's
    callers don't know, so its schema stays open; all others are closed, because the
    shim refuses what it doesn't know.
    """

    def __init__(self, comments: Comments, answers: Iterable[Descriptor]) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        self._answers = reachable(answers)

    def message(self, message: Descriptor) -> Schema:
        """The schema of a message, where it may be written out or referred to."""
        name = message.full_name
        if name in WELL_KNOWN:
            return dict(WELL_KNOWN[name])
        if name in WRAPPED:
            return nullable(WRAPPED[name])
        if name not in self.components:
            self.components[name] = {}  # Before its fields: one may be the message itself.
            self.components[name] = self._object(message)
        return {"$ref": COMPONENTS + name}

    def without(self, message: Descriptor, dropped: Sequence[Sequence[str]]) -> Schema:
        """The schema of a message of which the fields at the paths ``dropped`` stand elsewhere."""
        if not dropped or message.full_name in WELL_KNOWN or message.full_name in WRAPPED:
            return self.message(message)
        whole = {path[0] for path in dropped if len(path) == 1}
        inner = {path[0]: [rest[1:] for rest in dropped if rest[0] == path[0]] for path in dropped}
        schema = self._object(message, without=whole, closed=True)
        for name in inner.keys() - whole:
            field = message.fields_by_name[name]
            assert field.message_type is not None
            part = self._described(self.without(field.message_type, inner[name]), field)
            schema["properties"][field.json_name] = part
        return schema

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field's value, described."""
        return self._described(self._value(field), field)

    def single(self, field: FieldDescriptor) -> Schema:
        """The schema of one value of a field as it stands in a path or a query."""
        if field.message_type is not None:
            name = field.message_type.full_name
            return dict(WRAPPED.get(name) or WELL_KNOWN[name])
        return self._one(field)

    def enum(self, enum: EnumDescriptor) -> Schema:
        """The schema of an enum: the names of its values."""
        if enum.full_name == NULL_VALUE:
            return {"type": "null"}
        if enum.full_name not in self.components:
            names = [value.name for value in enum.values]
            schema: Schema = {"title": enum.name, "type": "string", "enum": names}
            told = [(name, self._comments.of(f"{enum.full_name}.{name}")) for name in names]
            listed = "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in told if text)
            _describe(schema, self._comments.of(enum.full_name), listed)
            self.components[enum.full_name] = schema
        return {"$ref": COMPONENTS + enum.full_name}

    def _object(self, message: Descriptor, *, without: Iterable[str] = (), closed: bool = False) -> Schema:
        closed = closed or message.full_name not in self._answers
        fields = [field for field in message.fields if field.name not in without]
        schema: Schema = {"title": message.name, "type": "object"}
        oneofs = [_members(oneof, fields) for oneof in message.oneofs]
        _describe(schema, self._comments.of(message.full_name), *(self._choice(o) for o in message.oneofs))
        schema["properties"] = {field.json_name: self.field(field) for field in fields}
        if len(oneofs) == 1 and len(oneofs[0]) == len(fields) and closed:
            schema["maxProperties"] = 1
        elif any(len(names) > 1 for names in oneofs):
            pairs = [pair for names in oneofs for pair in combinations(names, 2)]
            schema["allOf"] = [{"not": {"required": list(pair)}} for pair in pairs]
        if closed:
            required = [field.json_name for field in fields if _required(field)]
            schema |= {"required": required} if required else {}
            schema["additionalProperties"] = False
        return schema

    def _choice(self, oneof: OneofDescriptor) -> str:
        """What to know of a oneof, in words; "" for one that is no choice."""
        if len(oneof.fields) < 2:
            return ""
        names = ", ".join(f"`{field.json_name}`" for field in oneof.fields)
        told = self._comments.of(f"{oneof.containing_type.full_name}.{oneof.name}")
        return f"At most one of {names}. {' '.join(told.split())}".strip()

    def _described(self, schema: Schema, field: FieldDescriptor) -> Schema:
        schema = dict(schema)
        _describe(schema, self._comments.of(field.full_name) or schema.get("description", ""))
        if field.GetOptions().deprecated:
            schema["deprecated"] = True
        behavior = _behavior(field)
        if field_behavior_pb2.OUTPUT_ONLY in behavior:
            schema["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in behavior:
            schema["writeOnly"] = True
        return schema

    def _value(self, field: FieldDescriptor) -> Schema:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
            schema: Schema = {"type": "object", "additionalProperties": self._one(value, bare=True)}
            names = MAP_KEYS.get(key.type, INTEGER_KEYS)
            return schema | ({"propertyNames": names} if names else {})
        if field.is_repeated:
            return {"type": "array", "items": self._one(field, bare=True)}
        return self._one(field)

    def _one(self, field: FieldDescriptor, *, bare: bool = False) -> Schema:
        """One value; ``bare`` where null can't stand for an absent one."""
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        if field.message_type is None:
            return dict(SCALARS[field.type])
        if bare and field.message_type.full_name in WRAPPED:
            return dict(WRAPPED[field.message_type.full_name])
        return self.message(field.message_type)


def reachable(messages: Iterable[Descriptor]) -> frozenset[str]:
    """The names of messages and of all that they can hold."""
    found: set[str] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message.full_name in found:
            continue
        found.add(message.full_name)
        waiting += _held(message)
    return frozenset(found)


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    if isinstance(schema.get("type"), str):
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [*schema["anyOf"], {"type": "null"}]}


def _held(message: Descriptor) -> Iterator[Descriptor]:
    for field in message.fields:
        if field.message_type is not None:
            yield field.message_type


def _members(oneof: OneofDescriptor, fields: Sequence[FieldDescriptor]) -> list[str]:
    return [field.json_name for field in oneof.fields if field in fields]


def _behavior(field: FieldDescriptor) -> Sequence[int]:
    behavior: Sequence[int] = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return behavior


def _required(field: FieldDescriptor) -> bool:
    declared = field.is_required or field_behavior_pb2.REQUIRED in _behavior(field)
    return declared and field.name != REQUEST_ID


def _describe(schema: Schema, *texts: str) -> None:
    text = "\n\n".join(text for text in texts if text)
    if text:
        schema["description"] = text
