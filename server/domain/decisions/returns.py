"""Returns: goods come back, and with them the points that they earned.

After ``r`` of a line's ``n`` units are back, ``points * r // n`` of its points have been taken in all: so
the order and the split of the parts make no difference, and the last takes back exactly the rest. It is
computed from what the row recorded when it was earned, by whatever rules; nothing is rated again.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Item, Outcome, Return, ReturnedLine
from server.domain.decisions.pools import take_back
from server.domain.draft import BALANCE, DEBT, PENDING, Draft, Holdings
from server.domain.errors import FailedPrecondition, NotFound
from server.domain.events import PointsReturned
from server.domain.ledger import Account, Allocation, Kind, Lot, Wallet
from server.domain.lots import allocate
from server.domain.past import Earned, Purchase, Sold
from server.domain.program import Clawback

Source = tuple[Account, int, tuple[Allocation, ...]]  # where points are taken, how many, from which lots
Back = dict[str, int]  # line_id -> units that come back now


def give_back(draft: Draft, books: Books, command: Return, _: Prepared) -> Outcome:
    """Take back what the returned goods earned, as far as the program's policy lets it."""
    own = draft.of(command.member_id)
    found, unmatched = _found(books, command)
    awards: list[Award] = []
    shortfall = 0
    for purchase, back in found:
        for earned in purchase.earned:
            rows, short = _take_back(draft, books, own, purchase, earned, back)
            awards += rows
            shortfall += short
        for line_id, units in back.items():
            draft.changes.returned[purchase.buyer_id or own.member_id, purchase.event_id, line_id] = units
    main = draft.terms.program.main_point_type
    lines = tuple(
        ReturnedLine(p.event_id, line_id, units) for p, back in found for line_id, units in back.items()
    )
    draft.tell(
        PointsReturned,
        own,
        main,
        sum(a.points for a in awards if a.point_type == main),
        {
            "lines": [[str(line.event_id), line.line_id, line.quantity] for line in lines],
            "unmatched": [[item.sku, item.quantity] for item in unmatched],
            "shortfall": shortfall,
        },
    )
    wallet = own.wallet(main)
    lifetime = wallet.lifetime + own.state.inherited
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=command.member_id,
        awards=tuple(awards),
        point_type=main,
        points=sum(a.points for a in awards if a.point_type == main),
        balance=wallet.balance,
        pending=wallet.pending,
        debt=wallet.debt,
        tier=draft.terms.program.tier_at(lifetime).name,
        version=own.state.version + 1,
        shortfall=shortfall,
        lines=lines,
        unmatched=unmatched,
    )


def _found(books: Books, command: Return) -> tuple[list[tuple[Purchase, Back]], tuple[Item, ...]]:
    """Which units of which purchases come back, and what there is no purchase for."""
    if command.event_id is None:
        return _matched(books, command)
    purchase = books.purchases.get(command.event_id)
    # The books may have it for the sake of another member's command.
    if purchase is None or purchase.member_id != command.member_id:
        raise NotFound("PURCHASE_NOT_FOUND", "no such purchase of this member")
    if not command.items:
        back = {line.line_id: line.quantity - line.returned for line in purchase.lines}
        back = {line_id: units for line_id, units in back.items() if units}
        if not back:
            raise FailedPrecondition("RETURN_EXCEEDS_PURCHASE", "all of it is back already")
        return [(purchase, back)], ()
    back = {}
    for place, item in enumerate(command.items):
        missing = _take(purchase.lines, item, back)
        if missing:
            raise FailedPrecondition(
                "RETURN_EXCEEDS_PURCHASE",
                f"{missing} more of {item.line_id or item.sku} than were bought and are not back already",
                {"line": str(place), "item": item.line_id or item.sku, "missing": str(missing)},
            )
    return [(purchase, back)], ()


def _matched(books: Books, command: Return) -> tuple[list[tuple[Purchase, Back]], tuple[Item, ...]]:
    """The latest purchases that still have the items; never one that was made later."""
    moment = command.occurred_at or command.received_at
    purchases = sorted(
        (p for p in books.purchases.values() if p.member_id == command.member_id and p.occurred_at <= moment),
        key=lambda p: (p.occurred_at, p.event_id),
        reverse=True,
    )
    backs: dict[UUID, Back] = {}
    unmatched = []
    for item in command.items:
        missing = item.quantity
        for purchase in purchases:
            if missing:
                part = item._replace(quantity=missing)
                missing = _take(purchase.lines, part, backs.setdefault(purchase.event_id, {}))
        if missing:
            unmatched.append(item._replace(quantity=missing))
    return [(p, backs[p.event_id]) for p in purchases if backs.get(p.event_id)], tuple(unmatched)


def _take(lines: Sequence[Sold], item: Item, back: Back) -> int:
    """Count units of the item as coming back; how many there are none left for."""
    missing = item.quantity
    for line in lines:
        if item.line_id == line.line_id if item.line_id else item.sku == line.sku:
            units = min(line.quantity - line.returned - back.get(line.line_id, 0), missing)
            if units:
                back[line.line_id] = back.get(line.line_id, 0) + units
                missing -= units
    return missing


def _due_back(points: Mapping[str, int], lines: Iterable[Sold], back: Back) -> int:
    """Of these points by line, how many the units that come back now take with them."""
    total = 0
    for line in lines:
        units, own = back.get(line.line_id, 0), points.get(line.line_id, 0)
        if units and own:
            total += own * (line.returned + units) // line.quantity - own * line.returned // line.quantity
    return total


def _take_back(
    draft: Draft, books: Books, own: Holdings, purchase: Purchase, earned: Earned, back: Back
) -> tuple[list[Award], int]:
    """The rows that reverse an earning, and the points that no row could take from the member."""
    for key, lines in earned.counted.items():
        given_back = _due_back(lines, purchase.lines, back)
        if given_back:
            counter = (purchase.member_id, key)
            draft.changes.cap_usage[counter] = draft.changes.cap_usage.get(counter, 0) - given_back
    points = _due_back(earned.lines, purchase.lines, back)
    if not points:
        return [], 0
    point_type = earned.point_type
    first, *beside = map(str, earned.transaction_ids)
    why = {
        "reverses": first,
        **({"beside": beside} if beside else {}),
        "purchase": str(purchase.event_id),
        "lines": back,
        # The arithmetic, for whoever is to explain it: points of a line, its units and those back before.
        "earned": {
            line.line_id: [earned.lines[line.line_id], line.quantity, line.returned]
            for line in purchase.lines
            if line.line_id in back and line.line_id in earned.lines
        },
    }
    rows = []
    for account, taken, shares in _sources(draft, books, own, earned, points):
        row = draft.move(
            own,
            point_type,
            Kind.REVERSE_EARN,
            account,
            Account.PROGRAM_ISSUANCE,
            taken,
            why,
            allocations=shares,
        )
        rows.append((account, Award(row.transaction_id, point_type, taken)))
    taken_back = [award for account, award in rows if account is not Account.PROGRAM_SHORTFALL]
    return taken_back, points - sum(award.points for award in taken_back)


def _sources(draft: Draft, books: Books, own: Holdings, earned: Earned, points: int) -> list[Source]:
    """Where the points are taken: from the earning's own lots, from others, and what there is not.

    What went on to the pool of a household counts as the earning's own, as far as it is there.
    """
    point_type = earned.point_type
    ours = {lot.lot_id for lot in own.lots_of(point_type) if draft.origin(lot) in earned.transaction_ids}
    left = sum(own.lots[lot_id].remaining - own.lots[lot_id].held for lot_id in ours)
    ours |= take_back(draft, books, own, point_type, earned.transaction_ids, points - left)
    wallet = own.wallet(point_type)
    lots = [lot for lot in own.lots_of(point_type) if lot.remaining]
    waiting = _shares((lot for lot in lots if not lot.active and lot.lot_id in ours), points)
    pending = sum(share.points for share in waiting)
    spendable = min(points - pending, wallet.balance)
    first = _shares((lot for lot in lots if lot.active and lot.lot_id in ours), spendable)
    rest = spendable - sum(share.points for share in first)
    others = allocate((x for x in lots if x.lot_id not in ours), rest, wallet.active_at) if rest else ()
    sources: list[Source] = [(PENDING, pending, waiting), (BALANCE, spendable, (*first, *others))]
    missing = points - pending - spendable
    if missing:
        sources += _missing(draft, wallet, missing)
    return [source for source in sources if source[1]]


def _missing(draft: Draft, wallet: Wallet, missing: int) -> list[Source]:
    """What no lot gives: owed, borne by the program, or the reason to refuse the return."""
    match draft.terms.program.ledger.clawback:
        case Clawback.ALLOW_DEBT:
            return [(DEBT, missing, ())]
        case Clawback.WITHIN_BALANCE:
            # What is held has not been spent. If it comes back, it pays this first.
            reserved = min(missing, max(wallet.held - wallet.debt, 0))
            return [(DEBT, reserved, ()), (Account.PROGRAM_SHORTFALL, missing - reserved, ())]
        case Clawback.REFUSE:
            raise FailedPrecondition(
                "POINTS_ALREADY_SPENT",
                f"{missing} of the points that the goods earned have been spent",
                {"point_type": wallet.point_type, "missing": str(missing)},
            )


def _shares(lots: Iterable[Lot], points: int) -> tuple[Allocation, ...]:
    shares = []
    for lot in sorted(lots, key=lambda lot: lot.lot_id):
        part = min(lot.remaining - lot.held, points)
        if part:
            shares.append(Allocation(lot.lot_id, part))
            points -= part
    return tuple(shares)
