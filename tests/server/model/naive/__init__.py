"""The naive model: what everybody should be told, from the design alone and by no code of the server's."""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, timedelta
from uuid import UUID

from server.domain.lots import LotTerms
from server.domain.program import Clawback
from tests.server.model.histories import SKEW_HOURS, Step
from tests.server.model.naive import earning, handing, households, returns, spending
from tests.server.model.naive.books import IN_KOLKATA, Books, Refusal, Told
from tests.server.model.naive.wallets import HOUR, Owner

Deed = Callable[[Books, int, Step, datetime], Told]

DEEDS: Mapping[str, Deed] = {
    "purchase": earning.purchase,
    "visit": earning.visit,
    "redeem": spending.redeem,
    "hold": spending.hold,
    "capture": spending.capture,
    "void": spending.void,
    "refund": spending.refund,
    "return": returns.give_back,
    "match": returns.match,
    "transfer": handing.transfer,
    "adjust": handing.adjust,
    "approve": handing.approve,
    "reject": handing.reject,
    "merge": handing.merge,
    "form": households.form,
    "invite": households.invite,
    "join": households.join,
    "change": households.change,
    "contribute": households.contribute,
    "leave": households.leave,
    "dissolve": households.dissolve,
}
OF_HOUSEHOLDS = ("invite", "join", "change", "leave", "dissolve")
# What may be asked of whoever isn't active.
ADMITTED: Mapping[str, Collection[str]] = {
    "suspended": ("return", "match", "refund", "void", "adjust", "approve", "reject", "dissolve"),
    "dissolved": ("reject",),
}
# Whose answer also says what waits and what is owed.
TOLD_ALL = ("purchase", "visit", "return", "match", "merge", "form", *OF_HOUSEHOLDS)
PAST_LIMIT = 30 * 24 * HOUR


class Naive:
    """Steps, one after the other; and what each caller was told, by place."""

    def __init__(self, points: LotTerms, stars: LotTerms, clawback: Clawback) -> None:
        self.books = Books(points, stars, clawback)
        self.told: dict[int, Told] = {}

    def do(self, place: int, step: Step, now: datetime, said: datetime) -> Told:
        """What the step's caller is told, who said it first at ``said``.

        Raises Refusal, and then nothing has happened.
        """
        before = pickle.dumps(self.books)
        try:
            told = _done(self.books, place, step, now, said)
        except Refusal:
            self.books = pickle.loads(before)
            raise
        self.told[place] = told
        return told

    def would(self, place: int, step: Step, now: datetime, said: datetime) -> Told | str:
        """What the caller would be told at this point, or the reason; nothing happens."""
        before, told = pickle.dumps(self.books), dict(self.told)
        try:
            return self.do(place, step, now, said)
        except Refusal as refusal:
            return str(refusal)
        finally:
            self.books, self.told = pickle.loads(before), told

    def seen(self, now: datetime) -> Books:
        """The books as whoever reads them now finds them."""
        if not self.books.anything_due(now):
            return self.books
        seen: Books = pickle.loads(pickle.dumps(self.books))
        seen.now = now
        for owner in seen.wallets:
            seen.clock(owner)
        return seen


def _done(books: Books, place: int, step: Step, now: datetime, said: datetime) -> Told:
    books.now, books.said, books.met = now, said, []
    if step.what != "merge":
        step = step.following(books.lead)
    concerned = list(_concerned(books, step))
    for owner in concerned:
        _check(books, step, owner)
    moment = said - step.late * HOUR if step.late else now
    if moment > now + SKEW_HOURS * HOUR:
        raise Refusal("INVALID_FIELD")
    if step.what == "adjust" and step.days is not None and said + timedelta(days=step.days) <= now:
        raise Refusal("INVALID_FIELD")  # what is put in must have a future
    order = _order(step, moment)
    if step.order and order in books.orders:
        raise Refusal("ORDER_ALREADY_RECORDED")
    if moment < now - PAST_LIMIT:
        raise Refusal("OCCURRED_TOO_LONG_AGO")
    for owner in concerned:
        assert owner is not None
        books.meet(owner)
    told = DEEDS[step.what](books, place, step, moment)
    for owner in books.met:
        books.clock(owner)  # what had expired before it came in
    if step.order:
        books.orders.add(order)
    owner = told.get("owner", step.who)
    wallet = books.wallets[owner][told["wallet"]]
    told = {"tier": books.tier(owner), **told, "balance": wallet.balance}
    if step.what in TOLD_ALL:
        told |= {"pending": wallet.pending, "debt": wallet.debt}
    return {name: said for name, said in told.items() if name != "owner"}


def _order(step: Step, moment: datetime) -> tuple[str, date, str]:
    return step.order, (moment + IN_KOLKATA).date(), step.what


def _concerned(books: Books, step: Step) -> Iterator[Owner | None]:
    """Whose wallets it is about; None for the pool of no household."""
    match step.what:
        case "transfer" | "merge":
            yield from (step.who, step.to)
        case "capture" | "void" | "refund":
            yield spending.owner_of(books, step)
            hold = books.holds.get(step.of)
            if step.what == "capture" and hold and hold.spender and not step.stranger:
                yield books.lead(hold.spender)
        case "approve" | "reject":
            yield handing.asked_of(books, step)
        case "adjust" if step.shared:
            yield households.home_of(books, step)
        case "invite":
            yield households.home_of(books, step)
        case "dissolve":
            home = households.home_of(books, step)
            yield home
            yield from [] if home is None else households.sitting(books, home)
        case "join" | "change" | "leave":
            yield from (step.who, households.home_of(books, step))
        case _:
            yield step.who


def _check(books: Books, step: Step, owner: Owner | None) -> None:
    """Whether anything of the kind may be asked about them."""
    status = None if owner is None else books.status.get(owner)
    if step.what in OF_HOUSEHOLDS and not isinstance(owner, UUID):
        if status != "active":
            raise Refusal("INVITATION_NOT_FOUND" if step.what == "join" else "HOUSEHOLD_NOT_FOUND")
    elif step.what in ("change", "leave"):
        if owner not in books.seats:
            raise Refusal("HOUSEHOLD_NOT_FOUND")
    elif status is None:
        raise Refusal("MEMBER_NOT_FOUND")
    elif status == "merged":
        raise Refusal("MEMBER_MERGED")
    elif step.what not in ADMITTED.get(status, DEEDS):
        raise Refusal("MEMBER_NOT_ACTIVE")
