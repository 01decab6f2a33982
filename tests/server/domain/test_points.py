"""Decisions without a database: what must hold whatever the commands are."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from server.domain.activity import PURCHASE, Line, MemberFacts
from server.domain.actor import Actor, CallerKind
from server.domain.books import Books, Decision, MemberState, Terms
from server.domain.chain import fault
from server.domain.commands import Command, Earn, Outcome, Redeem
from server.domain.errors import Refused
from server.domain.ledger import Allocation, Lot, Transaction
from server.domain.lots import allocate
from server.domain.points import decide, prepare
from server.domain.program import Program, Tier
from server.domain.rules import trace
from server.domain.rules.compile import RuleSet

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PROGRAM = Program(
    program_id=UUID(int=1),
    name="demo",
    currency="INR",
    time_zone="Asia/Kolkata",
    point_types=("points", "stars"),
    tiers=(Tier("bronze", 0), Tier("silver", 50), Tier("gold", 500)),
)
RULES_AS_DATA: list[tuple[int, dict[str, Any]]] = [
    (1, {"rule": "base", "priority": 9, "then": [{"earn": {"points": 1, "per": "1.00"}}]}),
    (
        4,
        {
            "rule": "stars",
            "when": {"field": "amount", "op": "gte", "value": "10.00"},
            "then": [{"fixed": {"points": 3, "to": "stars"}}],
            "caps": {"member": {"points": 7, "per": "ever"}},
        },
    ),
]
RULES = RuleSet.compile(PROGRAM, RULES_AS_DATA)
KEY = b"k" * 32
ANN, BEN, SUE = UUID(int=11), UUID(int=12), UUID(int=13)
ACTOR = Actor(CallerKind.TERMINAL, PROGRAM.program_id, UUID(int=2), "till", "pos", frozenset())


def terms(ids: Iterator[int]) -> Terms:
    """The demo's terms, with ids in order."""
    return Terms(PROGRAM, RULES, 1, NOW, lambda: UUID(int=next(ids)), "1", KEY)


def books() -> Books:
    """Ann and Ben, active; Sue, suspended."""
    facts = MemberFacts("bronze", NOW - timedelta(days=400))
    return Books(
        members={
            ANN: MemberState("active", facts, 1),
            BEN: MemberState("active", facts, 1),
            SUE: MemberState("suspended", facts, 1),
        }
    )


def command(kind: type[Command], member_id: UUID, request_id: str, **said: Any) -> Any:
    """A command that names an order only if ``said`` does."""
    common: dict[str, Any] = {
        "actor": ACTOR,
        "request_id": request_id,
        "received_at": NOW,
        "member_id": member_id,
        "member_given": str(member_id),
        "reference": "",
        "store": "",
        "channel": "",
        "occurred_at": None,
        "business_date": None,
        "part": "",
    }
    if kind is Earn:
        common.update(event_type=PURCHASE, currency="INR")
    return kind(**{**common, **said})


@some.composite
def commands(draw: some.DrawFn) -> Command:
    """Purchases and redemptions of few members, under few request_ids and orders, so that they meet."""
    member_id = draw(some.sampled_from([ANN, ANN, BEN, SUE, UUID(int=99)]))
    request_id = f"r{draw(some.integers(0, 25))}"
    reference = draw(some.sampled_from(["", "", "o1", "o2", "o3"]))
    if draw(some.booleans()):
        amount = Decimal(draw(some.integers(0, 4000))) / 100
        currency = draw(some.sampled_from(["INR", "INR", "INR", "USD"]))
        said = {"reference": reference, "amount": amount, "currency": currency}
        return command(Earn, member_id, request_id, **said)
    points = draw(some.integers(1, 60))
    point_type = draw(some.sampled_from(["", "points", "stars", "gems"]))
    return command(Redeem, member_id, request_id, reference=reference, points=points, point_type=point_type)


def run(history: list[Command]) -> tuple[Books, list[Decision], list[Outcome | str]]:
    """The books after a history, the decisions, and what each command was told."""
    state, ids = books(), count(1000)
    decisions: list[Decision] = []
    told: list[Outcome | str] = []
    for entry in history:
        try:
            decided = decide(state, prepare(entry, PROGRAM), terms(ids))
        except Refused as refusal:
            told.append(refusal.reason)
            continue
        if isinstance(decided, Decision):
            state.apply(decided)
            decisions.append(decided)
            told.append(decided.outcome)
        else:
            told.append(decided)
    return state, decisions, told


@given(some.lists(commands(), max_size=40))
def test_every_wallet_is_the_sum_of_its_rows_and_of_its_lots(history: list[Command]) -> None:
    state, decisions, _ = run(history)
    rows = [m.transaction for d in decisions for m in d.movements]
    for member_id, member in state.members.items():
        for point_type, wallet in member.wallets.items():
            own = [r for r in rows if r.member_id == member_id and r.point_type == point_type]
            earned = sum(r.points for r in own if r.kind == "EARN")
            spent = sum(r.points for r in own if r.kind == "REDEEM")
            lots = [lot for lot in member.lots.values() if lot.point_type == point_type]
            assert wallet.balance == earned - spent == sum(lot.remaining for lot in lots) >= 0
            assert wallet.lifetime == earned
            assert [r.sequence for r in own] == list(range(1, wallet.sequence + 1))
            assert member.facts.tier == PROGRAM.tier_at(member.wallet("points").lifetime).name
        assert member.wallet("stars").lifetime <= 7


@given(some.lists(commands(), max_size=40))
def test_every_chain_holds_and_every_change_to_a_row_breaks_it(history: list[Command]) -> None:
    _, decisions, _ = run(history)
    last: dict[tuple[UUID, str], Transaction] = {}
    for movement in (m for d in decisions for m in d.movements):
        row, key = movement.transaction, (movement.transaction.member_id, movement.transaction.point_type)
        before = last.get(key)
        created, allocations = movement.created, movement.allocations
        assert fault(row, created, allocations, before, {"1": KEY}) is None
        for forged in (
            row._replace(points=row.points + 1),
            row._replace(order_reference=row.order_reference + "x"),
            row._replace(occurred_at=row.occurred_at + timedelta(microseconds=1)),
            row._replace(trace=row.trace.replace('"revision":1', '"revision":2')),
        ):
            assert fault(forged, created, allocations, before, {"1": KEY}) is not None
        assert fault(row, (), (Allocation(UUID(int=5), 1),), before, {"1": KEY}) is not None
        assert fault(row, created, allocations, before, {"1": b"x" * 32}) is not None
        assert fault(row, created, allocations, before, {}) is not None
        last[key] = row


@given(some.lists(commands(), max_size=25))
def test_a_history_sent_twice_changes_nothing_the_second_time(history: list[Command]) -> None:
    _, decisions, told = run(history)
    _, decisions_of_both, told_of_both = run(history + history)
    # A refused command may succeed later; a command that succeeded never acts again.
    succeeded = {d.command.request_id for d in decisions}
    assert [d.command.request_id for d in decisions_of_both[: len(decisions)]] == [
        d.command.request_id for d in decisions
    ]
    assert not succeeded & {d.command.request_id for d in decisions_of_both[len(decisions) :]}
    for first, again in zip(told, told_of_both[len(history) :], strict=True):
        if isinstance(first, Outcome):
            assert again == first


SIZES = some.lists(some.tuples(some.integers(1, 50), some.none() | some.integers(1, 9)), min_size=1)


@given(SIZES, some.data())
def test_the_soonest_to_expire_is_spent_first(
    sizes: list[tuple[int, int | None]], data: some.DataObject
) -> None:
    lots = [
        Lot(UUID(int=n), "points", UUID(int=n), points, points, expires_at=due(days))
        for n, (points, days) in enumerate(sizes, 1)
    ]
    wanted = data.draw(some.integers(1, sum(lot.points for lot in lots)))
    shares = allocate(lots, wanted, None)
    assert sum(s.points for s in shares) == wanted
    by_id = {lot.lot_id: lot for lot in lots}
    drawn = [by_id[share.lot_id] for share in shares]
    assert all(share.points == by_id[share.lot_id].points for share in shares[:-1])
    forever = datetime.max.replace(tzinfo=UTC)
    taken = {share.lot_id for share in shares}
    latest = max((lot.expires_at or forever, lot.lot_id.int) for lot in drawn)
    untouched = [lot for lot in lots if lot.lot_id not in taken]
    assert all((lot.expires_at or forever, lot.lot_id.int) > latest for lot in untouched)


def due(days: int | None) -> datetime | None:
    """So many days ahead, or never."""
    return None if days is None else NOW + timedelta(days=days)


def test_a_refusal_says_by_how_much() -> None:
    state, ids = books(), count(1)
    earn, redeem = command(Earn, ANN, "a", amount=Decimal(30)), command(Redeem, ANN, "b", points=37)
    state.apply(decide(state, prepare(earn, PROGRAM), terms(ids)))  # type: ignore[arg-type]
    with pytest.raises(Refused) as caught:
        decide(state, prepare(redeem, PROGRAM), terms(ids))
    assert caught.value.reason == "INSUFFICIENT_POINTS"
    assert caught.value.metadata == {
        "point_type": "points",
        "balance": "30",
        "requested": "37",
        "missing": "7",
    }


def test_a_rate_converts_before_rules_see_the_amount() -> None:
    program = replace(PROGRAM, rates={"USD": Decimal("83.215")})
    ids = count(1)
    decided = decide(
        books(),
        prepare(command(Earn, ANN, "a", amount=Decimal("10.00"), currency="USD"), program),
        replace(terms(ids), program=program),
    )
    assert isinstance(decided, Decision)
    assert decided.outcome.points == 832
    assert decided.events[0].payload()["activity"]["amount"] == "10.00"


def test_every_row_that_was_earned_vouches_for_its_purchase_as_the_log_keeps_it() -> None:
    lines = (Line("1", "tea", "", 2, Decimal(8)), Line("2", "jam", "", 1, Decimal(4), {"size": "½"}))
    decided = decide(
        books(),
        prepare(command(Earn, ANN, "r", amount=Decimal(12), lines=lines), PROGRAM),
        terms(count(1)),
    )
    assert isinstance(decided, Decision)
    [event] = decided.events
    kept = json.loads(json.dumps(event.payload()))["activity"]
    traces = [movement.transaction.trace for movement in decided.movements]
    assert len(traces) == 2
    assert {trace.vouched(text) for text in traces} == {trace.digest(kept)}
    kept["lines"][0][3] = 20
    assert trace.vouched(traces[0]) != trace.digest(kept)
    assert trace.vouched(trace.canonical({"revision": 1, "rules": []})) == ""


def test_a_purchase_is_known_by_the_bytes_by_which_it_always_was() -> None:
    lines = (Line("1", "tea", "", 2, Decimal(8)), Line("2", "jam", "", 1, Decimal("4.50"), {"size": "½"}))
    said = {"reference": "R-1\x7f", "store": "pune-1", "amount": Decimal("12.50"), "lines": lines}
    prepared = prepare(command(Earn, ANN, "r", **said), PROGRAM)
    assert prepared.digest.hex() == "d52c7de55c5b45ee7c0b369d35431935732c251fd2b8e49a898ec30a0ee3801e"
    decided = decide(books(), prepared, terms(count(1)))
    assert isinstance(decided, Decision)
    assert [movement.transaction.hash.hex() for movement in decided.movements] == [
        "35b18796d38c0b9ea133663ca70941b62ebad6bb859c480c75a8aa8e703373bd",
        "124e9e442f41baf39aa1c04e77c4c573d8123d3e74a950d01804182092e72d6d",
    ]
