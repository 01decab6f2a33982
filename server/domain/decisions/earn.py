"""Earning: what the rules give for a purchase or an event."""

from collections.abc import Mapping
from typing import Any

from server.domain.activity import PURCHASE, Activity
from server.domain.books import Books, Prepared
from server.domain.commands import Award, Earn, Outcome, plain
from server.domain.decisions import pools
from server.domain.draft import BALANCE, PENDING, Draft, Holdings
from server.domain.due import activate
from server.domain.events import PointsEarned
from server.domain.ledger import Account, Kind
from server.domain.lots import new_lot
from server.domain.rules import evaluation, trace
from server.domain.rules.evaluate import evaluate


def earn(draft: Draft, books: Books, command: Earn, prepared: Prepared) -> Outcome:
    """Points for what happened; an event is logged also when it earned nothing."""
    own, terms, what = draft.of(command.member_id), draft.terms, prepared.activity
    assert what is not None
    program = terms.program
    _activate_awaiting(draft, own, command.event_type)
    seated = pools.pool_of(draft, books, command.member_id)
    if seated is not None:
        pools.activate_awaiting(draft, own, seated[1], command.event_type)
    given = evaluate(terms.rules, what, own.facts, books.cap_usage.get(command.member_id, {}))
    awards, activity = [], _activity(command)
    why_all = {"activity": trace.digest(activity), "revision": terms.revision} if given.awards else {}
    for point_type, award in given.awards.items():
        own.touch(point_type, what.occurred_at)
        why = {**trace.dump(given, point_type), **why_all}
        awards += _credit(draft, own, point_type, award, why, what)
    own.facts = own.facts._replace(
        purchases=own.facts.purchases + (command.event_type == PURCHASE),
        tags=own.facts.tags | given.tags,
    )
    shared = 0
    if seated is not None and seated[0].contributes:
        handed = pools.share(draft, own, *seated, awards).awards
        shared = sum(award.points for award in handed if award.point_type == program.main_point_type)
    for key, points in given.cap_usage.items():
        draft.changes.cap_usage[command.member_id, key] = points
    draft.events.append(_event(draft, own, command, what, activity, given.awards))
    main = given.awards.get(program.main_point_type)
    wallet = own.wallet(program.main_point_type)
    before = own.state.facts.tier
    tier = program.tier_at(wallet.lifetime + own.state.inherited).name
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=command.member_id,
        awards=tuple(awards),
        point_type=program.main_point_type,
        points=0 if main is None else main.points,
        balance=wallet.balance,
        pending=wallet.pending,
        debt=wallet.debt,
        tier=tier,
        tier_raised=tier != before and program.tier_rank(tier) > program.tier_rank(before),
        version=own.state.version + 1,
        household_id=seated[0].household_id if seated is not None and shared else None,
        shared=shared,
    )


def _activate_awaiting(draft: Draft, own: Holdings, event_type: str) -> None:
    """Points that waited for this event can be spent from now on."""
    for point_type in sorted([wallet.point_type for wallet in own.wallets.values() if wallet.pending]):
        lots = [
            lot
            for lot in own.lots_of(point_type)
            if not lot.active and lot.remaining and lot.activates_on == event_type
        ]
        if lots:
            activate(draft, own, point_type, lots, None)


def _credit(
    draft: Draft,
    own: Holdings,
    point_type: str,
    award: evaluation.Award,
    why: Mapping[str, object],
    what: Activity,
) -> list[Award]:
    """A row for the lots that can be spent at once, and one for those that can't yet."""
    program, new_id = draft.terms.program, draft.terms.new_id
    default = program.ledger.lot_terms(point_type)
    parts = [(terms or default, points) for terms, points in award.lots or ((None, award.points),)]
    rows = []
    for account, pending in ((BALANCE, False), (PENDING, True)):
        alike = [(terms, points) for terms, points in parts if terms.pending is pending]
        if not alike:
            continue
        transaction_id, total = new_id(), sum([points for _, points in alike])
        created = tuple(
            [
                new_lot(new_id(), point_type, transaction_id, points, terms, what.occurred_at, program.zone)
                for terms, points in alike
            ]
        )
        draft.move(
            own,
            point_type,
            Kind.EARN,
            Account.PROGRAM_ISSUANCE,
            account,
            total,
            why,
            transaction_id=transaction_id,
            created=created,
        )
        rows.append(Award(transaction_id, point_type, total))
    draft.settle(own, point_type)
    return rows


def _event(
    draft: Draft,
    own: Holdings,
    command: Earn,
    what: Activity,
    activity: Mapping[str, Any],
    awards: Mapping[str, evaluation.Award],
) -> PointsEarned:
    terms = draft.terms
    return PointsEarned(
        event_id=draft.cause.event_id,
        program_id=terms.program.program_id,
        member_id=command.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        activity=activity,
        awards={point_type: award.points for point_type, award in awards.items()},
        transaction_ids=draft.rows_of(own, draft.cause),
        revision=terms.revision,
        version=own.state.version + 1,
    )


def _activity(command: Earn) -> Mapping[str, Any]:
    """What happened, as the event log keeps it and the rows' traces vouch for."""
    return {
        "type": command.event_type,
        "store": command.store,
        "channel": command.channel,
        "reference": command.reference,
        "currency": command.currency,
        "amount": str(command.amount),
        "lines": [
            [n.line_id, n.sku, n.category, n.quantity, str(n.amount), dict(n.attributes)]
            for n in command.lines
        ],
        "attributes": plain(command.attributes),
    }
