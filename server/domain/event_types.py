"""Types of event beyond purchases: what they declare, and whether an event keeps to it."""

import re
from collections.abc import Mapping
from decimal import Decimal

from server.domain.activity import BUILT_IN_TYPES, AttributeValue
from server.domain.errors import InvalidArgument, Violation
from server.domain.program import Program

MAX_EVENT_TYPES = 500
MAX_ATTRIBUTES = 50
MAX_DESCRIPTION = 500
MAX_ATTRIBUTE_TEXT = 256

NAME = re.compile(r"[A-Z0-9_]{1,64}")
ATTRIBUTE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# What an attribute is declared as -> what its values are.
TYPES: Mapping[str, type[AttributeValue]] = {"string": str, "number": Decimal, "boolean": bool}


def declaration_mistakes(name: str, attributes: Mapping[str, str]) -> list[Violation]:
    """What is wrong with the declaration of a type."""
    mistakes = []
    if not NAME.fullmatch(name):
        mistakes.append(Violation("event_type.name", "must be 1 to 64 characters of A-Z, 0-9 and _"))
    elif name in BUILT_IN_TYPES:
        mistakes.append(Violation("event_type.name", f"{name} is built in"))
    if len(attributes) > MAX_ATTRIBUTES:
        return [*mistakes, Violation("event_type.attributes", f"must be at most {MAX_ATTRIBUTES}")]
    for attribute, kind in attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(attribute):
            rule = "must be 1 to 64 letters, digits and _, starting with a letter"
            mistakes.append(Violation("event_type.attributes (a key)", rule))
        elif kind not in TYPES:
            mistakes.append(
                Violation(f"event_type.attributes[{attribute}]", f"must be one of {', '.join(TYPES)}")
            )
    return mistakes


def check_event(program: Program, event_type: str, attributes: Mapping[str, AttributeValue]) -> None:
    """Whether the program knows the type and the attributes are as it declares them.

    Attributes may be left out. Raises InvalidArgument: EVENT_TYPE_UNKNOWN, or one
    violation for each attribute that isn't declared or of another type.
    """
    declared = program.event_types.get(event_type)
    if declared is None:
        raise InvalidArgument(
            (Violation("event_type", "is not registered; CreateEventType does that"),),
            "EVENT_TYPE_UNKNOWN",
            metadata={"event_type": event_type},
        )
    mistakes = []
    for name, value in attributes.items():
        kind = declared.get(name)
        if kind is None:
            mistakes.append(Violation(f"attributes[{name}]", f"is not declared by {event_type}"))
        elif type(value) is not TYPES[kind]:
            mistakes.append(Violation(f"attributes[{name}]", f"must be a {kind}, as {event_type} declares"))
    if mistakes:
        raise InvalidArgument(mistakes)
