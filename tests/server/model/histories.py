"""Histories: what members and staff may do, as data that shrinks and can be read as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as some

from server.domain.activity import PURCHASE, Line
from server.domain.actor import Actor, CallerKind
from server.domain.commands import (
    Adjust,
    CaptureHold,
    Command,
    Earn,
    Item,
    Outcome,
    PlaceHold,
    Redeem,
    Refund,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import Clawback, LedgerTerms, Program, Tier

START = datetime(2026, 11, 27, 12, tzinfo=UTC)  # so that a month, and then a year, ends soon
VISIT = "VISIT"
ANN, BEN, EVE, SUE = (UUID(int=n) for n in (11, 12, 13, 14))
MEMBERS = (ANN, BEN, EVE, SUE)  # Sue is suspended
NAMES = {ANN: "Ann", BEN: "Ben", EVE: "Eve", SUE: "Sue", UUID(int=99): "nobody"}
NOTHING = UUID(int=0)  # the id of what never came to be
PRODUCTS = ("apple", "pear", "book", "lamp")
FRUIT = ("apple", "pear")
HOLD_SECONDS, APPROVAL_POINTS, TRANSFER_POINTS, GRACE_DAYS = 36 * 3600, 40, 60, 2

RULES: list[tuple[int, dict[str, Any]]] = [
    (1, {"rule": "base", "priority": 9, "then": [{"earn": {"points": 1, "per": "1.00"}}]}),
    (
        2,
        {
            "rule": "fruit",
            "priority": 8,
            "then": [
                {
                    "bonus": {
                        "points": 3,
                        "per": "item",
                        "items": {"field": "category", "op": "eq", "value": "fruit"},
                    }
                }
            ],
            "pending": {"days": 2, "until": VISIT},
            "expire": {"days": 4},
        },
    ),
    (
        3,
        {
            "rule": "stars",
            "priority": 7,
            "when": {"field": "amount", "op": "gte", "value": "10.00"},
            "then": [{"fixed": {"points": 5, "to": "stars"}}],
            "caps": {"member": {"points": 13, "per": "ever"}},
        },
    ),
    (
        1,
        {
            "rule": "visit",
            "priority": 6,
            "when": {"event": VISIT},
            "then": [{"fixed": {"points": 4, "to": "stars"}}],
            "caps": {"member": {"points": 7, "per": "day"}},
        },
    ),
]

TERMS = (
    LotTerms(),
    LotTerms(expiry=Expiry(Until.DAYS, 1)),
    LotTerms(expiry=Expiry(Until.DAYS, 3)),
    LotTerms(expiry=Expiry(Until.MONTHS, 0)),
    LotTerms(expiry=Expiry(Until.YEARS, 0)),
    LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 2)),
    LotTerms(pending_days=1, expiry=Expiry(Until.DAYS, 3)),
    LotTerms(pending_days=2, expiry=Expiry(Until.ROLLING_DAYS, 1)),
    LotTerms(activates_on=VISIT, expiry=Expiry(Until.DAYS, 2)),
    LotTerms(pending_days=3, activates_on=PURCHASE),
)


@dataclass(frozen=True)
class Step:
    """One thing somebody does. ``of``: which of the earlier steps it is about, by its place; -1 for none.

    ``wait``: hours by which the clock goes on before it. ``late``: hours since it happened.
    ``percent`` and ``back`` become ``points`` and ``of`` when its turn comes: a part of what there is
    then, and how far back the step is that it's about, of those that did what is needed.
    """

    what: str
    who: UUID
    wait: int = 0
    late: int = 0
    points: int = 0
    wallet: str = ""
    order: str = ""
    percent: int = 0
    back: int = -1
    of: int = -1
    to: UUID = NOTHING
    basket: tuple[tuple[str, int, int], ...] = ()  # SKU, quantity, the line's amount in paise
    keep_rest: bool = False
    days: int | None = None  # until what is put in expires
    stranger: bool = False

    def __str__(self) -> str:
        """As the table says it."""
        told = [self.what]
        if self.points:
            told.append(f"{self.points} {self.wallet}".strip())
        told += [f"{quantity} {sku} for {amount / 100:.2f}" for sku, quantity, amount in self.basket]
        if self.what in ABOUT:
            told.append(f"of #{self.of}" if self.of >= 0 else "of nothing")
        if self.what == "transfer":
            told.append(f"to {NAMES[self.to]}")
        for said, words in (
            (self.order, f"order {self.order}"),
            (self.late, f"{self.late} h ago"),
            (self.keep_rest, "keeping the rest"),
            (self.days is not None, f"for {self.days} days"),
        ):
            if said:
                told.append(words)
        return " ".join(told)


# What each kind of step may be about.
ABOUT = {
    "capture": ("hold",),
    "void": ("hold",),
    "return": ("purchase", "visit"),
    "refund": ("redeem", "capture"),
    "again": ("purchase", "visit", "redeem", "hold", "capture", "return", "refund", "transfer", "adjust"),
}
KINDS = (
    *("purchase",) * 9,
    *("redeem",) * 4,
    *("hold",) * 4,
    *("capture",) * 3,
    *("return",) * 4,
    *("refund",) * 2,
    *("transfer",) * 2,
    *("adjust",) * 2,
    *("visit", "void", "match", "again"),
)
MOST = 60  # steps of a history
WAITS = (*(0,) * 12, 1, 1, 6, 6, 12, 12, 24, 30, 48, 100)


@some.composite
def _steps(draw: some.DrawFn) -> Step:
    what = draw(some.sampled_from(KINDS))
    step = Step(what, draw(some.sampled_from((*(ANN,) * 10, *(BEN,) * 5, *(EVE,) * 4, SUE))))
    changes: dict[str, Any] = {"wait": draw(some.sampled_from(WAITS))}
    if what in ("purchase", "visit", "redeem"):
        changes["late"] = draw(some.sampled_from((*(0,) * 18, *(5, 5, 5, 40, 40, 80, 2000))))
        changes["order"] = draw(some.sampled_from(("", "", "", "o1", "o2")))
    if what in ("purchase", "return", "match"):
        most = {"purchase": 3}.get(what, 2)
        line = some.tuples(some.sampled_from(PRODUCTS), some.integers(1, 3), some.integers(0, 60))
        lines = draw(some.lists(line, min_size=what == "match", max_size=most))
        changes["basket"] = tuple((sku, quantity, 50 * amount) for sku, quantity, amount in lines)
    if what in ("redeem", "hold", "transfer", "adjust"):
        changes["points"] = draw(some.integers(1, 20) | some.integers(1, 50))
        changes["percent"] = draw(some.sampled_from((0, 30, 30, 60, 60, 100, 101)))
        changes["wallet"] = draw(some.sampled_from(("", "points", "points", "stars")))
    match what:
        case "transfer":
            changes["to"] = draw(some.sampled_from((ANN, BEN, BEN, EVE, EVE, *MEMBERS, UUID(int=99))))
            changes["points"] += draw(some.sampled_from((0, 0, 0, 20)))
        case "adjust":
            changes["points"] *= draw(some.sampled_from((1, -1)))
            changes["percent"] = 0
            changes["days"] = draw(some.sampled_from((None, None, 1, 2, 0)))
        case "capture":
            changes["points"] = draw(some.sampled_from((0, 1, 2, 3, 4, 5, 7, 30)))
            changes["percent"] = draw(some.sampled_from((0, 30, 60)))
            changes["keep_rest"] = draw(some.booleans())
        case "refund":
            changes["points"] = draw(some.sampled_from((0, 0, 1, 2, 3, 5, 7, 20)))
    if what in ABOUT:
        changes["back"] = draw(some.sampled_from((0, 0, 0, 1, 1, 2, 99)))
        # Now and then somebody asks for what is another's.
        changes["stranger"] = draw(some.sampled_from((False, False, False, False, False, True)))
    return replace(step, **changes)


# Long ones find more; what they find shrinks to the short kind.
histories = some.lists(_steps(), min_size=1, max_size=12) | some.lists(_steps(), min_size=25, max_size=MOST)
batch_sizes = some.lists(some.integers(1, 12), min_size=MOST, max_size=MOST)
policies = some.tuples(some.sampled_from(TERMS), some.sampled_from(TERMS), some.sampled_from(list(Clawback)))


def program_of(policy: tuple[LotTerms, LotTerms, Clawback], program_id: UUID) -> Program:
    """A program by whose terms points and stars live, and which takes back by that policy."""
    points, stars, clawback = policy
    return Program(
        program_id=program_id,
        name=f"model-{program_id}",
        currency="INR",
        time_zone="Asia/Kolkata",
        point_types=("points", "stars"),
        tiers=(Tier("bronze", 0), Tier("silver", 20), Tier("gold", 60)),
        event_types={VISIT: {}},
        ledger=LedgerTerms(
            lots={"points": points, "stars": stars},
            clawback=clawback,
            refund_grace_days=GRACE_DAYS,
            hold_seconds=HOLD_SECONDS,
            transfer_points=TRANSFER_POINTS,
            approval_points=APPROVAL_POINTS,
        ),
    )


def command(
    program: Program, step: Step, place: int, now: datetime, before: Sequence[Outcome | None]
) -> Command:
    """The step as its caller would send it, after these outcomes, None for what was refused."""
    about = before[step.of] if step.of >= 0 else None
    kind, particulars = _PARTICULARS[step.what]
    return kind(
        actor=Actor(CallerKind.TERMINAL, program.program_id, UUID(int=2), "till", "pos", frozenset()),
        request_id=f"r{place}",
        received_at=now,
        member_id=step.who,
        member_given=str(step.who),
        reference=step.order,
        store="",
        channel="",
        occurred_at=now - timedelta(hours=step.late) if step.late else None,
        business_date=None,
        part="",
        **particulars(step, about, now),
    )


Said = dict[str, Any]


def _purchase(step: Step, _: Outcome | None, __: datetime) -> Said:
    lines = tuple(
        Line(f"{n}", sku, "fruit" if sku in FRUIT else "", quantity, Decimal(amount) / 100)
        for n, (sku, quantity, amount) in enumerate(step.basket, 1)
    )
    total = sum((line.amount for line in lines), Decimal(0))
    return {"event_type": PURCHASE, "currency": "INR", "amount": total, "lines": lines}


def _visit(_: Step, __: Outcome | None, ___: datetime) -> Said:
    return {"event_type": VISIT}


def _points(step: Step, _: Outcome | None, __: datetime) -> Said:
    return {"points": step.points, "point_type": step.wallet}


def _hold_id(about: Outcome | None) -> UUID:
    return about.hold.hold_id if about is not None and about.hold is not None else NOTHING


def _capture(step: Step, about: Outcome | None, _: datetime) -> Said:
    return {"hold_id": _hold_id(about), "points": step.points, "keep_rest": step.keep_rest}


def _void(_: Step, about: Outcome | None, __: datetime) -> Said:
    return {"hold_id": _hold_id(about)}


def _return(step: Step, about: Outcome | None, _: datetime) -> Said:
    items = tuple(Item("", sku, quantity) for sku, quantity, _ in step.basket)
    purchase = None if step.what == "match" else NOTHING if about is None else about.event_id
    return {"event_id": purchase, "purchase_given": str(purchase or ""), "items": items}


def _refund(step: Step, about: Outcome | None, _: datetime) -> Said:
    transaction_id = NOTHING if about is None else about.awards[0].transaction_id
    return {"transaction_id": transaction_id, "points": step.points}


def _transfer(step: Step, about: Outcome | None, now: datetime) -> Said:
    return {"to_member_id": step.to, "to_given": str(step.to), **_points(step, about, now)}


def _adjust(step: Step, about: Outcome | None, now: datetime) -> Said:
    return {
        "expires_at": None if step.days is None else now + timedelta(days=step.days),
        **_points(step, about, now),
    }


# What each kind of step says beyond what every command says.
_PARTICULARS: Mapping[
    str, tuple[Callable[..., Command], Callable[[Step, Outcome | None, datetime], Said]]
] = {
    "purchase": (Earn, _purchase),
    "visit": (Earn, _visit),
    "redeem": (Redeem, _points),
    "hold": (PlaceHold, _points),
    "capture": (CaptureHold, _capture),
    "void": (VoidHold, _void),
    "return": (Return, _return),
    "match": (Return, _return),
    "refund": (Refund, _refund),
    "transfer": (Transfer, _transfer),
    "adjust": (Adjust, _adjust),
}


def in_points(step: Step, available: int) -> Step:
    """The step with points instead of a percentage of those available."""
    if not step.percent:
        return step
    return replace(step, points=max(available * step.percent // 100, 1), percent=0)


def table(history: Sequence[Step], told: Sequence[object]) -> str:
    """The history as somebody reads it, with what each step was told."""
    lines, hours = [], 0
    for place, step in enumerate(history):
        hours += step.wait
        answer = told[place] if place < len(told) else ""
        lines.append(f"#{place:<3} {hours:4} h  {NAMES[step.who]:6} {step!s:60} -> {answer}")
    return "\n".join(lines)
