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
