"""Advisory locks: who waits for whom, in one order for everybody.

The order: program (shared by all that evaluate its rules, exclusive to publish), run,
members, pools of households, then request and business keys, then identifiers; each kind
ascending. Pools have ids that are locked after those of members (``households.pool_id``), so
members and pools together are ascending too, whoever knows which is which. Advisory locks assign no
transaction id, so a transaction that waits here does not hold back the event log's
readers. A clash of two 64-bit values costs a needless wait, or a deadlock that the
database detects and the committer retries.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from server.domain.books import OrderKey
from server.domain.households import LAST
from server.store.database import Connection
from server.store.keys import RequestKey
from server.store.ledger import MemberOf

# For who waits for locks of several members: many times what a transaction takes, and no longer, because
# whoever wants one of the others waits too.
SHORTLY = "SET LOCAL lock_timeout = '250ms'"
# For who waits for one: while it waits it has a connection, of which there are few.
FOR_ONE = "SET LOCAL lock_timeout = '2s'"


def program_lock(program_id: UUID) -> int:
    """The lock of a program's rules."""
    return _digest("program", program_id.hex)


def drafts_lock(program_id: UUID) -> int:
    """The lock of a program's drafts and publications: before every other, and held by nobody who earns."""
    return _digest("drafts", program_id.hex)


def run_lock(program_id: UUID) -> int:
    """The lock of the one batch of runs that a program has under way."""
    return _digest("run", program_id.hex)


def member_lock(member_id: UUID) -> int:
    """The lock of everything a member owns: the random half of its UUIDv7."""
    return int.from_bytes(member_id.bytes[8:], signed=True)


def request_lock(key: RequestKey) -> int:
    """The lock of a request key."""
    return _digest("request", key.program_id.hex, key.source_system, key.request_id)


def order_lock(program_id: UUID, key: OrderKey) -> int:
    """The lock of a business key."""
    return _digest(
        "order",
        program_id.hex,
        key.source_system,
        key.store,
        key.business_date.isoformat(),
        key.reference,
        key.action,
        key.part,
    )


def reviews_lock(credential_id: UUID) -> int:
    """The lock of how many entries of a credential wait for a review."""
    return _digest("reviews", credential_id.hex)


def identifier_lock(blind: bytes) -> int:
    """The lock of an identifier, by its blind index."""
    return int.from_bytes(blind[:8], signed=True)


def taking(locks: Sequence[int], shared: Iterable[int] = ()) -> str:
    """SQL that takes ``shared`` locks, then the others, in the order given, until the transaction ends."""
    return (
        f"SELECT pg_advisory_xact_lock_shared(unnest({_array(shared)})); "
        f"SELECT pg_advisory_xact_lock(unnest({_array(locks)}))"
    )


# Below are members, and from here on pools; of members one in a billion.
POOLS_FROM = int.from_bytes(LAST + bytes(4), signed=True)
# As ``member_lock`` makes it of a household's id.
_POOL = "('x' || right(replace(household_id::text, '-', ''), 16))::bit(64)::bigint"
# The members are locked by now, so nobody changes where they sit.
_POOLS_OF = """
    SELECT pg_advisory_xact_lock(number)
      FROM (SELECT number FROM unnest({pools}) AS number
            UNION
            SELECT {pool}
              FROM unnest({programs}, {members}) AS seated(program_id, member_id)
              JOIN seat USING (program_id, member_id)
             WHERE left_at IS NULL
             ORDER BY 1) AS ascending"""


class Needs(NamedTuple):
    """Locks of programs (shared), of members and pools, of the pools of those who are ``seated``, and of
    what is ``named``: request and business keys."""

    programs: Collection[int]
    members: Collection[int]
    seated: Collection[MemberOf]
    named: Collection[int]


def taking_all(needs: Needs) -> str:
    """SQL that takes these locks, in the one order, until the transaction ends."""
    programs, members, seated, named = needs
    ordered = sorted(members)
    first = bisect_left(ordered, POOLS_FROM)
    if not seated:
        return taking([*ordered, *sorted(named)], shared=sorted(programs))
    people = zip(*((p.hex, m.hex) for p, m in seated), strict=True)
    ids = (f"'{{{','.join(column)}}}'::uuid[]" for column in people)
    pools = _POOLS_OF.format(
        pool=_POOL, pools=_array(ordered[first:]), **dict(zip(("programs", "members"), ids, strict=True))
    )
    return f"{taking(ordered[:first], sorted(programs))}; {pools}; {taking(sorted(named))}"


_HELD = """
    SELECT number FROM unnest($1::bigint[]) AS number WHERE NOT pg_try_advisory_xact_lock_shared(number)
    UNION ALL
    SELECT number FROM unnest($2::bigint[]) AS number WHERE NOT pg_try_advisory_xact_lock(number)"""
# Materialized, or the lock of every pool that there is might be tried.
_SEATED_AT_HELD = f"""
    WITH found AS MATERIALIZED (
        SELECT program_id, member_id, {_POOL} AS pool
          FROM unnest($1::uuid[], $2::uuid[]) AS seated(program_id, member_id)
          JOIN seat USING (program_id, member_id)
         WHERE left_at IS NULL)
    SELECT program_id, member_id FROM found WHERE NOT pg_try_advisory_xact_lock(pool)"""


async def held(connection: Connection, needs: Sequence[Needs]) -> list[bool]:
    """Of each, whether somebody holds one of its locks at this moment. Waits for nobody, and keeps none."""
    shared = {number for need in needs for number in need.programs}
    others = {number for need in needs for number in (*need.members, *need.named)}
    seated = {owner for need in needs for owner in need.seated}
    numbers = {row[0] for row in await connection.fetch(_HELD, list(shared), list(others))}
    owners: set[tuple[UUID, UUID]] = set()
    if seated:
        owners = {(p, m) for p, m in await connection.fetch(_SEATED_AT_HELD, *zip(*seated, strict=True))}
    return [
        not numbers.isdisjoint((*need.programs, *need.members, *need.named))
        or not owners.isdisjoint(need.seated)
        for need in needs
    ]


async def take(connection: Connection, locks: Sequence[int]) -> None:
    """Take locks in the order given; held until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(unnest($1::bigint[]))", locks)


def _array(locks: Iterable[int]) -> str:
    return f"'{{{','.join(map(str, locks))}}}'::bigint[]"


def _digest(*parts: str) -> int:
    return int.from_bytes(blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), signed=True)


CHECKPOINTS_LOCK = _digest(
    "checkpoints"
)  # of who takes checkpoints; beside the order, for nobody waits for it
