"""The one door: every call passes it before a handler sees anything of it."""

from dataclasses import dataclass, field
from uuid import UUID

from server.domain.actor import Actor


@dataclass(slots=True)
class Call:
    """What a handler knows of a call besides its request.

    ``deadline`` is a time of the event loop, in seconds. Handlers append to ``touched``
    the ids of members whose data the reply shows and whom the request did not name in
    the declared member field: before a member of staff gets the reply, it is recorded
    whom they looked at.
    """

    actor: Actor
    deadline: float
    method: str
    touched: list[UUID] = field(default_factory=list)
