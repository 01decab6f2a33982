"""Members as they are now: what has fallen due in their wallets is done, written down or not.

Most wallets never change by the clock: one query finds them, without their lots. Wallet and lots
must be of one moment, so those that do change are asked for once more, together with what is in them.
"""

from collections.abc import Collection
from datetime import datetime

from server.domain.books import MemberState
from server.domain.due import as_due
from server.operations.programs import Programs
from server.store import ledger
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.together import ask


async def members_as_due(
    connection: Connection, programs: Programs, wanted: Collection[MemberOf], now: datetime
) -> dict[MemberOf, MemberState]:
    """The members that exist, with all open lots of wallets that time changes."""
    program_ids = {program_id for program_id, _ in wanted}
    snapshots = {p: programs.known(p) or await programs.current(connection, p) for p in program_ids}
    main = {p: snapshot.program.main_point_type for p, snapshot in snapshots.items()}
    found: dict[MemberOf, MemberState] = {}
    # Where points live by the clock, asking for everything at once saves the first look.
    changing = [key for key in wanted if snapshots[key[0]].rules.timed]
    others = wanted if not changing else [key for key in wanted if not snapshots[key[0]].rules.timed]
    if others:
        wallets = ledger.wallets_of(dict.fromkeys(others, False), now)
        (found,) = await ask(connection, ledger.members_known(wallets, main))
        changing += [key for key, member in found.items() if _changes(member)]
    if not changing:
        return found
    wallets = ledger.wallets_of(dict.fromkeys(changing, False), now)
    members, lots, holds = await ask(
        connection,
        ledger.members_known(wallets, main),
        ledger.lots_that_change(wallets),
        ledger.holds_open(wallets),
    )
    for key, member in members.items():
        complete = member._replace(lots=lots.get(key, {}), holds=holds.get(key, {}))
        found[key] = as_due(key[1], complete, snapshots[key[0]].program, now)
    return found


def _changes(member: MemberState) -> bool:
    return any(wallet.next_due is not None or wallet.pending for wallet in member.wallets.values())
