"""Checkpoints: where wallets' chains ended, written down outside the database.

A chain shows that nothing inside it was changed; that its end was cut off, or that an
old copy of everything was put back, only somebody else can tell who saw it. A line of
the file is such a witness:

    {"format":1,"chain":"<uuid>","number":7,"time":"...","previous":"<hex>",
     "position":{"system":"...","epoch":1,"xid":"755"},
     "heads":{"<program>":{"points":[["<member>",5,"<hash>"],...]}},
     "key":"1","signature":"<hex>"}

``previous`` is the SHA-256 of the line before, so the lines are a chain too, and each is
signed: ``signature`` is Ed25519 over everything before it. ``position`` says up to where
the event log was looked at; the next checkpoint takes up there.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

FORMAT = 1
GENESIS = bytes(32)  # what the first line follows
HEADS_PER_LINE = 5000  # about half a megabyte

_MARK = b',"signature":"'
_json = json.JSONEncoder(separators=(",", ":")).encode


class Head(NamedTuple):
    """The end of one wallet's chain at some moment."""

    program_id: UUID
    member_id: UUID
    point_type: str
    sequence: int
    hash: bytes


class Position(NamedTuple):
    """A place in the event log of one PostgreSQL: every transaction below ``xid`` was over."""

    system: str
    epoch: int
    xid: int

    def follows(self, other: "Position | None") -> bool:
        """Whether what came after ``other`` can be told by the log: not after a restore elsewhere."""
        if other is None or other.system != self.system:
            return False
        return (other.epoch, other.xid) <= (self.epoch, self.xid)


class Checkpoint(NamedTuple):
    """One line of the file."""

    chain: UUID
    number: int
    taken_at: datetime
    previous: bytes
    position: Position | None  # None while not even the first look at everything was over
    heads: tuple[Head, ...]
    key_id: str


class Line(NamedTuple):
    """A line as it stands there: what it says, what is signed, and by what."""

    checkpoint: Checkpoint
    content: bytes
    signature: bytes
    digest: bytes


class CheckpointError(Exception):
    """The file can't be gone on with; the message says why and what to do."""


class NoSuchCheckpointError(Exception):
    """The checkpoint to trust isn't there, or nothing can be told from it; the message says which."""


class NotACheckpointError(ValueError):
    """The line is no checkpoint."""


def content(checkpoint: Checkpoint) -> bytes:
    """What is signed."""
    position = checkpoint.position
    heads: dict[str, dict[str, list[tuple[str, int, str]]]] = {}
    for head in checkpoint.heads:
        wallets = heads.setdefault(str(head.program_id), {}).setdefault(head.point_type, [])
        wallets.append((str(head.member_id), head.sequence, head.hash.hex()))
    said = {
        "format": FORMAT,
        "chain": str(checkpoint.chain),
        "number": checkpoint.number,
        "time": checkpoint.taken_at.isoformat(),
        "previous": checkpoint.previous.hex(),
        "position": None if position is None else {**position._asdict(), "xid": str(position.xid)},
        "heads": heads,
        "key": checkpoint.key_id,
    }
    return _json(said).encode()[:-1]


def written(signed: bytes, signature: bytes) -> bytes:
    """The line, without its end of line."""
    return signed + _MARK + signature.hex().encode() + b'"}'


def digest(line: bytes) -> bytes:
    """What the line after it names."""
    return hashlib.sha256(line).digest()


def read(line: bytes) -> Line:
    """The line taken apart; its signature isn't looked at. Raises NotACheckpointError."""
    signed, _, signature = line.rpartition(_MARK)
    try:
        said = json.loads(line)
        if said["format"] != FORMAT or not signed:
            raise NotACheckpointError("not of a format that this version knows")
        return Line(_read(said), signed, bytes.fromhex(signature[:-2].decode()), digest(line))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotACheckpointError(str(error)) from None


def _read(said: dict[str, object]) -> Checkpoint:
    position, heads, number = said["position"], said["heads"], said["number"]
    if not isinstance(heads, dict) or not isinstance(number, int):
        raise NotACheckpointError("heads or number are of another type")
    taken_at = datetime.fromisoformat(str(said["time"]))
    if taken_at.tzinfo is None:
        raise NotACheckpointError("the time has no zone")
    return Checkpoint(
        UUID(str(said["chain"])),
        number,
        taken_at,
        bytes.fromhex(str(said["previous"])),
        Position(str(position["system"]), int(position["epoch"]), int(position["xid"]))
        if isinstance(position, dict)
        else None,
        tuple(_heads(heads)),
        str(said["key"]),
    )


def _heads(programs: dict[str, dict[str, list[tuple[str, int, str]]]]) -> Iterable[Head]:
    for program, wallets in programs.items():
        program_id = UUID(program)
        for point_type, ends in wallets.items():
            for member, sequence, end in ends:
                yield Head(program_id, UUID(member), point_type, int(sequence), bytes.fromhex(end))


def out_of_order(line: Line, before: Line | None) -> str | None:
    """What is wrong with the place of a line after ``before``, None if nothing is."""
    checkpoint = line.checkpoint
    due = 1 if before is None else before.checkpoint.number + 1
    if before is not None and checkpoint.chain != before.checkpoint.chain:
        return "belongs to another file"
    if checkpoint.number > due:
        return f"stands where checkpoint {due} was due: checkpoints are missing"
    if checkpoint.number < due or checkpoint.previous != (GENESIS if before is None else before.digest):
        return "does not follow the line before it"
    return None
