"""Daily figures: what is counted, and that it may be counted in parts of any size."""

import itertools
import json
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from server.domain.figures import EVENT_TYPES, Figures, Happened, Key, Measure, Row, figures, transaction_ids
from server.domain.ledger import Account

PROGRAM = UUID(int=1)
DAY = date(2026, 11, 24)


def why(**points: int) -> str:
    """The trace of what was earned, by rule."""
    return json.dumps(
        {
            "rules": [
                {
                    "rule": rule,
                    "version": 1,
                    "outcome": "applied",
                    "computed": given,
                    "points": given,
                    "point_type": "points",
                    "lines": {},
                    "notes": [],
                }
                for rule, given in points.items()
            ]
        }
    )


def row(points: int, debit: Account, credit: Account, trace: str = "", point_type: str = "points") -> Row:
    return Row(UUID(int=9), point_type, points, debit, credit, trace)


def purchase(rupees: str, *rows: Row, store: str = "s1", activity_type: str = "PURCHASE") -> Happened:
    activity = {"type": activity_type, "store": store, "currency": "INR", "amount": rupees}
    return Happened("points.earned", PROGRAM, DAY, {"activity": activity}, rows)


def total(*happened: Happened) -> dict[tuple[str, str, str, str], Decimal]:
    """Figures by store, rule, measure and unit."""
    return {(k.store, k.rule, k.measure, k.unit): amount for k, amount in figures(happened).items()}


def test_a_purchase_counts_for_the_store_and_for_each_rule_that_gave_something() -> None:
    now, later = Account.WALLET_BALANCE, Account.WALLET_PENDING
    told = why(base=30, double=20, capped=0)
    rows = (row(40, Account.PROGRAM_ISSUANCE, now, told), row(10, Account.PROGRAM_ISSUANCE, later, told))
    assert total(purchase("500.50", *rows), purchase("0.50"), purchase("0", activity_type="VISIT")) == {
        ("s1", "", "purchases", ""): 2,
        ("s1", "", "events", ""): 1,
        ("s1", "", "amount", "INR"): Decimal(501),
        ("s1", "", "earned", "points"): 50,
        ("s1", "base", "earned", "points"): 30,
        ("s1", "double", "earned", "points"): 20,
        ("s1", "base", "activities", ""): 1,
        ("s1", "double", "activities", ""): 1,
    }


def test_points_count_by_where_they_come_from_and_go_to() -> None:
    balance, held = Account.WALLET_BALANCE, Account.WALLET_HELD
    moves = {
        "redeemed": row(1, balance, Account.PROGRAM_REDEMPTION),
        "refunded": row(2, Account.PROGRAM_REDEMPTION, balance),
        "expired": row(3, Account.WALLET_PENDING, Account.PROGRAM_BREAKAGE),
        "returned": row(4, Account.WALLET_DEBT, Account.PROGRAM_ISSUANCE),
        "shortfall": row(5, Account.PROGRAM_SHORTFALL, Account.PROGRAM_ISSUANCE),
        "adjusted_in": row(6, Account.PROGRAM_ADJUSTMENT, balance),
        "adjusted_out": row(7, balance, Account.PROGRAM_ADJUSTMENT),
        "nothing": row(8, balance, held),
        "nothing either": row(9, balance, Account.PROGRAM_TRANSFER),
    }
    told = Happened("points.captured", PROGRAM, DAY, {"store": "s2"}, tuple(moves.values()))
    found = total(told)
    assert found.pop(("s2", "", "redemptions", "")) == 1
    assert {measure: int(amount) for (_, _, measure, _), amount in found.items()} == {
        measure: row.points for measure, row in moves.items() if "nothing" not in measure
    }


def test_joining_is_of_no_store() -> None:
    assert total(Happened("member.registered", PROGRAM, DAY, {"tier": "bronze"})) == {
        ("", "", "joined", ""): 1
    }


def test_rows_are_found_whichever_way_an_event_names_them() -> None:
    one, two = str(UUID(int=1)), str(UUID(int=2))
    assert list(transaction_ids({"transaction_id": one})) == [UUID(one)]
    assert list(transaction_ids({"transaction_ids": [one, two]})) == [UUID(one), UUID(two)]
    assert list(transaction_ids({"tier": "gold"})) == []


accounts = st.sampled_from(list(Account))
rows = st.builds(
    row,
    st.integers(1, 10**9),
    accounts,
    accounts,
    st.just("") | st.dictionaries(st.sampled_from("abc"), st.integers(0, 50)).map(lambda p: why(**p)),
    st.sampled_from(("points", "credits")),
)
activities = st.fixed_dictionaries(
    {
        "type": st.sampled_from(("PURCHASE", "VISIT")),
        "store": st.sampled_from(("", "s1", "s2")),
        "currency": st.sampled_from(("INR", "USD")),
        "amount": st.decimals(0, 10**9, places=2).map(str),
    }
)
payloads: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"activity": activities}) | (
    st.fixed_dictionaries({"store": st.sampled_from(("", "s1"))})
)
histories = st.lists(
    st.builds(
        Happened,
        st.sampled_from(sorted(EVENT_TYPES)),
        st.sampled_from((PROGRAM, UUID(int=2))),
        st.dates(DAY, date(2026, 11, 26)),
        payloads,
        st.lists(rows, max_size=3).map(tuple),
    ),
    max_size=12,
)


@given(histories, st.sets(st.integers(0, 12)))
def test_parts_add_up_to_the_whole(history: list[Happened], cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), len(history)]
    parts: Counter[Key] = Counter()
    for begin, end in itertools.pairwise(bounds):
        parts.update(figures(history[begin:end]))
    whole: Figures = figures(history)
    assert {key: amount for key, amount in parts.items() if amount} == whole
    assert all(amount > 0 for amount in whole.values())
    assert all(isinstance(key.measure, Measure) for key in whole)
