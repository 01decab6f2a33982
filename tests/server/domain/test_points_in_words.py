"""What a support agent reads out about lots, word for word."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from server.domain.books import Decision
from server.domain.commands import Earn
from server.domain.lots import NEVER, Expiry, LotTerms, Until
from server.domain.points import decide, prepare
from server.domain.points_in_words import told
from server.domain.program import LedgerTerms
from server.domain.terms_in_words import expiring, spendable
from tests.server.domain import test_points as world


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
