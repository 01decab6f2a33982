"""From a command as its caller puts it to its outcome: whom its names mean is looked up in between.

What a name means changes: a card moves to another member, a receipt gets a namesake. A retry of
a request that was accepted before still gets its first reply, so a name that leads nowhere
refuses nothing here. The committer does, where it knows that the request is a new one.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from server.domain.commands import Command, Outcome
from server.domain.errors import FailedPrecondition, NotFound
from server.domain.unresolved import Unresolved
from server.operations.points import Named, Points
from server.rpc.gate import Call

# Stands in a command for whom nobody has looked up yet.
NOBODY = UUID(int=0)


async def outcome_of(
    points: Points, call: Call, command: Callable[..., Command], meant: Awaitable[Mapping[str, Any]]
) -> Outcome:
    """What the command brings, or brought the first time.

    ``command`` makes it, with NOBODY for whom its names mean unless it is told; ``meant`` looks that up, as
    fields of the command, ``member_id`` among them. Raises what that and Committer.submit raise.
    """
    try:
        found = await meant
    except (NotFound, FailedPrecondition) as refusal:
        said = Unresolved.of(command(), refusal)
        outcome = await points.commit(said, call.deadline, call.turn)
    else:
        # Before anything can be refused: staff are told of the member in a refusal too.
        call.touched.append(found["member_id"])
        await call.count(found["member_id"])
        whole = command(**found)
        if call.via is not None:
            whole = call.via(whole)
        outcome = await points.commit(whole, call.deadline, call.turn)
    call.touched.append(outcome.member_id)
    return outcome


async def the_member(points: Points, named: Named) -> Mapping[str, Any]:
    """Whom a command with one name means."""
    return {"member_id": await points.member(named)}
