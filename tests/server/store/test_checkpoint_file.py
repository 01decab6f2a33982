"""A file of checkpoints: what is written is on the disk, and what was changed in it is told."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from server.domain.checkpoints import CheckpointError, Head, Line, Position
from server.secrets import Keyring
from server.store.checkpoint_file import (
    CheckpointWriter,
    Read,
    lines,
    public_hex,
    public_keys,
)

OURS = Keyring("1", {"1": bytes(range(32))})
THEIRS = Keyring("1", {"1": bytes(32)})
MONDAY = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CHAIN = UUID(int=7)


def head(number: int) -> Head:
    return Head(UUID(int=1), UUID(int=number), "points", number, bytes([number]) * 32)


def write(path: Path, count: int, signing: Keyring = OURS) -> Line | None:
    """Append so many checkpoints, a minute apart, of one wallet each."""
    writer = CheckpointWriter(path, signing)
    last = writer.last()
    for _ in range(count):
        number = 1 if last is None else last.checkpoint.number + 1
        at = MONDAY + timedelta(minutes=number)
        last = writer.append(last, CHAIN, at, Position("s", 1, 100 + number), [head(number)])
    return last


def read(path: Path, keys: Keyring = OURS) -> list[Read]:
    return list(lines(path, public_keys(keys)))


def problems(path: Path, keys: Keyring = OURS) -> dict[int, str]:
    return {r.number: r.problem for r in read(path, keys) if r.problem}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    last = write(path, 2)
    found = read(path)
    assert [r.problem for r in found] == ["", ""]
    assert found[-1].line == last == CheckpointWriter(path, OURS).last()
    assert last is not None
    assert last.checkpoint.heads == (head(2),)
    assert last.checkpoint.position == Position("s", 1, 102)
    assert last.checkpoint.taken_at == MONDAY + timedelta(minutes=2)
    assert found[-1].ends_at == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_public_key_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, 2)
    shown = public_hex(Ed25519PrivateKey.from_private_bytes(OURS.key).public_key())
    keys = {"1": Ed25519PublicKey.from_public_bytes(bytes.fromhex(shown))}
    assert [r.authentic for r in lines(path, keys)] == [True, True]


def test_keys_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    both = Keyring("2", {**OURS.keys, "2": bytes([9]) * 32})
    write(path, 1)
    write(path, 1, both)
    assert problems(path, both) == {}
    assert problems(path) == {2: "is signed with key '2', which is not among the secrets"}


@pytest.mark.parametrize("left", [b"", b"{", b'{"format":1,"chain"'], ids=["nothing", "a brace", "more"])
def test_a_line_that_a_crash_cut_off_is_passed_over_and_mended(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "file"
    write(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + left)
    assert len(read(path)) == 2
    write(path, 1)
    assert path.read_bytes()[: len(whole)] == whole
    assert [r.problem for r in read(path)] == ["", "", ""]


def test_a_first_line_that_a_crash_cut_off_leaves_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"format":1')
    assert CheckpointWriter(path, OURS).last() is None
    write(path, 1)
    assert [r.problem for r in read(path)] == [""]


def test_a_line_longer_than_a_block_is_found_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = CheckpointWriter(path, OURS)
    first = writer.append(None, CHAIN, MONDAY, None, [head(n) for n in range(1, 200)] * 10)
    assert path.stat().st_size > 1 << 17
    assert writer.last() == first
    second = writer.append(first, CHAIN, MONDAY, None, [head(n) for n in range(1, 200)] * 10)
    assert writer.last() == second


def a_higher_sequence(rows: list[bytes]) -> list[bytes]:
    return [rows[0], rows[1].replace(b'",2,"', b'",3,"'), rows[2]]


def another_time(rows: list[bytes]) -> list[bytes]:
    return [rows[0].replace(b"T09:01", b"T09:00"), *rows[1:]]


def no_checkpoint(rows: list[bytes]) -> list[bytes]:
    return [rows[0], b"{}\n", rows[2]]


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (a_higher_sequence, 2, "was changed after it was signed"),
        (another_time, 1, "was changed after it was signed"),
        (no_checkpoint, 2, "is no checkpoint"),
        (lambda rows: [rows[0], rows[2]], 2, "stands where checkpoint 2 was due"),
        (lambda rows: rows[1:], 1, "stands where checkpoint 1 was due"),
        (lambda rows: [rows[0], rows[1], rows[1], rows[2]], 3, "does not follow"),
        (lambda rows: [rows[1], rows[0], rows[2]], 1, "checkpoint 1 was due"),
    ],
)
def test_what_was_changed_in_the_file_is_told(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int, words: str
) -> None:
    path = tmp_path / "file"
    write(path, 3)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    found = problems(path)
    assert min(found) == line
    assert words in found[line]


def test_lines_of_another_key_or_another_file_are_told(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    write(path, 2, THEIRS)
    assert set(problems(path).values()) == {"was changed after it was signed, or signed with another key"}
    path.unlink()
    write(path, 1)
    writer = CheckpointWriter(other, OURS)
    first = writer.append(None, UUID(int=8), MONDAY, None, [])
    writer.append(first, UUID(int=8), MONDAY, None, [])
    path.write_bytes(path.read_bytes() + other.read_bytes().splitlines(keepends=True)[1])
    assert problems(path) == {2: "belongs to another file"}


@pytest.mark.parametrize("text", [b"hello\n", b"{}\n", b"[]\n", b'{"format":1}\n', b"\xff\xfe\n"])
def test_nobody_goes_on_with_what_is_no_checkpoint(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        CheckpointWriter(path, OURS).last()
    assert path.read_bytes() == text


def test_nobody_goes_on_with_a_line_of_another_key(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, 1, THEIRS)
    with pytest.raises(
        CheckpointError, match="checkpoint 1, was changed after it was signed, or signed with"
    ):
        CheckpointWriter(path, OURS).last()
