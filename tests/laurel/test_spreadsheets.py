import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from laurel.spreadsheets import guarded, joined, parted, unguarded

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TRICKY = st.text("=+-@';\\ a\t", max_size=8)


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "--1"]
)
def test_what_a_spreadsheet_could_run_is_guarded(text: str) -> None:
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["", "Asha", "+919812345678", "-17", "-1.50", "a=b", "O'Neil", "'tis", "5-3"]
)
def test_what_is_harmless_stays(text: str) -> None:
    assert guarded(text) == text


@given(TEXTS | TRICKY)
@example("''=1")
def test_guarding_is_undone(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "@", "\t", "\r"))


@given(st.lists((TEXTS | TRICKY).map(str.strip).filter(bool), max_size=4))
@example(["a;b", "c\\", "\\;", ";"])
def test_several_values_share_a_cell_and_part_again(values: list[str]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerow(["first", joined(values)])
    [[_, cell]] = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert parted(cell) == values


def test_blanks_and_empty_values_are_nothing() -> None:
    assert parted(" a ;; b;\t") == ["a", "b"]
    assert parted("") == []
    assert parted(r"C:\new;b") == [r"C:\new", "b"]
