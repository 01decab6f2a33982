"""What deciding a batch looks at: counted over its commands, then asked for all together.

First about those whom the commands name. Whoever of them sits in a household leads to its pool, which is
asked about afterwards: by then it is locked, as everything else is.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from server.domain.books import OrderKey, Prepared
from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Earn,
    Merge,
    PlaceHold,
    Redeem,
    Refund,
    RejectAdjustment,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.household_commands import Contribute, Dissolve, EndSeat, Join, OfHousehold
from server.domain.households import Seat
from server.domain.reviews import ApproveReview, PutAside, RejectReview
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import cap_keys
from server.domain.rules.evaluation import CapKey
from server.operations.programs import Snapshot
from server.store import adjustments, households, keys, ledger, merges, past, reviews
from server.store.keys import RequestKey
from server.store.ledger import MemberOf, WalletOf
from server.store.together import Question

Questions = Mapping[str, Question[Any]]


def request_key(command: Command) -> RequestKey:
    """The command's key in the store."""
    return RequestKey(command.actor.program_id, command.actor.source_system, command.request_id)


def sent_under(command: ApproveReview) -> RequestKey:
    """The key of the request that brought the entry."""
    return RequestKey(command.actor.program_id, *command.request)


def questions(batch: Sequence[Prepared], snapshots: Mapping[UUID, Snapshot], now: datetime) -> Questions:
    """What is asked about those whom the commands name."""
    main = {p: s.program.main_point_type for p, s in snapshots.items()}
    wanted = Wanted(main)
    for prepared in batch:
        wanted.add(prepared, snapshots[prepared.command.actor.program_id].rules)
    return wanted.questions(now)


def of_pools(
    batch: Sequence[Prepared],
    snapshots: Mapping[UUID, Snapshot],
    seats: Mapping[MemberOf, Seat],
    now: datetime,
) -> Questions:
    """What is asked about the pools of those who sit in a household; nothing if nobody does."""
    wanted = Wanted({p: s.program.main_point_type for p, s in snapshots.items()})
    led_to = []
    for prepared in batch:
        program_id = prepared.command.actor.program_id
        for member_id in prepared.command.seated:
            if (seat := seats.get((program_id, member_id))) is not None:
                led_to.append((prepared, (program_id, seat.household_id)))
    pools = {owner for _, owner in led_to}
    for prepared in batch:
        # What is asked of a pool as if it were a member counts together with what its members ask of it.
        if any((prepared.command.actor.program_id, m) in pools for m in prepared.command.members):
            wanted.add(prepared, snapshots[prepared.command.actor.program_id].rules)
    for prepared, owner in led_to:
        wanted.add_pool(prepared.command, owner)
    return wanted.questions(now) if pools else {}


class Wanted:
    """What the commands of a batch need to know, of all programs together.

    What only a few kinds of command need is asked for their sake alone.
    """

    def __init__(self, main_point_types: Mapping[UUID, str]) -> None:
        self.main = main_point_types
        self.members: dict[MemberOf, bool] = {}  # whether all open lots are needed
        self.awaited: dict[MemberOf, str] = {}
        self.spends: Counter[WalletOf] = Counter()
        self.holds: list[UUID] = []
        self.counters: set[tuple[UUID, UUID, CapKey]] = set()
        self.requests: list[RequestKey] = []
        self.orders: list[tuple[UUID, OrderKey]] = []
        self.purchases: list[tuple[UUID, UUID, UUID]] = []
        self.spent: list[tuple[UUID, UUID, UUID]] = []
        self.adjustments: list[tuple[UUID, UUID]] = []
        self.whence: dict[MemberOf, bool] = {}  # of all open lots, or of those that are pending
        self.consents: set[MemberOf] = set()
        self.seated: set[MemberOf] = set()
        self.households: set[MemberOf] = set()
        self.reviews: list[tuple[UUID, UUID]] = []
        # Entries that came too late, by their requests: the program and the credential.
        self.late: dict[RequestKey, tuple[UUID, UUID]] = {}

    def questions(self, now: datetime) -> Questions:
        """All of it as it is asked."""
        few: dict[str, tuple[Collection[Any], Any]] = {
            "purchases": (self.purchases, past.purchases_named),
            "spent": (self.spent, partial(past.spent, now=now)),
            "drawn": (self.spent, past.lots_drawn),
            "consents": (self.consents, merges.consents_in_force),
            "adjustments": (self.adjustments, adjustments.named),
            "households": (self.households, households.households_named),
            "invitations": (self.households, households.invitations_open),
            "reviews": (self.reviews, reviews.named),
            "put aside": (self.late, reviews.put_aside),
            "pending": (set(self.late.values()), reviews.pending),
        }
        wallets = ledger.wallets_of(self.members, now, self.awaited)
        asked: dict[str, Question[Any]] = {
            "members": ledger.members_known(wallets, self.main),
            "lots": ledger.lots_open(wallets),
            "spendable": ledger.lots_to_spend(self.spends),
            "holds": ledger.holds_open(wallets, self.holds),
            "usage": ledger.cap_usage(self.counters),
            "requests": keys.requests_known(self.requests),
            "orders": keys.orders_known(self.orders),
        }
        if self.seated or self.households:
            asked["seats"] = households.seats_open(self.seated, self.households)
        if self.whence:
            rows = [row for _, _, row in self.spent]
            asked["whence"] = households.whence(self.whence, rows)
        return asked | {name: ask(about) for name, (about, ask) in few.items() if about}

    def add(self, prepared: Prepared, rules: RuleSet) -> None:
        """Count a command's needs in."""
        command, _, key, what, _ = prepared
        program_id = command.actor.program_id
        for member_id in command.members:
            self.members.setdefault((program_id, member_id), False)
        self.requests.append(request_key(command))
        if key is not None:
            self.orders.append((program_id, key))
        if what is None:
            return
        self.seated.update((program_id, member_id) for member_id in command.seated)
        self.households.update((program_id, household_id) for household_id in command.households)
        owner = (program_id, command.member_id)
        if isinstance(command, ApproveReview):
            self.requests.append(sent_under(command))
            self.reviews.append((program_id, command.review_id))
        match command := command.doing:
            case Earn():
                self._await(owner, command.event_type)
                self.counters.update((*owner, counter) for counter in cap_keys(rules, what))
            case Redeem() | PlaceHold() if command.from_household:
                pass  # the pool pays
            case Redeem() | PlaceHold() | Transfer() | Contribute():
                self._spend(owner, command.point_type, command.points)
            case Adjust() if command.points < 0:
                self._spend(owner, command.point_type, -command.points)
            case _:
                self._add_earlier(command, owner)
        if isinstance(command, Contribute):
            self.whence[owner] = True

    def _await(self, owner: MemberOf, event_type: str) -> None:
        # Two events of one member in a batch: all of its lots are more than both await.
        if self.awaited.setdefault(owner, event_type) != event_type:
            self.members[owner] = True

    def _spend(self, owner: MemberOf, point_type: str, points: int) -> None:
        self.spends[*owner, point_type or self.main[owner[0]]] += points

    def _add_earlier(self, command: Command, owner: MemberOf) -> None:
        """What commands go back to: holds, purchases, redemptions, adjustments, gifts."""
        match command:
            case CaptureHold() | VoidHold():
                self.members[owner] = True
                self.holds.append(command.hold_id)
            case ApproveAdjustment() | RejectAdjustment():
                self.members[owner] = True
                self.adjustments.append((owner[0], command.adjustment_id))
            case Merge():
                both = [(owner[0], member_id) for member_id in command.members]
                self.members.update(dict.fromkeys(both, True))
                self.whence.update(dict.fromkeys(both, True))
                self.consents.update(both)
            case Return():
                self._add_gifts(owner)
                if command.event_id is not None:
                    self.purchases.append((*owner, command.event_id))
            case Refund():
                self.spent.append((*owner, command.transaction_id))
            case RejectReview():
                self.reviews.append((owner[0], command.review_id))
            case PutAside():
                self.late[request_key(command)] = (owner[0], command.actor.credential_id)
            case EndSeat() | Dissolve() | Join():
                # Whoever joins may spend within the batch, before anybody could know whose pool that is.
                self._add_gifts((owner[0], command.household_id))

    def _add_gifts(self, owner: MemberOf) -> None:
        self.members[owner] = True
        self.whence[owner] = True

    def add_pool(self, command: Command, owner: MemberOf) -> None:
        """Count in what a command needs of the pool that it led to."""
        self.members.setdefault(owner, False)
        match command := command.doing:
            case Earn():
                self._await(owner, command.event_type)
                self.whence.setdefault(owner, False)
            case Redeem() | PlaceHold():
                self._spend(owner, command.point_type, command.points)
            case Return():
                self._add_gifts(owner)
            case OfHousehold() | Contribute():
                pass  # what they need of it was asked by its name, or is nothing
