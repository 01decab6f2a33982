"""The file of checkpoints: only ever appended to, each line signed and on the disk before it counts.

It belongs where the database's owner can't reach it. A line that was cut off by a crash
is no line: readers pass over it and the next writer removes it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from server.domain.checkpoints import (
    GENESIS,
    Checkpoint,
    CheckpointError,
    Head,
    Line,
    NotACheckpointError,
    Position,
    content,
    digest,
    out_of_order,
    read,
    written,
)
from server.secrets import Keyring

BLOCK = 1 << 16
PRIVATE = 0o600

PublicKeys = Mapping[str, Ed25519PublicKey]


class Read(NamedTuple):
    """One line, from 1, and where it ends. ``problem`` says what is wrong with it, "" if nothing is.

    ``line`` is None if it is no checkpoint; ``authentic`` says whether one of our keys signed it.
    """

    number: int
    ends_at: int
    line: Line | None
    authentic: bool
    problem: str


def public_keys(signing: Keyring) -> dict[str, Ed25519PublicKey]:
    """What checks signatures, by the ids of the keys that made them."""
    return {
        key_id: Ed25519PrivateKey.from_private_bytes(seed).public_key()
        for key_id, seed in signing.keys.items()
    }


def public_hex(key: Ed25519PublicKey) -> str:
    """A public key as 64 hex digits."""
    return key.public_bytes_raw().hex()


def size(path: Path) -> int:
    """How many bytes the file holds by now. Raises OSError."""
    return path.stat().st_size


def lines(path: Path, keys: PublicKeys) -> Iterator[Read]:
    """Every line, checked by itself and with the one before it; an unfinished last one is left out."""
    before: Line | None = None
    spoilt = False  # the line before is bad, so nothing can follow it
    ends_at = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            ends_at += len(text)
            try:
                line = read(text[:-1])
            except NotACheckpointError:
                yield Read(number, ends_at, None, False, "is no checkpoint")
                spoilt = True
                continue
            problem = fault(line, keys)
            misplaced = None if spoilt else out_of_order(line, before)
            yield Read(number, ends_at, line, not problem, problem or misplaced or "")
            before, spoilt = line, bool(problem)


def fault(line: Line, keys: PublicKeys) -> str:
    """What is wrong with a line's signature, "" if nothing is."""
    key = keys.get(line.checkpoint.key_id)
    if key is None:
        return f"is signed with key {line.checkpoint.key_id!r}, which is not among the secrets"
    try:
        key.verify(line.signature, line.content)
    except InvalidSignature:
        return "was changed after it was signed, or signed with another key"
    return ""


class CheckpointWriter:
    """Appends to the file. One at a time: whoever uses it holds the lock of checkpoints."""

    def __init__(self, path: Path, signing: Keyring) -> None:
        self.path = path
        self._signing = signing
        self._private = Ed25519PrivateKey.from_private_bytes(signing.key)
        self._public = public_keys(signing)

    def last(self) -> Line | None:
        """The last line, None of an empty or missing file. Raises CheckpointError if it isn't ours."""
        try:
            with self.path.open("rb") as file:
                text = _last_line(file)
        except FileNotFoundError:
            return None
        if not text:
            return None
        try:
            line = read(text)
        except NotACheckpointError:
            raise CheckpointError(f"the last line of {self.path} is no checkpoint; {AWAY}") from None
        problem = fault(line, self._public)
        if problem:
            number = line.checkpoint.number
            raise CheckpointError(f"the last line of {self.path}, checkpoint {number}, {problem}; {AWAY}")
        return line

    def append(
        self,
        before: Line | None,
        chain: UUID,
        taken_at: datetime,
        position: Position | None,
        heads: Sequence[Head],
    ) -> Line:
        """Write the line after ``before``; on return it is on the disk."""
        checkpoint = Checkpoint(
            chain if before is None else before.checkpoint.chain,
            1 if before is None else before.checkpoint.number + 1,
            taken_at,
            GENESIS if before is None else before.digest,
            position,
            tuple(heads),
            self._signing.current,
        )
        signed = content(checkpoint)
        signature = self._private.sign(signed)
        text = written(signed, signature)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE), "r+b") as file:
            # What a crash left of a line goes; what is complete stays as it is.
            file.seek(0, os.SEEK_END)
            end = _end_of_lines(file)
            file.truncate(end)
            file.seek(end)
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if before is None:
            _sync_folder(self.path.parent)
        return Line(checkpoint, signed, signature, digest(text))


AWAY = "look into it, and move the file away to begin another"


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last complete line ends."""
    start = file.seek(0, os.SEEK_END)
    while start:
        end, start = start, max(0, start - BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def _last_line(file: BinaryIO) -> bytes:
    """The last complete line without its end, b"" if there is none."""
    end = _end_of_lines(file)
    text, start = b"", end
    while start:
        block = min(BLOCK, start)
        start -= block
        file.seek(start)
        text = file.read(block) + text
        found = text[:-1].rfind(b"\n")
        if found >= 0:
            return text[found + 1 : -1]
    return text[:-1]


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
