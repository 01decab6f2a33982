"""Adjustments that wait for a second person, and what became of them."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from server.domain.actor import Actor


class AdjustmentStatus(StrEnum):
    """Whether somebody has decided."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class Adjustment(NamedTuple):
    """A correction of a wallet that was too large for one person. Fields as the table's columns.

    ``points`` are to be put in, or taken out if negative. ``requested_by`` and ``decided_by`` are labels
    of actors, ``requested_credential`` is what the request came with. ``transaction_id`` is the row of the
    ledger, once it is approved.
    """

    adjustment_id: UUID
    member_id: UUID
    point_type: str
    points: int
    expires_at: datetime | None
    reason: str
    status: AdjustmentStatus
    requested_by: str
    requested_credential: UUID
    requested_at: datetime
    decided_by: str = ""
    decided_at: datetime | None = None
    decision_reason: str = ""
    transaction_id: UUID | None = None

    def asked_by(self, actor: Actor) -> bool:
        """Whether the actor is who asked for it, as far as that can be told.

        A login is one person's whatever token it comes with. A key that was replaced goes by its name,
        and so does a person who has a key beside a login of that name.
        """
        name = self.requested_by.partition(":")[2]
        return self.requested_credential == actor.credential_id or name.casefold() == actor.name.casefold()
