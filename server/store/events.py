"""The event log: appended to in the transaction of every change, never changed."""

from collections.abc import Sequence

from server.domain.canonical_json import canonical
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
             FROM unnest($1::event_log_row[])""",
        (
            [
                (
                    e.event_id,
                    e.event_type,
                    e.program_id,
                    e.member_id,
                    e.occurred_at,
                    e.recorded_at,
                    canonical(e.payload()).decode(),
                )
                for e in events
            ],
        ),
    )
