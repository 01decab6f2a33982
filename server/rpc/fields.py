"""Parsing a request's fields: every mistake is collected, then refused at once.

    fields = Fields()
    member_id = fields.uuid("member_id", request.member_id)
    occurred_at = fields.timestamp("occur_time", request)
    fields.check()

A method that finds a mistake records it and returns a harmless value, so that the
others are looked at too; nothing may be done with the values before ``check``.
Methods for message fields take the message that *holds* the field, because only that
one knows whether the field was sent: the field's name is the last part of the path.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, overload
from uuid import UUID

from google.protobuf.message import Message

from server import ids
from server.domain.errors import InvalidArgument, Violation

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
MAX_UNITS = 10**12
# A request of a thousand wrong lines is told of the first few: the answer travels in
# HTTP/2 headers, whose size clients limit.
MAX_VIOLATIONS = 20

Day = date  # the method of that name hides it below
NOTHING = UUID(int=0)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A day inside of what datetime can hold, so that every time zone can show it.
FIRST_SECOND = int((datetime(1, 1, 2, tzinfo=UTC) - EPOCH).total_seconds())
LAST_SECOND = int((datetime(9999, 12, 30, tzinfo=UTC) - EPOCH).total_seconds())


class Fields:
    """The mistakes found so far in one request."""

    __slots__ = ("_violations",)

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Record a mistake at the path ``field``; beyond twenty they are dropped."""
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(Violation(field, description))

    def check(self) -> None:
        """Raise one InvalidArgument with all mistakes, if there are any."""
        if self._violations:
            raise InvalidArgument(self._violations)

    @overload
    def uuid(self, field: str, value: str, required: Literal[True] = True) -> UUID: ...

    @overload
    def uuid(self, field: str, value: str, required: Literal[False]) -> UUID | None: ...

    def uuid(self, field: str, value: str, required: bool = True) -> UUID | None:
        """A UUID in its 36-character form, either case; None if empty and not required."""
        if not value:
            if required:
                self.add(field, "is required")
                return NOTHING
            return None
        try:
            parsed = ids.parsed(value)
        except ValueError:
            parsed = NOTHING
        # UUID() also reads braces, URNs, underscores and foreign digits.
        if str(parsed) != value.lower():
            self.add(field, "must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
            return NOTHING
        return parsed

    def text(self, field: str, value: str, *, max_length: int, required: bool = True) -> str:
        """Text of at most ``max_length`` characters without control characters, as sent."""
        if not value:
            if required:
                self.add(field, "is required")
            return ""
        if len(value) > max_length:
            self.add(field, f"must be at most {max_length:,} characters")
            return ""
        # Not printable are also the joiners that Indic scripts need, so look closer.
        if not value.isprintable() and not all(map(_storable, value)):
            self.add(field, "must not contain control characters, such as NUL or line breaks")
            return ""
        if required and value.isspace():
            self.add(field, "must not be blank")
            return ""
        return value

    def token(self, field: str, value: str) -> str:
        """1 to 64 visible ASCII characters, as a request_id."""
        if 0 < len(value) <= 64 and value.isascii() and value.isprintable() and " " not in value:
            return value
        self.add(field, "must be 1 to 64 visible ASCII characters" if value else "is required")
        return ""

    def count(self, field: str, value: int, minimum: int, maximum: int) -> int:
        """A whole number from ``minimum`` to ``maximum``, both included."""
        if minimum <= value <= maximum:
            return value
        self.add(field, f"must be {minimum:,} to {maximum:,}")
        return minimum

    def page_size(self, field: str, value: int) -> int:
        """How many a page holds: 50 if 0, at most 500; a negative number is a mistake."""
        if value < 0:
            self.add(field, "must not be negative")
            return DEFAULT_PAGE_SIZE
        return min(value or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)

    @overload
    def timestamp(self, field: str, holder: Message, required: Literal[True]) -> datetime: ...

    @overload
    def timestamp(self, field: str, holder: Message, required: Literal[False] = False) -> datetime | None: ...

    def timestamp(self, field: str, holder: Message, required: bool = False) -> datetime | None:
        """The Timestamp ``holder`` has under the field's name, in UTC, cut to microseconds."""
        value = self._part(field, holder, required)
        if value is None:
            return EPOCH if required else None
        if not FIRST_SECOND <= value.seconds <= LAST_SECOND:
            self.add(field, "must be a time from 0001-01-02 to 9999-12-30")
            return EPOCH
        if not 0 <= value.nanos < 10**9:
            self.add(f"{field}.nanos", "must be 0 to 999,999,999")
            return EPOCH
        return EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)

    @overload
    def date(self, field: str, holder: Message, required: Literal[True]) -> Day: ...

    @overload
    def date(self, field: str, holder: Message, required: Literal[False] = False) -> Day | None: ...

    def date(self, field: str, holder: Message, required: bool = False) -> Day | None:
        """The google.type.Date ``holder`` has under the field's name: a full calendar day."""
        value = self._part(field, holder, required)
        if value is None:
            return EPOCH.date() if required else None
        try:
            return Day(value.year, value.month, value.day)
        except (ValueError, OverflowError):
            self.add(field, "must be a day of the calendar, with year, month and day")
            return EPOCH.date()

    @overload
    def money(
        self, field: str, holder: Message, required: Literal[True], *, negative_ok: bool = False
    ) -> tuple[str, Decimal]: ...

    @overload
    def money(
        self, field: str, holder: Message, required: Literal[False] = False, *, negative_ok: bool = False
    ) -> tuple[str, Decimal] | None: ...

    def money(
        self, field: str, holder: Message, required: bool = False, *, negative_ok: bool = False
    ) -> tuple[str, Decimal] | None:
        """The google.type.Money ``holder`` has under the field's name, exact, with its currency.

        Equal amounts give Decimals of equal exponents: 0, -2 or -9.
        """
        value = self._part(field, holder, required)
        if value is None:
            return ("", Decimal(0)) if required else None
        currency, units, nanos = value.currency_code, value.units, value.nanos
        wrong = len(self._violations)
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
            self.add(f"{field}.currency_code", "must be an ISO 4217 code: three capital letters, such as INR")
        if not -MAX_UNITS <= units <= MAX_UNITS:
            self.add(f"{field}.units", f"must be {-MAX_UNITS if negative_ok else 0:,} to {MAX_UNITS:,}")
        if not -(10**9) < nanos < 10**9:
            self.add(f"{field}.nanos", "must be -999,999,999 to 999,999,999")
        elif (units > 0 > nanos) or (units < 0 < nanos):
            self.add(f"{field}.nanos", "must have the sign of units")
        elif not negative_ok and (units < 0 or nanos < 0):
            self.add(field, "must not be negative")
        if len(self._violations) > wrong:
            return "", Decimal(0)
        if not nanos:
            return currency, Decimal(units)
        if nanos % 10**7 == 0:
            return currency, Decimal(units * 100 + nanos // 10**7).scaleb(-2)
        return currency, Decimal(units * 10**9 + nanos).scaleb(-9)

    def mapping(
        self,
        field: str,
        value: Mapping[str, str],
        *,
        max_entries: int,
        max_key_length: int = 64,
        max_value_length: int = 256,
    ) -> dict[str, str]:
        """A map of texts: keys are required text, values may be empty."""
        if not value:
            return {}
        if len(value) > max_entries:
            self.add(field, f"must have at most {max_entries:,} entries")
            return {}
        wrong = len(self._violations)
        for key, entry in value.items():
            self.text(f"{field} (a key)", key, max_length=max_key_length)
            if len(self._violations) == wrong:
                self.text(f"{field}[{key}]", entry, max_length=max_value_length, required=False)
        return dict(value) if len(self._violations) == wrong else {}

    def _part(self, field: str, holder: Message, required: bool) -> Any:
        name = field.rpartition(".")[2]
        if holder.HasField(name):
            return getattr(holder, name)
        if required:
            self.add(field, "is required")
        return None


def _storable(character: str) -> bool:
    """Neither a control character nor half of a surrogate pair."""
    return not (character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff")
