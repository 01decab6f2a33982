"""The UCI "Online Retail" data set: rows of a CSV file become invoices with lines.

Chen, Sain and Guo (2012), https://archive.ics.uci.edu/dataset/352/online+retail.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from zoneinfo import ZoneInfo

from laurel.failures import Failure

CURRENCY = "GBP"
# The shop's clock: the files say nothing of a time zone.
ZONE = ZoneInfo("Europe/London")
COLUMNS = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
# As UCI's sheet is exported by most, and as the copy that goes round has it.
DATES = ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M")
SMALLEST = -9  # decimal places that google.type.Money can carry


@dataclass(frozen=True, slots=True)
class Line:
    """One row: ``number`` counts the rows of its invoice from 1; ``amount`` is exact, in pounds.

    Of a cancellation both ``quantity`` and ``amount`` are what goes back, so they are positive too.
    """

    number: int
    sku: str
    quantity: int
    amount: Decimal


@dataclass(slots=True)
class Invoice:
    """One sale, or its cancellation. ``customer`` is "" for a sale to nobody known.

    ``left_out`` counts by reason the rows that are no sold goods and stand in no line.
    """

    number: str
    customer: str
    at: datetime
    country: str
    lines: list[Line] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    of_several: bool = False

    @property
    def cancels(self) -> bool:
        """Whether it takes a sale back."""
        return self.number.startswith("C")


def read(paths: Iterable[Path]) -> list[Invoice]:
    """The invoices of all files together, by date. Raises Failure, OSError."""
    invoices: dict[str, Invoice] = {}
    for path in paths:
        for place, row in _rows(path):
            try:
                _add(invoices, row)
            except (ValueError, InvalidOperation) as error:
                raise Failure(f"{path}, line {place}: {error or 'no such number'}") from None
    return sorted(invoices.values(), key=lambda invoice: (invoice.at, invoice.number))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    opener = gzip.open if path.suffix == ".gz" else open
    # Copies differ in encoding; only the descriptions, which nobody reads here, go beyond ASCII.
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, restval="")
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise Failure(f"{path} lacks the columns {', '.join(missing)}; is it the Online Retail data set?")
        for row in reader:
            yield reader.line_num, row


def _add(invoices: dict[str, Invoice], row: dict[str, str]) -> None:
    number, customer = row["InvoiceNo"].strip(), row["CustomerID"].strip().removesuffix(".0")
    if not number:
        raise ValueError("there is no InvoiceNo")
    at = _moment(row["InvoiceDate"].strip())
    invoice = invoices.setdefault(number, Invoice(number, customer, at, row["Country"].strip()))
    invoice.at = min(invoice.at, at)
    invoice.of_several |= invoice.customer != customer
    invoice.rows += 1
    quantity, price = int(row["Quantity"]), Decimal(row["UnitPrice"])
    if invoice.cancels:
        quantity = -quantity
    amount = quantity * price
    reason = _why_not(quantity, price, amount)
    if reason:
        invoice.left_out[reason] += 1
    else:
        invoice.lines.append(Line(invoice.rows, row["StockCode"].strip(), quantity, amount))


def _why_not(quantity: int, price: Decimal, amount: Decimal) -> str:
    if not price.is_finite():
        raise ValueError(f"{price} is no price")
    if quantity <= 0:
        return "quantity of zero" if quantity == 0 else "quantity of the wrong sign"
    if price < 0:
        return "negative price"
    exponent = amount.normalize().as_tuple().exponent
    return "more than nine decimals" if isinstance(exponent, int) and exponent < SMALLEST else ""


def _moment(text: str) -> datetime:
    for form in DATES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=ZONE).astimezone(UTC)
        except ValueError:
            continue
    raise ValueError(f"InvoiceDate {text!r} is no time such as 2010-12-01 08:26:00")
