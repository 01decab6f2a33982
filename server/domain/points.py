"""Points: a command meets the state and becomes a decision, or is refused.

``decide`` is pure: the state it reads, the time, the identifiers and the ledger's key
are arguments. The committer runs it over a real database, the property tests over
nothing at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Context
from types import MappingProxyType
from uuid import UUID

from server.domain.activity import PURCHASE, REDEMPTION, Activity, Line
from server.domain.books import Books, Decision, OrderKey, Prepared, Recorded, Terms, rows_of
from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Earn,
    Merge,
    Outcome,
    PlaceHold,
    Redeem,
    Refund,
    RejectAdjustment,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.decisions import adjustments, holds, households, reviews
from server.domain.decisions.earn import earn
from server.domain.decisions.merges import merge
from server.domain.decisions.pools import contribute
from server.domain.decisions.redeem import redeem
from server.domain.decisions.refunds import refund
from server.domain.decisions.returns import give_back
from server.domain.decisions.transfers import transfer
from server.domain.draft import Draft, caused_by
from server.domain.due import catch_up, catch_up_overdue
from server.domain.errors import AlreadyExists, FailedPrecondition, NotFound, Refused, invalid
from server.domain.event_types import check_event
from server.domain.household_commands import (
    ChangeSeat,
    Contribute,
    Dissolve,
    EndSeat,
    FormHousehold,
    Invite,
    Join,
)
from server.domain.households import no_household, no_invitation
from server.domain.members import Status
from server.domain.program import Program
from server.domain.reviews import ApproveReview, PutAside, RejectReview, TooLongAgo
from server.domain.unresolved import Unresolved

# Wide enough for any amount at any rate: nothing is ever rounded here.
EXACT = Context(prec=100)


def occurred(command: Command, program: Program) -> datetime:
    """When it happened. Refused if that lies in the future."""
    now = command.received_at
    if command.occurred_at is None:
        return now
    # Times may lie anywhere from the year 1 to 9999: their difference always exists.
    if command.occurred_at - now > timedelta(seconds=program.clock_skew_seconds):
        raise invalid("occur_time", "lies in the future")
    return command.occurred_at


def prepare(command: Command, program: Program) -> Prepared:
    """What follows from the command and the program alone."""
    digest, doing = command.digest(), command.doing
    try:
        if isinstance(command, Unresolved):
            raise command.refusal
        when = occurred(doing, program)
        _check_expiry(doing)
        if isinstance(doing, Earn):
            what = _earning(doing, program, when)
        else:
            points = doing.points if isinstance(doing, Redeem | CaptureHold) else 0
            what = Activity(REDEMPTION, when, doing.store, doing.channel, points=points)
    except Refused as refusal:
        return Prepared(command, digest, None, None, refusal)
    key = _order_key(doing, program, when)
    age = doing.received_at - when
    if age > timedelta(days=program.past_limit_days) and not isinstance(command, PutAside | ApproveReview):
        # Nothing else is wrong with it, or that would be said.
        return Prepared(command, digest, key, None, TooLongAgo(command, program.past_limit_days))
    return Prepared(command, digest, key, what)


def _check_expiry(command: Command) -> None:
    expires_at = command.expires_at if isinstance(command, Adjust) else None
    if expires_at is not None and expires_at <= command.received_at:
        raise invalid("expire_time", "must lie in the future")


def _order_key(command: Command, program: Program, when: datetime) -> OrderKey | None:
    if not command.reference:
        return None
    day = command.business_date or program.business_date(when)
    # Points that a hold reserved are spent as others are: one order is not paid in both ways.
    action = REDEMPTION if isinstance(command, CaptureHold) else command.action
    return OrderKey(command.actor.source_system, command.store, day, command.reference, action, command.part)


def _earning(command: Earn, program: Program, when: datetime) -> Activity:
    """The command as rules see it: amounts in the program's currency, at its stated rate.

    Refused for a currency without a rate, and for an event that its type doesn't allow.
    """
    lines, amount = command.lines, command.amount
    if command.event_type == PURCHASE:
        rate = program.rate_for(command.currency)
        if rate != 1:
            amount = EXACT.multiply(amount, rate)
            lines = tuple([n._replace(amount=EXACT.multiply(n.amount, rate)) for n in lines])
        if not lines:
            lines = (Line("1", "", "", 1, amount),)
    else:
        check_event(program, command.event_type, command.attributes)
    return Activity(
        event_type=command.event_type,
        occurred_at=when,
        store=command.store,
        channel=command.channel,
        currency=program.currency,
        amount=amount,
        lines=lines,
        attributes=command.attributes,
    )


def decide(books: Books, prepared: Prepared, terms: Terms) -> Decision | Outcome:
    """The decision, or the outcome of the same request decided before.

    What has fallen due in the wallets of those concerned is done first. Raises Refused; a refusal
    changes nothing, and its neighbours in a batch go on.
    """
    command = prepared.command
    remembered = books.requests.get((command.actor.source_system, command.request_id))
    if remembered is not None:
        if remembered.outcome is None or remembered.digest != prepared.digest:
            raise invalid("request_id", "was used with another request", "REQUEST_ID_REUSED")
        return remembered.outcome
    if isinstance(command, PutAside) and (said := reviews.known(books, command)) is not None:
        return said
    for member_id in command.members:
        _check_status(books, command, member_id)
    if isinstance(command, ApproveReview):
        reviews.pending(books, command)  # or its own order would be what stands in its way
    if prepared.key is not None and (first := books.orders.get(prepared.key)) is not None:
        raise _already_recorded(command.doing, first)
    if prepared.refusal is not None:
        raise prepared.refusal
    assert prepared.activity is not None
    draft = Draft(books, terms, caused_by(command.doing, terms.new_id(), prepared.activity.occurred_at))
    for member_id in command.members:
        catch_up(draft, draft.of(member_id))
    outcome = DECISIONS[type(command)](draft, books, command, prepared)
    outcome = _with_overdue(draft, outcome)
    return Decision(
        command=command,
        digest=prepared.digest,
        outcome=outcome,
        members=draft.finish(),
        movements=tuple(draft.movements),
        events=tuple(draft.events),
        order=None if prepared.key is None else (prepared.key, _recorded(draft, outcome)),
        changes=draft.changes,
    )


def _recorded(draft: Draft, outcome: Outcome) -> Recorded:
    """The order as it goes on record: with the rows of its own, not of what had fallen due."""
    member_id, event_id = outcome.member_id, outcome.event_id
    return Recorded(member_id, event_id, rows_of(draft.movements, member_id, event_id))


def _with_overdue(draft: Draft, outcome: Outcome) -> Outcome:
    """What the command itself made due is done too: points that had expired before they came in."""
    if not any(own.overdue for own in draft.members.values()):
        return outcome
    for own in draft.members.values():
        catch_up_overdue(draft, own)
    wallet = draft.of(outcome.member_id).wallet(outcome.point_type)
    return replace(outcome, balance=wallet.balance, pending=wallet.pending, debt=wallet.debt)


# What each kind of command does. Each is given the draft, the books, the command and what was prepared.
DECISIONS: Mapping[type[Command], Callable[..., Outcome]] = MappingProxyType(
    {
        Earn: earn,
        Redeem: redeem,
        PlaceHold: holds.place,
        CaptureHold: holds.capture,
        VoidHold: holds.void,
        Return: give_back,
        Refund: refund,
        Transfer: transfer,
        Adjust: adjustments.adjust,
        Merge: merge,
        ApproveAdjustment: adjustments.approve,
        RejectAdjustment: adjustments.reject,
        FormHousehold: households.form,
        Invite: households.invite,
        Join: households.join,
        ChangeSeat: households.change_seat,
        EndSeat: households.end_seat,
        Dissolve: households.dissolve,
        Contribute: contribute,
        PutAside: reviews.put_aside,
        ApproveReview: reviews.approve,
        RejectReview: reviews.reject,
    }
)
# Goods may come back, and points be given back, also while a membership is suspended. What is put aside
# was looked at as the entry that it is, here and below.
OF_SUSPENDED_TOO = (Return, Refund, VoidHold, Adjust, ApproveAdjustment, Dissolve, PutAside)
# Where somebody has a seat, they are active or suspended, and either will do.
OF_SEATS = (ChangeSeat, EndSeat)
OF_ANYBODY = (RejectAdjustment, RejectReview)
# What may be asked of a pool as if it were a member: what it holds is answered for by its own id.
OF_POOLS_TOO = (
    CaptureHold,
    VoidHold,
    Refund,
    Adjust,
    ApproveAdjustment,
    RejectAdjustment,
    PutAside,
    RejectReview,
)


def _check_status(books: Books, command: Command, member_id: UUID) -> None:
    member, command = books.members.get(member_id), command.doing
    if member_id in command.households:
        if member is None or not member.household or member.status != Status.ACTIVE:
            raise no_invitation() if isinstance(command, Join) else no_household()
        return
    if isinstance(command, OF_SEATS):
        # Nobody else who is, was or never was a member makes another answer.
        seat = books.seats.get(member_id)
        if member is None or seat is None or seat.household_id != command.household_id:
            raise no_household()
        return
    if member is None or (member.household and not isinstance(command, OF_POOLS_TOO)):
        raise NotFound("MEMBER_NOT_FOUND", "no such member in this program")
    if member.status == Status.MERGED:
        # Only a merge gets here: other commands follow to the one that lives on.
        raise FailedPrecondition(
            "MEMBER_MERGED", "the member was merged into another one", {"member_id": str(member_id)}
        )
    if member.status == "active" or isinstance(command, OF_ANYBODY):
        return
    if member.status == "suspended" and isinstance(command, OF_SUSPENDED_TOO):
        return
    raise FailedPrecondition("MEMBER_NOT_ACTIVE", f"the member is {member.status}", {"status": member.status})


def _already_recorded(command: Command, first: Recorded) -> AlreadyExists:
    metadata = {"event_id": str(first.event_id)}
    if first.transaction_ids:
        metadata["transaction_id"] = str(first.transaction_ids[0])
    return AlreadyExists(
        "ORDER_ALREADY_RECORDED",
        f"{command.action} of {command.reference} is recorded under another request_id",
        metadata,
    )
