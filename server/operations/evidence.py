"""A file of checkpoints held against the ledger."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from server.domain.checkpoints import Checkpoint, Head, NoSuchCheckpointError
from server.domain.proof import Check, Finding
from server.store import chains
from server.store import checkpoints as store
from server.store.chains import WalletKey
from server.store.checkpoint_file import PublicKeys, Read, lines, size
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.merges import families

Ends = Mapping[WalletKey, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file, the keys that check its signatures, and how long it was before the ledger was read.

    What was appended later may speak of rows that the snapshot doesn't have.
    """

    path: Path
    keys: PublicKeys
    size: int

    @classmethod
    def of(cls, path: Path, keys: PublicKeys) -> "Evidence":
        """The file as it is now. Raises OSError."""
        return cls(path, keys, size(path))

    def number_at(self, moment: datetime) -> int:
        """The last checkpoint that was taken at that moment or before. Raises NoSuchCheckpointError."""
        found = None
        for read in lines(self.path, self.keys):
            if read.line is not None and read.authentic and read.line.checkpoint.taken_at <= moment:
                found = read.line.checkpoint.number
        if found is None:
            raise NoSuchCheckpointError(f"no checkpoint of {self.path} is so old")
        return found


@dataclass(frozen=True, slots=True)
class Trusted:
    """A trusted checkpoint, who has changed since, and where all chains ended then: sequence and hash.

    ``begun``: these ends, of the members who have changed.
    """

    number: int
    members: Sequence[MemberOf]
    ends: Ends
    begun: Ends


class Held(NamedTuple):
    """What became of one line, and where it ends in the file."""

    ends_at: int
    checked: Mapping[Check, int]
    findings: Sequence[Finding]


async def trusted(
    connection: Connection, evidence: Evidence, number: int, program_id: UUID | None
) -> Trusted:
    """Who changed since a checkpoint, and where their chains ended in it. Raises NoSuchCheckpointError."""
    checkpoint = next((c for c in _checkpoints(evidence) if c.number == number), None)
    if checkpoint is None:
        raise NoSuchCheckpointError(f"{evidence.path} has no checkpoint {number} that one of our keys signed")
    since = checkpoint.position
    if since is None or not (await store.position(connection)).follows(since):
        raise NoSuchCheckpointError(
            f"the event log doesn't reach back to checkpoint {number}: the database was restored since, or "
            "that was the beginning of the first look at everything; verify everything"
        )
    ends: dict[WalletKey, tuple[int, bytes]] = {}
    for earlier in _checkpoints(evidence):
        if earlier.number > number:
            break
        for head in earlier.heads:
            if program_id is None or head.program_id == program_id:
                ends[head[:3]] = (head.sequence, head.hash)
    changed = {*await chains.changed_members(connection, since, program_id)}
    changed |= await _elsewhere(connection, ends, program_id)
    # What a merged member has is looked at together with who lives on, or it would seem to be missing.
    members = await families(connection, changed)
    looked_at = {*members}
    begun = {key: end for key, end in ends.items() if key[:2] in looked_at}
    return Trusted(number, members, ends, begun)


async def _elsewhere(connection: Connection, trusted: Ends, program_id: UUID | None) -> set[MemberOf]:
    """Members whose chains do not end where they did, by their wallets or by their rows.

    Who writes behind the servers' backs leaves no event, so the log alone doesn't tell of everybody.
    """
    missing, found = {*trusted}, set()
    async for wallets in chains.ends(connection, program_id):
        for key, sequence, head_hash, last in wallets:
            missing.discard(key)
            if last != sequence or trusted.get(key) != (sequence, head_hash):
                found.add(key[:2])
    return found | {key[:2] for key in missing}


def _checkpoints(evidence: Evidence) -> Iterator[Checkpoint]:
    return (
        read.line.checkpoint
        for read in lines(evidence.path, evidence.keys)
        if read.line is not None and read.authentic
    )


async def hold_against(
    connection: Connection, evidence: Evidence, program_id: UUID | None, trust: Trusted | None
) -> AsyncIterator[Held]:
    """Check every line, and that the ledger has what it names; of trusted ones, each chain's last end."""
    last: Checkpoint | None = None
    known: store.Known | None = None
    for read in lines(evidence.path, evidence.keys):
        line = read.line
        findings = [_of_file(read)] if read.problem else []
        checked = Counter({Check.CHECKPOINT_FILE: 1})
        if line is not None and read.authentic:
            last = line.checkpoint
            if known is None:
                known = await store.known(connection, last.chain)
            if known is not None and known.number == last.number and known.digest != line.digest:
                findings.append(_named(last, "is another than the one that the database knows of"))
            # What was appended meanwhile is looked at as a line, to compare the file's end.
            heads = _wanted(last, program_id, trust) if read.ends_at <= evidence.size else []
            checked[Check.CHECKPOINTS] = len(heads)
            if heads:
                missed = await store.missed(connection, heads)
                findings += [_missed(last, head, end, row) for head, end, row in missed]
        yield Held(read.ends_at, checked, findings)
    if last is None:
        known = await store.latest(connection)
    if known is not None and (last is None or last.number < known.number):
        has = "has no checkpoint" if last is None else f"ends with checkpoint {last.number}"
        problem = (
            f"the file {has}, the database knows of checkpoint {known.number} of {_time(known.taken_at)}: "
            "its end was cut off"
        )
        yield Held(evidence.size, {}, [Finding(Check.CHECKPOINT_FILE, problem)])


def _wanted(checkpoint: Checkpoint, program_id: UUID | None, trust: Trusted | None) -> list[Head]:
    heads = [h for h in checkpoint.heads if program_id is None or h.program_id == program_id]
    if trust is None or checkpoint.number > trust.number:
        return heads
    return [h for h in heads if trust.ends.get(h[:3]) == (h.sequence, h.hash)]


def _of_file(read: Read) -> Finding:
    if read.line is None:
        return Finding(Check.CHECKPOINT_FILE, f"line {read.number} {read.problem}")
    return _named(read.line.checkpoint, read.problem)


def _named(checkpoint: Checkpoint, problem: str) -> Finding:
    return Finding(
        Check.CHECKPOINT_FILE, f"checkpoint {checkpoint.number} of {_time(checkpoint.taken_at)} {problem}"
    )


def _missed(checkpoint: Checkpoint, head: Head, end: int | None, row: UUID | None) -> Finding:
    if end is None:
        instead = "the wallet has no rows"
    elif row is None:
        instead = f"the rows end at sequence {end}"
    else:
        instead = "another row stands there"
    return Finding(
        Check.CHECKPOINTS,
        f"checkpoint {checkpoint.number} of {_time(checkpoint.taken_at)} is missed: it has sequence "
        f"{head.sequence}, {instead}",
        head.program_id,
        head.member_id,
        head.point_type,
        head.sequence,
        row,
    )


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
