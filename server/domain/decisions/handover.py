"""Lots that go over from one wallet to another as they are: spendable or pending, with their expiry."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from server.domain.commands import Award
from server.domain.draft import BALANCE, PENDING, Cause, Draft, Holdings
from server.domain.ledger import Account, Allocation, Kind, Lot

Parts = Sequence[tuple[Lot, int]]  # lots, and how much of each


class Handed(NamedTuple):
    """The rows of who gets something, and the lots that these created."""

    awards: tuple[Award, ...] = ()
    lots: frozenset[UUID] = frozenset()

    def __add__(self, other: object) -> "Handed":
        """Both together."""
        assert isinstance(other, Handed)
        return Handed(self.awards + other.awards, self.lots | other.lots)


def hand_lots(
    draft: Draft,
    giver: Holdings,
    getter: Holdings,
    point_type: str,
    parts: Parts,
    why: Mapping[str, object],
    causes: tuple[Cause, Cause],
    remembered: UUID | None = None,
) -> Handed:
    """A row on either side for what can be spent, and one for what can't yet.

    Each lot goes on as it would have, and knows which row its points came from. ``causes`` are of who gives
    and of who gets. ``remembered``: as whose gift a pool keeps them. The getter's debt is left to the caller.
    """
    handed = Handed()
    for account, active in ((BALANCE, True), (PENDING, False)):
        those = [(lot, points) for lot, points in parts if points and lot.active is active]
        if those:
            handed += _hand(draft, giver, getter, point_type, account, those, why, causes, remembered)
    return handed


def _hand(
    draft: Draft,
    giver: Holdings,
    getter: Holdings,
    point_type: str,
    account: Account,
    parts: Parts,
    why: Mapping[str, object],
    causes: tuple[Cause, Cause],
    remembered: UUID | None,
) -> Handed:
    points = sum(part for _, part in parts)
    incoming = draft.terms.new_id()
    # By age, so that ties among the new lots stay as they were.
    created = {
        lot.lot_id: Lot(
            draft.terms.new_id(),
            point_type,
            incoming,
            part,
            part,
            active=lot.active,
            activates_at=None if lot.active else lot.activates_at,
            expires_at=lot.expires_at,
            activates_on="" if lot.active else lot.activates_on,
            rolling_days=lot.rolling_days,
        )
        for lot, part in sorted(parts, key=lambda entry: entry[0].lot_id)
    }
    origins = {created[lot.lot_id].lot_id: draft.origin(lot) for lot, _ in parts}
    draft.changes.origins.update(origins)
    if remembered is not None:
        draft.changes.givers.update(dict.fromkeys(origins, remembered))
    draft.move(
        giver,
        point_type,
        Kind.TRANSFER_OUT,
        account,
        Account.PROGRAM_TRANSFER,
        points,
        why,
        cause=causes[0],
        allocations=tuple(Allocation(lot.lot_id, part) for lot, part in parts),
    )
    row = draft.move(
        getter,
        point_type,
        Kind.TRANSFER_IN,
        Account.PROGRAM_TRANSFER,
        account,
        points,
        {**why, "origins": {str(lot_id): str(origin) for lot_id, origin in origins.items()}},
        cause=causes[1],
        transaction_id=incoming,
        created=tuple(created.values()),
    )
    return Handed((Award(row.transaction_id, point_type, points),), frozenset(origins))
