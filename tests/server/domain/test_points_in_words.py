"""What a support agent reads out about lots, word for word."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from server.domain.books import Decision
from server.domain.commands import Earn, Merge
from server.domain.ledger import Kind
from server.domain.lots import NEVER, Expiry, LotTerms, Until
from server.domain.points import decide, prepare
from server.domain.points_in_words import told
from server.domain.program import Clawback, LedgerTerms
from server.domain.terms_in_words import expiring, spendable
from tests.server.domain import test_points as world
from tests.support.desk import ANN, BEN, Desk


def lots_of_a_purchase(terms: LotTerms) -> list[str]:
    """What is said of the lots of a purchase of 30 rupees."""
    program = replace(world.PROGRAM, ledger=LedgerTerms({"points": terms}))
    command: Any = world.command(Earn, world.ANN, "r", amount=Decimal(30))
    decided = decide(
        world.books(), prepare(command, program), replace(world.terms(count(1)), program=program)
    )
    assert isinstance(decided, Decision)
    movement = decided.movements[0]
    return told(movement.transaction, [(lot, lot.points) for lot in movement.created])[-1:]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (LotTerms(), "they never expire"),
        (LotTerms(expiry=Expiry(Until.DAYS, 0)), "they expire on 2026-11-23 at 18:30 UTC"),
        (
            LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 180)),
            "they expire 180 days after the member was last active",
        ),
        (LotTerms(14), "they can be spent from 2026-12-06 at 18:30 UTC; they never expire"),
        (LotTerms(0, "REVIEW"), "they can be spent with the next REVIEW; they never expire"),
        (
            LotTerms(1, "REVIEW"),
            "they can be spent from 2026-11-23 at 18:30 UTC or with the next REVIEW; they never expire",
        ),
    ],
)
def test_a_lot_says_from_when_and_until_when_its_points_can_be_spent(terms: LotTerms, said: str) -> None:
    assert datetime(2026, 11, 23, 12, tzinfo=UTC) == world.NOW
    assert lots_of_a_purchase(terms) == [f"30 of them make up one lot; {said}; 30 are left."]


def test_terms_are_said_in_words() -> None:
    assert spendable(0, "") == "at once"
    assert spendable(1, "") == "after 1 day"
    assert spendable(0, "REVIEW") == "with the next REVIEW"
    assert spendable(1000, "REVIEW") == "after 1,000 days or with the next REVIEW, whichever comes first"
    assert expiring(*NEVER) == "never"
    assert expiring(Until.DAYS, 0) == "at the end of the day"
    assert expiring(Until.MONTHS, 1) == "at the end of the month, 1 month later"
    assert expiring(Until.YEARS, 2) == "at the end of the year, 2 years later"
    assert expiring(Until.ROLLING_DAYS, 180) == "180 days after the member was last active"


def earning() -> Desk:
    desk = Desk()
    desk.buys(("TEA", 1, 50))
    return desk


def spending() -> Desk:
    desk = earning()
    desk.spends(20)
    return desk


def refunding() -> Desk:
    desk = Desk()
    desk.buys(("TEA", 1, 50))
    desk.refunds(desk.spends(20), 1)
    return desk


def reserving() -> Desk:
    desk = earning()
    desk.holds(30)
    return desk


def capturing() -> Desk:
    desk = earning()
    desk.captures(desk.holds(30), 12, keep_rest=True)
    return desk


def capturing_less() -> Desk:
    desk = earning()
    desk.captures(desk.holds(30), 12)
    return desk


def giving_up() -> Desk:
    desk = earning()
    desk.voids(desk.holds(30))
    return desk


def running_out_of_time() -> Desk:
    desk = earning()
    desk.holds(30, seconds=60)
    desk.later(hours=1)
    desk.spends(5)
    del desk.rows[-1]
    return desk


def waiting(*, visiting: bool = False) -> Desk:
    desk = Desk(lots={"points": LotTerms(2, "VISIT")})
    desk.buys(("TEA", 1, 50))
    if visiting:
        desk.visits()
    else:
        desk.later(days=2)
        desk.spends(5)
        del desk.rows[-1]
    return desk


def expiring_in_time() -> Desk:
    desk = Desk(lots={"points": LotTerms(expiry=Expiry(Until.DAYS, 1))})
    desk.buys(("TEA", 1, 50))
    desk.later(days=3)
    desk.adjusts(1)
    del desk.rows[-1]
    return desk


def expiring_before_its_time() -> Desk:
    desk = Desk(lots={"points": LotTerms(activates_on="VISIT", expiry=Expiry(Until.DAYS, 1))})
    desk.buys(("TEA", 1, 50))
    desk.later(days=3)
    desk.adjusts(1)
    del desk.rows[-1]
    return desk


def returning_parts() -> Desk:
    desk = Desk()
    bought = desk.buys(("TEA", 4, 50), ("JAM", 1, 30))
    desk.returns(bought, ("TEA", 1))
    desk.returns(bought, ("TEA", 2), ("JAM", 1))
    return desk


def returning_what_waits() -> Desk:
    rule = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}
    later = {"rule": "later", "then": [{"fixed": {"points": 10}}], "pending": {"days": 14}}
    desk = Desk([(1, rule), (1, later)])
    desk.returns(desk.buys(("TEA", 1, 50)))
    del desk.rows[-1]  # the half that could be spent
    return desk


def returning_what_was_spent(clawback: Clawback) -> Desk:
    desk = Desk(clawback=clawback)
    bought = desk.buys(("TEA", 1, 50))
    desk.spends(40)
    desk.returns(bought)
    return desk


def owing() -> Desk:
    desk = returning_what_was_spent(Clawback.ALLOW_DEBT)
    desk.buys(("JAM", 1, 60))
    return desk


def correcting(points: int) -> Desk:
    desk = earning()
    desk.adjusts(points, reason="a wrong receipt")
    return desk


def agreeing() -> Desk:
    desk = Desk(approval_points=100)
    desk.approves(desk.adjusts(500, reason="a lost parcel"), "ben")
    return desk


def handing_on() -> Desk:
    desk = earning()
    desk.hands(7)
    return desk


def handing_on_a_debt() -> Desk:
    desk = returning_what_was_spent(Clawback.ALLOW_DEBT)
    desk.does(Merge, BEN, merged_member_id=ANN)
    return desk


AT = "On 2026-11-23 at 12:00 UTC,"
DESK = "It was sent by staff:desk"
CAME_BACK = "goods came back that had earned them."
STORIES: list[tuple[Kind, Callable[[], Desk], list[str]]] = [
    (
        Kind.EARN,
        earning,
        [
            f"{AT} 50 points were earned by a purchase.",
            f"{DESK}; the balance was 50 afterwards.",
            "Rule base (version 1) gave 50 points: 1 per 1.00 INR on 50.00 INR.",
        ],
    ),
    (Kind.REDEEM, spending, [f"{AT} 20 points were spent.", f"{DESK}; the balance was 30 afterwards."]),
    (
        Kind.REVERSE_REDEEM,
        refunding,
        [
            f"{AT} 1 point that had been spent was given back.",
            f"{DESK}; the balance was 31 afterwards.",
            "It reverses transaction {REDEEM}.",
        ],
    ),
    (
        Kind.HOLD,
        reserving,
        [
            f"{AT} 30 points were reserved for a payment.",
            f"{DESK}; the balance was 20 afterwards.",
            "It belongs to hold {hold}.",
        ],
    ),
    (
        Kind.CAPTURE,
        capturing,
        [
            f"{AT} 12 points that had been reserved were spent.",
            f"{DESK}; the balance was 20 afterwards.",
            "It belongs to hold {hold}.",
        ],
    ),
    (
        Kind.RELEASE,
        capturing_less,
        [
            f"{AT} 18 points were no longer reserved, because the payment took less.",
            f"{DESK}; the balance was 38 afterwards.",
            "It belongs to hold {hold}.",
        ],
    ),
    (
        Kind.RELEASE,
        giving_up,
        [
            f"{AT} 30 points were no longer reserved, because the payment was given up.",
            f"{DESK}; the balance was 50 afterwards.",
            "It belongs to hold {hold}.",
        ],
    ),
    (
        Kind.RELEASE,
        running_out_of_time,
        [
            "On 2026-11-23 at 12:01 UTC, 30 points were no longer reserved, because the time for it "
            "was over.",
            "The clock did it; the balance was 50 afterwards.",
            "It belongs to hold {hold}.",
        ],
    ),
    (
        Kind.ACTIVATE,
        waiting,
        [
            "On 2026-11-24 at 18:30 UTC, 50 points became spendable, because their time had come.",
            "The clock did it; the balance was 50 afterwards.",
        ],
    ),
    (
        Kind.ACTIVATE,
        lambda: waiting(visiting=True),
        [f"{AT} 50 points became spendable by the event VISIT.", f"{DESK}; the balance was 50 afterwards."],
    ),
    (
        Kind.EXPIRE,
        expiring_in_time,
        [
            "On 2026-11-24 at 18:30 UTC, 50 points expired.",
            "The clock did it; the balance was 0 afterwards.",
        ],
    ),
    (
        Kind.EXPIRE,
        expiring_before_its_time,
        [
            "On 2026-11-24 at 18:30 UTC, 50 points expired.",
            "The clock did it; the balance was 0 afterwards.",
            "They had not become spendable yet.",
        ],
    ),
    (
        Kind.REVERSE_EARN,
        returning_parts,
        [
            f"{AT} 55 points were taken back, because {CAME_BACK}",
            f"{DESK}; the balance was 13 afterwards.",
            "It reverses transaction {EARN}.",
            "2 of the 4 units of line 1 came back, which had earned 50 points: with 3 back in all, "
            "50 x 3 / 4 = 37 (rounded down) are due back, 12 of them from before.",
            "All of line 2 came back, and that had earned 30 points.",
        ],
    ),
    (
        Kind.REVERSE_EARN,
        returning_what_waits,
        [
            f"{AT} 10 points were taken back, because {CAME_BACK}",
            f"{DESK}; the balance was 50 afterwards.",
            "It reverses transactions {EARN} and {EARN 2}.",
            "All of line 1 came back, and that had earned 60 points.",
            "They had not become spendable yet.",
        ],
    ),
    (
        Kind.REVERSE_EARN,
        lambda: returning_what_was_spent(Clawback.ALLOW_DEBT),
        [
            f"{AT} 40 points should be given back, because {CAME_BACK}",
            f"{DESK}; the balance was 0 afterwards.",
            "It reverses transaction {EARN}.",
            "All of line 1 came back, and that had earned 50 points.",
            "They had been spent, so the member owes them: what comes in pays them first.",
        ],
    ),
    (
        Kind.REVERSE_EARN,
        lambda: returning_what_was_spent(Clawback.WITHIN_BALANCE),
        [
            f"{AT} 40 points could not be taken back, when {CAME_BACK}",
            f"{DESK}; the balance was 0 afterwards.",
            "It reverses transaction {EARN}.",
            "All of line 1 came back, and that had earned 50 points.",
            "They had been spent, and the program bears that: the member lost nothing by it.",
        ],
    ),
    (
        Kind.SETTLE,
        owing,
        [f"{AT} 40 points went towards what the member owed.", f"{DESK}; the balance was 20 afterwards."],
    ),
    (
        Kind.ADJUST,
        lambda: correcting(200),
        [
            f"{AT} 200 points were put in by hand.",
            f"{DESK}, because: a wrong receipt; the balance was 250 afterwards.",
        ],
    ),
    (
        Kind.ADJUST,
        lambda: correcting(-1),
        [
            f"{AT} 1 point was taken out by hand.",
            f"{DESK}, because: a wrong receipt; the balance was 49 afterwards.",
        ],
    ),
    (
        Kind.ADJUST,
        agreeing,
        [
            f"{AT} 500 points were put in by hand.",
            "It was sent by staff:ben, because: a lost parcel; the balance was 500 afterwards.",
            "staff:desk asked for it, staff:ben agreed to it.",
        ],
    ),
    (
        Kind.TRANSFER_OUT,
        handing_on,
        [
            f"{AT} 7 points were handed on.",
            f"{DESK}; the balance was 43 afterwards.",
            f"They went from member {ANN} to member {BEN}.",
        ],
    ),
    (
        Kind.TRANSFER_IN,
        handing_on,
        [
            f"{AT} 7 points were received.",
            f"{DESK}; the balance was 7 afterwards.",
            f"They went from member {ANN} to member {BEN}.",
        ],
    ),
    (
        Kind.TRANSFER_IN,
        handing_on_a_debt,
        [
            f"{AT} a debt of 40 points was handed on.",
            f"{DESK}; the balance was 0 afterwards.",
            f"It went from member {ANN} to member {BEN}.",
        ],
    ),
    (
        Kind.TRANSFER_OUT,
        handing_on_a_debt,
        [
            f"{AT} a debt of 40 points was taken over.",
            f"{DESK}; the balance was 0 afterwards.",
            f"It went from member {ANN} to member {BEN}.",
        ],
    ),
]


@pytest.mark.parametrize(("kind", "story", "words"), STORIES)
def test_the_words_of_every_kind_of_row(kind: Kind, story: Callable[[], Desk], words: list[str]) -> None:
    rows = story().rows
    row = [row for row in rows if row.kind is kind][-1]
    names = {"{hold}": str(json.loads(row.trace).get("hold"))}
    for other in rows:
        first = f"{{{other.kind}}}"
        names[f"{{{other.kind} 2}}" if first in names else first] = str(other.transaction_id)
    for name, there in names.items():
        words = [sentence.replace(name, there) for sentence in words]
    assert told(row, []) == words


def test_no_kind_of_row_is_without_words() -> None:
    assert {kind for kind, *_ in STORIES} == set(Kind)
