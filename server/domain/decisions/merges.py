"""Merges: two memberships of one person become one, and everything goes to the one that lives on."""

from dataclasses import replace

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Merge, Outcome
from server.domain.decisions.handover import hand_lots
from server.domain.draft import DEBT, Draft, Holdings
from server.domain.errors import FailedPrecondition, invalid
from server.domain.events import ConsentRecorded, MemberMerged, PointsTransferred
from server.domain.households import check_seatless
from server.domain.ledger import Account, Kind, Wallet
from server.domain.members import Status


def merge(draft: Draft, books: Books, command: Merge, _: Prepared) -> Outcome:
    """Hand everything over. What is left of the other member is its history and a sign to this one."""
    if command.merged_member_id == command.member_id:
        raise invalid("merged_member_id", "is the member who lives on")
    survivor, merged = draft.of(command.member_id), draft.of(command.merged_member_id)
    _check_holds(merged)
    check_seatless(books.seats.get(merged.member_id))
    awards = [
        award
        for point_type, wallet in sorted(merged.wallets.items())
        for award in _hand_over(draft, merged, survivor, wallet, point_type)
    ]
    main = draft.terms.program.main_point_type
    survivor.state = survivor.state._replace(
        inherited=survivor.state.inherited + merged.state.inherited + merged.wallet(main).lifetime
    )
    survivor.facts = survivor.facts._replace(
        purchases=survivor.facts.purchases + merged.facts.purchases,
        tags=survivor.facts.tags | merged.facts.tags,
    )
    merged.state = merged.state._replace(status=Status.MERGED)
    draft.changes.merged[merged.member_id] = survivor.member_id
    _take_over_consents(draft, books, survivor, merged)
    for own in (survivor, merged):
        draft.events.append(
            MemberMerged(
                event_id=draft.cause.event_id if own is survivor else draft.terms.new_id(),
                program_id=draft.terms.program.program_id,
                member_id=own.member_id,
                occurred_at=draft.cause.occurred_at,
                recorded_at=draft.terms.now,
                survivor_id=survivor.member_id,
                merged_id=merged.member_id,
                reason=command.reason,
                actor=draft.cause.actor,
            )
        )
    wallet = survivor.wallet(main)
    lifetime = wallet.lifetime + survivor.state.inherited
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=survivor.member_id,
        awards=tuple(awards),
        point_type=main,
        points=sum(award.points for award in awards if award.point_type == main),
        balance=wallet.balance,
        pending=wallet.pending,
        debt=wallet.debt,
        tier=draft.terms.program.tier_at(lifetime).name,
        version=survivor.state.version + 1,
    )


def _check_holds(merged: Holdings) -> None:
    """A till that reserved points knows their hold, and no merge takes it from under its hands."""
    holds = sorted(str(hold.hold_id) for hold in merged.holds.values() if hold.open_points)
    if holds:
        raise FailedPrecondition(
            "MEMBER_HAS_HOLDS",
            f"{len(holds)} holds of the member who is to be merged are open: capture or void them first",
            {"holds": ",".join(holds)},
        )


def _hand_over(
    draft: Draft, merged: Holdings, survivor: Holdings, wallet: Wallet, point_type: str
) -> list[Award]:
    """A wallet's points, pending points and debt; the rows of who gets them.

    Its activity comes along too, unless the other has no such wallet and gets none by this.
    """
    assert not wallet.held, wallet
    moves = wallet.balance or wallet.pending or wallet.debt
    if wallet.active_at is not None and (moves or survivor.wallet(point_type).sequence):
        survivor.touch(point_type, wallet.active_at)
    if not moves:
        return []
    # Every wallet's movement is an event of its own, on either side.
    out, into = (draft.cause._replace(event_id=draft.terms.new_id()) for _ in range(2))
    between = {"from": str(merged.member_id), "to": str(survivor.member_id)}
    if wallet.debt:
        for own, kind, debit, credit, cause in (
            (merged, Kind.TRANSFER_IN, Account.PROGRAM_TRANSFER, DEBT, out),
            (survivor, Kind.TRANSFER_OUT, DEBT, Account.PROGRAM_TRANSFER, into),
        ):
            draft.move(own, point_type, kind, debit, credit, wallet.debt, {"transfer": between}, cause=cause)
    why = {"transfer": between}
    parts = [(lot, lot.remaining) for lot in merged.lots_of(point_type) if lot.remaining]
    awards = hand_lots(draft, merged, survivor, point_type, parts, why, (out, into)).awards
    assert sum(award.points for award in awards) == wallet.balance + wallet.pending, wallet
    draft.settle(survivor, point_type, into)
    points = sum(award.points for award in awards)
    told = {**between, "debt": wallet.debt}
    draft.tell(PointsTransferred, merged, point_type, points, told, out)
    draft.tell(PointsTransferred, survivor, point_type, points, told, into)
    return list(awards)


def _take_over_consents(draft: Draft, books: Books, survivor: Holdings, merged: Holdings) -> None:
    """Of two decisions about one purpose the refusal counts; a decision where there is none goes over."""
    ours = books.consents.get(survivor.member_id, {})
    for purpose, theirs in sorted(books.consents.get(merged.member_id, {}).items()):
        own = ours.get(purpose)
        if own is not None and (theirs.granted or not own.granted):
            continue
        consent = replace(
            theirs,
            consent_id=draft.terms.new_id(),
            recorded_at=draft.terms.now,
            actor=draft.cause.actor,
        )
        draft.changes.consents.append((survivor.member_id, consent))
        draft.events.append(
            ConsentRecorded(
                event_id=draft.terms.new_id(),
                program_id=draft.terms.program.program_id,
                member_id=survivor.member_id,
                occurred_at=draft.cause.occurred_at,
                recorded_at=draft.terms.now,
                purpose=purpose,
                granted=consent.granted,
            )
        )
