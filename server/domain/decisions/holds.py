"""Holds: points reserved at the start of a payment, captured or given back at its end."""

from dataclasses import replace
from datetime import timedelta

from server.domain.books import Books, Prepared
from server.domain.commands import Award, CaptureHold, Outcome, PlaceHold, VoidHold
from server.domain.decisions.pools import payer, spent_for, tell_spender
from server.domain.draft import BALANCE, HELD, Draft, Holdings
from server.domain.due import release
from server.domain.errors import FailedPrecondition, NotFound, invalid
from server.domain.events import PointsCaptured, PointsHeld
from server.domain.ledger import Account, Allocation, Hold, HoldStatus, Kind, check_balance
from server.domain.rules import trace
from server.domain.rules.evaluate import check_redemption


def place(draft: Draft, books: Books, command: PlaceHold, _: Prepared) -> Outcome:
    """Reserve points of certain lots, which nobody else can spend meanwhile."""
    own, terms, spender_id = draft.of(command.member_id), draft.terms, None
    if command.from_household:
        own, spender_id = payer(draft, books, command.member_id), command.member_id
    ledger = terms.program.ledger
    point_type = terms.program.point_type(command.point_type)
    if command.seconds > ledger.max_hold_seconds:
        raise invalid(
            "time_limit_seconds", f"a hold lasts at most {ledger.max_hold_seconds} seconds in this program"
        )
    check_balance(own.wallet(point_type), command.points, "hold")
    hold_id = terms.new_id()
    until = terms.now + timedelta(seconds=command.seconds or ledger.hold_seconds)
    shares = own.allocated(point_type, command.points)
    why = {"hold": str(hold_id), "until": until.isoformat(), **spent_for(own, command.member_id)}
    row = draft.move(own, point_type, Kind.HOLD, BALANCE, HELD, command.points, why, allocations=shares)
    hold = Hold(
        hold_id, point_type, command.points, command.points, 0, HoldStatus.OPEN, until, shares, spender_id
    )
    draft.hold(own, hold)
    told = {"hold": str(hold_id), "until": until.isoformat()}
    if spender_id is not None:
        told["spender_id"] = str(spender_id)
    draft.tell(PointsHeld, own, point_type, command.points, told)
    return _outcome(
        draft, own, hold, (Award(row.transaction_id, point_type, command.points),), command.points
    )


def capture(draft: Draft, _: Books, command: CaptureHold, prepared: Prepared) -> Outcome:
    """Spend what was reserved, or a part; the rest is released unless it is to be kept."""
    own, what = draft.of(command.member_id), prepared.activity
    hold = _open(own, command)
    points = command.points or hold.open_points
    if points > hold.open_points:
        raise FailedPrecondition(
            "HOLD_EXCEEDED",
            f"the hold still reserves {hold.open_points} points, {points - hold.open_points} too few",
            {"open": str(hold.open_points), "requested": str(points)},
        )
    assert what is not None
    # Where a pool pays, rules look at the member who spends.
    spender_id = command.spender_id or own.member_id
    facts = draft.of(spender_id).facts
    permitted = check_redemption(draft.terms.rules, what._replace(points=points), facts)
    taken, left = _split(hold.shares, points)
    own.touch(hold.point_type, what.occurred_at)
    why = {
        "hold": str(hold.hold_id),
        **trace.dump_terms(permitted),
        "revision": draft.terms.revision,
        **spent_for(own, spender_id),
    }
    row = draft.move(
        own,
        hold.point_type,
        Kind.CAPTURE,
        HELD,
        Account.PROGRAM_REDEMPTION,
        points,
        why,
        allocations=taken,
    )
    hold = hold._replace(open_points=hold.open_points - points, captured=hold.captured + points, shares=left)
    if not hold.open_points:
        hold = hold._replace(status=HoldStatus.CAPTURED)
    draft.hold(own, hold)
    told = {"hold": str(hold.hold_id)}
    if spender_id != own.member_id:
        told["spender_id"] = str(spender_id)
    draft.tell(PointsCaptured, own, hold.point_type, points, told)
    tell_spender(draft, own, spender_id, "captured", row)
    if hold.open_points and not command.keep_rest:
        # An event of its own: each that is logged has an id that no other has. The order is the capture's.
        cause = draft.cause._replace(event_id=draft.terms.new_id(), order_reference="")
        release(draft, own, hold, HoldStatus.CAPTURED, cause)
    awards = (Award(row.transaction_id, hold.point_type, points),)
    outcome = _outcome(draft, own, own.holds[hold.hold_id], awards, points)
    if permitted.value is None:
        return outcome
    return replace(outcome, value=permitted.value, currency=draft.terms.program.currency)


def void(draft: Draft, _: Books, command: VoidHold, __: Prepared) -> Outcome:
    """Give all that is still reserved back."""
    own = draft.of(command.member_id)
    hold = _open(own, command)
    release(draft, own, hold, HoldStatus.VOIDED, None)
    return _outcome(draft, own, own.holds[hold.hold_id], (), hold.open_points)


def _open(own: Holdings, command: CaptureHold | VoidHold) -> Hold:
    hold = own.holds.get(command.hold_id)
    if hold is None:
        raise NotFound("HOLD_NOT_FOUND", "no such hold in this program")
    if hold.status is not HoldStatus.OPEN:
        raise FailedPrecondition("HOLD_NOT_OPEN", f"the hold is {hold.status}", {"status": hold.status.value})
    return hold


def _split(
    shares: tuple[Allocation, ...], points: int
) -> tuple[tuple[Allocation, ...], tuple[Allocation, ...]]:
    """The first ``points`` of the shares, and the rest."""
    taken, left = [], []
    for lot_id, share in shares:
        part = min(share, points)
        points -= part
        if part:
            taken.append(Allocation(lot_id, part))
        if share > part:
            left.append(Allocation(lot_id, share - part))
    return tuple(taken), tuple(left)


def _outcome(draft: Draft, own: Holdings, hold: Hold, awards: tuple[Award, ...], points: int) -> Outcome:
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=awards,
        point_type=hold.point_type,
        points=points,
        balance=own.wallet(hold.point_type).balance,
        tier=own.facts.tier,
        version=own.state.version + 1,
        hold=hold._replace(shares=()),
        household_id=own.member_id if hold.spender_id is not None else None,
        spender_id=hold.spender_id,
    )
