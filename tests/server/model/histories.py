"""Histories: what members and staff may do, as data that shrinks and can be read as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import strategies as some

from server.domain.activity import PURCHASE
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import Clawback, LedgerTerms, Program, Tier

START = datetime(2026, 11, 27, 12, tzinfo=UTC)  # so that a month, and then a year, ends soon
VISIT = "VISIT"
# As members' ids are: they are locked before those of pools.
ANN, BEN, EVE, SUE, DAN = (UUID(int=(1 << 63) + n) for n in range(11, 16))
MEMBERS = (ANN, BEN, EVE, SUE, DAN)  # Sue is suspended
NOBODY, STAFF, NOTHING = UUID(int=99), UUID(int=98), UUID(int=0)  # NOTHING: the id of what never came to be
NAMES = {ANN: "Ann", BEN: "Ben", EVE: "Eve", SUE: "Sue", DAN: "Dan", NOBODY: "nobody", STAFF: "staff"}
PRODUCTS = ("apple", "pear", "book", "lamp")
FRUIT = ("apple", "pear")
HOLD_SECONDS, APPROVAL_POINTS, TRANSFER_POINTS, GRACE_DAYS, SKEW_HOURS = 36 * 3600, 40, 60, 2, 2

RULES: list[tuple[int, dict[str, Any]]] = [
    (
        1,
        {
            "rule": "base",
            "priority": 9,
            "then": [{"earn": {"points": 1, "per": "1.00"}}],
            "caps": {"member": {"points": 40, "per": "day"}},
        },
    ),
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
    # Of these two the better one counts.
    (
        4,
        {
            "rule": "half",
            "priority": 5,
            "when": {
                "all": [
                    {"event": PURCHASE},
                    {"field": "member.tier", "op": "in", "value": ["silver", "gold"]},
                ]
            },
            "then": [{"multiply": {"by": "1.5", "of": "base"}}],
            "caps": {"member": {"points": 20, "per": "month"}},
            "stacking": {"group": "festival", "mode": "best"},
        },
    ),
    (
        1,
        {
            "rule": "gift",
            "priority": 4,
            "when": {"field": "amount", "op": "gte", "value": "5.00"},
            "then": [{"fixed": {"points": 4}}],
            "expire": {"days": 5},
            "caps": {"member": {"points": 9, "per": "day"}},
            "stacking": {"group": "festival", "mode": "best"},
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


@dataclass(frozen=True, repr=False)
class Step:
    """One thing somebody does. ``of``: which of the earlier steps it is about, by its place; -1 for none.

    ``wait``: hours by which the clock goes on before it. ``behind``: minutes by which the clock of the
    server that does it is. ``late``: hours since it happened, negative where the till's clock is ahead.
    ``percent`` and ``back`` become ``points`` and ``of`` when its turn comes: a part of what there is
    then, and how far back the step is that it's about, of those that did what is needed.
    ``shared``: out of the pool of a household. ``acting``: who asks for it, NOTHING if it is ``who``.
    """

    what: str
    who: UUID
    wait: int = 0
    behind: int = 0
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
    days: int | None = None  # until what is put in expires, or an invitation
    stranger: bool = False
    by: str = ""  # who of the staff adjusts and decides; "" for the till
    shared: bool = False
    acting: UUID = NOTHING
    may_spend: bool | None = None
    contributes: bool | None = None
    make_head: bool = False

    @property
    def about(self) -> tuple[str, ...]:
        """What kinds of step it may be about."""
        return ("form",) if self.what == "adjust" and self.shared else ABOUT.get(self.what, ())

    def following(self, lead: Callable[[UUID], UUID]) -> "Step":
        """The same about whoever lives on. Who asks for it is nobody but themselves."""
        acting = self.who if self.acting == NOTHING else self.acting
        return replace(self, who=lead(self.who), to=lead(self.to), acting=acting)

    def __repr__(self) -> str:
        """As one would write it down in a test."""
        said = [repr(self.what), NAMES[self.who].upper()]
        for one in fields(self)[2:]:
            value = getattr(self, one.name)
            if value != one.default:
                said.append(f"{one.name}={NAMES[value].upper() if value in NAMES else repr(value)}")
        return f"Step({', '.join(said)})"

    def __str__(self) -> str:
        """As the table says it."""
        told = [self.what]
        if self.points:
            told.append(f"{self.points} {self.wallet}".strip())
        told += [f"{quantity} {sku} for {amount / 100:.2f}" for sku, quantity, amount in self.basket]
        if self.about:
            told.append(f"of #{self.of}" if self.of >= 0 else "of nothing")
        for said, words in (
            (self.what in ("transfer", "merge"), f"with {NAMES.get(self.to)}"),
            (self.order, f"order {self.order}"),
            (self.late, f"{self.late} h ago"),
            (self.behind, f"by a clock {self.behind} min behind"),
            (self.keep_rest, "keeping the rest"),
            (self.days is not None, f"for {self.days} days"),
            (self.by, f"by {self.by}"),
            (self.shared, "from the pool"),
            (self.acting != NOTHING, f"asked by {NAMES.get(self.acting)}"),
            (self.may_spend is not None, f"may spend: {self.may_spend}"),
            (self.contributes is not None, f"contributes: {self.contributes}"),
            (self.make_head, "as head"),
        ):
            if said:
                told.append(words)
        return " ".join(told)


# What each kind of step may be about.
ABOUT: Mapping[str, tuple[str, ...]] = {
    "capture": ("hold",),
    "void": ("hold",),
    "return": ("purchase", "visit"),
    "refund": ("redeem", "capture"),
    "approve": ("adjust",),
    "reject": ("adjust",),
    "invite": ("form",),
    "join": ("invite",),
    "change": ("form",),
    "leave": ("form",),
    "dissolve": ("form",),
    "again": (
        *("purchase", "visit", "redeem", "hold", "capture", "return", "refund", "transfer", "adjust"),
        *("approve", "merge", "form", "join", "contribute", "leave"),
    ),
}
ALONE = (
    *("purchase",) * 9,
    *("redeem",) * 4,
    *("hold",) * 4,
    *("capture",) * 3,
    *("return",) * 4,
    *("refund",) * 2,
    *("transfer",) * 2,
    *("adjust",) * 2,
    *("visit", "void", "match", "again", "approve", "approve", "reject"),
)
FAMILY = (
    *("form", "dissolve"),
    *("invite",) * 2,
    *("join",) * 5,
    *("change",) * 2,
    *("contribute",) * 4,
    *("leave",) * 3,
)
POOL = (
    *("purchase",) * 5,
    *("redeem",) * 6,
    *("hold",) * 4,
    *("contribute",) * 4,
    *("capture", "void", "return") * 2,
    *("form", "invite", "join", "leave"),
)
# Of those who come seldom, and take back what they did.
SELDOM = (
    *("purchase",) * 5,
    *("redeem",) * 4,
    *("refund",) * 6,
    *("hold", "capture", "contribute", "merge", "form", "join", "leave"),
)
# Each history is of some kinds: so that what is rare comes often enough where it comes at all.
KINDS = (ALONE, (*ALONE, *("merge",) * 2), (*ALONE, *FAMILY), (*ALONE, *FAMILY, *("merge",) * 3), SELDOM)
MOST = 70  # steps of a history, beside those with which it begins; about every second is left out
WAITS = (*(0,) * 12, 1, 1, 6, 6, 12, 12, 24, 30, 48, 100)
DAYS = (0, 0, 1, 24, 48, 48)
ACTING = (*(NOTHING,) * 4, STAFF, ANN, BEN)


Choose = Callable[[Sequence[Any]], Any]


def _waits(what: str, kinds: tuple[str, ...]) -> Sequence[int]:
    if kinds is not SELDOM:
        return WAITS
    return DAYS if what == "purchase" else (0,)


def _step(choose: Choose, kinds: tuple[str, ...]) -> Step:
    what = choose(kinds)
    step = Step(what, choose((*(ANN,) * 10, *(BEN,) * 5, *(EVE,) * 4, DAN, SUE)))
    changes: dict[str, Any] = {
        "wait": choose(_waits(what, kinds)),
        "behind": choose((*(0,) * 8, 1, 90)),
    }
    if what in ("purchase", "visit", "redeem"):
        changes["late"] = choose((*(0,) * 18, *(5, 5, 5, 40, 40, 80, 2000, -1, -3)))
        changes["order"] = choose(("", "", "", "o1", "o2"))
    if what in ("purchase", "return", "match"):
        most = {"purchase": 3}.get(what, 2)
        lines = choose(range(what == "match", most + 1))
        changes["basket"] = tuple(
            (choose(PRODUCTS), choose(range(1, 4)), 50 * choose(range(61))) for _ in range(lines)
        )
    if what in ("redeem", "hold", "transfer", "adjust", "contribute"):
        changes["points"] = choose(range(1, choose((20, 50)) + 1))
        changes["percent"] = choose((0, 30, 30, 60, 60, 100, 101))
        changes["wallet"] = choose(("", "points", "points", "stars"))
    if "form" in kinds and what in ("redeem", "hold", "adjust"):
        changes["shared"] = choose((kinds is POOL, False, True))
    match what:
        case "transfer":
            changes["to"] = choose((ANN, BEN, BEN, EVE, EVE, *MEMBERS, NOBODY))
            changes["points"] += choose((0, 0, 0, 20))
        case "merge":
            changes["to"] = choose((*MEMBERS, BEN, EVE, DAN))
        case "adjust":
            changes["points"] *= choose((1, -1))
            changes["percent"] = 0
            changes["days"] = choose((None, None, 1, 2, 0))
            changes["by"] = choose(("", "Pam"))
        case "approve" | "reject":
            changes["by"] = choose(("", "Pam"))
        case "capture":
            changes["points"] = choose((0, 1, 2, 3, 4, 5, 7, 30))
            changes["percent"] = choose((0, 30, 60))
            changes["keep_rest"] = choose((False, True))
        case "refund":
            changes["points"] = choose((0, 0, 1, 2, 3, 5, 7, 20))
        case "form" | "join":
            changes["contributes"] = choose((False, True))
        case "invite":
            changes["may_spend"] = choose((True, True, False))
            changes["days"] = choose((None, None, 1))
        case "change":
            changes["may_spend"] = choose((None, True, False))
            changes["contributes"] = choose((None, True, False))
            changes["make_head"] = choose((False, True))
    if what in ("invite", "change", "leave", "dissolve"):
        changes["acting"] = choose(ACTING)
    if what in ABOUT or changes.get("shared"):
        changes["back"] = choose((*(0,) * 5, 1, 1, 2, 99))
        # Now and then somebody asks for what is another's.
        changes["stranger"] = choose((*(False,) * 7, True))
    return replace(step, **changes)


def _bought(who: UUID, sku: str) -> Step:
    return Step("purchase", who, basket=((sku, 2, 3000),))


def _begun(choose: Choose, kinds: tuple[str, ...]) -> list[Step]:
    """What came before: points to merge, and to share."""
    if kinds is ALONE:
        return []
    begun = [_bought(ANN, "book"), _bought(BEN, choose(PRODUCTS))]
    if "form" in kinds:
        begun += [Step("form", ANN, contributes=choose((False, True))), Step("invite", ANN, back=0)]
        begun += [Step("join", BEN, back=0, contributes=choose((False, True)))]
        begun += [Step("contribute", ANN, percent=60), _bought(BEN, "apple")]
    return begun


def _few(kinds: tuple[str, ...]) -> some.SearchStrategy[list[Step]]:
    """Of a few steps everything shrinks."""

    @some.composite
    def steps(draw: some.DrawFn) -> Step:
        return _step(lambda options: draw(some.sampled_from(options)), kinds)

    return some.lists(steps(), min_size=1, max_size=12)


def _many(kinds: tuple[str, ...]) -> some.SearchStrategy[list[Step]]:
    """Of many each is chosen evenly, which finds more; whatever doesn't matter is left out in the end."""

    def drawn(seed: int, kept: Sequence[bool]) -> list[Step]:
        choose = Random(seed).choice
        return [step for step, stays in [(_step(choose, kinds), stays) for stays in kept] if stays]

    kept = some.lists(some.booleans(), min_size=MOST, max_size=MOST)
    return some.builds(drawn, some.integers(0, 2**64), kept)


def _lists(kinds: tuple[str, ...]) -> some.SearchStrategy[list[Step]]:
    @some.composite
    def begun(draw: some.DrawFn) -> list[Step]:
        steps = _begun(lambda options: draw(some.sampled_from(options)), kinds)
        return steps if draw(some.booleans()) else []

    return some.builds(list.__add__, begun(), _few(kinds) | _many(kinds))


def chosen(source: Random) -> list[Step]:
    """A long history, drawn by chance alone; every second is of what three do to one pool."""
    kinds = source.choice((*KINDS, *(POOL,) * len(KINDS)))
    begun = _begun(source.choice, kinds)
    if kinds is POOL:
        begun += [
            Step("invite", ANN, back=0),
            Step("join", EVE, back=0, contributes=True),
            _bought(EVE, "lamp"),
        ]
    return begun + [_step(source.choice, kinds) for _ in range(MOST)]


histories = some.one_of([_lists(kinds) for kinds in KINDS])
batch_sizes = some.lists(some.integers(1, 12), min_size=MOST + 10, max_size=MOST + 10)
clawbacks = some.sampled_from(list(Clawback))
policies = some.tuples(some.sampled_from(TERMS), some.sampled_from(TERMS), clawbacks)
# Where refunds ask for how long nobody came.
of_few_visits = _lists(SELDOM)
rolling = some.sampled_from([terms for terms in TERMS if terms.expiry.until is Until.ROLLING_DAYS])
rolling_policies = some.tuples(rolling, some.sampled_from(TERMS), clawbacks)


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
        clock_skew_seconds=SKEW_HOURS * 3600,
        ledger=LedgerTerms(
            lots={"points": points, "stars": stars},
            clawback=clawback,
            refund_grace_days=GRACE_DAYS,
            hold_seconds=HOLD_SECONDS,
            transfer_points=TRANSFER_POINTS,
            approval_points=APPROVAL_POINTS,
        ),
    )


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
