"""Points that go from one to another, or come and go by somebody's hand."""

from datetime import datetime, timedelta
from uuid import UUID

from server.domain.lots import LotTerms
from tests.server.model.histories import APPROVAL_POINTS, TRANSFER_POINTS, Step
from tests.server.model.naive.books import Books, Refusal, Told, enough
from tests.server.model.naive.wallets import Asked, Owner


def transfer(books: Books, _: int, step: Step, __: datetime) -> Told:
    if step.to == step.who:
        raise Refusal("INVALID_FIELD")
    if step.points > TRANSFER_POINTS:
        raise Refusal("TRANSFER_LIMIT")
    name = step.wallet or "points"
    wallet, theirs = books.wallets[step.who][name], books.wallets[step.to][name]
    enough(wallet, step.points)
    for lot, part in wallet.spend(step.points):
        books.add(theirs, part, expires_at=wallet.expiry(lot))
    theirs.settle()
    return {"wallet": name, "points": step.points, "awards": [(name, step.points)]}


def adjust(books: Books, place: int, step: Step, moment: datetime) -> Told:
    owner: Owner = step.of if step.shared else step.who
    name = step.wallet or "points"
    until = None if step.days is None else books.said + timedelta(days=step.days)
    asked = Asked(owner, name, step.points, until, step.by)
    if abs(step.points) <= APPROVAL_POINTS:
        return correct(books, place, asked, owner, moment)
    if step.points < 0:
        enough(books.wallets[owner][name], -step.points)
    books.asked[place] = asked
    return {"owner": owner, "wallet": name, "points": step.points, "awards": []}


def correct(books: Books, place: int, asked: Asked, owner: Owner, moment: datetime) -> Told:
    name, points, wallet = asked.wallet, asked.points, books.wallets[owner][asked.wallet]
    if points > 0:
        wallet.touch(moment, books.now)
        lot = books.add_earned(wallet, points, LotTerms(expiry=books.terms[name].expiry), moment, place)
        if asked.until is not None:
            lot.expires_at, lot.rolling_days = asked.until, None
        wallet.settle()
    else:
        enough(wallet, -points)
        wallet.spend(-points)
    return {"owner": owner, "wallet": name, "points": points, "awards": [(name, abs(points))]}


def waiting(books: Books, step: Step) -> Asked:
    asked = books.asked.get(step.of)
    if asked is None:
        raise Refusal("ADJUSTMENT_NOT_FOUND")
    if asked.decided:
        raise Refusal("ADJUSTMENT_NOT_PENDING")
    return asked


def approve(books: Books, place: int, step: Step, moment: datetime) -> Told:
    asked = waiting(books, step)
    if asked.by == step.by:
        raise Refusal("APPROVAL_REQUIRED")
    told = correct(books, place, asked, asked_of(books, step), moment)
    asked.decided = True
    return told


def reject(books: Books, _: int, step: Step, __: datetime) -> Told:
    asked = waiting(books, step)
    asked.decided = True
    return {"owner": asked_of(books, step), "wallet": asked.wallet, "points": asked.points, "awards": []}


def asked_of(books: Books, step: Step) -> Owner:
    """Whose wallet it is about."""
    asked = books.asked.get(step.of)
    owner = step.who if asked is None else asked.owner
    return books.lead(owner) if isinstance(owner, UUID) else owner


def merge(books: Books, _: int, step: Step, __: datetime) -> Told:
    one, other = step.who, step.to
    if one == other:
        raise Refusal("INVALID_FIELD")
    if any(hold.owner == other and not hold.over for hold in books.holds.values()):
        raise Refusal("MEMBER_HAS_HOLDS")
    if other in books.seats:
        raise Refusal("MEMBER_IN_HOUSEHOLD")
    awards = []
    for name, theirs in books.wallets[other].items():
        wallet = books.wallets[one][name]
        if wallet.lots or wallet.debt or theirs.balance or theirs.pending or theirs.debt:
            wallet.touch(theirs.active_at, books.now)  # or there is no such wallet
        else:
            wallet.pauses += wallet.pause(books.now)
        for spent in books.spent.values():
            if (spent.owner, spent.wallet) == (other, name):
                spent.pauses += [*theirs.pauses[spent.since :], *theirs.pause(books.now)]
                spent.since = len(wallet.pauses)
        heard = [moment for moment in (wallet.heard_of, theirs.active_at, theirs.heard_of) if moment]
        wallet.heard_of = max(heard, default=None)
        wallet.debt += theirs.debt
        theirs.debt = 0
        rows, _lots = books.hand_on([(lot, lot.remaining) for lot in theirs.lots], wallet)
        wallet.settle()
        awards += [(name, row) for row in rows]
    lifetime = books.wallets[other]["points"].lifetime + books.inherited.get(other, 0)
    books.inherited[one] = books.inherited.get(one, 0) + lifetime
    books.status[other] = "merged"
    # Whatever is asked about the other, and about anybody who had become the other, is about the one.
    books.leads = {**{a: one if b == other else b for a, b in books.leads.items()}, other: one}
    for spent in books.spent.values():
        if spent.owner == other:
            spent.owner, spent.over = one, True
    for purchase in books.purchases.values():
        purchase.who = books.lead(purchase.who)
    for (who, rule, period), points in list(books.used.items()):
        if who == other:
            books.used[one, rule, period] = books.used.get((one, rule, period), 0) + points
            del books.used[who, rule, period]
    return {"wallet": "points", "awards": awards, "points": sum(p for name, p in awards if name == "points")}
