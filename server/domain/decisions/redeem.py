"""Redeeming: points that are spent at once."""

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Outcome, Redeem
from server.domain.draft import BALANCE, Draft
from server.domain.events import PointsRedeemed
from server.domain.ledger import Account, Kind, check_balance
from server.domain.rules import trace
from server.domain.rules.evaluate import check_redemption


def redeem(draft: Draft, _: Books, command: Redeem, prepared: Prepared) -> Outcome:
    """Points out of lots, the soonest to expire first. Refused if the balance is too small."""
    own, terms, what = draft.of(command.member_id), draft.terms, prepared.activity
    assert what is not None
    point_type = terms.program.point_type(command.point_type)
    permitted = check_redemption(terms.rules, what, own.facts)
    check_balance(own.wallet(point_type), command.points)
    shares = own.allocated(point_type, command.points)
    own.touch(point_type, what.occurred_at)
    row = draft.move(
        own,
        point_type,
        Kind.REDEEM,
        BALANCE,
        Account.PROGRAM_REDEMPTION,
        command.points,
        {**trace.dump_terms(permitted), "revision": terms.revision},
        allocations=shares,
    )
    event = PointsRedeemed(
        event_id=draft.cause.event_id,
        program_id=terms.program.program_id,
        member_id=command.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        point_type=point_type,
        points=command.points,
        balance=row.balance_after,
        transaction_id=row.transaction_id,
        store=command.store,
        channel=command.channel,
        order_reference=command.reference,
        version=own.state.version + 1,
    )
    draft.events.append(event)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=command.member_id,
        awards=(Award(row.transaction_id, point_type, command.points),),
        point_type=point_type,
        points=command.points,
        balance=row.balance_after,
        tier=own.facts.tier,
        version=own.state.version + 1,
        value=permitted.value,
        currency=terms.program.currency if permitted.value is not None else "",
    )
