"""Update masks: which fields a PATCH changes, where the client doesn't say."""

from collections.abc import Container, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask

from gateway.shapes import Shape

MASK = "update_mask"
WIRE_BYTES = 2


def field_of(request: Descriptor) -> FieldDescriptor | None:
    """The request's field for the mask: ``update_mask``, or its only mask."""
    masks = [
        field
        for field in request.fields
        if not field.is_repeated
        and field.message_type is not None
        and field.message_type.full_name == "google.protobuf.FieldMask"
    ]
    named = [field for field in masks if field.name == MASK]
    if named:
        return named[0]
    return masks[0] if len(masks) == 1 else None


def inferred(shape: Shape, tree: Any, without: Container[str]) -> Iterator[str]:
    """The paths of all that the JSON of a resource gives, ``without`` those that name it.

    A message is entered; a list, a map and what has no fields of its own change as a whole.
    """
    yield from _paths(shape, tree, without, "")


def encoded(field: FieldDescriptor, paths: list[str]) -> bytes:
    """The bytes of a mask as the field of a message; appended to a message they become part of it.

    JSON can't say every path: it has them in camel case, from which not every name comes back.
    """
    mask = FieldMask(paths=paths).SerializeToString()
    return _varint(field.number << 3 | WIRE_BYTES) + _varint(len(mask)) + mask


def _paths(shape: Shape, tree: Any, without: Container[str], prefix: str) -> Iterator[str]:
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        field = shape.fields.get(key)
        if field is None:
            continue
        path = f"{prefix}{field.name}"
        if path in without:
            continue
        whole = field.many or field.map or field.shape is None or not isinstance(value, dict) or not value
        if whole:
            yield path
        elif field.shape is not None:
            yield from _paths(field.shape, value, without, f"{path}.")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
