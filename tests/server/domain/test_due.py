"""What the clock does to wallets is the same whether it is read, written down, or done in between."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as some

from server.domain.books import Decision, MemberState
from server.domain.commands import Command, Earn, PlaceHold, Redeem
from server.domain.due import as_due
from server.domain.errors import Refused
from server.domain.ledger import GENESIS, Account, Kind, Lot, Wallet
from server.domain.lots import Expiry, LotTerms, Until, expiry_of
from server.domain.outlook import MOST, Outlook, outlook
from server.domain.points import decide, prepare
from server.domain.program import LedgerTerms
from server.domain.rules.compile import RuleSet
from tests.server.domain import test_points as world
from tests.server.domain.test_points import ANN, NOW, PROGRAM

TERMS = LedgerTerms({"points": LotTerms(2, "REVIEW", Expiry(Until.MONTHS, 1))}, hold_seconds=36 * 3600)
SHOP = replace(
    PROGRAM,
    ledger=TERMS,
    event_types={"REVIEW": {}, "NOTHING": {}},
    clock_skew_seconds=10**9,
    past_limit_days=3650,
)


def rule(name: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """A point for every rupee; ``more`` says of which purchases, and how the points live."""
    return 1, {"rule": name, "then": [{"earn": {"points": 1, "per": "1.00"}}], **more}


CHANNEL_A, CHANNEL_B, CHANNEL_C = ({"field": "channel", "op": "eq", "value": value} for value in "abc")
RULES = RuleSet.compile(
    SHOP,
    [
        rule("as-the-program-says"),
        rule("at-once", when={"field": "store", "op": "eq", "value": "a"}, pending="none"),
        rule("for-ever", when={"field": "store", "op": "eq", "value": "b"}, expire="never"),
        rule("today", when=CHANNEL_A, pending="none", expire={"days": 0}),
        rule("rolling", when=CHANNEL_B, pending="none", expire={"rolling_days": 3}),
        rule("waiting", when=CHANNEL_C, pending={"until": "REVIEW"}, expire="never"),
    ],
)
STEP = some.tuples(
    some.sampled_from(["buy", "buy", "review", "redeem", "hold"]),
    some.integers(1, 40),
    some.sampled_from(["", "a", "b", "c"]),
    some.sampled_from(["", "a", "b"]),
    some.integers(0, 24 * 40) | some.integers(0, 30),  # hours until the next
)
STEPS = some.lists(STEP, min_size=1, max_size=14)


class World:
    """Ann, her wallet, and a clock that only goes on."""

    def __init__(self, debt: int) -> None:
        self.now = NOW
        self.books = world.books()
        self.numbers = count(1)
        wallet = Wallet("points", debt=debt)
        self.books.members[ANN] = self.ann._replace(wallets={"points": wallet} if debt else {})

    @property
    def ann(self) -> MemberState:
        """As written down."""
        return self.books.members[ANN]

    @property
    def ann_now(self) -> MemberState:
        """As read now, from the lots and holds that are open."""
        lots = {key: lot for key, lot in self.ann.lots.items() if lot.remaining}
        holds = {key: hold for key, hold in self.ann.holds.items() if hold.open_points}
        return as_due(ANN, self.ann._replace(lots=lots, holds=holds), SHOP, self.now)

    def decide(self, kind: type[Command], **said: Any) -> Decision:
        """The decision taken now, which isn't written down."""
        terms = replace(world.terms(self.numbers), program=SHOP, rules=RULES, now=self.now)
        command = world.command(kind, ANN, f"r{next(self.numbers)}", received_at=self.now, **said)
        decided = decide(self.books, prepare(command, SHOP), terms)
        assert isinstance(decided, Decision)
        return decided

    def step(self, what: str, number: int, channel: str, store: str) -> Decision | None:
        """Something Ann does; None if it is refused."""
        try:
            match what:
                case "buy":
                    done = self.decide(Earn, amount=Decimal(number), channel=channel, store=store)
                case "review":
                    done = self.decide(Earn, event_type="REVIEW")
                case "redeem":
                    done = self.decide(Redeem, points=number)
                case _:
                    done = self.decide(PlaceHold, points=number)
        except Refused:
            return None
        self.books.apply(done)
        return done


def figures(member: MemberState) -> tuple[Any, ...]:
    """What a member has, apart from the ends of chains, whose rows have other ids."""
    wallets = {name: wallet._replace(head_hash=GENESIS) for name, wallet in member.wallets.items()}
    lots = {key: lot for key, lot in member.lots.items() if lot.remaining}
    holds = {key: hold for key, hold in member.holds.items() if hold.open_points}
    return wallets, lots, holds


@given(STEPS, some.integers(0, 30))
def test_a_read_shows_what_the_next_decision_writes_down(steps: list[Any], debt: int) -> None:
    shop = World(debt)
    for what, number, channel, store, hours in steps:
        shop.step(what, number, channel, store)
        shop.now += timedelta(hours=hours)
        read = shop.ann_now
        # An event that earns nothing and that nothing waits for.
        written = shop.decide(Earn, event_type="NOTHING").members[ANN]
        assert figures(read) == figures(written)


@given(STEPS, some.integers(0, 30), some.integers(0, 24 * 60), some.integers(0, 24 * 60))
def test_whether_anybody_looked_in_between_makes_no_difference(
    steps: list[Any], debt: int, first: int, second: int
) -> None:
    shop = World(debt)
    for what, number, channel, store, hours in steps:
        shop.step(what, number, channel, store)
        shop.now += timedelta(hours=hours)
    began = shop.now
    between = as_due(ANN, shop.ann, SHOP, began + timedelta(hours=first))
    end = began + timedelta(hours=first + second)
    assert figures(as_due(ANN, between, SHOP, end)) == figures(as_due(ANN, shop.ann, SHOP, end))
    assert as_due(ANN, between, SHOP, began + timedelta(hours=first)) == between


@given(STEPS, some.integers(0, 30))
def test_what_is_shown_adds_up(steps: list[Any], debt: int) -> None:
    shop = World(debt)
    for what, number, channel, store, hours in steps:
        shop.step(what, number, channel, store)
        shop.now += timedelta(hours=hours)
        now = shop.ann_now
        wallet, shown = now.wallet("points"), outlook(now, "points")
        ends, starts = shown.expiring, shown.activating
        assert sum(e.points for e in ends) + shown.expiring_later + shown.never_expiring == wallet.balance
        assert sum(s.points for s in starts) + shown.activating_later == wallet.pending
        assert min(shown.expiring_later, shown.never_expiring, shown.activating_later) >= 0
        assert all(bucket.points > 0 for bucket in (*ends, *starts))
        moments = [e.expires_at for e in ends]
        assert moments == sorted(set(moments))
        assert all(moment > shop.now for moment in moments)
        assert all(s.activates_at is None or s.activates_at > shop.now for s in starts)
        assert max(len(ends), len(starts)) <= MOST
        # Nothing overdue is left standing.
        assert all(hold.expires_at > shop.now for hold in now.holds.values() if hold.open_points)
        for lot in now.lots.values():
            end = expiry_of(lot, wallet.active_at)
            assert lot.active or not lot.remaining or lot.activates_at is None or lot.activates_at > shop.now
            assert end is None or end > shop.now or lot.remaining == lot.held
        # What is announced comes to pass if the member does nothing and a debt takes nothing first.
        if ends and not wallet.pending and not wallet.held:
            left = as_due(ANN, now, SHOP, ends[0].expires_at).wallet("points").balance
            assert left == wallet.balance - ends[0].points


@given(STEPS)
def test_the_lots_of_a_purchase_sum_to_its_points(steps: list[Any]) -> None:
    shop = World(0)
    for what, number, channel, store, hours in steps:
        done = shop.step(what, number, channel, store)
        if done is not None and what == "buy":
            rows = [m for m in done.movements if m.transaction.kind is Kind.EARN]
            assert sum(row.transaction.points for row in rows) == done.outcome.points
            for row in rows:
                assert sum(lot.points for lot in row.created) == row.transaction.points
                pending = row.transaction.credit_account is Account.WALLET_PENDING
                assert all(lot.active is not pending for lot in row.created)
        shop.now += timedelta(hours=hours)


def test_a_wallet_in_which_nothing_changes_is_told_without_its_lots() -> None:
    member = World(0).ann._replace(wallets={"points": Wallet("points", balance=7)})
    assert outlook(member, "points") == Outlook(never_expiring=7)
    assert outlook(member, "stars") == Outlook()


def test_only_the_next_twelve_changes_are_told_one_by_one() -> None:
    def lot(number: int, **said: Any) -> Lot:
        return Lot(UUID(int=number), "points", UUID(int=1), number, number, **said)

    ends = [lot(n, expires_at=NOW + timedelta(days=n)) for n in range(1, 16)]
    starts = [
        lot(n, active=False, activates_at=NOW + timedelta(days=n - 20), activates_on="REVIEW")
        for n in range(21, 33)
    ]
    waiting = lot(40, active=False, activates_on="REVIEW")
    lots = {each.lot_id: each for each in (waiting, *starts, *reversed(ends))}
    balance, pending = sum(range(1, 16)) + 5, sum(range(21, 33)) + 40
    wallet = Wallet("points", balance=balance, pending=pending, next_due=NOW)
    shown = outlook(World(0).ann._replace(wallets={"points": wallet}, lots=lots), "points")
    assert [bucket.points for bucket in shown.expiring] == list(range(1, 13))
    assert (shown.expiring_later, shown.never_expiring) == (13 + 14 + 15, 5)
    assert [bucket.points for bucket in shown.activating] == list(range(21, 33))
    assert shown.activating_later == 40
