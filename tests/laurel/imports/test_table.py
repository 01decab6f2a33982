import codecs
from collections.abc import Sequence
from pathlib import Path

import pytest

from laurel.failures import Failure
from laurel.imports.refusals import Refusal, Report
from laurel.imports.table import REPORTED, Table, decoded, encoding_named


def opened(path: Path, content: bytes, encoding: str = "utf-8", delimiter: str | None = None) -> Table:
    path.write_bytes(content)
    return Table(path, encoding_named(encoding), delimiter)


def rows(table: Table) -> list[tuple[int, Sequence[str]]]:
    try:
        return [(row.line, row.cells) for row in table.rows()]
    finally:
        table.close()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_parts_the_header(tmp_path: Path, delimiter: str) -> None:
    content = delimiter.join(["a", '"b, c"', "d"]) + "\n" + delimiter.join(["1", "2", "3"])
    table = opened(tmp_path / "x.csv", content.encode())
    assert (table.delimiter, table.header) == (delimiter, ("a", "b, c", "d"))
    assert rows(table) == [(2, ["1", "2", "3"])]


def test_a_delimiter_that_is_named_counts(tmp_path: Path) -> None:
    table = opened(tmp_path / "x.csv", b"a,b;c\n1,2;3\n", delimiter=";")
    assert table.header == ("a,b", "c")
    assert rows(table) == [(2, ["1,2", "3"])]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("utf-8", codecs.BOM_UTF8 + "Name,Ort\nJürgen,Köln\n".encode()),
        ("utf-8", "Name,Ort\nJürgen,Köln\n".encode()),
        ("UTF8", "Name,Ort\r\nJürgen,Köln\r\n".encode()),
        ("latin-1", "Name,Ort\nJürgen,Köln\n".encode("latin-1")),
        ("utf-16", "Name,Ort\nJürgen,Köln\n".encode("utf-16")),
    ],
)
def test_encodings_are_read(tmp_path: Path, encoding: str, content: bytes) -> None:
    table = opened(tmp_path / "x.csv", content, encoding)
    assert table.header == ("Name", "Ort")
    assert rows(table) == [(2, ["Jürgen", "Köln"])]


def test_lines_are_counted_where_a_row_begins(tmp_path: Path) -> None:
    table = opened(tmp_path / "x.csv", b'a,b\n"1\n1",2\n\n ,\n3,4\n')
    assert rows(table) == [(2, ["1\n1", "2"]), (6, ["3", "4"])]


def test_what_is_not_in_the_encoding_marks_its_own_cell_only(tmp_path: Path) -> None:
    table = opened(tmp_path / "x.csv", "a,b\nJürgen,1\nAsha,2\n".encode("latin-1"))
    found = [[decoded(cell) for cell in cells] for _, cells in rows(table)]
    assert found == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("content", "line"), [(b'a,b\n1,2\n3,"4\n5,6\n', 3), (b'a,b\n1,2\n3,"4"x\n', 3), (b'a,"b\n', 1)]
)
def test_a_quotation_mark_that_is_missing_is_named_with_its_line(
    tmp_path: Path, content: bytes, line: int
) -> None:
    with pytest.raises(Failure, match=f"x.csv, line {line}: "):
        rows(opened(tmp_path / "x.csv", content))


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="is empty"):
        opened(tmp_path / "x.csv", b"")


def test_only_encodings_of_text_are_known() -> None:
    for name in ("nonsense", "hex", "zlib"):
        with pytest.raises(LookupError):
            encoding_named(name)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_a_report_reads_back_as_the_rows_it_was_made_of(tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "in.csv"
    content = 'Name;Note\nJürgen;"a;""b""\nc"\nAsha;=1\n'.encode(encoding)
    table = opened(source, content, encoding)
    report = Report(table.header, table.delimiter, encoding_named(encoding), source, None)
    for row in table.rows():
        report.add(row, Refusal("INVALID_FIELD", "wrong; very", "Note"))
    table.close()
    path = report.keep()
    assert path == tmp_path / "in.refused.csv"
    again = Table(path, encoding_named(encoding), None)
    assert again.header == ("Name", "Note")
    assert rows(again) == [(2, ["Jürgen", 'a;"b"\nc']), (4, ["Asha", "=1"])]
    text = path.read_text(encoding_named(encoding))
    assert text.splitlines()[0] == ";".join(["Name", "Note", *REPORTED])


def test_a_report_keeps_what_it_could_not_read_and_what_stood_too_much(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    table = opened(source, "a,b\nJürgen,1\nx\n1,2,3\n".encode("latin-1"))
    report = Report(table.header, table.delimiter, "utf-8-sig", source, None)
    for row in table.rows():
        report.add(row, Refusal("R", "m", ""))
    table.close()
    path = report.keep()
    assert path is not None
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    assert lines[1:] == ["Jürgen,1,2,R,m,".encode("latin-1"), b"x,,3,R,m,", b"1,2,4,R,m,,3"]


def test_an_earlier_report_is_never_written_over(tmp_path: Path) -> None:
    source, corrected = tmp_path / "in.csv", tmp_path / "in.refused.csv"
    corrected.write_text("corrected by hand")
    table = opened(source, b"a\n1\n")
    report = Report(table.header, table.delimiter, "utf-8-sig", source, None)
    for row in table.rows():
        report.add(row, Refusal("R", "m"))
    table.close()
    assert report.keep() == tmp_path / "in.refused-2.csv"
    assert corrected.read_text() == "corrected by hand"
