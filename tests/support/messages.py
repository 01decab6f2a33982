"""Messages of any kind, filled field by field."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def filled(kind: Descriptor, value: Callable[[Any, FieldDescriptor], Any]) -> Any:
    """A message in which each field is what ``value`` says, given the message so far; None leaves it out."""
    message: Any = GetMessageClass(kind)()
    for field in kind.fields:
        found = value(message, field)
        if found is not None:
            give(message, field, found)
    return message


def give(message: Any, field: FieldDescriptor, value: Any) -> None:
    """Set a field; to a list the value is added."""
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def chosen(message: Message, field: FieldDescriptor) -> bool:
    """Whether the field is one of a choice that is made already."""
    return field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None
