"""Who is calling, as the ledger and the audit record it."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class CallerKind(StrEnum):
    """The kinds of credential holder, as in access.proto."""

    PUBLIC = "public"
    MEMBER = "member"
    TERMINAL = "terminal"
    SERVICE = "service"
    STAFF = "staff"


@dataclass(frozen=True, slots=True)
class Actor:
    """The holder of a verified credential.

    ``source_system`` is the space in which the caller's request_ids and orders are
    unique: terminals of one till system share it. ``store`` is "" unless the
    credential is bound to one. ``member_id`` is set for members only.
    """

    kind: CallerKind
    program_id: UUID
    credential_id: UUID
    name: str
    source_system: str
    scopes: frozenset[str]
    store: str = ""
    member_id: UUID | None = None

    @property
    def label(self) -> str:
        """For the record: ``terminal:till-7``."""
        return f"{self.kind}:{self.name}"
