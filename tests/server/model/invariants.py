"""What must hold, always: each sum taken over rows, lots and holds, and compared with what wallets say."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

from server.domain.books import Books, MemberState
from server.domain.chain import fault
from server.domain.ledger import Account, Kind, Movement, Transaction
from server.domain.members import Status
from server.domain.program import Program

Owner = tuple[UUID, str]  # the member and the point type

FIGURES = {
    "balance": Account.WALLET_BALANCE,
    "pending": Account.WALLET_PENDING,
    "held": Account.WALLET_HELD,
}
# What may move a debt, and no lot.
OF_DEBTS = (Kind.REVERSE_EARN, Kind.TRANSFER_IN, Kind.TRANSFER_OUT)


def what_is_wrong(
    books: Books, movements: Iterable[Movement], program: Program, keys: Mapping[str, bytes]
) -> list[str]:
    """Every invariant that is broken, in words."""
    wrong: list[str] = []
    by_owner: dict[Owner, list[Movement]] = defaultdict(list)
    for movement in movements:
        by_owner[movement.transaction.member_id, movement.transaction.point_type].append(movement)
    for (member_id, point_type), own in by_owner.items():
        said = _wallet(books.members[member_id], point_type, [m.transaction for m in own], program)
        wrong += [f"{point_type} of {member_id.int}: {line}" for line in (*said, *_chain(own, keys))]
    for point_type in program.point_types:
        wrong += _identity(
            books,
            point_type,
            [m.transaction for o, own in by_owner.items() if o[1] == point_type for m in own],
        )
    return wrong


def _wallet(member: MemberState, point_type: str, rows: list[Transaction], program: Program) -> Iterable[str]:
    wallet = member.wallet(point_type)
    for name, account in FIGURES.items():
        moved = _into(rows, account) - _out_of(rows, account)
        if not getattr(wallet, name) == moved >= 0:
            yield f"{name} is {getattr(wallet, name)}, its rows say {moved}"
    if not wallet.debt == _out_of(rows, Account.WALLET_DEBT) - _into(rows, Account.WALLET_DEBT) >= 0:
        yield f"debt is {wallet.debt}, its rows say otherwise"
    lifetime = _sum(rows, Kind.EARN) - _sum(rows, Kind.REVERSE_EARN)
    if wallet.lifetime != lifetime:
        yield f"lifetime is {wallet.lifetime}, its rows say {lifetime}"
    if wallet.debt and wallet.balance:
        yield f"owes {wallet.debt} beside a balance of {wallet.balance}"
    lots = [lot for lot in member.lots.values() if lot.point_type == point_type]
    if sum(lot.remaining for lot in lots if lot.active) != wallet.balance + wallet.held:
        yield "active lots are not balance and held"
    if sum(lot.remaining for lot in lots if not lot.active) != wallet.pending:
        yield "waiting lots are not what is pending"
    holds = [hold for hold in member.holds.values() if hold.point_type == point_type]
    for lot in lots:
        shares = sum(s.points for hold in holds for s in hold.shares if s.lot_id == lot.lot_id)
        if not 0 <= lot.held == shares <= lot.remaining <= lot.points:
            yield f"lot {lot.lot_id.int} holds {lot.held}, open holds have {shares} of it"
    for hold in holds:
        if sum(share.points for share in hold.shares) != hold.open_points:
            yield f"hold {hold.hold_id.int} is not its shares"
    if sum(hold.open_points for hold in holds) != wallet.held:
        yield "open holds are not what is held"
    if point_type == program.main_point_type and member.status != Status.MERGED:
        reached = lifetime + member.inherited
        if reached < 0 or member.facts.tier != program.tier_at(reached).name:
            yield f"the tier is {member.facts.tier} at a lifetime of {reached}"


def _chain(own: list[Movement], keys: Mapping[str, bytes]) -> Iterable[str]:
    before: Transaction | None = None
    for row, wallet, created, allocations, _ in own:
        broken = fault(row, created, allocations, before, keys)
        if broken is not None:
            yield f"row {row.sequence} {broken}"
        if wallet.head_hash != row.hash or wallet.balance != row.balance_after:
            yield f"row {row.sequence} and the wallet after it differ"
        moved = sum(lot.points for lot in created) + sum(share.points for share in allocations)
        # What touches no lot moves only a debt, or nothing of the wallet.
        if moved != row.points and (moved or row.kind not in OF_DEBTS):
            yield f"row {row.sequence} moves {row.points} points, its lots {moved}"
        before = row


def _identity(books: Books, point_type: str, rows: list[Transaction]) -> Iterable[str]:
    """issued + adjusted = outstanding + redeemed + expired + reversed; transfers come to nothing."""
    wallets = [member.wallet(point_type) for member in books.members.values()]
    outstanding = sum(w.balance + w.pending + w.held - w.debt for w in wallets)
    adjusted = _out_of(rows, Account.PROGRAM_ADJUSTMENT) - _into(rows, Account.PROGRAM_ADJUSTMENT)
    redeemed = _sum(rows, Kind.REDEEM) + _sum(rows, Kind.CAPTURE) - _sum(rows, Kind.REVERSE_REDEEM)
    taken_back = [row for row in rows if row.debit_account is not Account.PROGRAM_SHORTFALL]
    gone = redeemed + _sum(rows, Kind.EXPIRE) + _sum(taken_back, Kind.REVERSE_EARN)
    if _sum(rows, Kind.EARN) + adjusted != outstanding + gone:
        yield f"{point_type} of the program: what came in is not what is there and what went out"
    if _sum(rows, Kind.TRANSFER_IN) != _sum(rows, Kind.TRANSFER_OUT):
        yield f"{point_type} were lost or made on the way from one member to another"


def _into(rows: Iterable[Transaction], account: Account) -> int:
    return sum(row.points for row in rows if row.credit_account is account)


def _out_of(rows: Iterable[Transaction], account: Account) -> int:
    return sum(row.points for row in rows if row.debit_account is account)


def _sum(rows: Iterable[Transaction], kind: Kind) -> int:
    return sum(row.points for row in rows if row.kind is kind)
