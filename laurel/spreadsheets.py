"""Cells of CSV files: what a spreadsheet must not take for a formula, and several values in one.

A text such as ``=HYPERLINK(...)`` that a member chose as a name would run on the desk of
whoever opens the export. Such a cell gets an apostrophe in front, and ``unguarded``
takes it away again, so that what was exported is imported as it was.
"""

import re
from collections.abc import Iterable

SEPARATOR = ";"
FORMULA = re.compile(r"'*[=+\-@\t\r]")
GUARDED = re.compile(r"'+[=+\-@\t\r]")
# A phone number is nothing to run, and many programs read no apostrophe.
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
ESCAPED = re.compile(r"\\([\\;])|;")


def guarded(text: str) -> str:
    """The text, with an apostrophe in front if a spreadsheet could run it."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """What ``guarded`` was given."""
    return text[1:] if GUARDED.match(text) else text


def joined(values: Iterable[str]) -> str:
    r"""Several values in one cell, parted by semicolons; one within a value is written ``\;``."""
    return SEPARATOR.join(value.replace("\\", "\\\\").replace(";", "\\;") for value in values)


def parted(text: str) -> list[str]:
    """What ``joined`` was given, without blanks around and without empty ones."""
    values, start, value = [], 0, ""
    for found in ESCAPED.finditer(text):
        value += text[start : found.start()] + (found[1] or "")
        start = found.end()
        if not found[1]:
            values.append(value)
            value = ""
    values.append(value + text[start:])
    return [stripped for value in values if (stripped := value.strip())]
