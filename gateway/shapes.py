"""What JSON a message takes: its fields by either name, and how a text becomes a value."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.bindings import SCALAR_MESSAGES
from gateway.contract import camel
from gateway.statuses import Violation

MOST_VIOLATIONS = 20
# Messages whose JSON is not an object of their fields.
OPAQUE = SCALAR_MESSAGES | {f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue")}

KINDS: Mapping[int, str] = {
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a 32-bit integer",
    FieldDescriptor.CPPTYPE_INT64: "a 64-bit integer",
    FieldDescriptor.CPPTYPE_UINT32: "a 32-bit integer without sign",
    FieldDescriptor.CPPTYPE_UINT64: "a 64-bit integer without sign",
}
FIELD_MASK = "google.protobuf.FieldMask"
MESSAGES = {
    "google.protobuf.Timestamp": "a time such as 2026-11-23T10:00:00Z",
    "google.protobuf.Duration": "a duration in seconds such as 1.5s",
    FIELD_MASK: "names of fields separated by commas",
    "google.protobuf.Any": "an object with @type, of a message that the contracts have",
    "google.protobuf.Struct": "an object, not too deep",
    "google.protobuf.ListValue": "an array, not too deep",
    "google.protobuf.Value": "JSON, not too deep",
}

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_BOOLEANS = {"true": True, "false": False}
Text = Callable[[str], Any]


@dataclass(eq=False)
class Field:
    """A field as JSON has it.

    ``text`` turns the text of a path or query into JSON, and raises ValueError where it
    sees that it can't; it is None if no text stands for the field.
    """

    descriptor: FieldDescriptor
    shapes: "Shapes"

    def __post_init__(self) -> None:
        field = self.descriptor
        message = field.message_type
        self.name: str = field.name
        # Descriptors that were made at run time may lack it.
        self.json: str = field.json_name or camel(field.name)
        self.map = message is not None and message.GetOptions().map_entry
        self.many = field.is_repeated and not self.map
        self.mask = message is not None and message.full_name == FIELD_MASK
        self.text: Text | None = None if self.map else _text(field)

    @cached_property
    def shape(self) -> "Shape | None":
        """The shape of the message in it, or of a map's values; None for what is no object of fields."""
        field = self.descriptor
        message = field.message_type
        if self.map and message is not None:
            message = message.fields_by_name["value"].message_type
        return None if message is None or message.full_name in OPAQUE else self.shapes.of(message)

    @property
    def wants(self) -> str:
        """What one value of it must be, in words."""
        field = self.descriptor
        if field.message_type is not None and field.message_type.full_name in SCALAR_MESSAGES:
            wrapped = field.message_type.fields_by_name.get("value")
            if wrapped is not None and field.message_type.full_name not in MESSAGES:
                field = wrapped
        if field.message_type is not None:
            return MESSAGES.get(field.message_type.full_name, "an object")
        if field.enum_type is not None:
            return f"a name or number of {field.enum_type.name}"
        if field.type == FieldDescriptor.TYPE_STRING:
            return "text"
        if field.type == FieldDescriptor.TYPE_BYTES:
            return "base64"
        return KINDS[field.cpp_type]


@dataclass(eq=False)
class Shape:
    """A message as JSON has it."""

    descriptor: Descriptor
    shapes: "Shapes"

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Each field by its JSON name and by its own."""
        fields = [Field(field, self.shapes) for field in self.descriptor.fields]
        return {field.name: field for field in fields} | {field.json: field for field in fields}

    @cached_property
    def oneofs(self) -> list[list[Field]]:
        """The fields of which only one may be given, by group."""
        return [
            [self.fields[field.name] for field in oneof.fields]
            for oneof in self.descriptor.oneofs
            if len(oneof.fields) > 1
        ]

    @cached_property
    def careful(self) -> bool:
        """Whether the message or one within it has such groups, or masks."""
        seen: set[str] = set()
        waiting = [self]
        while waiting:
            shape = waiting.pop()
            if shape.oneofs or any(field.mask for field in shape.fields.values()):
                return True
            seen.add(shape.descriptor.full_name)
            inner = {field.shape for field in shape.fields.values()}
            waiting += [s for s in inner if s is not None and s.descriptor.full_name not in seen]
        return False


class Shapes:
    """The shapes of all messages of a contract, each made once."""

    def __init__(self) -> None:
        self._made: dict[str, Shape] = {}

    def of(self, message: Descriptor) -> Shape:
        """The shape of a message."""
        made = self._made.get(message.full_name)
        if made is None:
            made = self._made[message.full_name] = Shape(message, self)
        return made


def overlooked(shape: Shape, tree: Any, path: str = "") -> Iterator[Violation]:
    """What is wrong with JSON that can be read all the same.

    These are several fields of a group of which one may be given, and masks that name nothing
    somewhere.
    """
    if not shape.careful or not isinstance(tree, dict):
        return
    for group in shape.oneofs:
        given = [f.name for f in group if tree.get(f.json) is not None or tree.get(f.name) is not None]
        if len(given) > 1:
            yield Violation(f"{path}{given[-1]}", f"can't be given together with {given[0]}")
    for key, value in tree.items():
        field = shape.fields.get(key)
        if field is None:
            continue
        if field.mask:
            for where, item in _items(field, value, path):
                if isinstance(item, str) and not _names_fields(item):
                    yield Violation(where, f"must be {field.wants}")
        if field.shape is not None and field.shape.careful:
            for where, item in _items(field, value, path):
                yield from overlooked(field.shape, item, f"{where}.")


def mistakes(
    shape: Shape, tree: Any, fits: Callable[[Descriptor, Any], bool], path: str = ""
) -> Iterator[Violation]:
    """What keeps JSON from being the message. ``fits`` tells whether an object can be read."""
    if not isinstance(tree, dict):
        yield Violation(path.rstrip(".") or "body", "must be an object")
        return
    for key, value in tree.items():
        field = shape.fields.get(key)
        if field is None:
            yield Violation(f"{path}{key}", "there is no such field")
        elif value is None or fits(shape.descriptor, {key: value}):
            continue
        elif field.many and not isinstance(value, list):
            yield Violation(f"{path}{field.name}", "must be an array")
        elif field.map and not isinstance(value, dict):
            yield Violation(f"{path}{field.name}", "must be an object")
        elif field.shape is not None:
            for where, item in _items(field, value, path):
                yield from mistakes(field.shape, item, fits, f"{where}.")
        else:
            yield from _wrong_values(shape, field, value, fits, path)


def _wrong_values(
    shape: Shape, field: Field, value: Any, fits: Callable[[Descriptor, Any], bool], path: str
) -> Iterator[Violation]:
    if field.map:
        for where, key in ((f"{path}{field.name}[{key}]", key) for key in value):
            if not fits(shape.descriptor, {field.json: {key: value[key]}}):
                yield Violation(where, "has a key or a value of another type")
        return
    for where, item in _items(field, value, path):
        if not fits(shape.descriptor, {field.json: [item] if field.many else item}):
            yield Violation(where, f"must be {field.wants}")


def _items(field: Field, value: Any, path: str) -> Sequence[tuple[str, Any]]:
    """The single values of a field, each with where it stands."""
    where = f"{path}{field.name}"
    if field.many and isinstance(value, list):
        return [(f"{where}[{place}]", item) for place, item in enumerate(value)]
    if field.map and isinstance(value, dict):
        return [(f"{where}[{key}]", item) for key, item in value.items()]
    return [(where, value)]


def _text(field: FieldDescriptor) -> Text | None:
    message = field.message_type
    if message is not None:
        if message.full_name == FIELD_MASK:
            return _mask
        if message.full_name not in SCALAR_MESSAGES:
            return None
        wrapped = message.fields_by_name.get("value")
        return str if wrapped is None else _text(wrapped)
    return TEXTS.get(field.cpp_type, _integer)


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text]


def _enum(text: str) -> int | str:
    return int(text) if _INTEGER.fullmatch(text) else text


def _integer(text: str) -> str:
    # JSON takes "1e3" for an integer; a path or query shouldn't.
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return text


def _names_fields(mask: str) -> bool:
    """Whether each part of a mask's text is the name of something; an empty one has no parts."""
    return not mask or all(name for path in mask.split(",") for name in path.split("."))


def _mask(text: str) -> Any:
    """JSON has the paths in camel case; contracts and their readers in snake case."""
    if not _names_fields(text):
        raise ValueError(text)
    return ",".join(".".join(map(camel, path.split("."))) for path in text.split(","))


TEXTS: Mapping[int, Text] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: _boolean,
    FieldDescriptor.CPPTYPE_ENUM: _enum,
    FieldDescriptor.CPPTYPE_DOUBLE: str,
    FieldDescriptor.CPPTYPE_FLOAT: str,
}
