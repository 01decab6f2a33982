"""Exports: the ledger, the members, what they hold, each as of one moment.

An export is an ``Extract``: columns, how many rows there are, and the rows in batches.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto
from typing import Any
from uuid import UUID

from server.domain.actor import Actor
from server.operations.audit import Audit
from server.store import exports as store
from server.store.database import Database
from server.store.sealing import Sealer, WrappedKey
from server.store.verify import snapshot


class Kind(StrEnum):
    """What a column holds: ``TEXT`` what anybody may have typed, ``NAME`` a word of Laurel's own."""

    TEXT = auto()
    NAME = auto()
    INTEGER = auto()
    TIME = auto()
    LIST = auto()
    JSON = auto()
    ID = auto()
    HASH = auto()


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its name."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Extract:
    """``size`` rows with these columns. ``batches`` may be read once, while the export is open."""

    columns: Sequence[Column]
    size: int
    batches: AsyncIterator[list[Sequence[Any]]]


KINDS = {
    **dict.fromkeys(("program", "kind", "debit_account", "credit_account", "status"), Kind.NAME),
    **dict.fromkeys(("program_id", "member_id", "transaction_id", "event_id", "credential_id"), Kind.ID),
    **dict.fromkeys(
        ("sequence", "points", "balance_after", "birth_month", "purchases", "version"), Kind.INTEGER
    ),
    **dict.fromkeys(("balance", "pending", "held", "debt", "lifetime"), Kind.INTEGER),
    **dict.fromkeys(("occurred_at", "recorded_at", "joined_at", "updated_at"), Kind.TIME),
    **dict.fromkeys(("tags", "segments", "consents", "external_ids", "card_numbers"), Kind.LIST),
    **dict.fromkeys(("address.lines", "preferences.channels"), Kind.LIST),
    **dict.fromkeys(("trace", "attributes"), Kind.JSON),
    **dict.fromkeys(store.HASHES, Kind.HASH),
}
MEMBERS = (
    "program",
    "program_id",
    "member_id",
    "status",
    "tier",
    "tags",
    "segments",
    "attributes",
    "birth_month",
    "purchases",
    "joined_at",
    "updated_at",
    "version",
    "consents",
)
PREFERENCES = ("language_code", "time_zone", "channels")
ADDRESS = ("lines", "locality", "region", "postal_code", "country_code")
NAMES = ("given_name", "family_name", "birth_date")
FINDING = ("email", "phone", "external_ids", "card_numbers")
BALANCES = (
    "program",
    "program_id",
    "member_id",
    "status",
    "point_type",
    "balance",
    "pending",
    "held",
    "debt",
    "lifetime",
    "sequence",
)


class Personal:
    """Opens what is sealed, and records of whose data it did so before anybody sees it."""

    def __init__(self, sealer: Sealer, audit: Audit, operator: Callable[[UUID], Actor]) -> None:
        self._sealer = sealer
        self._audit = audit
        self._operator = operator

    async def record(self, method: str, rows: Sequence[Any]) -> None:
        """That the operator sees the members of these rows. Raises Unavailable."""
        of_program: dict[UUID, dict[UUID, None]] = {}
        for row in rows:
            of_program.setdefault(row["program_id"], {})[row["member_id"]] = None
        for program_id, member_ids in of_program.items():
            await self._audit.record(self._operator(program_id), method, list(member_ids))

    def opened(self, row: Any) -> dict[str, Any]:
        """What is sealed in the row; nothing of a member whose key was destroyed. Raises BrokenSealError."""
        if row["wrapped"] is None:
            return {}
        key = WrappedKey(row["master_key_id"], row["wrapped"])
        return self._sealer.open(key, row["program_id"], row["member_id"], row["sealed"])


@asynccontextmanager
async def ledger(
    database: Database,
    program_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    with_hashes: bool,
) -> AsyncIterator[Extract]:
    """Rows of the ledger recorded from ``since`` until before ``until``. Raises Unavailable."""
    names = ("program", *store.LEDGER, *(store.HASHES if with_hashes else ()))
    async with snapshot(database) as connection:
        size = await store.ledger_size(connection, program_id, since, until)
        rows = store.ledger(connection, program_id, since, until)
        yield Extract(_columns(names), size, _plain(rows, names))


@asynccontextmanager
async def members(
    database: Database, program_id: UUID | None, personal: Personal | None
) -> AsyncIterator[Extract]:
    """Every member; what is personal only if there is something to open it with. Raises Unavailable."""
    names = [*MEMBERS, *(f"preferences.{part}" for part in PREFERENCES)]
    if personal is not None:
        names += [*NAMES, *FINDING, *(f"address.{part}" for part in ADDRESS)]

    def values(row: Any) -> Sequence[Any]:
        preferences = json.loads(row["preferences"])
        own = [*(row[name] for name in MEMBERS), *(preferences[part] for part in PREFERENCES)]
        if personal is not None:
            opened = personal.opened(row)
            address = opened.get("address") or {}
            own += [opened.get(name) for name in NAMES]
            own += _finding(opened)
            own += [address.get(part) for part in ADDRESS]
        return own

    async with snapshot(database) as connection:
        rows = store.members(connection, program_id)
        batches = _opened(rows, values, personal, "laurel export members --personal-data")
        yield Extract(_columns(names), await store.members_size(connection, program_id), batches)


@asynccontextmanager
async def balances(
    database: Database, program_id: UUID | None, personal: Personal | None
) -> AsyncIterator[Extract]:
    """Every wallet as recorded; what finds its member only if it can be opened. Raises Unavailable."""
    names = [*BALANCES, *(FINDING if personal is not None else ())]

    def values(row: Any) -> Sequence[Any]:
        found = [] if personal is None else _finding(personal.opened(row))
        return [*(row[name] for name in BALANCES), *found]

    async with snapshot(database) as connection:
        rows = store.balances(connection, program_id)
        batches = _opened(rows, values, personal, "laurel export balances --personal-data")
        yield Extract(_columns(names), await store.balances_size(connection, program_id), batches)


def _finding(opened: dict[str, Any]) -> list[Any]:
    external_ids = [f"{system}:{own}" for system, own in opened.get("external_ids", ())]
    return [opened.get("email"), opened.get("phone"), external_ids, opened.get("card_numbers", [])]


def _columns(names: Sequence[str]) -> list[Column]:
    return [Column(name, KINDS.get(name, Kind.TEXT)) for name in names]


async def _plain(
    batches: AsyncIterator[list[Any]], names: Sequence[str]
) -> AsyncIterator[list[Sequence[Any]]]:
    async for rows in batches:
        yield [[row[name] for name in names] for row in rows]


async def _opened(
    batches: AsyncIterator[list[Any]],
    values: Callable[[Any], Sequence[Any]],
    personal: Personal | None,
    method: str,
) -> AsyncIterator[list[Sequence[Any]]]:
    async for rows in batches:
        if personal is not None:
            await personal.record(method, rows)
        yield [values(row) for row in rows]
