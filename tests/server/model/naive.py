"""The ledger as one would explain it at a blackboard: lists of lots and plain loops.

Written from the design alone. Nothing here is fast, remembers a sum or knows of transactions: a wallet's
figures are counted from its lots whenever somebody asks.
"""

from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import Clawback
from tests.server.model.histories import (
    APPROVAL_POINTS,
    FRUIT,
    GRACE_DAYS,
    HOLD_SECONDS,
    MEMBERS,
    SUE,
    TRANSFER_POINTS,
    VISIT,
    Step,
)
from tests.server.model.naive_wallet import HOUR, Hold, Lot, Purchase, Sold, Spent, Wallet

IN_KOLKATA = timedelta(hours=5, minutes=30)


class Refusal(Exception):  # noqa: N818 - the word of the field
    """Refused, for this reason."""


class Naive:
    """All members of a program with the terms of these two wallets."""

    def __init__(self, points: LotTerms, stars: LotTerms, clawback: Clawback) -> None:
        self.terms = {"points": points, "stars": stars}
        self.clawback = clawback
        self.wallets = {who: {"points": Wallet(), "stars": Wallet()} for who in MEMBERS}
        self.holds: dict[int, Hold] = {}
        self.spent: dict[int, Spent] = {}
        self.purchases: dict[int, Purchase] = {}
        self.used: dict[tuple[UUID, str, str], int] = {}  # what capped rules gave
        self.told: dict[int, dict[str, Any]] = {}
        self.orders: set[tuple[str, date, str]] = set()
        self.now = datetime.min
        self.lots_made = 0

    def tier(self, who: UUID) -> str:
        lifetime = self.wallets[who]["points"].lifetime
        return "gold" if lifetime >= 60 else "silver" if lifetime >= 20 else "bronze"

    def do(self, place: int, step: Step, now: datetime, said: datetime) -> dict[str, Any]:
        """What the step's caller is told, who said it first at ``said``.

        Raises Refusal, and then nothing has happened that matters.
        """
        self.go_on(now)
        self.said = said
        for who in (step.who, step.to) if step.what == "transfer" else (step.who,):
            if who not in MEMBERS:
                raise Refusal("MEMBER_NOT_FOUND")
            if who == SUE and step.what not in ("return", "match", "refund", "void", "adjust"):
                raise Refusal("MEMBER_NOT_ACTIVE")
        moment = said - step.late * HOUR if step.late else now
        if step.what == "adjust" and step.days is not None and said + timedelta(days=step.days) <= now:
            raise Refusal("INVALID_FIELD")  # what is put in must have a future
        order = (step.order, (moment + IN_KOLKATA).date(), step.what)
        if step.order and order in self.orders:
            raise Refusal("ORDER_ALREADY_RECORDED")
        if moment < now - 30 * 24 * HOUR:
            raise Refusal("OCCURRED_TOO_LONG_AGO")
        told: dict[str, Any] = getattr(self, step.what)(place, step, moment)
        for who in (step.who, step.to):
            if who in MEMBERS:
                self.clock(who)
        if step.order:
            self.orders.add(order)
        wallet = self.wallets[step.who][told["wallet"]]
        told |= {"balance": wallet.balance, "tier": self.tier(step.who)}
        if step.what in ("purchase", "visit", "return", "match"):
            told |= {"pending": wallet.pending, "debt": wallet.debt}
        self.told[place] = told
        return told

    def go_on(self, now: datetime) -> None:
        """The time of day does its work for everybody."""
        self.now = now
        for who in MEMBERS:
            self.clock(who)

    def clock(self, who: UUID) -> None:
        """What has fallen due, in the order of its moments; all that falls due at one moment together."""
        for name, wallet in self.wallets[who].items():
            while True:
                due: list[tuple[datetime, int]] = []
                holds = [h for h in self.holds.values() if h.who == who and h.wallet == name and not h.over]
                for lot in wallet.lots:
                    if not lot.active and lot.remaining and lot.activates_at:
                        due.append((lot.activates_at, 1))
                    expires_at = wallet.expiry(lot)
                    if lot.remaining > lot.held and expires_at:
                        due.append((expires_at, 3))
                due += [(hold.until, 2) for hold in holds]
                due = [entry for entry in due if entry[0] <= self.now]
                if not due:
                    break
                first = min(due)
                for lot in wallet.lots:
                    if first[1] == 1 and lot.activates_at == first[0]:
                        lot.active = True
                    if first[1] == 3 and wallet.expiry(lot) == first[0]:
                        lot.remaining = lot.held
                for hold in holds:
                    if (hold.until, 2) == first:
                        self.release(hold, "expired")
                wallet.settle()

    def release(self, hold: Hold, over: str) -> None:
        for lot, part in hold.shares:
            lot.held -= part
        hold.shares, hold.over = [], over
        self.wallets[hold.who][hold.wallet].settle()

    def add(self, wallet: Wallet, points: int, **terms: Any) -> Lot:
        self.lots_made += 1
        lot = Lot(self.lots_made, points, points, **terms)
        wallet.lots.append(lot)
        return lot

    def earned_lot(self, wallet: Wallet, points: int, terms: LotTerms, moment: datetime, place: int) -> None:
        today = (moment + IN_KOLKATA).date()
        days, last = terms.pending_days, None
        match terms.expiry.until.value:
            case "days":
                last = today + timedelta(days=terms.expiry.number)
            case "months":
                last = today
                while (last + timedelta(days=1)).month == today.month:
                    last += timedelta(days=1)
            case "years":
                last = date(today.year, 12, 31)
        self.add(
            wallet,
            points,
            purchase=place,
            active=not days and not terms.activates_on,
            activates_at=self.start_of(today + timedelta(days=days), moment) if days else None,
            activates_on=terms.activates_on,
            expires_at=self.start_of(last + timedelta(days=1), moment) if last else None,
            rolling_days=terms.expiry.number if terms.expiry.until.value == "rolling_days" else None,
        )

    @staticmethod
    def start_of(day: date, like: datetime) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=like.tzinfo) - IN_KOLKATA

    def purchase(self, place: int, step: Step, moment: datetime) -> dict[str, Any]:
        lines = [Sold(f"{n}", sku, quantity) for n, (sku, quantity, _) in enumerate(step.basket, 1)]
        if not lines:
            lines = [Sold("1", "", 1)]
        amounts = [amount for _, _, amount in step.basket] or [0]
        fruit = LotTerms(2, VISIT, Expiry(Until.DAYS, 4))
        gives: list[tuple[str, LotTerms, list[int]]] = [
            ("points", self.terms["points"], [amount // 100 for amount in amounts]),
            ("points", fruit, [3 * line.quantity * (line.sku in FRUIT) for line in lines]),
        ]
        if sum(amounts) >= 1000:
            given = self.capped(step.who, "stars", "ever", 5, 13, amounts, lines)
            gives.append(("stars", self.terms["stars"], given))
        return self.earn(place, step.who, "PURCHASE", moment, lines, gives)

    def visit(self, place: int, step: Step, moment: datetime) -> dict[str, Any]:
        line = Sold("", "", 1)
        day = f"day:{(moment + IN_KOLKATA).date()}"
        given = self.capped(step.who, "visit", day, 4, 7, [1], [line])
        return self.earn(place, step.who, VISIT, moment, [line], [("stars", self.terms["stars"], given)])

    def capped(
        self, who: UUID, rule: str, period: str, points: int, cap: int, amounts: list[int], lines: list[Sold]
    ) -> list[int]:
        left = min(points, cap - self.used.get((who, rule, period), 0))
        given = by_largest_remainder(left, by_largest_remainder(points, amounts))
        self.used[who, rule, period] = self.used.get((who, rule, period), 0) + left
        for line, part in zip(lines, given, strict=True):
            line.counted[rule, period] = part
        return given

    def earn(
        self,
        place: int,
        who: UUID,
        event: str,
        moment: datetime,
        lines: list[Sold],
        gives: list[tuple[str, LotTerms, list[int]]],
    ) -> dict[str, Any]:
        for wallet in self.wallets[who].values():
            for lot in wallet.lots:
                if lot.activates_on == event:
                    lot.active = True
            wallet.settle()
        awards = []
        for name, wallet in self.wallets[who].items():
            lots: dict[LotTerms, int] = {}
            for to, terms, given in gives:
                if to == name:
                    lots[terms] = lots.get(terms, 0) + sum(given)
                    for line, part in zip(lines, given, strict=True):
                        line.points[name] = line.points.get(name, 0) + part
            if sum(lots.values()):
                wallet.touch(moment)
            for waits in (False, True):
                row = 0
                for terms, points in lots.items():
                    if points and bool(terms.pending_days or terms.activates_on) is waits:
                        self.earned_lot(wallet, points, terms, moment, place)
                        row += points
                if row:
                    awards.append((name, row))
            wallet.lifetime += sum(lots.values())
            wallet.settle()
        self.purchases[place] = Purchase(place, who, moment, lines)
        return {
            "wallet": "points",
            "awards": awards,
            "points": sum(points for name, points in awards if name == "points"),
        }

    def wallet(self, step: Step) -> tuple[str, Wallet]:
        name = step.wallet or "points"
        return name, self.wallets[step.who][name]

    def enough(self, wallet: Wallet, points: int) -> None:
        if wallet.balance < points:
            raise Refusal("INSUFFICIENT_POINTS")

    def redeem(self, place: int, step: Step, moment: datetime) -> dict[str, Any]:
        name, wallet = self.wallet(step)
        self.enough(wallet, step.points)
        self.spent[place] = Spent(step.who, name, wallet.spend(step.points))
        wallet.touch(moment)
        return {"wallet": name, "points": step.points, "awards": [(name, step.points)]}

    def hold(self, place: int, step: Step, _: datetime) -> dict[str, Any]:
        name, wallet = self.wallet(step)
        self.enough(wallet, step.points)
        shares = wallet.shares(step.points)
        for lot, part in shares:
            lot.held += part
        until = self.now + timedelta(seconds=HOLD_SECONDS)
        self.holds[place] = Hold(step.who, name, until, shares)
        return {
            "wallet": name,
            "points": step.points,
            "awards": [(name, step.points)],
            "hold": step.points,
        }

    def open_hold(self, step: Step) -> Hold:
        hold = self.holds.get(step.of)
        if hold is None or hold.who != step.who:
            raise Refusal("HOLD_NOT_FOUND")
        if hold.over:
            raise Refusal("HOLD_NOT_OPEN")
        return hold

    def capture(self, place: int, step: Step, moment: datetime) -> dict[str, Any]:
        hold = self.open_hold(step)
        points = step.points or hold.open
        if points > hold.open:
            raise Refusal("HOLD_EXCEEDED")
        self.wallets[step.who][hold.wallet].touch(moment)
        wanted, taken, left = points, [], []
        for lot, part in hold.shares:
            now = min(part, wanted)
            wanted -= now
            lot.held -= now
            lot.remaining -= now
            taken += [(lot, now)] if now else []
            left += [(lot, part - now)] if part > now else []
        hold.shares = left
        self.spent[place] = Spent(step.who, hold.wallet, taken)
        if not left or not step.keep_rest:
            self.release(hold, "captured")
        return {
            "wallet": hold.wallet,
            "points": points,
            "awards": [(hold.wallet, points)],
            "hold": hold.open,
        }

    def void(self, _: int, step: Step, __: datetime) -> dict[str, Any]:
        hold = self.open_hold(step)
        points = hold.open
        self.release(hold, "voided")
        return {"wallet": hold.wallet, "points": points, "awards": [], "hold": 0}

    def refund(self, _: int, step: Step, __: datetime) -> dict[str, Any]:
        spent = self.spent.get(step.of)
        if spent is None or spent.who != step.who:
            raise Refusal("REDEMPTION_NOT_FOUND")
        left = sum(part for _, part in spent.shares) - spent.refunded
        points = step.points or left
        if not left or points > left:
            raise Refusal("REFUND_EXCEEDS_REDEMPTION")
        wallet = self.wallets[step.who][spent.wallet]
        # Point by point: what expires last, or never, goes back first; of equals the younger.
        far = datetime.max.replace(tzinfo=self.now.tzinfo)
        shares = sorted(spent.shares, key=lambda share: (share[0].expires_at or far, share[0].number))
        each = [lot for lot, part in reversed(shares) for _ in range(part)]
        expired = 0
        for lot in each[spent.refunded : spent.refunded + points]:
            expires_at = wallet.expiry(lot)
            if expires_at is not None and expires_at <= self.now:
                expired += 1
            else:
                lot.remaining += 1
        if expired:
            self.add(wallet, expired, expires_at=self.now + timedelta(days=GRACE_DAYS))
        spent.refunded += points
        wallet.settle()
        return {"wallet": spent.wallet, "points": points, "awards": [(spent.wallet, points)]}

    def transfer(self, _: int, step: Step, __: datetime) -> dict[str, Any]:
        if step.to == step.who:
            raise Refusal("INVALID_FIELD")
        if step.points > TRANSFER_POINTS:
            raise Refusal("TRANSFER_LIMIT")
        name, wallet = self.wallet(step)
        self.enough(wallet, step.points)
        theirs = self.wallets[step.to][name]
        for lot, part in wallet.spend(step.points):
            self.add(theirs, part, expires_at=wallet.expiry(lot))
        theirs.settle()
        return {"wallet": name, "points": step.points, "awards": [(name, step.points)]}

    def adjust(self, place: int, step: Step, moment: datetime) -> dict[str, Any]:
        name, wallet = self.wallet(step)
        if step.points < 0:
            self.enough(wallet, -step.points)
        if abs(step.points) > APPROVAL_POINTS:  # it waits for a second person
            return {"wallet": name, "points": step.points, "awards": []}
        if step.points > 0:
            wallet.touch(moment)
            terms = LotTerms(expiry=self.terms[name].expiry)
            self.earned_lot(wallet, step.points, terms, moment, place)
            lot = wallet.lots[-1]
            if step.days is not None:
                lot.expires_at, lot.rolling_days = self.said + timedelta(days=step.days), None
            wallet.settle()
        else:
            wallet.spend(-step.points)
        return {"wallet": name, "points": step.points, "awards": [(name, abs(step.points))]}

    def match(self, _: int, step: Step, moment: datetime) -> dict[str, Any]:
        own = [p for p in self.purchases.values() if p.who == step.who and p.moment <= moment]
        own.sort(key=lambda p: (p.moment, p.place), reverse=True)
        back: dict[tuple[int, str], int] = {}
        unmatched = []
        for sku, quantity, _amount in step.basket:
            for _unit in range(quantity):
                for purchase in own:
                    line = next(
                        (x for x in purchase.lines if x.sku == sku and _left(back, purchase, x)), None
                    )
                    if line is not None:
                        back[purchase.place, line.name] = back.get((purchase.place, line.name), 0) + 1
                        break
                else:
                    unmatched.append(sku)
        return self.take_back(
            step.who, [p for p in own if any(k[0] == p.place for k in back)], back, unmatched
        )

    def __getattr__(self, name: str) -> Any:
        # `return` is no name that a method may have.
        if name == "return":
            return self.return_
        raise AttributeError(name)

    def return_(self, _: int, step: Step, __: datetime) -> dict[str, Any]:
        purchase = self.purchases.get(step.of)
        if purchase is None or purchase.who != step.who:
            raise Refusal("PURCHASE_NOT_FOUND")
        back: dict[tuple[int, str], int] = {}
        if not step.basket:
            for line in purchase.lines:
                if line.quantity > line.returned:
                    back[purchase.place, line.name] = line.quantity - line.returned
            if not back:
                raise Refusal("RETURN_EXCEEDS_PURCHASE")
        for sku, quantity, _amount in step.basket:
            for _unit in range(quantity):
                line = next((x for x in purchase.lines if x.sku == sku and _left(back, purchase, x)), None)  # type: ignore[assignment]
                if line is None:
                    raise Refusal("RETURN_EXCEEDS_PURCHASE")
                back[purchase.place, line.name] = back.get((purchase.place, line.name), 0) + 1
        return self.take_back(step.who, [purchase], back, [])

    def take_back(
        self, who: UUID, purchases: list[Purchase], back: dict[tuple[int, str], int], unmatched: list[str]
    ) -> dict[str, Any]:
        due: list[tuple[Purchase, str, int]] = []
        for purchase in purchases:
            for name in self.wallets[who]:
                total = 0
                for line in purchase.lines:
                    units = back.get((purchase.place, line.name), 0)
                    total += _share(line, units, line.points.get(name, 0))
                if total:
                    due.append((purchase, name, total))
        if self.clawback is Clawback.REFUSE and self.lacking(who, due):
            raise Refusal("POINTS_ALREADY_SPENT")
        awards, shortfall = [], 0
        for purchase, name, total in due:
            wallet = self.wallets[who][name]
            own = [lot for lot in wallet.lots if lot.purchase == purchase.place]
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
            rows = [waiting, taken]
            if self.clawback is Clawback.ALLOW_DEBT:
                wallet.debt += missing
                rows.append(missing)
            else:
                # What is held may come back, and is owed; what was spent is the program's loss.
                held = sum(lot.held for lot in wallet.lots)
                owed = min(missing, max(held - wallet.debt, 0))
                wallet.debt += owed
                rows.append(owed)
                shortfall += missing - owed
            awards += [(name, row) for row in rows if row]
        for purchase in purchases:
            for line in purchase.lines:
                units = back.get((purchase.place, line.name), 0)
                for (rule, period), counted in line.counted.items():
                    self.used[who, rule, period] -= _share(line, units, counted)
                line.returned += units
        return {
            "wallet": "points",
            "awards": awards,
            "points": sum(points for name, points in awards if name == "points"),
            "shortfall": shortfall,
            "lines": sorted((p, name, units) for (p, name), units in back.items()),
            "unmatched": sorted(unmatched),
        }

    def lacking(self, who: UUID, due: list[tuple[Purchase, str, int]]) -> bool:
        """Whether the member has too few points for all of this."""
        have = {name: wallet.balance for name, wallet in self.wallets[who].items()}
        for purchase, name, total in due:
            own = [x for x in self.wallets[who][name].lots if x.purchase == purchase.place and not x.active]
            have[name] -= max(total - sum(lot.remaining for lot in own), 0)
        return min(have.values()) < 0


def _left(back: dict[tuple[int, str], int], purchase: Purchase, line: Sold) -> bool:
    return line.quantity - line.returned > back.get((purchase.place, line.name), 0)


def _share(line: Sold, units: int, points: int) -> int:
    """After r of n units floor(points x r / n) are taken in total."""
    before = points * line.returned // line.quantity
    return points * (line.returned + units) // line.quantity - before


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
