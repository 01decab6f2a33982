"""Reading the Online Retail data set as it really is."""

import gzip
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from laurel import retail
from laurel.failures import Failure
from laurel.terminals import requests

HEADING = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
SALES = (
    HEADING
    + """536365,85123A,"HEART, WHITE",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,POST,POSTAGE,3,2010-12-01 08:26:00,0.005,17850.0,United Kingdom
536365,21730,GLASS,0,2010-12-01 08:26:00,4.25,17850.0,United Kingdom
536365,21730,GLASS,-1,2010-12-01 08:26:00,4.25,17850.0,United Kingdom
536365,B,ADJUST,1,2010-12-01 08:26:00,-4.25,17850.0,United Kingdom
536365,85123A,"HEART, WHITE",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536366,22752,BOXES,2,2010-12-01 08:20:00,7.65,,France
C536379,D,Discount,-1,2010-12-01 09:41:00,27.50,14527.0,United Kingdom
"""
)


def read(folder: Path, text: str) -> dict[str, retail.Invoice]:
    (folder / "sales.csv").write_text(text)
    return {invoice.number: invoice for invoice in retail.read([folder / "sales.csv"])}


def test_lines_keep_their_place_and_their_exact_total(tmp_path: Path) -> None:
    invoice = read(tmp_path, SALES)["536365"]
    assert [(line.number, line.sku, line.quantity, line.amount) for line in invoice.lines] == [
        (1, "85123A", 6, Decimal("15.30")),
        (2, "POST", 3, Decimal("0.015")),
        (6, "85123A", 6, Decimal("15.30")),
    ]
    assert invoice.left_out == Counter(
        {"quantity of zero": 1, "quantity of the wrong sign": 1, "negative price": 1}
    )


def test_customers_are_named_without_the_fraction_and_may_be_nobody(tmp_path: Path) -> None:
    sales = read(tmp_path, SALES)
    assert {number: invoice.customer for number, invoice in sales.items()} == {
        "536366": "",
        "536365": "17850",
        "C536379": "14527",
    }
    assert list(sales) == ["536366", "536365", "C536379"], "by date"
    assert [number for number, invoice in sales.items() if invoice.cancels] == ["C536379"]


def test_what_a_cancellation_takes_back_is_counted_upwards(tmp_path: Path) -> None:
    (line,) = read(tmp_path, SALES)["C536379"].lines
    assert (line.sku, line.quantity, line.amount) == ("D", 1, Decimal("27.50"))


@pytest.mark.parametrize(
    ("text", "hour"), [("2011-06-01 10:00:00", 9), ("2011-01-04 10:00:00", 10), ("6/1/2011 10:00", 9)]
)
def test_times_are_londons(tmp_path: Path, text: str, hour: int) -> None:
    invoice = read(tmp_path, f"{HEADING}1,A,x,1,{text},1.00,5,UK\n")["1"]
    assert (invoice.at.tzinfo, invoice.at.hour) == (UTC, hour)


def test_packed_and_plain_files_are_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{HEADING}1,A,x,1,2010-12-01 08:00:00,1.00,5.0,UK\n")
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write(f"{HEADING}1,B,x,1,2010-12-01 08:01:00,1.00,5.0,UK\n")
    (invoice,) = retail.read([tmp_path / "a.csv", tmp_path / "b.csv.gz"])
    assert [(line.number, line.sku) for line in invoice.lines] == [(1, "A"), (2, "B")]
    assert invoice.at == datetime(2010, 12, 1, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,A,x,one,2010-12-01 08:00:00,1.00,5,UK", "line 2"),
        ("1,A,x,1,2010-12-01 08:00:00,NaN,5,UK", "NaN"),
        ("1,A,x,1,yesterday,1.00,5,UK", "yesterday"),
        (",A,x,1,2010-12-01 08:00:00,1.00,5,UK", "InvoiceNo"),
    ],
)
def test_what_is_no_sale_is_named_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(Failure, match=words):
        read(tmp_path, f"{HEADING}{row}\n")


def test_another_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="lacks the columns"):
        read(tmp_path, "a,b\n1,2\n")


def test_an_invoice_too_long_for_one_request_goes_in_parts_with_all_its_lines(tmp_path: Path) -> None:
    rows = "".join(f"7,S{n},x,1,2010-12-01 08:00:00,1.99,5,UK\n" for n in range(2001))
    invoice = read(tmp_path, HEADING + rows)["7"]
    made = requests(invoice, "m")
    assert [(r.request_id, r.part, len(r.lines)) for r in made] == [
        ("online-retail-7-1", "1", 1000),
        ("online-retail-7-2", "2", 1000),
        ("online-retail-7-3", "3", 1),
    ]
    assert [line.line_id for r in made for line in r.lines] == [str(n) for n in range(1, 2002)]
    assert {(line.amount.units, line.amount.nanos) for r in made for line in r.lines} == {(1, 990_000_000)}
