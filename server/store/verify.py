"""What `laurel verify` reads of the whole: how much there is, and the identities between tables.

Everything is read from one snapshot, so a shop that goes on selling disturbs nothing.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from server.domain.proof import Check, Finding
from server.store.database import UNHURRIED, Connection, Database
from server.store.identities import ALLOCATES, CREATES, IDENTITIES, Scope
from server.store.standing import ASKED_FOR, IMMUTABLE, PERMANENT

PATIENCE_SECONDS = 24 * 3600.0  # a large ledger takes its time; the pool's limits are those of a purchase


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[Connection]:
    """A connection that sees one moment, changes nothing and may take its time."""
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(UNHURRIED)
        yield connection


async def counts(connection: Connection, scope: Scope) -> dict[str, int]:
    """How many there are of everything that is checked."""
    row = await connection.fetchrow(
        f"""{scope.tables} SELECT (SELECT count(*) FROM entry) AS rows,
                           (SELECT count(*) FROM purse) AS wallets,
                           (SELECT count(*) FROM batch) AS lots,
                           (SELECT count(*) FROM reserved) AS holds,
                           (SELECT count(*) FROM entry WHERE {CREATES}) AS creating,
                           (SELECT count(*) FROM entry WHERE {ALLOCATES}) AS allocating,
                           (SELECT count(DISTINCT (program_id, point_type)) FROM purse) AS totals,
                           (SELECT count(*) FROM receipt) AS orders,
                           (SELECT count(*) FROM entry WHERE order_reference <> '') AS ordered,
                           (SELECT count(*) FROM logged) AS events,
                           (SELECT count(*) FROM placed) + (SELECT count(*) FROM formed) AS seats,
                           (SELECT count(*) FROM usage) AS caps,
                           (SELECT count(*) FROM refunded) AS refunds,
                           (SELECT count(*) FROM returned) AS returns,
                           (SELECT count(*) FROM asked) AS adjustments,
                           (SELECT count(*) FROM known) AS members,
                           (SELECT count(*) FROM remembered) AS requests,
                           (SELECT count(*) FROM entry WHERE {ASKED_FOR}) AS asked_for""",
        *scope.arguments,
        timeout=PATIENCE_SECONDS,
    )
    assert row is not None
    return {**row, "guards": len(IMMUTABLE) + len(PERMANENT)}


async def violations(
    connection: Connection, check: Check, scope: Scope, most: int
) -> tuple[int, list[Finding]]:
    """How often one of the IDENTITIES doesn't hold, and the first ``most`` places."""
    rows = await connection.fetch(
        f"""{scope.tables}
            SELECT problem, program_id, member_id, point_type, sequence, transaction_id,
                   count(*) OVER () AS faults
              FROM ({IDENTITIES[check]})
                   AS bad(program_id, member_id, point_type, sequence, transaction_id, problem)
             ORDER BY program_id, member_id, point_type, sequence, transaction_id
             LIMIT ${len(scope.arguments) + 1}""",
        *scope.arguments,
        max(most, 1),
        timeout=PATIENCE_SECONDS,
    )
    if not rows:
        return 0, []
    return rows[0]["faults"], [Finding(check, *tuple(r)[:6]) for r in rows[:most]]


def subjects(found: Mapping[str, int]) -> dict[Check, int]:
    """How many things each check looks at."""
    return {check: found[what] for check, what in SUBJECTS.items()}


SUBJECTS: Mapping[Check, str] = {
    Check.CHAIN: "rows",
    Check.RUNNING: "rows",
    Check.HEAD: "wallets",
    Check.FIGURES: "wallets",
    Check.WALLETS: "wallets",
    Check.WALLET_LOTS: "wallets",
    Check.DEBTS: "wallets",
    Check.HOLDS: "wallets",
    Check.HELD: "holds",
    Check.EARNED_LOTS: "creating",
    Check.DRAWN_LOTS: "lots",
    Check.ALLOCATIONS: "allocating",
    Check.TOTALS: "totals",
    Check.TRANSFERS: "totals",
    Check.ORDERS: "orders",
    Check.ORDERED: "ordered",
    Check.EVENTS: "events",
    Check.LOGGED: "rows",
    Check.MEMBERS: "rows",
    Check.SEATS: "seats",
    Check.REFUNDED: "refunds",
    Check.RETURNED: "returns",
    Check.DUE: "wallets",
    Check.ACTIVE: "wallets",
    Check.ACTIVE_LOTS: "lots",
    Check.ADJUSTMENTS: "adjustments",
    Check.CAPS: "caps",
    Check.COUNTED: "members",
    Check.REQUESTS: "requests",
    Check.REMEMBERED: "asked_for",
    Check.GUARDS: "guards",
}
