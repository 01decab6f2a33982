"""What members held at a moment: the sums of the rows that were recorded by then."""

from collections import Counter
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.ledger import Account, Kind, Wallet
from server.domain.proof import figures
from server.store.database import Connection
from server.store.statements import wallet_of


class Held(NamedTuple):
    """What the member who lived on then held, by point type; wallets without rows are absent.

    ``lifetime`` includes that of members who had been merged into this one.
    """

    member_id: UUID
    wallets: dict[str, Wallet]
    lifetime: Counter[str]


# Whom the id led to then, and who had become one with them: merges are in the event log, with their time.
SUMS = """
    WITH RECURSIVE lives(member_id, merges) AS (
        SELECT $2::uuid, 0
         UNION ALL
        SELECT (e.payload ->> 'survivor_id')::uuid, merges + 1
          FROM lives JOIN event_log e ON e.program_id = $1 AND e.member_id = lives.member_id
         WHERE e.event_type = 'member.merged' AND e.recorded_at <= $3
           AND e.payload ->> 'merged_id' = lives.member_id::text),
    own(member_id, lives_on) AS (
        (SELECT member_id, true FROM lives ORDER BY merges DESC LIMIT 1)
         UNION ALL
        SELECT (e.payload ->> 'merged_id')::uuid, false
          FROM own JOIN event_log e ON e.program_id = $1 AND e.member_id = own.member_id
         WHERE e.event_type = 'member.merged' AND e.recorded_at <= $3
           AND e.payload ->> 'survivor_id' = own.member_id::text)
    SELECT own.member_id, lives_on, t.point_type, t.kind, t.debit_account, t.credit_account,
           sum(t.points)::bigint
      FROM own
      LEFT JOIN ledger_transaction t
        ON t.program_id = $1 AND t.member_id = own.member_id AND t.recorded_at <= $3
     GROUP BY 1, 2, 3, 4, 5, 6"""


async def held(connection: Connection, program_id: UUID, member_id: UUID, moment: datetime) -> Held:
    """What that member, or who lived on instead of them, held at the moment."""
    sums: dict[str, Counter[str]] = {}
    lifetime: Counter[str] = Counter()
    survivor = member_id
    for row in await connection.fetch(SUMS, program_id, member_id, moment):
        owner, lives_on, point_type, kind, debit, credit, points = row
        survivor = owner if lives_on else survivor
        if point_type is None:
            continue
        moved = figures(Kind(kind), Account(debit), Account(credit), points)
        lifetime[point_type] += moved["lifetime"]
        if lives_on:
            own = sums.setdefault(point_type, Counter())
            for figure, change in moved.items():
                own[figure] += change
    wallets = {point_type: wallet_of(point_type, own) for point_type, own in sums.items()}
    return Held(survivor, wallets, lifetime)
