"""Redeeming: points that are spent at once."""

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Outcome, Redeem
from server.domain.decisions.pools import payer, spent_for, tell_spender
from server.domain.draft import BALANCE, Draft
from server.domain.events import PointsRedeemed
from server.domain.ledger import Account, Kind, check_balance
from server.domain.rules import trace
from server.domain.rules.evaluate import check_redemption


def redeem(draft: Draft, books: Books, command: Redeem, prepared: Prepared) -> Outcome:
    """Points out of lots, the soonest to expire first. Refused if the balance is too small.

    Rules look at the member who spends, also where a household's pool pays.
    """
    own, terms, what = draft.of(command.member_id), draft.terms, prepared.activity
    assert what is not None
    point_type = terms.program.point_type(command.point_type)
    permitted = check_redemption(terms.rules, what, own.facts)
    pays = payer(draft, books, own.member_id) if command.from_household else own
    check_balance(pays.wallet(point_type), command.points)
    shares = pays.allocated(point_type, command.points)
    pays.touch(point_type, what.occurred_at)
    row = draft.move(
        pays,
        point_type,
        Kind.REDEEM,
        BALANCE,
        Account.PROGRAM_REDEMPTION,
        command.points,
        {**trace.dump_terms(permitted), "revision": terms.revision, **spent_for(pays, own.member_id)},
        allocations=shares,
    )
    event = PointsRedeemed(
        event_id=draft.cause.event_id,
        program_id=terms.program.program_id,
        member_id=pays.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        point_type=point_type,
        points=command.points,
        balance=row.balance_after,
        transaction_id=row.transaction_id,
        store=command.store,
        channel=command.channel,
        order_reference=command.reference,
        version=pays.state.version + 1,
        spender_id=own.member_id if command.from_household else None,
    )
    draft.events.append(event)
    tell_spender(draft, pays, own.member_id, "redeemed", row)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=pays.member_id,
        awards=(Award(row.transaction_id, point_type, command.points),),
        point_type=point_type,
        points=command.points,
        balance=row.balance_after,
        tier=own.facts.tier,
        version=pays.state.version + 1,
        household_id=pays.member_id if command.from_household else None,
        spender_id=own.member_id if command.from_household else None,
        value=permitted.value,
        currency=terms.program.currency if permitted.value is not None else "",
    )
