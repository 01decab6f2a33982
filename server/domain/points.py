"""Earning and spending: a command meets the state and becomes a decision, or is refused.

``decide`` is pure: the state it reads, the time, the identifiers and the ledger's key
are arguments. The committer runs it over a real database, the property tests over
nothing at all.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Context
from uuid import UUID

from server.domain.activity import PURCHASE, REDEMPTION, Activity, Line
from server.domain.books import Books, Decision, MemberState, OrderKey, Prepared, Recorded, Terms
from server.domain.chain import sealed
from server.domain.commands import Award, Command, Earn, Outcome, Redeem, plain
from server.domain.errors import AlreadyExists, FailedPrecondition, NotFound, Refused, invalid
from server.domain.event_types import check_event
from server.domain.events import Event, PointsEarned, PointsRedeemed, TierChanged
from server.domain.ledger import (
    Account,
    Kind,
    Lot,
    Movement,
    Transaction,
    Wallet,
    allocate,
    credited,
    debited,
)
from server.domain.program import Program
from server.domain.rules import trace
from server.domain.rules.evaluate import check_redemption, evaluate
from server.domain.rules.evaluation import Evaluation

# Wide enough for any amount at any rate: nothing is ever rounded here.
EXACT = Context(prec=100)


def occurred(command: Command, program: Program) -> datetime:
    """When it happened. Refused if that lies in the future, or too far in the past."""
    now = command.received_at
    if command.occurred_at is None:
        return now
    if command.occurred_at > now + timedelta(seconds=program.clock_skew_seconds):
        raise invalid("occur_time", "lies in the future")
    if command.occurred_at < now - timedelta(days=program.past_limit_days):
        raise FailedPrecondition(
            "OCCURRED_TOO_LONG_AGO",
            f"happened more than {program.past_limit_days} days ago and needs review",
            {"limit_days": str(program.past_limit_days)},
        )
    return command.occurred_at


def prepare(command: Command, program: Program) -> Prepared:
    """What follows from the command and the program alone."""
    digest = command.digest()
    try:
        when = occurred(command, program)
        if isinstance(command, Earn):
            what = _earning(command, program, when)
        else:
            assert isinstance(command, Redeem)
            what = Activity(REDEMPTION, when, command.store, command.channel, points=command.points)
    except Refused as refusal:
        return Prepared(command, digest, None, None, refusal)
    return Prepared(command, digest, _order_key(command, program, when), what)


def _order_key(command: Command, program: Program, when: datetime) -> OrderKey | None:
    if not command.reference:
        return None
    day = command.business_date or program.business_date(when)
    return OrderKey(
        command.actor.source_system, command.store, day, command.reference, command.action, command.part
    )


def _earning(command: Earn, program: Program, when: datetime) -> Activity:
    """The command as rules see it: amounts in the program's currency, at its stated rate.

    Refused for a currency without a rate, and for an event that its type doesn't allow.
    """
    lines, amount = command.lines, command.amount
    if command.event_type == PURCHASE:
        rate = program.rate_for(command.currency)
        if rate != 1:
            amount = EXACT.multiply(amount, rate)
            lines = tuple(replace(line, amount=EXACT.multiply(line.amount, rate)) for line in lines)
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

    Raises Refused; a refusal changes nothing, and its neighbours in a batch go on.
    """
    command = prepared.command
    remembered = books.requests.get((command.actor.source_system, command.request_id))
    if remembered is not None:
        if remembered.digest != prepared.digest:
            raise invalid("request_id", "was used with another request", "REQUEST_ID_REUSED")
        return remembered.outcome
    member = _active(books, command)
    if prepared.refusal is not None:
        raise prepared.refusal
    if prepared.key is not None and (first := books.orders.get(prepared.key)) is not None:
        raise _already_recorded(command, first)
    if isinstance(command, Earn):
        return _earn(books, command, member, terms, prepared)
    assert isinstance(command, Redeem)
    return _redeem(command, member, terms, prepared)


def _active(books: Books, command: Command) -> MemberState:
    member = books.members.get(command.member_id)
    if member is None:
        raise NotFound("MEMBER_NOT_FOUND", "no such member in this program")
    if member.status != "active":
        raise FailedPrecondition(
            "MEMBER_NOT_ACTIVE", f"the member is {member.status}", {"status": member.status}
        )
    return member


def _already_recorded(command: Command, first: Recorded) -> AlreadyExists:
    metadata = {"event_id": str(first.event_id)}
    if first.transaction_ids:
        metadata["transaction_id"] = str(first.transaction_ids[0])
    return AlreadyExists(
        "ORDER_ALREADY_RECORDED",
        f"{command.action} of {command.reference} is recorded under another request_id",
        metadata,
    )


def _earn(books: Books, command: Earn, member: MemberState, terms: Terms, prepared: Prepared) -> Decision:
    program, what = terms.program, prepared.activity
    assert what is not None
    given = evaluate(terms.rules, what, member.facts, books.cap_usage.get(command.member_id, {}))
    event_id = terms.new_id()
    wallets, movements, awards = dict(member.wallets), [], []
    for point_type, award in given.awards.items():
        wallet = member.wallet(point_type)
        why = {**trace.dump(given, point_type), "revision": terms.revision}
        row = _row(command, terms, what.occurred_at, event_id, Kind.EARN, wallet, award.points, why)
        lot = Lot(terms.new_id(), point_type, row.transaction_id, award.points, award.points)
        movement = Movement(row, credited(wallet, award.points), created=(lot,))
        movement = sealed(movement, terms.key)
        wallets[point_type] = movement.wallet
        movements.append(movement)
        awards.append(Award(row.transaction_id, point_type, award.points))

    main = wallets.get(program.main_point_type) or Wallet(program.main_point_type)
    tier = program.tier_at(main.lifetime).name
    after = member._replace(
        facts=member.facts._replace(
            tier=tier,
            lifetime=main.lifetime,
            purchases=member.facts.purchases + (command.event_type == PURCHASE),
            tags=member.facts.tags | given.tags,
        ),
        version=member.version + 1,
        wallets=wallets,
        lots={**member.lots, **{lot.lot_id: lot for m in movements for lot in m.created}},
    )
    main_award = given.awards.get(program.main_point_type)
    outcome = Outcome(
        event_id=event_id,
        member_id=command.member_id,
        awards=tuple(awards),
        point_type=program.main_point_type,
        points=0 if main_award is None else main_award.points,
        balance=main.balance,
        tier=tier,
        tier_raised=tier != member.facts.tier
        and program.tier_rank(tier) > program.tier_rank(member.facts.tier),
        version=after.version,
    )
    return Decision(
        command=command,
        digest=prepared.digest,
        outcome=outcome,
        member=after,
        movements=tuple(movements),
        events=_earn_events(command, what, given, member, after, outcome, terms),
        order_key=prepared.key,
        cap_usage=given.cap_usage,
    )


def _earn_events(
    command: Earn,
    what: Activity,
    given: Evaluation,
    before: MemberState,
    after: MemberState,
    outcome: Outcome,
    terms: Terms,
) -> tuple[Event, ...]:
    earned = PointsEarned(
        event_id=outcome.event_id,
        program_id=terms.program.program_id,
        member_id=command.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        activity={
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
        },
        awards={point_type: award.points for point_type, award in given.awards.items()},
        transaction_ids=tuple(a.transaction_id for a in outcome.awards),
        revision=terms.revision,
        version=after.version,
    )
    if after.facts.tier == before.facts.tier:
        return (earned,)
    changed = TierChanged(
        event_id=terms.new_id(),
        program_id=terms.program.program_id,
        member_id=command.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        before=before.facts.tier,
        after=after.facts.tier,
        lifetime=after.facts.lifetime,
    )
    return earned, changed


def _redeem(command: Redeem, member: MemberState, terms: Terms, prepared: Prepared) -> Decision:
    program, what = terms.program, prepared.activity
    assert what is not None
    point_type = command.point_type or program.main_point_type
    if point_type not in program.point_types:
        raise invalid("point_type", f"the program has no point type {point_type!r}")
    permitted = check_redemption(terms.rules, what, member.facts)
    wallet = member.wallet(point_type)
    after_wallet = debited(wallet, command.points)
    own = [lot for lot in member.lots.values() if lot.point_type == point_type]
    allocations, drawn = allocate(own, command.points)
    event_id = terms.new_id()
    why = {**trace.dump_terms(permitted), "revision": terms.revision}
    row = _row(command, terms, what.occurred_at, event_id, Kind.REDEEM, wallet, command.points, why)
    movement = Movement(row, after_wallet, allocations=allocations, drawn=drawn)
    movement = sealed(movement, terms.key)
    after = member._replace(
        version=member.version + 1,
        wallets={**member.wallets, point_type: movement.wallet},
        lots={**member.lots, **{lot.lot_id: lot for lot in drawn}},
    )
    outcome = Outcome(
        event_id=event_id,
        member_id=command.member_id,
        awards=(Award(row.transaction_id, point_type, command.points),),
        point_type=point_type,
        points=command.points,
        balance=movement.wallet.balance,
        tier=member.facts.tier,
        version=after.version,
        value=permitted.value,
        currency=program.currency if permitted.value is not None else "",
    )
    event = PointsRedeemed(
        event_id=event_id,
        program_id=program.program_id,
        member_id=command.member_id,
        occurred_at=what.occurred_at,
        recorded_at=terms.now,
        point_type=point_type,
        points=command.points,
        balance=movement.wallet.balance,
        transaction_id=row.transaction_id,
        store=command.store,
        channel=command.channel,
        order_reference=command.reference,
        version=after.version,
    )
    return Decision(
        command=command,
        digest=prepared.digest,
        outcome=outcome,
        member=after,
        movements=(movement,),
        events=(event,),
        order_key=prepared.key,
    )


def _row(
    command: Command,
    terms: Terms,
    occurred_at: datetime,
    event_id: UUID,
    kind: Kind,
    wallet: Wallet,
    points: int,
    why: Mapping[str, object],
) -> Transaction:
    earn = kind is Kind.EARN
    return Transaction(
        program_id=terms.program.program_id,
        member_id=command.member_id,
        transaction_id=terms.new_id(),
        point_type=wallet.point_type,
        sequence=wallet.sequence + 1,
        kind=kind,
        points=points,
        debit_account=Account.PROGRAM_ISSUANCE if earn else Account.WALLET_BALANCE,
        credit_account=Account.WALLET_BALANCE if earn else Account.PROGRAM_REDEMPTION,
        balance_after=wallet.balance + points if earn else wallet.balance - points,
        occurred_at=occurred_at,
        recorded_at=terms.now,
        event_id=event_id,
        event_type=command.action,
        order_reference=command.reference,
        store=command.store,
        channel=command.channel,
        source_system=command.actor.source_system,
        actor=command.actor.label,
        credential_id=command.actor.credential_id,
        reason=command.reason if isinstance(command, Redeem) else "",
        trace=trace.canonical(why),
        key_id=terms.key_id,
        previous_hash=wallet.head_hash,
    )
