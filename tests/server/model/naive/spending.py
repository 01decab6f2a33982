"""Points that are spent, reserved, and given back."""

from datetime import datetime, timedelta
from uuid import UUID

from tests.server.model.histories import GRACE_DAYS, HOLD_SECONDS, Step
from tests.server.model.naive.books import Books, Refusal, Told, enough
from tests.server.model.naive.households import payer
from tests.server.model.naive.wallets import HOUR, Hold, Lot, Owner, Spent


def owner_of(books: Books, step: Step) -> Owner:
    """Whose hold or redemption it is about: another's, if a stranger asks for it."""
    if step.stranger:
        return step.who
    hold, spent = books.holds.get(step.of), books.spent.get(step.of)
    owner = spent.owner if step.what == "refund" and spent else hold.owner if hold else step.who
    return books.lead(owner) if isinstance(owner, UUID) else owner


def redeem(books: Books, place: int, step: Step, moment: datetime) -> Told:
    name, owner = step.wallet or "points", payer(books, step)
    wallet = books.wallets[owner][name]
    enough(wallet, step.points)
    shares = wallet.spend(step.points)
    wallet.touch(moment, books.now)
    books.spent[place] = Spent(owner, name, shares, len(wallet.pauses))
    return {
        "owner": owner,
        "wallet": name,
        "points": step.points,
        "awards": [(name, step.points)],
        "tier": books.tier(step.who),
    }


def hold(books: Books, place: int, step: Step, _: datetime) -> Told:
    name, owner = step.wallet or "points", payer(books, step)
    wallet = books.wallets[owner][name]
    enough(wallet, step.points)
    shares = wallet.shares(step.points)
    for lot, part in shares:
        lot.held += part
    until = books.now + timedelta(seconds=HOLD_SECONDS)
    books.holds[place] = Hold(owner, name, until, shares, step.who if step.shared else None)
    return {
        "owner": owner,
        "wallet": name,
        "points": step.points,
        "awards": [(name, step.points)],
        "hold": step.points,
    }


def open_hold(books: Books, step: Step) -> Hold:
    hold = books.holds.get(step.of)
    if hold is None or hold.owner != owner_of(books, step):
        raise Refusal("HOLD_NOT_FOUND")
    if hold.over:
        raise Refusal("HOLD_NOT_OPEN")
    return hold


def capture(books: Books, place: int, step: Step, moment: datetime) -> Told:
    hold = open_hold(books, step)
    points = step.points or hold.open
    if points > hold.open:
        raise Refusal("HOLD_EXCEEDED")
    wallet = books.wallets[hold.owner][hold.wallet]
    wallet.touch(moment, books.now)
    wanted, taken, left = points, [], []
    for lot, part in hold.shares:
        now = min(part, wanted)
        wanted -= now
        lot.held -= now
        lot.remaining -= now
        taken += [(lot, now)] if now else []
        left += [(lot, part - now)] if part > now else []
    hold.shares = left
    books.spent[place] = Spent(hold.owner, hold.wallet, taken, len(wallet.pauses))
    if not left or not step.keep_rest:
        books.release(hold, "captured")
    return {
        "owner": hold.owner,
        "wallet": hold.wallet,
        "points": points,
        "awards": [(hold.wallet, points)],
        "hold": hold.open,
    }


def void(books: Books, _: int, step: Step, __: datetime) -> Told:
    hold = open_hold(books, step)
    points = hold.open
    books.release(hold, "voided")
    return {"owner": hold.owner, "wallet": hold.wallet, "points": points, "awards": [], "hold": 0}


def refund(books: Books, _: int, step: Step, __: datetime) -> Told:
    spent = books.spent.get(step.of)
    if spent is None or spent.owner != owner_of(books, step):
        raise Refusal("REDEMPTION_NOT_FOUND")
    left = sum(part for _, part in spent.shares) - spent.refunded
    points = step.points or left
    if not left or points > left:
        raise Refusal("REFUND_EXCEEDS_REDEMPTION")
    wallet = books.wallets[spent.owner][spent.wallet]
    # Point by point: what expires last, or never, goes back first; of equals the younger.
    far = datetime.max.replace(tzinfo=books.now.tzinfo)
    shares = sorted(spent.shares, key=lambda share: (share[0].expires_at or far, share[0].number))
    each = [lot for lot, part in reversed(shares) for _ in range(part)]
    pauses = [*spent.pauses, *wallet.pauses[spent.since :], *wallet.pause(books.now)]
    expired, alike = 0, dict[Lot, Lot]()
    for lot in each[spent.refunded : spent.refunded + points]:
        expires_at = wallet.expiry(lot)
        asleep = lot.rolling_days and any(pause >= lot.rolling_days * 24 * HOUR for pause in pauses)
        if asleep or (expires_at is not None and expires_at <= books.now):
            expired += 1
        elif not spent.over:
            lot.remaining += 1
        elif lot in alike:
            alike[lot].points += 1
            alike[lot].remaining += 1
        else:
            alike[lot] = books.add(wallet, 1, expires_at=lot.expires_at, rolling_days=lot.rolling_days)
    if expired:
        books.add(wallet, expired, expires_at=books.now + timedelta(days=GRACE_DAYS))
    spent.refunded += points
    wallet.settle()
    return {
        "owner": spent.owner,
        "wallet": spent.wallet,
        "points": points,
        "awards": [(spent.wallet, points)],
    }
