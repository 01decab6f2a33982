"""What partners are to hear of: an event that an endpoint's filter lets through becomes a delivery to it."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from server.domain.deliveries import Wanted
from server.domain.webhooks import CHANNEL, Endpoint, matches
from server.ids import new_id
from server.store import deliveries, webhooks
from server.store.database import Connection
from server.store.log import LoggedEvent


async def want(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Want these events to be sent to whom they concern; what was before an endpoint came is not for it."""
    endpoints: defaultdict[UUID, list[Endpoint]] = defaultdict(list)
    for endpoint in await webhooks.enabled(connection, {event.program_id for event in events}):
        endpoints[endpoint.program_id].append(endpoint)
    await deliveries.add(
        connection,
        [
            _wanted(event, endpoint)
            for event in events
            for endpoint in endpoints[event.program_id]
            if event.recorded_at >= endpoint.created_at and matches(endpoint.event_types, event.event_type)
        ],
    )


def _wanted(event: LoggedEvent, endpoint: Endpoint) -> Wanted:
    return Wanted(
        program_id=event.program_id,
        delivery_id=new_id(),
        member_id=event.member_id,
        channel=CHANNEL,
        target=webhooks.target_of(endpoint.endpoint_id),
        dedup_key=f"{CHANNEL}:{endpoint.endpoint_id}:{event.epoch}:{event.position}",
        content={
            "endpoint_id": str(endpoint.endpoint_id),
            "event_type": event.event_type,
            "place": list(event.place),
        },
    )
