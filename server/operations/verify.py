"""Verify the ledger: every chain, every identity between its tables, and what checkpoints say of it.

All of it on one snapshot. With a checkpoint to trust, only what is newer than it.
"""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from server.domain.proof import Check, Finding, History
from server.operations.evidence import Evidence, Trusted, hold_against, trusted
from server.store import chains as rows_of
from server.store import verify as store
from server.store.chains import WalletKey
from server.store.database import Connection, Database
from server.store.identities import EVERYTHING, IDENTITIES, OF_ALL, Scope, of_members, of_program

OF_CHAINS = (Check.CHAIN, Check.RUNNING, Check.HEAD, Check.FIGURES, Check.ACTIVITIES)
BYTES_PER_STEP = 128  # of a file of checkpoints: about one end of a chain


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done: a row read is one, an end of a chain in a checkpoint, and a check between tables."""

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
    """Counts findings, and keeps the first ``most`` of each check. ``vouched``: activities looked up."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.vouched = 0
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
    database: Database,
    keys: Mapping[str, bytes],
    program_id: UUID | None = None,
    most: int = 20,
    evidence: Evidence | None = None,
    since: int | None = None,
) -> AsyncGenerator[Progress | Result, None]:
    """Check one program, or all. Yields progress, and each check's result once.

    ``keys`` are the ledger's, by id. Each result keeps its first ``most`` findings. The
    ledger is held against ``evidence`` if there is any. With ``since``, the number of a
    checkpoint in it, that one is trusted: of each chain its end must be there, and only members
    are looked at who stand in the event log after it or whose chains end elsewhere now. Raises
    Unavailable if the database goes away, NoSuchCheckpointError.
    """
    async with store.snapshot(database) as connection:
        scope = EVERYTHING if program_id is None else of_program(program_id)
        trust = None
        if since is not None and evidence is not None:
            trust = await trusted(connection, evidence, since, program_id)
            scope = of_members(trust.members)
        found = await store.counts(connection, scope)
        if trust is not None:
            found["rows"] = max(0, found["rows"] - sum(sequence for sequence, _ in trust.begun.values()))
        checked = store.subjects(found)
        rows, size = found["rows"], 0 if evidence is None else evidence.size // BYTES_PER_STEP
        total = rows + size + len(IDENTITIES)
        of_chains, of_file = _Found(most), _Found(most)
        yield Progress("checkpoints" if evidence else "chains", 0, total)
        if evidence is not None:
            seen: Counter[Check] = Counter()
            async for read in hold_against(connection, evidence, program_id, trust):
                seen.update(read.checked)
                of_file.add(read.findings)
                yield Progress("checkpoints", min(size, read.ends_at // BYTES_PER_STEP), total)
            for check in (Check.CHECKPOINT_FILE, Check.CHECKPOINTS):
                yield of_file.result(check, seen[check])
        async for done in _chains(connection, keys, scope, trust, of_chains):
            yield Progress("chains", size + done, total)
        checked[Check.ACTIVITIES] = of_chains.vouched
        for check in OF_CHAINS:
            yield of_chains.result(check, checked[check])
        for done, check in enumerate(IDENTITIES, 1):
            if trust is not None and check in OF_ALL:
                continue
            faults, findings = await store.violations(connection, check, scope, most)
            yield Result(check, checked[check], faults, tuple(findings))
            yield Progress(check, size + rows + done, total)


async def _chains(
    connection: Connection,
    keys: Mapping[str, bytes],
    scope: Scope,
    trust: Trusted | None,
    found: _Found,
) -> AsyncIterator[int]:
    """Take in every row; yields how many have been. Wallets are compared when their rows are over."""
    begun = {} if trust is None else await _begun(connection, keys, trust)
    if trust is None:
        batches = rows_of.chains(connection, scope)
    else:
        ends = {key: sequence for key, (sequence, _) in trust.begun.items()}
        batches = rows_of.chains_after(connection, scope, ends)
    current: WalletKey | None = None
    history, done = History(keys), 0
    async for entries in batches:
        over: dict[WalletKey, History] = {}
        for entry in entries:
            key = (entry.place.program_id, entry.place.member_id, entry.place.point_type)
            if key != current:
                if current is not None:
                    over[current] = history
                current, history = key, begun.pop(key) if key in begun else History(keys)
            found.add(history.take(entry))
            found.vouched += entry.activity is not None
        await _close(connection, over, found)
        done += len(entries)
        yield done
    # The wallet that was read last, and those without any row behind the trusted one.
    await _close(connection, begun if current is None else {current: history, **begun}, found)


async def _begun(
    connection: Connection, keys: Mapping[str, bytes], trust: Trusted
) -> dict[WalletKey, History]:
    """Histories that begin behind trusted rows. One whose row is gone, or another, begins with the first
    row that there is: what is missing before it is found as such."""
    ends = [(key, sequence) for key, (sequence, _) in trust.begun.items()]
    if not ends:
        return {}
    totals = await rows_of.sums(connection, ends)
    begun = {}
    for entry in await rows_of.trusted_rows(connection, ends):
        place, row = entry.place, entry.row
        key = (place.program_id, place.member_id, place.point_type)
        if row is not None and row.hash == trust.begun[key][1]:
            begun[key] = History(keys, row, place, totals[key])
    return begun


async def _close(connection: Connection, over: Mapping[WalletKey, History], found: _Found) -> None:
    if over:
        wallets = await rows_of.wallets(connection, list(over))
        for key, history in over.items():
            found.add(history.close(wallets.get(key)))
