"""The event log: appended to in the transaction of every change, never changed."""

import json
from collections.abc import Sequence

from server.domain.events import Event
from server.store.together import Write


def append(events: Sequence[Event]) -> Write | None:
    """Write events in their order. The caller holds its members' locks: xid order is member order."""
    if not events:
        return None
    return Write(
        """INSERT INTO event_log (epoch, event_id, event_type, program_id, member_id,
                                  occurred_at, recorded_at, payload)
           SELECT (SELECT max(epoch) FROM log_epoch), *
             FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[],
                         $5::timestamptz[], $6::timestamptz[], $7::jsonb[])""",
        (
            [e.event_id for e in events],
            [e.event_type for e in events],
            [e.program_id for e in events],
            [e.member_id for e in events],
            [e.occurred_at for e in events],
            [e.recorded_at for e in events],
            [json.dumps(e.payload()) for e in events],
        ),
    )
