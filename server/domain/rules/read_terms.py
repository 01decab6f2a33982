"""Reading how points live: `pending` and `expire`, of a rule and of a program's wallet."""

from collections.abc import Mapping

from server.domain.activity import REDEMPTION
from server.domain.lots import AT_ONCE_AND_FOR_EVER, NEVER, Expiry, LotTerms, Until
from server.domain.program import Program
from server.domain.rules.definition import Pending
from server.domain.rules.read_conditions import known_event
from server.domain.rules.reading import Reader, shown

AT_ONCE = Pending(0, "")
NOT_PENDING = "none"
MAX_DAYS = 36_500
# The least and the most that each way to expire counts; 0 is the end of the same day, month or year.
BOUNDS: Mapping[str, tuple[int, int]] = {
    Until.DAYS: (0, MAX_DAYS),
    Until.MONTHS: (0, 1200),
    Until.YEARS: (0, 100),
    Until.ROLLING_DAYS: (1, MAX_DAYS),
}


def read_pending(reader: Reader, raw: object, path: str, program: Program | None) -> Pending | None:
    """`none`, or `days`, or `until` an event, or both: whichever comes first."""
    if raw == NOT_PENDING:
        return AT_ONCE
    if not isinstance(raw, Mapping):
        reader.wrong(path, f"must be {NOT_PENDING}, or an object with days or until, not {shown(raw)}")
        return None
    record = reader.record(raw, path, ("days", "until"))
    if not record:
        reader.wrong(path, f"must have days or until, or be {NOT_PENDING}")
        return None
    days = reader.count(record["days"], f"{path}.days", 1, MAX_DAYS) if "days" in record else 0
    until = _event(reader, record["until"], f"{path}.until", program) if "until" in record else ""
    return None if days is None or until is None else Pending(days, until)


def _event(reader: Reader, raw: object, path: str, program: Program | None) -> str | None:
    name = reader.text(raw, path)
    if name == REDEMPTION:
        reader.wrong(path, "points wait for what earns, never for a REDEMPTION")
        return None
    return name if name is not None and known_event(reader, program, name, path) else None


def read_expire(reader: Reader, raw: object, path: str) -> Expiry | None:
    """`never`, or a number of one of days, months, years and rolling_days."""
    if raw == Until.NEVER:
        return NEVER
    ways = ", ".join(BOUNDS)
    if not isinstance(raw, Mapping):
        reader.wrong(path, f"must be {Until.NEVER}, or an object with one of {ways}, not {shown(raw)}")
        return None
    reader.record(raw, path, BOUNDS)
    known = [Until(key) for key in BOUNDS if key in raw]
    if len(known) != 1:
        if len(raw) != 1:
            reader.wrong(path, f"must have one of {ways}, or be {Until.NEVER}")
        return None
    number = reader.count(raw[known[0]], f"{path}.{known[0]}", *BOUNDS[known[0]])
    return None if number is None else Expiry(known[0], number)


def check_terms(reader: Reader, pending: Pending | None, expire: Expiry | None, path: str) -> None:
    """Points must not expire before anybody could have spent them."""
    if pending is None or expire is None:
        return
    if pending.days > _shortest(expire):
        reader.wrong(path, f"must leave time to spend points that are pending for {pending.days} days")


def _shortest(expire: Expiry) -> int:
    """So many days are sure to pass before they expire, whatever the day on which they came."""
    until, number = expire
    match until:
        case Until.MONTHS:
            return max(30 * number - 2, 0)  # January 31st plus a month is February 28th
        case Until.YEARS:
            return 365 * number
        case Until.NEVER:
            return MAX_DAYS
        case _:
            return number


def read_lot_terms(
    reader: Reader, raw: object, path: str, program: Program | None, before: LotTerms = AT_ONCE_AND_FOR_EVER
) -> LotTerms:
    """How a wallet's points live; what isn't said stays as it was."""
    record = reader.record(raw, path, ("pending", "expire")) or {}
    pending: Pending | None = Pending(before.pending_days, before.activates_on)
    expire: Expiry | None = before.expiry
    if "pending" in record:
        pending = read_pending(reader, record["pending"], f"{path}.pending", program)
    if "expire" in record:
        expire = read_expire(reader, record["expire"], f"{path}.expire")
    check_terms(reader, pending, expire, f"{path}.expire")
    if pending is None or expire is None:
        return before
    return LotTerms(pending.days, pending.until, expire)
