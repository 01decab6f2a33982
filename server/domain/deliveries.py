"""Deliveries: what has to happen outside the database, tried until it did or is given up.

A delivery is never lost, and repeated only if its worker dies between sending and writing
that down; then under the same id, so that the receiver can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

MINUTE, HOUR = 60.0, 3600.0
# Seconds from each attempt that failed to the next, as Standard Webhooks proposes: three days in all.
WAITS = (5, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
# No receiver puts us off for longer than that.
LONGEST_WAIT = 24 * HOUR
# A wait is this part shorter or longer, so that what failed together doesn't come back together.
JITTER = 0.2

MAX_ERROR = 200
# The member of what is about nobody.
NOBODY = UUID(int=0)


class DeliveryStatus(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"  # given up; can be replayed
    DISCARDED = "discarded"  # no longer wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Something to be sent.

    ``channel`` names the function that sends it, ``target`` whose slowness is to hold up nobody else:
    an endpoint, or a provider; each belongs to one channel, and there should be thousands at most.
    ``dedup_key`` is what it is wanted under; only the first under a key in a program is made. ``content`` is
    JSON that says what to send by references, without personal data. ``due_at``: not before that.
    """

    program_id: UUID
    delivery_id: UUID
    channel: str
    target: str
    dedup_key: str
    content: Mapping[str, Any]
    member_id: UUID = NOBODY
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery that somebody has taken to send it. ``attempts`` counts this one in.

    ``failures``: those before it that are known to have failed. Of the others workers died.
    """

    program_id: UUID
    delivery_id: UUID
    member_id: UUID
    channel: str
    target: str
    content: Mapping[str, Any]
    attempts: int
    token: int = field(repr=False)
    failures: int = 0


class NotSent(Exception):  # noqa: N818 - what a channel reports, not a fault of ours
    """Raised by a channel that didn't deliver. ``error`` and ``response`` are kept: no personal data in them.

    ``response`` is what the receiver answered, in a word, such as ``503``.
    """

    outcome = ""

    def __init__(self, error: str, response: str = "") -> None:
        super().__init__(error)
        self.error = error[:MAX_ERROR]
        self.response = response[:MAX_ERROR]


class Temporary(NotSent):
    """It may work later, not before ``retry_after`` seconds if the receiver said so.

    The target is then left alone for so long, for its other deliveries too.
    """

    outcome = "temporary"

    def __init__(self, error: str, response: str = "", retry_after: float | None = None) -> None:
        super().__init__(error, response)
        self.retry_after = None if retry_after is None else min(max(retry_after, 0.0), LONGEST_WAIT)


class Permanent(NotSent):
    """It will never work: it is dead at once."""

    outcome = "permanent"


class Unwanted(NotSent):
    """Nobody wants it any more, such as after a consent was withdrawn: it is discarded."""

    outcome = "unwanted"


class Postponed(NotSent):
    """Not now, for a reason of ours such as quiet hours: in ``seconds``, and no attempt is counted."""

    outcome = "postponed"

    def __init__(self, error: str, seconds: float) -> None:
        super().__init__(error)
        self.seconds = seconds


SENT = "sent"


class Verdict(NamedTuple):
    """What becomes of a delivery. ``wait`` is seconds to its next attempt, 0 if there is none."""

    status: DeliveryStatus
    attempts: int
    wait: float = 0.0


_FINAL: Mapping[type[NotSent], DeliveryStatus] = MappingProxyType(
    {Permanent: DeliveryStatus.DEAD, Unwanted: DeliveryStatus.DISCARDED}
)


def judge(
    attempts: int,
    failure: NotSent | None,
    chance: float,
    waits: tuple[float, ...] = WAITS,
    failures: int | None = None,
) -> Verdict:
    """What becomes of a delivery after so many attempts, the last of which ended so.

    ``chance`` is random, from 0 to 1; ``waits`` are seconds after the first failure, the second and so on.
    After one attempt more than these it is given up. ``failures``: before this one, if not all attempts were.
    """
    if failure is None:
        return Verdict(DeliveryStatus.SENT, attempts)
    if isinstance(failure, Postponed):
        return Verdict(DeliveryStatus.PENDING, attempts - 1, failure.seconds)
    if not isinstance(failure, Temporary):
        return Verdict(_FINAL[type(failure)], attempts)
    if attempts > len(waits):
        return Verdict(DeliveryStatus.DEAD, attempts)
    before = attempts - 1 if failures is None else failures
    wait = waits[before] * (1 - JITTER + 2 * JITTER * chance)
    return Verdict(DeliveryStatus.PENDING, attempts, max(wait, failure.retry_after or 0.0))
