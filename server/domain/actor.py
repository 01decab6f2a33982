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
class StepUp:
    """What a recent, stronger login is, and from where on one is needed.

    ``acr_values``: the issuer's names of strong logins, the preferred first.
    ``max_age_seconds``: how long ago it may be. ``redeem_points``: the program's setting
    ``step_up_redeem_points``; more than that takes one.
    """

    acr_values: tuple[str, ...]
    max_age_seconds: int
    redeem_points: int = 0


@dataclass(frozen=True, slots=True)
class Login:
    """How a person logged in: ``acr`` as the issuer says, ``auth_time`` in seconds since 1970, if known."""

    acr: str
    auth_time: float | None
    step_up: StepUp

    def suffices(self, now: float) -> bool:
        """Whether it is strong and recent. ``now`` in seconds since 1970."""
        return (
            self.acr in self.step_up.acr_values
            and self.auth_time is not None
            and now - self.auth_time <= self.step_up.max_age_seconds
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """The holder of a verified credential.

    ``source_system`` is the space in which the caller's request_ids and orders are
    unique: terminals of one till system share it. ``store`` is "" unless the
    credential is bound to one. ``member_id`` is set for members only, ``login`` for
    persons who came by a token of an issuer.
    """

    kind: CallerKind
    program_id: UUID
    credential_id: UUID
    name: str
    source_system: str
    scopes: frozenset[str]
    store: str = ""
    member_id: UUID | None = None
    login: Login | None = None

    @property
    def label(self) -> str:
        """For the record: ``terminal:till-7``."""
        return f"{self.kind}:{self.name}"
