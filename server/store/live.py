"""One member's events as they are committed, without waiting for older transactions of others.

A member's lock is taken before anything that assigns a transaction id, so the order of (epoch, xid,
position) is the order in which the member's events are committed: what follows the last one seen is all
there is to see, whatever other transactions are still open. That holds within one member only.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.live import Happened, Place
from server.store.ledger import MemberOf
from server.store.together import Question, columns

Since = tuple[MemberOf, Place]

PAGE = 50
# Ids of events tell when they were made, by clocks that differ by less than this. An index finds a member's
# events by their ids, so only those are looked at that can be newer than a place.
CLOCKS_MILLISECONDS = 3_600_000

_WANTED = """unnest($1::uuid[], $2::uuid[], $3::integer[], $4::xid8[], $5::bigint[], $6::uuid[], $7::bigint[])
             WITH ORDINALITY AS wanted(program_id, member_id, epoch, xid, position, after, told, number)"""
_LATER = """(SELECT message_id, position FROM message
              WHERE program_id = wanted.program_id AND member_id = wanted.member_id
                AND position > wanted.told AND in_inbox ORDER BY position LIMIT {limit})"""
# OFFSET 0: the log's primary key would give the order, and lead through everybody's events.
_NEWER = """(SELECT * FROM (SELECT * FROM event_log
                     WHERE program_id = wanted.program_id AND member_id = wanted.member_id
                       AND event_id >= wanted.after OFFSET 0) AS recent
              WHERE (recent.epoch, recent.xid, recent.position) > (wanted.epoch, wanted.xid, wanted.position)
              ORDER BY epoch, xid, position LIMIT {limit})"""


def newest(members: Collection[MemberOf]) -> Question[dict[MemberOf, Place]]:
    """The places after which nothing has happened yet to these members, of those who have any events."""
    return Question(
        """SELECT ROW(wanted.program_id, wanted.member_id, last.epoch, last.xid,
                      (SELECT max(position) FROM event_log
                        WHERE (epoch, xid) = (last.epoch, last.xid)),
                      last.event_id)
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id),
                  LATERAL (SELECT epoch, xid, event_id FROM event_log
                            WHERE program_id = wanted.program_id AND member_id = wanted.member_id
                            ORDER BY event_id DESC LIMIT 1) AS last""",
        ([program_id for program_id, _ in members], [member_id for _, member_id in members]),
        lambda rows: {(row[0], row[1]): Place(*row[2:]) for row in rows},
    )


def since(wanted: Sequence[Since]) -> Question[Mapping[Since, list[Happened]]]:
    """Up to PAGE events after each place, in order; what has none is absent. Baskets are left out."""

    def read(rows: Sequence[Any]) -> dict[Since, list[Happened]]:
        found: dict[Since, list[Happened]] = {}
        for row in rows:
            happened = Happened(Place(*row[1:5]), row[5], row[6], json.loads(row[7]))
            found.setdefault(wanted[row[0] - 1], []).append(happened)
        return found

    return Question(
        f"""SELECT ROW(number, e.epoch, e.xid, e.position, e.event_id, e.recorded_at, e.event_type,
                      e.payload #- '{{activity,lines}}' #- '{{activity,attributes}}')
             FROM {_WANTED}, LATERAL {_NEWER.format(limit=PAGE)} AS e
            ORDER BY number, e.epoch, e.xid, e.position""",
        _columns(wanted),
        read,
    )


class Came(NamedTuple):
    """A message that came into an inbox, and its position among the member's."""

    message_id: UUID
    position: int


def newest_message(members: Collection[MemberOf]) -> Question[dict[MemberOf, int]]:
    """The position of the last message to each of these members, of those who have any."""
    return Question(
        """SELECT ROW(program_id, member_id, max(position)) FROM message
            WHERE (program_id, member_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
              AND position IS NOT NULL
            GROUP BY program_id, member_id""",
        ([program_id for program_id, _ in members], [member_id for _, member_id in members]),
        lambda rows: {(row[0], row[1]): row[2] for row in rows},
    )


def messages_since(wanted: Sequence[Since]) -> Question[Mapping[Since, list[Came]]]:
    """Up to PAGE messages that came into inboxes after each place, in order; what has none is absent."""

    def read(rows: Sequence[Any]) -> dict[Since, list[Came]]:
        found: dict[Since, list[Came]] = {}
        for number, message_id, position in rows:
            found.setdefault(wanted[number - 1], []).append(Came(message_id, position))
        return found

    return Question(
        f"""SELECT ROW(number, m.message_id, m.position)
             FROM {_WANTED}, LATERAL {_LATER.format(limit=PAGE)} AS m
            ORDER BY number, m.position""",
        _columns(wanted),
        read,
    )


def behind(wanted: Sequence[Since]) -> Question[list[MemberOf]]:
    """The members to whom something has happened after their places."""
    return Question(
        f"""SELECT ROW(number) FROM {_WANTED}
             WHERE EXISTS {_NEWER.format(limit=1)} OR EXISTS {_LATER.format(limit=1)}""",
        _columns(wanted),
        lambda rows: [wanted[row[0] - 1][0] for row in rows],
    )


def epoch() -> Question[int]:
    """That of the log. Places of others are of another history of the same database."""
    return Question("SELECT ROW(max(epoch)) FROM log_epoch", (), lambda rows: int(rows[0][0]))


def _columns(wanted: Sequence[Since]) -> tuple[tuple[Any, ...], ...]:
    return columns(
        [
            (*member, place.epoch, place.xid, place.position, earliest(place.event_id), place.message)
            for member, place in wanted
        ]
    )


def earliest(event_id: UUID) -> UUID:
    """The least id that an event after this one can have. UUIDv7 begin with 48 bits of milliseconds."""
    return UUID(int=max(0, (event_id.int >> 80) - CLOCKS_MILLISECONDS) << 80)
