"""Reading untrusted JSON: every mistake is kept with its path, none stops the reading."""

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from server.domain.errors import InvalidArgument, Violation

MAX_MISTAKES = 100
MAX_SET = 10_000
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")
DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?")
HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LARGE = 10**18


def shown(value: object) -> str:  # noqa: PLR0911 - one way out per kind of value
    """A value for a message: short, printable, and never a whole structure."""
    match value:
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= _LARGE:
            return "a number out of range"
        case str() if len(value) > 40:
            return repr(value[:40]) + "..."
        case _:
            return repr(value)[:80]


def closest(word: object, options: Iterable[str]) -> str | None:
    """The option that the word may be a slip of; None if there is none."""
    close = get_close_matches(word[:80], list(options), 1, 0.6) if isinstance(word, str) else []
    return close[0] if close else None


def close_to(word: object, options: Iterable[str]) -> str:
    """`; did you mean "x"?` where one of the options is close, or else the options if they are few."""
    known = list(options)
    if (close := closest(word, known)) is not None:
        return f'; did you mean "{close}"?'
    return f"; known are {', '.join(known)}" if 0 < len(known) <= 24 else ""


def plain(number: Decimal) -> str:
    """The shortest way to write a decimal: 500.00 and 500 are both `500`."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


class Reader:
    """Reads values and collects what is wrong with them.

    Each method returns the value, or None (or a harmless value) after noting a mistake.
    """

    def __init__(self) -> None:
        self.mistakes: list[Violation] = []

    def wrong(self, path: str, description: str) -> None:
        """Note a mistake."""
        if len(self.mistakes) < MAX_MISTAKES:
            self.mistakes.append(Violation(path or "definition", description))

    def check(self) -> None:
        """Raise InvalidArgument (RULE_INVALID) with every mistake noted so far."""
        if self.mistakes:
            raise InvalidArgument(self.mistakes, "RULE_INVALID")

    def record(
        self, raw: object, path: str, allowed: Iterable[str], required: Iterable[str] = ()
    ) -> Mapping[str, Any] | None:
        """An object with these keys and no others."""
        if not isinstance(raw, Mapping):
            self.wrong(path, f"must be an object, not {shown(raw)}")
            return None
        known = tuple(allowed)
        for key in raw:
            if key not in known:
                name = key if isinstance(key, str) and ATTRIBUTE_NAME.fullmatch(key) else shown(key)
                self.wrong(_below(path, name), f"is unknown{close_to(key, known)}")
        for key in required:
            if key not in raw:
                self.wrong(_below(path, key), "is required")
        return raw

    def listed(self, raw: object, path: str, most: int, least: int = 1) -> list[Any]:
        """A list of bounded length, never more than ``most`` long."""
        if not isinstance(raw, list | tuple):
            self.wrong(path, f"must be a list, not {shown(raw)}")
            return []
        if not least <= len(raw) <= most:
            self.wrong(path, f"must have {least} to {most} entries, not {len(raw)}")
        return list(raw[:most])

    def choice(self, raw: object, path: str, options: Iterable[str]) -> str | None:
        """One of a few words."""
        known = tuple(options)
        if isinstance(raw, str) and raw in known:
            return raw
        self.wrong(path, f"{shown(raw)} is not known here{close_to(raw, known)}")
        return None

    def text(self, raw: object, path: str, most: int = 200) -> str | None:
        """Text without control characters."""
        if not isinstance(raw, str):
            self.wrong(path, f"must be text, not {shown(raw)}")
        elif not 1 <= len(raw) <= most:
            self.wrong(path, f"must have 1 to {most} characters, not {len(raw)}")
        elif _CONTROL.search(raw):
            self.wrong(path, "must not contain control characters")
        else:
            return raw
        return None

    def name(self, raw: object, path: str) -> str | None:
        """A name of a-z, 0-9 and -."""
        if isinstance(raw, str) and NAME.fullmatch(raw):
            return raw
        self.wrong(
            path,
            f"{shown(raw)} is no name: 1 to 64 characters of a-z, 0-9 and -, starting with a letter or digit",
        )
        return None

    def flag(self, raw: object, path: str) -> bool | None:
        """True or false."""
        if isinstance(raw, bool):
            return raw
        self.wrong(path, f"must be true or false, not {shown(raw)}")
        return None

    def count(self, raw: object, path: str, low: int, high: int) -> int | None:
        """A whole number; as text too, and as an integral float because JSON has no other."""
        number = self._number(raw)
        if number is None or number != (whole := int(number)):
            self.wrong(path, f"must be a whole number, not {shown(raw)}")
        elif not low <= whole <= high:
            self.wrong(path, f"must be between {low} and {high}, not {shown(raw)}")
        else:
            return whole
        return None

    def decimal(self, raw: object, path: str, low: Decimal, high: Decimal, places: int = 9) -> Decimal | None:
        """An exact decimal of a few places, from text or a number."""
        number = self._number(raw)
        if number is None:
            self.wrong(path, f'must be a number such as "500.00", not {shown(raw)}')
        elif not low <= number <= high:
            self.wrong(path, f"must be between {plain(low)} and {plain(high)}, not {shown(raw)}")
        elif len(plain(number).partition(".")[2]) > places:
            self.wrong(path, f"must have at most {places} decimal places, not {shown(raw)}")
        else:
            return number
        return None

    def day(self, raw: object, path: str) -> date | None:
        """A calendar day, YYYY-MM-DD."""
        if isinstance(raw, str) and DATE.fullmatch(raw):
            try:
                return date.fromisoformat(raw)
            except ValueError:
                self.wrong(path, f"{raw} is no day of the calendar")
                return None
        self.wrong(path, f"must be a day such as 2026-11-08, not {shown(raw)}")
        return None

    def moment(self, raw: object, path: str) -> datetime | None:
        """A moment on the program's clock: no offset, because the program's time zone is meant."""
        if isinstance(raw, str) and MOMENT.fullmatch(raw):
            try:
                moment = datetime.fromisoformat(raw)
            except ValueError:
                self.wrong(path, f"{raw} is no moment of the calendar")
                return None
            if not 1970 <= moment.year <= 2200:
                self.wrong(path, f"must lie between 1970 and 2200, not {raw}")
            return moment
        self.wrong(
            path, f"must be a local moment such as 2026-11-01T00:00, without an offset, not {shown(raw)}"
        )
        return None

    def hours(self, raw: object, path: str) -> tuple[time, time] | None:
        """A span of the day such as 17:00-21:00; it may pass midnight."""
        found = HOURS.fullmatch(raw) if isinstance(raw, str) else None
        if found is None:
            self.wrong(path, f'must be a span such as "17:00-21:00", not {shown(raw)}')
            return None
        first, minute, last, last_minute = found.groups(default="0")
        span = time(int(first), int(minute)), time(int(last), int(last_minute))
        if span[0] == span[1] and "24:00" not in str(raw):
            self.wrong(path, "must not be empty; leave hours out for the whole day")
            return None
        return span

    @staticmethod
    def _number(raw: object) -> Decimal | None:
        match raw:
            case bool():
                return None
            case int() if abs(raw) < _LARGE:
                return Decimal(raw)
            case float() if abs(raw) < _LARGE:  # no NaN passes that
                return Decimal(repr(raw))
            case str() if DECIMAL.fullmatch(raw):
                return Decimal(raw)
            case _:
                return None


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
