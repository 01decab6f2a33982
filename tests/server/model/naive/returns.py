"""Goods that come back, and the points that they had earned."""

from datetime import datetime

from server.domain.program import Clawback
from tests.server.model.histories import Step
from tests.server.model.naive.books import Books, Refusal, Told
from tests.server.model.naive.households import fetch
from tests.server.model.naive.wallets import Purchase, Sold

Back = dict[tuple[int, str], int]  # units that come back, by purchase and line


def give_back(books: Books, _: int, step: Step, __: datetime) -> Told:
    purchase = books.purchases.get(step.of)
    if purchase is None or purchase.who != step.who:
        raise Refusal("PURCHASE_NOT_FOUND")
    back: Back = {}
    if not step.basket:
        for line in purchase.lines:
            if line.quantity > line.returned:
                back[purchase.place, line.name] = line.quantity - line.returned
        if not back:
            raise Refusal("RETURN_EXCEEDS_PURCHASE")
    for sku, quantity, _amount in step.basket:
        for _unit in range(quantity):
            if not took(back, purchase, sku):
                raise Refusal("RETURN_EXCEEDS_PURCHASE")
    return take_back(books, step, [purchase], back, [])


def match(books: Books, _: int, step: Step, moment: datetime) -> Told:
    own = [p for p in reversed(books.purchases.values()) if p.who == step.who and p.moment <= moment]
    own.sort(key=lambda p: p.moment, reverse=True)  # of equals the one that was recorded later
    back: Back = {}
    unmatched = []
    for sku, quantity, _amount in step.basket:
        for _unit in range(quantity):
            if not any(took(back, purchase, sku) for purchase in own):
                unmatched.append(sku)
    purchases = [p for p in own if any(place == p.place for place, _ in back)]
    return take_back(books, step, purchases, back, unmatched)


def took(back: Back, purchase: Purchase, sku: str) -> bool:
    """One unit more comes back, if one is left."""
    for line in purchase.lines:
        key = purchase.place, line.name
        if line.sku == sku and line.quantity - line.returned > back.get(key, 0):
            back[key] = back.get(key, 0) + 1
            return True
    return False


def take_back(books: Books, step: Step, purchases: list[Purchase], back: Back, unmatched: list[str]) -> Told:
    awards, shortfall = [], 0
    for purchase in purchases:
        units = {line: back.get((purchase.place, line.name), 0) for line in purchase.lines}
        for name in books.wallets[step.who]:
            total = sum(_share(line, units[line], line.points.get(name, 0)) for line in purchase.lines)
            if total:
                rows, short = take(books, step, purchase, name, total)
                awards += [(name, row) for row in rows if row]
                shortfall += short
        for line in purchase.lines:
            for counter, counted in line.counted.items():
                books.used[step.who, *counter] = books.used.get((step.who, *counter), 0) - _share(
                    line, units[line], counted
                )
            line.returned += units[line]
    return {
        "wallet": "points",
        "awards": awards,
        "points": sum(points for name, points in awards if name == "points"),
        "shortfall": shortfall,
        "lines": sorted((place, name, units) for (place, name), units in back.items()),
        "unmatched": sorted(unmatched),
    }


def take(books: Books, step: Step, purchase: Purchase, name: str, total: int) -> tuple[list[int], int]:
    """Points out of a wallet: what was taken from where, and what was not."""
    wallet = books.wallets[step.who][name]
    own = [lot for lot in wallet.lots if lot.purchase == purchase.place]
    own += fetch(books, step.who, name, purchase.place, total - sum(lot.free for lot in own))
    waiting = 0
    for lot in own:
        if not lot.active:
            part = min(lot.remaining, total - waiting)
            lot.remaining -= part
            waiting += part
    taken = min(wallet.balance, total - waiting)
    rest = taken
    for lot in own:
        part = min(lot.spendable, rest)
        lot.remaining -= part
        rest -= part
    wallet.spend(rest, [lot for lot in wallet.lots if lot not in own])
    missing = total - waiting - taken
    wallet.lifetime -= total
    if missing and books.clawback is Clawback.REFUSE:
        raise Refusal("POINTS_ALREADY_SPENT")
    if books.clawback is Clawback.ALLOW_DEBT:
        wallet.debt += missing
        return [waiting, taken, missing], 0
    # What is held may come back, and is owed; what was spent is the program's loss.
    owed = min(missing, max(wallet.held - wallet.debt, 0))
    wallet.debt += owed
    return [waiting, taken, owed], missing - owed


def _share(line: Sold, units: int, points: int) -> int:
    """After r of n units floor(points x r / n) are taken in total."""
    before = points * line.returned // line.quantity
    return points * (line.returned + units) // line.quantity - before
