"""Members who share a pool."""

from datetime import datetime, timedelta
from uuid import UUID

from tests.server.model.histories import STAFF, Step
from tests.server.model.naive.books import Books, Refusal, Told, enough
from tests.server.model.naive.wallets import Invitation, Lot, Owner, Seat, Wallet

NO_CHANGE: Told = {"wallet": "points", "points": 0, "awards": []}


def home_of(books: Books, step: Step) -> int | None:
    """The household that is named, or to which one is asked."""
    if step.what == "join":
        invitation = books.invitations.get(step.of)
        return None if invitation is None else invitation.home
    return step.of if step.of in books.wallets else None


def pool_of(books: Books, who: UUID) -> dict[str, Wallet]:
    """The wallets of the pool where they sit; nothing where they sit nowhere."""
    seat = books.seats.get(who)
    return {} if seat is None else books.meet(seat.home)


def payer(books: Books, step: Step) -> Owner:
    if not step.shared:
        return step.who
    seat = books.seats.get(step.who)
    if seat is None:
        raise Refusal("HOUSEHOLD_NOT_FOUND")
    books.meet(seat.home)
    if not seat.may_spend:
        raise Refusal("SPENDING_NOT_ALLOWED")
    return seat.home


def seat_in(books: Books, who: UUID, home: int) -> Seat:
    seat = books.seats.get(who)
    if seat is None or seat.home != home:
        raise Refusal("HOUSEHOLD_NOT_FOUND")
    return seat


def asking(books: Books, step: Step, home: int, seated: UUID | None = None) -> tuple[UUID, Seat] | None:
    """Who asks for it and their seat there; None for who works for the program."""
    if step.acting == STAFF:
        return None
    seat = seat_in(books, step.acting, home)
    if not seat.head and step.acting != seated:
        raise Refusal("HOUSEHOLD_HEAD_ONLY")
    return step.acting, seat


def form(books: Books, place: int, step: Step, _: datetime) -> Told:
    if step.who in books.seats:
        raise Refusal("ALREADY_IN_HOUSEHOLD")
    books.open(place)
    books.seats[step.who] = Seat(place, head=True, may_spend=True, contributes=bool(step.contributes))
    return NO_CHANGE


def invite(books: Books, place: int, step: Step, _: datetime) -> Told:
    asking(books, step, step.of)
    days = 7 if step.days is None else step.days
    until = books.now + timedelta(days=days)
    books.invitations[place] = Invitation(step.of, step.may_spend is not False, until)
    return NO_CHANGE | {"owner": step.of}


def join(books: Books, _: int, step: Step, __: datetime) -> Told:
    invitation = books.invitations[step.of]
    if invitation.taken or invitation.until <= books.now:
        raise Refusal("INVITATION_NOT_FOUND")
    if step.who in books.seats:
        raise Refusal("ALREADY_IN_HOUSEHOLD")
    invitation.taken = True
    books.seats[step.who] = Seat(invitation.home, False, invitation.may_spend, bool(step.contributes))
    return NO_CHANGE


def change(books: Books, _: int, step: Step, __: datetime) -> Told:
    seat = seat_in(books, step.who, step.of)
    asks = asking(books, step, step.of, step.who)
    if asks is not None:
        if step.contributes is not None and asks[0] != step.who:
            raise Refusal("HOUSEHOLD_SEAT_ONLY")
        if (step.may_spend is not None or step.make_head) and not asks[1].head:
            raise Refusal("HOUSEHOLD_HEAD_ONLY")
    if step.may_spend is False and seat.head and not step.make_head:
        raise Refusal("INVALID_FIELD")
    if step.contributes is not None:
        seat.contributes = step.contributes
    if step.may_spend is not None:
        seat.may_spend = step.may_spend
    if step.make_head:
        for other in books.seats.values():
            if other.home == seat.home:
                other.head = other is seat
        seat.may_spend = True
    return NO_CHANGE


def contribute(books: Books, _: int, step: Step, __: datetime) -> Told:
    pool, name = pool_of(books, step.who), step.wallet or "points"
    if not pool:
        raise Refusal("HOUSEHOLD_NOT_FOUND")
    wallet = books.wallets[step.who][name]
    enough(wallet, step.points)
    pool[name].touch(wallet.active_at, books.now)
    books.hand_on(wallet.shares(step.points), pool[name], giver=step.who)
    return {
        "wallet": name,
        "points": step.points,
        "awards": [(name, step.points)],
        "shared": step.points,
        "pool": pool[name].balance,
    }


def leave(books: Books, _: int, step: Step, __: datetime) -> Told:
    seat = seat_in(books, step.who, step.of)
    asking(books, step, step.of, step.who)
    if seat.head:
        raise Refusal("HOUSEHOLD_NEEDS_HEAD")
    awards = give_back(books, step.of, step.who, everything=False)
    del books.seats[step.who]
    return NO_CHANGE | {"awards": awards, "points": sum(p for name, p in awards if name == "points")}


def dissolve(books: Books, _: int, step: Step, __: datetime) -> Told:
    asking(books, step, step.of)
    if any(hold.owner == step.of and not hold.over for hold in books.holds.values()):
        raise Refusal("MEMBER_HAS_HOLDS")
    awards = []
    for who in sitting(books, step.of):
        awards += give_back(books, step.of, who, everything=books.seats[who].head)
        del books.seats[who]
    books.status[step.of] = "dissolved"
    told = {"awards": awards, "points": sum(points for name, points in awards if name == "points")}
    return NO_CHANGE | told | {"owner": step.of}


def sitting(books: Books, home: int) -> list[UUID]:
    """In the order in which they joined, the head last."""
    there = [who for who, seat in books.seats.items() if seat.home == home]
    return sorted(there, key=lambda who: books.seats[who].head)


def give_back(books: Books, home: int, who: UUID, *, everything: bool) -> list[tuple[str, int]]:
    """What is left of what they gave, or all that is left, and no hold reserves."""
    awards = []
    for name, pool in books.wallets[home].items():
        parts = [(lot, lot.free) for lot in pool.lots if lot.free and (everything or lot.giver == who)]
        if parts:
            wallet = books.wallets[who][name]
            wallet.touch(pool.active_at, books.now)
            rows, _ = books.hand_on(parts, wallet)
            wallet.settle()
            awards += [(name, row) for row in rows]
    return awards


def fetch(books: Books, who: UUID, name: str, place: int, points: int) -> list[Lot]:
    """For goods that come back: what they had earned, then what else the buyer gave."""
    pool = pool_of(books, who)
    if not pool or points <= 0:
        return []
    theirs = [lot for lot in pool[name].lots if lot.giver == who and lot.free]
    earned = [lot for lot in theirs if lot.purchase == place]
    others = [lot for lot in pool[name].in_order(theirs) if lot.active and lot not in earned]
    parts = []
    for lot in (*earned, *others):
        part = min(lot.free, points)
        points -= part
        parts.append((lot, part))
    own = books.wallets[who][name]
    if any(part for _, part in parts):
        own.touch(pool[name].active_at, books.now)
    return books.hand_on(parts, own)[1]
