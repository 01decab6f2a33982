"""What purchases and visits bring."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from server.domain.lots import Expiry, LotTerms, Until
from tests.server.model.histories import FRUIT, VISIT, Step
from tests.server.model.naive.books import IN_KOLKATA, Books, Told
from tests.server.model.naive.households import pool_of
from tests.server.model.naive.wallets import Purchase, Sold

FRUITFUL = LotTerms(2, VISIT, Expiry(Until.DAYS, 4))

Gift = tuple[str, LotTerms, list[int]]  # the wallet, the terms, points line by line


def purchase(books: Books, place: int, step: Step, moment: datetime) -> Told:
    who, day = step.who, f"day:{(moment + IN_KOLKATA).date()}"
    lines = [Sold(f"{n}", sku, quantity) for n, (sku, quantity, _) in enumerate(step.basket, 1)]
    if not lines:
        lines = [Sold("1", "", 1)]
    amounts = [amount for _, _, amount in step.basket] or [0]
    usual = books.terms["points"]
    base = capped(books, who, ("base", day), 40, [amount // 100 for amount in amounts])
    count(books, who, ("base", day), lines, base)
    gifts: list[Gift] = [
        ("points", usual, base),
        ("points", FRUITFUL, [3 * line.quantity * (line.sku in FRUIT) for line in lines]),
    ]
    festive = []
    if books.tier(who) in ("silver", "gold"):
        month = f"month:{(moment + IN_KOLKATA).date():%Y-%m}"
        half = capped(books, who, ("half", month), 20, [points // 2 for points in base])
        festive.append((("half", month), usual, half))
    if sum(amounts) >= 500:
        four = capped(books, who, ("gift", day), 9, by_largest_remainder(4, amounts))
        five_days = replace(usual, expiry=Expiry(Until.DAYS, 5))
        festive.append((("gift", day), five_days, four))
    if festive:  # only the better one, or the first of equals
        most = max(sum(given) for _, _, given in festive)
        counter, terms, given = next(entry for entry in festive if sum(entry[2]) == most)
        count(books, who, counter, lines, given)
        gifts.append(("points", terms, given))
    if sum(amounts) >= 1000:
        five = capped(books, who, ("stars", "ever"), 13, by_largest_remainder(5, amounts))
        count(books, who, ("stars", "ever"), lines, five)
        gifts.append(("stars", books.terms["stars"], five))
    return earn(books, place, step, "PURCHASE", moment, lines, gifts)


def visit(books: Books, place: int, step: Step, moment: datetime) -> Told:
    line, counter = Sold("", "", 1), ("visit", f"day:{(moment + IN_KOLKATA).date()}")
    four = capped(books, step.who, counter, 7, [4])
    count(books, step.who, counter, [line], four)
    return earn(books, place, step, VISIT, moment, [line], [("stars", books.terms["stars"], four)])


def capped(books: Books, who: UUID, counter: tuple[str, str], cap: int, points: list[int]) -> list[int]:
    left = max(cap - books.used.get((who, *counter), 0), 0)
    return by_largest_remainder(min(left, sum(points)), points)


def count(books: Books, who: UUID, counter: tuple[str, str], lines: list[Sold], given: list[int]) -> None:
    if sum(given):
        books.used[who, *counter] = books.used.get((who, *counter), 0) + sum(given)
    for line, part in zip(lines, given, strict=True):
        line.counted[counter] = part


def earn(
    books: Books,
    place: int,
    step: Step,
    event: str,
    moment: datetime,
    lines: list[Sold],
    gifts: list[Gift],
) -> Told:
    who, own, pool = step.who, books.wallets[step.who], pool_of(books, step.who)
    for wallet in own.values():
        for lot in wallet.lots:
            if lot.activates_on == event:
                lot.active = True
        wallet.settle()
    for wallet in pool.values():
        for lot in wallet.lots:
            if lot.activates_on == event and lot.giver == who:
                lot.active = True
    awards = []
    for name, wallet in own.items():
        lots: dict[LotTerms, int] = {}
        for to, terms, given in gifts:
            if to == name:
                lots[terms] = lots.get(terms, 0) + sum(given)
                for line, part in zip(lines, given, strict=True):
                    line.points[name] = line.points.get(name, 0) + part
        if sum(lots.values()):
            wallet.touch(moment, books.now)
        for waits in (False, True):
            row = 0
            for terms, points in lots.items():
                if points and bool(terms.pending_days or terms.activates_on) is waits:
                    books.add_earned(wallet, points, terms, moment, place)
                    row += points
            if row:
                awards.append((name, row))
        wallet.lifetime += sum(lots.values())
        wallet.settle()
    books.purchases[place] = Purchase(place, who, moment, lines)
    return {
        "wallet": "points",
        "awards": awards,
        "points": sum(points for name, points in awards if name == "points"),
        "shared": share(books, who, place),
    }


def share(books: Books, who: UUID, place: int) -> int:
    """What they earned goes on to the pool if they said so; how many points of the main wallet."""
    seat, shared = books.seats.get(who), 0
    if seat is None or not seat.contributes:
        return 0
    for name, wallet in books.wallets[who].items():
        into = books.wallets[seat.home][name]
        new = [(lot, lot.free) for lot in wallet.lots if lot.purchase == place and lot.free]
        if new:
            into.touch(wallet.active_at, books.now)
            books.hand_on(new, into, giver=who)
            shared += sum(part for _, part in new) if name == "points" else 0
    return shared


def by_largest_remainder(points: int, weights: list[int]) -> list[int]:
    """One after the other to whoever is furthest below their share, the earlier line first."""
    if not sum(weights):
        weights = [1] * len(weights)
    parts = [points * weight // sum(weights) for weight in weights]
    rests = [points * weight % sum(weights) for weight in weights]
    while sum(parts) < points:
        place = rests.index(max(rests))
        rests[place] = -1
        parts[place] += 1
    return parts
