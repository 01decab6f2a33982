"""Dead letters: what was tried in vain, until somebody has it tried again or gives it up."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

NOBODY = UUID(int=0)


class DeadLetterKind(StrEnum):
    """What died."""

    EVENT = "event"  # for one consumer of the event log
    DELIVERY = "delivery"


class DeadLetterStatus(StrEnum):
    """What became of it."""

    DEAD = "dead"
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


# What waits for a person or for its replay.
OPEN = (DeadLetterStatus.DEAD, DeadLetterStatus.REPLAYING)


class DeadLetter(NamedTuple):
    """One of them.

    ``consumer`` is a delivery's channel. ``member_id`` is the nil UUID if it is about nobody. ``event_id`` is
    None for a delivery.
    """

    dead_letter_id: UUID
    kind: DeadLetterKind
    status: DeadLetterStatus
    consumer: str
    target: str
    event_id: UUID | None
    event_type: str
    member_id: UUID
    attempts: int
    error: str
    died_at: datetime
    settled_at: datetime | None
    settled_by: str
