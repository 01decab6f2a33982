"""Reading timelines, and the read model that keeps them."""

from collections.abc import Sequence
from typing import Any

from loyalty.v1 import member_pb2 as pb

from server.domain.timeline import Entry
from server.store import projections, timeline
from server.store.database import Database
from server.store.timeline import PROJECTION
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel
from workers.projections import history
from workers.projections.rebuild import rebuild
from workers.subscriptions import SUBSCRIPTIONS

CONSUMERS = {PROJECTION: SUBSCRIPTIONS[PROJECTION]}
BASE = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}


async def followed(database: Database) -> None:
    """Note all that happened, by a worker that goes again."""
    async with relaying(database, CONSUMERS):
        await caught_up(database, CONSUMERS)


async def read(shop: Laurel, member_id: str, **wishes: Any) -> list[pb.TimelineEntry]:
    """A timeline, all pages of it."""
    request = pb.ListTimelineRequest(member_id=member_id, **wishes)
    found: list[pb.TimelineEntry] = []
    while True:
        page = await shop.staff.members.ListTimeline(request)
        assert len(page.entries) <= (request.page_size or 50)
        found += page.entries
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def kinds(entries: Sequence[pb.TimelineEntry]) -> list[str]:
    """What is in it."""
    return [entry.kind for entry in entries]


async def noted(database: Database) -> list[Entry]:
    """All timelines that are read now."""
    async with database.transaction() as connection:
        generations = await projections.following(connection, PROJECTION)
        return await timeline.everything(connection, generations.current)


async def rebuilt(database: Database) -> int:
    """Note everything again; how many events that were."""
    steps = [progress.done async for progress in rebuild(database, history.Build())]
    return steps[-1]
