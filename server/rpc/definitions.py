"""What rules say, out of the message that carries it."""

from typing import Any

from google.protobuf.struct_pb2 import Struct, Value


def definition_of(message: Struct) -> dict[str, Any]:
    """A definition as it was written: whole numbers are int, others text as their sender shows them."""
    return {name: _plain(value) for name, value in message.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return definition_of(value.struct_value)
        case "list_value":
            return [_plain(entry) for entry in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else repr(number)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None
