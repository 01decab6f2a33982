"""Checkpoints of a shop: taken into a file, read again, and what undoes what they saw."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

from uuid_utils.compat import uuid7

from server import secrets
from server.domain.checkpoints import Checkpoint, Head
from server.operations.checkpoints import Taken, take
from server.operations.evidence import Evidence
from server.secrets import Keyring
from server.store.checkpoint_file import CheckpointWriter, lines, public_keys
from tests.support.servers import Laurel
from tests.support.waiting import eventually

# The whole of a purchase undone, wallet and all, by somebody who thinks of everything but the file.
CUT_OFF = """
    DELETE FROM ledger_transaction WHERE transaction_id = $4;
    DELETE FROM lot WHERE transaction_id = $4;
    DELETE FROM event_log WHERE payload -> 'transaction_ids' ->> 0 = $4;
    DELETE FROM business_key WHERE transaction_ids = ARRAY[$4::uuid];
    DELETE FROM request_key WHERE reply -> 'awards' -> 0 ->> 0 = replace($4, '-', '');
    UPDATE member SET purchases = purchases - 1 WHERE member_id = $m;
    UPDATE wallet SET balance = 20, lifetime = 140, sequence = 3,
                      (head_hash, active_at) = (SELECT hash, occurred_at FROM ledger_transaction
                                                 WHERE transaction_id = $3)
     WHERE member_id = $m"""
# Nothing of a member's is left but the member.
CLEARED = """
    DELETE FROM ledger_transaction WHERE member_id = $m;
    DELETE FROM allocation WHERE member_id = $m;
    DELETE FROM lot WHERE member_id = $m;
    DELETE FROM event_log WHERE member_id = $m;
    DELETE FROM business_key WHERE member_id = $m;
    DELETE FROM request_key WHERE reply ->> 'member_id' = replace($m, '-', '');
    UPDATE member SET purchases = 0 WHERE member_id = $m;
    DELETE FROM wallet WHERE member_id = $m"""


def text(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def signing(shop: Laurel) -> Keyring:
    keys = secrets.load(shop.settings.secrets_file).checkpoint
    assert keys is not None
    return keys


async def all_is_over(shop: Laurel) -> bool:
    """Whether nothing that began before the end of the log is under way, in any database of this server."""
    async with shop.database.connection() as connection:
        return bool(
            await connection.fetchval(
                "SELECT coalesce(pg_snapshot_xmin(pg_current_snapshot()) > max(xid), true) FROM event_log"
            )
        )


async def taken(shop: Laurel, path: Path, later: float = 0.0) -> Taken:
    """A checkpoint of all that there is by now."""
    await eventually(partial(all_is_over, shop))
    return await taken_meanwhile(shop, path, later)


async def taken_meanwhile(shop: Laurel, path: Path, later: float = 0.0) -> Taken:
    """A checkpoint, so many seconds after now, whatever is under way."""

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=later)

    return await take(shop.database, CheckpointWriter(path, signing(shop)), clock, uuid7)


def checkpoints(shop: Laurel, path: Path) -> list[Checkpoint]:
    found = list(lines(path, public_keys(signing(shop))))
    assert [r.problem for r in found if r.problem] == []
    return [r.line.checkpoint for r in found if r.line is not None]


def heads(shop: Laurel, path: Path, number: int = -1) -> dict[UUID, Head]:
    """By member, the ends of the chains in one of the checkpoints, the last if not said otherwise."""
    return {head.member_id: head for head in checkpoints(shop, path)[number].heads}


def evidence(shop: Laurel, path: Path) -> Evidence:
    return Evidence.of(path, public_keys(signing(shop)))
