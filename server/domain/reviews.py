"""Entries of uploads that are too old to be taken as they come: put aside, until a person decides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from server.domain.commands import Command
from server.domain.errors import FailedPrecondition
from server.domain.records import record

# Of one credential: more of them than anybody looks through are a till whose clock is wrong.
MOST_PENDING = 1000


class ReviewStatus(StrEnum):
    """Whether somebody has decided."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class Review(NamedTuple):
    """An entry that waits for a person, or did. Fields as the table's columns.

    ``entry`` is its request as it was sent, in JSON, but that the member stands there by id and so no
    personal data. ``request_hash`` tells whether it is sent again. ``store`` is filled from the credential.
    ``why`` is the reason of the refusal that it would have met. ``event_id``: what approving it recorded.
    """

    review_id: UUID
    member_id: UUID
    source_system: str
    request_id: str
    request_hash: bytes
    credential_id: UUID
    sent_by: str
    store: str
    kind: str
    entry: str
    why: str
    occurred_at: datetime
    received_at: datetime
    status: ReviewStatus = ReviewStatus.PENDING
    decided_by: str = ""
    decided_at: datetime | None = None
    decision_reason: str = ""
    event_id: UUID | None = None


class TooLongAgo(FailedPrecondition):
    """It happened longer ago than the program takes. ``command``: what would have been done."""

    def __init__(self, command: Command, limit_days: int) -> None:
        super().__init__(
            "OCCURRED_TOO_LONG_AGO",
            f"happened more than {limit_days} days ago and needs review",
            {"limit_days": str(limit_days)},
        )
        self.command = command


@record
class PutAside(Command):
    """An entry that came too late, to be kept until a person decides. ``said``: the entry's own digest."""

    said: bytes
    kind: str
    entry: str
    why: str

    @staticmethod
    def of(late: TooLongAgo, kind: str, entry: str) -> "PutAside":
        """What is done with an entry that was refused so."""
        command = late.command
        return PutAside(
            actor=command.actor,
            request_id=command.request_id,
            received_at=command.received_at,
            member_id=command.member_id,
            member_given="",
            reference="",
            store=command.store,
            channel="",
            occurred_at=command.occurred_at,
            business_date=None,
            part="",
            said=command.digest(),
            kind=kind,
            entry=entry,
            why=late.reason,
        )

    @property
    def remembered(self) -> bool:
        """The request key waits for what is recorded in the end."""
        return False

    @property
    def action(self) -> str:
        """Keeping for later."""
        return "REVIEW"

    def digest(self) -> bytes:
        """That of the entry: both are one request."""
        return self.said


@record
class ApproveReview(Command):
    """An entry that waits, to be recorded as of when it happened.

    ``entry`` is what is done: by who decides, with the credential and in the name of the source system
    that sent it. ``request``: the source system and request_id that it was sent under.
    """

    review_id: UUID
    entry: Command
    request: tuple[str, str]

    @property
    def members(self) -> tuple[UUID, ...]:
        """Those of the entry."""
        return self.entry.members

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Those of the entry."""
        return self.entry.seated

    def following(self, merged: Mapping[UUID, UUID]) -> Command:
        """The same about who lives on, and so is the entry."""
        return replace(
            self,
            member_id=merged.get(self.member_id, self.member_id),
            entry=self.entry.following(merged),
        )

    @property
    def doing(self) -> Command:
        """What was sent."""
        return self.entry

    @property
    def action(self) -> str:
        """What was sent."""
        return self.entry.action

    def _particulars(self) -> Sequence[object]:
        return str(self.review_id), self.reason


@record
class RejectReview(Command):
    """An entry that waits, not to be recorded."""

    review_id: UUID

    @property
    def action(self) -> str:
        """Refusing."""
        return "REJECTION"

    def _particulars(self) -> Sequence[object]:
        return str(self.review_id), self.reason
