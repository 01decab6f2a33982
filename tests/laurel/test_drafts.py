import os
import resource
from pathlib import Path

import pytest

from laurel.drafts import Draft


def test_a_file_appears_when_it_is_whole_and_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("yesterday's")
    with Draft(path) as draft:
        draft.file.write(b"today's")
        assert path.read_text() == "yesterday's"
        draft.keep()
    assert path.read_text() == "today's"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with Draft(tmp_path / "out.csv") as draft:
            draft.file.write(b"half of it")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_and_is_no_file_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for taken in (pipe, tmp_path):
        with pytest.raises(FileExistsError, match="no regular file"):
            Draft(taken)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_does_not_fit_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill() -> None:
        with Draft(tmp_path / "out.csv") as draft:
            draft.file.write(b"more than there is room for")
            draft.keep()

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
