"""Transfers: points go from one member to another, and keep their expiry."""

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Outcome, Transfer
from server.domain.draft import BALANCE, Draft, Holdings
from server.domain.errors import FailedPrecondition, invalid
from server.domain.events import PointsTransferred
from server.domain.ledger import Account, Kind, Lot, check_balance
from server.domain.lots import expiry_of


def transfer(draft: Draft, _: Books, command: Transfer, __: Prepared) -> Outcome:
    """Both wallets or neither."""
    program = draft.terms.program
    if command.to_member_id == command.member_id:
        raise invalid("to", "is the member who gives")
    point_type = program.point_type(command.point_type)
    most = program.ledger.transfer_points
    if command.points > most:
        raise FailedPrecondition(
            "TRANSFER_LIMIT",
            f"members hand on at most {most} points at once in this program",
            {"limit": str(most), "requested": str(command.points)},
        )
    giver, getter = draft.of(command.member_id), draft.of(command.to_member_id)
    check_balance(giver.wallet(point_type), command.points, "transfer")
    row = hand_over(draft, giver, getter, point_type, command.points)
    wallet = giver.wallet(point_type)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=command.member_id,
        awards=(row,),
        point_type=point_type,
        points=command.points,
        balance=wallet.balance,
        tier=giver.facts.tier,
        version=giver.state.version + 1,
    )


def hand_over(draft: Draft, giver: Holdings, getter: Holdings, point_type: str, points: int) -> Award:
    """Points out of one balance and into another; the row of who gives."""
    shares = giver.allocated(point_type, points)
    lots = [giver.lots[share.lot_id] for share in shares]
    why = {"transfer": {"from": str(giver.member_id), "to": str(getter.member_id)}}
    out = draft.move(
        giver,
        point_type,
        Kind.TRANSFER_OUT,
        BALANCE,
        Account.PROGRAM_TRANSFER,
        points,
        why,
        allocations=shares,
    )
    # The other member's rows belong to an event of its own, and to no order of this one.
    cause = draft.cause._replace(event_id=draft.terms.new_id(), order_reference="")
    incoming = draft.terms.new_id()
    created = tuple(
        Lot(
            draft.terms.new_id(),
            point_type,
            incoming,
            share.points,
            share.points,
            expires_at=expiry_of(lot, giver.wallet(point_type).active_at),
        )
        for lot, share in zip(lots, shares, strict=True)
    )
    draft.move(
        getter,
        point_type,
        Kind.TRANSFER_IN,
        Account.PROGRAM_TRANSFER,
        BALANCE,
        points,
        why,
        cause=cause,
        transaction_id=incoming,
        created=created,
    )
    draft.settle(getter, point_type, cause)
    draft.tell(PointsTransferred, giver, point_type, points, why["transfer"])
    draft.tell(PointsTransferred, getter, point_type, points, why["transfer"], cause)
    return Award(out.transaction_id, point_type, points)
