"""Programs and their terms."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from server.domain import terms
from server.domain.program import LedgerTerms, Program, Tier
from server.store.database import Connection
from server.store.rules import event_types
from server.store.together import Question

COLUMNS = """program_id, name, currency, time_zone, point_types, tiers, rates,
             past_limit_days, clock_skew_seconds, step_up_redeem_points, ledger_terms"""


async def create(connection: Connection, program: Program) -> bool:
    """Add the program; False if one of that name exists, which is left as it is."""
    row = await connection.fetchrow(
        f"""INSERT INTO program ({COLUMNS})
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
            ON CONFLICT (name) DO NOTHING RETURNING program_id""",
        program.program_id,
        program.name,
        program.currency,
        program.time_zone,
        list(program.point_types),
        json.dumps([{"name": t.name, "from_points": t.from_points} for t in program.tiers]),
        json.dumps({currency: str(rate) for currency, rate in program.rates.items()}),
        program.past_limit_days,
        program.clock_skew_seconds,
        program.step_up_redeem_points,
        json.dumps(terms.dump(program.ledger)),
    )
    return row is not None


async def get(connection: Connection, program_id: UUID) -> Program | None:
    """The program with its event types, None if there is none."""
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM program WHERE program_id = $1", program_id)
    return None if row is None else _program(row, await event_types(connection, program_id))


async def find(connection: Connection, name: str) -> Program | None:
    """The program of that name, None if there is none."""
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM program WHERE name = $1", name)
    return None if row is None else _program(row, await event_types(connection, row["program_id"]))


async def step_up_of(connection: Connection, name: str) -> tuple[UUID, int] | None:
    """The id of the program of that name and its ``step_up_redeem_points``, None if there is none."""
    row = await connection.fetchrow(
        "SELECT program_id, step_up_redeem_points FROM program WHERE name = $1", name
    )
    return None if row is None else (row[0], row[1])


async def every(connection: Connection) -> list[Program]:
    """All programs by name, without their event types."""
    return [_program(r, {}) for r in await connection.fetch(f"SELECT {COLUMNS} FROM program ORDER BY name")]


async def set_step_up(connection: Connection, name: str, redeem_points: int) -> bool:
    """Change from where on members need a stronger login; False if there is no such program."""
    done = await connection.execute(
        "UPDATE program SET step_up_redeem_points = $2 WHERE name = $1", name, redeem_points
    )
    return bool(done != "UPDATE 0")


async def set_ledger_terms(connection: Connection, name: str, ledger: LedgerTerms) -> bool:
    """Change how points live from now on; False if there is no such program.

    The revision goes up, so that the next command of any process is decided by them.
    """
    done = await connection.execute(
        "UPDATE program SET ledger_terms = $2, rules_revision = rules_revision + 1 WHERE name = $1",
        name,
        json.dumps(terms.dump(ledger)),
    )
    return bool(done != "UPDATE 0")


def revisions_of(program_ids: Sequence[UUID]) -> Question[dict[UUID, int]]:
    """The revision of each program's rules."""
    return Question(
        "SELECT ROW(program_id, rules_revision) FROM program WHERE program_id = ANY($1::uuid[])",
        (program_ids,),
        lambda rows: {r[0]: r[1] for r in rows},
    )


def _program(row: Any, registered: dict[str, dict[str, str]]) -> Program:
    return Program(
        program_id=row["program_id"],
        name=row["name"],
        currency=row["currency"],
        time_zone=row["time_zone"],
        point_types=tuple(row["point_types"]),
        tiers=tuple(Tier(t["name"], t["from_points"]) for t in json.loads(row["tiers"])),
        rates={currency: Decimal(rate) for currency, rate in json.loads(row["rates"]).items()},
        event_types=registered,
        past_limit_days=row["past_limit_days"],
        clock_skew_seconds=row["clock_skew_seconds"],
        step_up_redeem_points=row["step_up_redeem_points"],
        ledger=terms.load(json.loads(row["ledger_terms"])),
    )
