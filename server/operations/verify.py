"""Verify the ledger: every chain, and every identity between its tables, on one snapshot."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from server.domain.proof import Check, Finding, History
from server.store import verify as store
from server.store.database import Connection, Database
from server.store.identities import IDENTITIES

OF_CHAINS = (Check.CHAIN, Check.RUNNING, Check.HEAD, Check.FIGURES)


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done: a row read is one, and a check between tables is one."""

    step: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Result:
    """How a check ended: over how many things, how many faults, and the first of them."""

    check: Check
    checked: int
    faults: int
    findings: tuple[Finding, ...]


class _Found:
    """Counts findings, and keeps the first ``most`` of each check."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._faults: Counter[Check] = Counter()
        self._kept: dict[Check, list[Finding]] = {}

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._faults[finding.check] += 1
            kept = self._kept.setdefault(finding.check, [])
            if len(kept) < self._most:
                kept.append(finding)

    def result(self, check: Check, checked: int) -> Result:
        return Result(check, checked, self._faults[check], tuple(self._kept.get(check, ())))


async def verify(
    database: Database, keys: Mapping[str, bytes], program_id: UUID | None = None, most: int = 20
) -> AsyncGenerator[Progress | Result, None]:
    """Check one program, or all. Yields progress, and each check's result once.

    ``keys`` are the ledger's, by id. Each result keeps its first ``most`` findings.
    Raises Unavailable if the database goes away.
    """
    async with store.snapshot(database) as connection:
        found = await store.counts(connection, program_id)
        checked = store.subjects(found)
        rows, total = found["rows"], found["rows"] + len(IDENTITIES)
        yield Progress("chains", 0, total)
        chains = _Found(most)
        async for done in _chains(connection, keys, program_id, chains):
            yield Progress("chains", done, total)
        for check in OF_CHAINS:
            yield chains.result(check, checked[check])
        for done, check in enumerate(IDENTITIES, 1):
            faults, findings = await store.violations(connection, check, program_id, most)
            yield Result(check, checked[check], faults, tuple(findings))
            yield Progress(check, rows + done, total)


async def _chains(
    connection: Connection, keys: Mapping[str, bytes], program_id: UUID | None, found: _Found
) -> AsyncIterator[int]:
    """Take in every row; yields how many have been. Wallets are compared when their rows are over."""
    current: store.WalletKey | None = None
    history, done = History(keys), 0
    async for entries in store.chains(connection, program_id):
        over: dict[store.WalletKey, History] = {}
        for entry in entries:
            key = (entry.place.program_id, entry.place.member_id, entry.place.point_type)
            if key != current:
                if current is not None:
                    over[current] = history
                current, history = key, History(keys)
            found.add(history.take(entry))
        await _close(connection, over, found)
        done += len(entries)
        yield done
    if current is not None:
        await _close(connection, {current: history}, found)


async def _close(connection: Connection, over: Mapping[store.WalletKey, History], found: _Found) -> None:
    if over:
        wallets = await store.wallets(connection, list(over))
        for key, history in over.items():
            found.add(history.close(wallets.get(key)))
