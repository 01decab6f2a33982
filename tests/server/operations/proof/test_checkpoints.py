"""Checkpoints hold what changed, each once, in a file that goes on where it ended."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.checkpoints import CheckpointError
from server.domain.proof import Check
from server.store.checkpoint_file import CheckpointWriter
from tests.support.checkpoints import (
    checkpoints,
    evidence,
    heads,
    put,
    signing,
    taken,
    taken_meanwhile,
    text,
)
from tests.support.servers import Laurel
from tests.support.tampering import (
    Customer,
    as_owner,
    earn,
    new_customer,
    verified,
)


async def test_a_checkpoint_holds_what_changed_since_the_last(shop: Laurel, path: Path) -> None:
    first, second = await new_customer(shop), await new_customer(shop)
    await taken(shop, path)
    everybody = heads(shop, path)
    assert {first.member_id, second.member_id} <= set(everybody)
    await earn(shop, str(second.member_id), 3)
    assert (await taken(shop, path)).heads == 1
    changed = heads(shop, path)
    assert set(changed) == {second.member_id}
    async with shop.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT sequence, head_hash FROM wallet WHERE member_id = $1", second.member_id
        )
    assert row is not None
    assert changed[second.member_id][3:] == (5, bytes(row["head_hash"])) == tuple(row)


async def test_where_nothing_changed_nothing_is_written(shop: Laurel, customer: Customer, path: Path) -> None:
    await taken(shop, path)
    before = text(path)
    again = await taken(shop, path)
    assert (again.heads, text(path)) == (0, before)


async def test_of_those_who_come_at_once_one_writes(shop: Laurel, customer: Customer, path: Path) -> None:
    results = await asyncio.gather(*(taken(shop, path) for _ in range(4)))
    assert sum(t.heads > 0 for t in results) == 1
    assert len(checkpoints(shop, path)) == 1


async def test_who_commits_late_is_not_missed(shop: Laurel, path: Path) -> None:
    early, late = await new_customer(shop), await new_customer(shop)
    url = shop.settings.database_url.get_secret_value()
    connection = await asyncpg.connect(url)
    try:
        # A purchase as it stands between its writes and its COMMIT, with an early xid.
        begun = connection.transaction()
        await begun.start()
        await connection.execute(
            """INSERT INTO event_log (epoch, event_id, event_type, program_id, member_id, occurred_at,
                                      recorded_at, payload)
               SELECT epoch, gen_random_uuid(), event_type, program_id, member_id, occurred_at, recorded_at,
                      payload FROM event_log WHERE member_id = $1 LIMIT 1""",
            late.member_id,
        )
        await connection.execute(
            "UPDATE wallet SET sequence = 99 WHERE member_id = $1 AND point_type = 'points'", late.member_id
        )
        await earn(shop, str(early.member_id), 1)
        await taken_meanwhile(shop, path)
        assert heads(shop, path)[early.member_id].sequence == 5
        assert heads(shop, path)[late.member_id].sequence == 4
        await begun.commit()
        await taken(shop, path)
        assert heads(shop, path)[late.member_id].sequence == 99
    finally:
        await connection.close()
        async with as_owner(shop) as owner:
            await owner.execute("UPDATE wallet SET sequence = 4 WHERE member_id = $1", late.member_id)
            await owner.execute(
                """DELETE FROM event_log WHERE member_id = $1 AND event_id NOT IN
                          (SELECT event_id FROM ledger_transaction)""",
                late.member_id,
            )


async def test_many_wallets_take_several_lines(
    shop: Laurel, customer: Customer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await new_customer(shop)
    monkeypatch.setattr("server.store.checkpoints.HEADS_PER_LINE", 1)
    await taken(shop, path)
    found = checkpoints(shop, path)
    assert len(found) >= 2
    assert {len(c.heads) for c in found} == {1}
    # Who takes up after a crash in between begins where this one began.
    assert {c.position for c in found[:-1]} == {None}
    assert found[-1].position is not None
    put(path, b"".join(text(path).splitlines(keepends=True)[:-1]))
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM checkpoint WHERE chain = $1", found[0].chain)
    monkeypatch.setattr("server.store.checkpoints.HEADS_PER_LINE", 5000)
    assert (await taken(shop, path)).heads == len(found)


async def test_after_a_restore_elsewhere_everything_is_written_again(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    everybody = (await taken(shop, path)).heads
    last = CheckpointWriter(path, signing(shop)).last()
    assert last is not None
    position = last.checkpoint.position
    assert position is not None
    for elsewhere in (position._replace(system="1"), position._replace(xid=1 << 60)):
        put(path, b"")
        writer = CheckpointWriter(path, signing(shop))
        writer.append(None, uuid7(), datetime.now(UTC), elsewhere, [])
        assert (await taken(shop, path)).heads == everybody


async def test_nobody_goes_on_with_a_file_whose_end_was_cut_off(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 1)
    await taken(shop, path)
    first, second = text(path).splitlines(keepends=True)
    put(path, first)
    with pytest.raises(CheckpointError, match=r"ends with checkpoint 1, and the database knows of 2"):
        await taken(shop, path)
    (finding,) = (await verified(shop, evidence=evidence(shop, path)))[Check.CHECKPOINT_FILE].findings
    assert "ends with checkpoint 1, the database knows of checkpoint 2" in finding.problem
    put(path, first + second)
    await taken(shop, path)


def test_a_secrets_file_from_before_gets_a_key(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    secrets.generate(file)
    content = json.loads(file.read_text())
    del content["checkpoint"]
    file.write_text(json.dumps(content))
    old = secrets.load(file)
    assert old.checkpoint is None
    assert secrets.add_checkpoint_key(file) == "1"
    assert secrets.add_checkpoint_key(file) == "2"
    new = secrets.load(file)
    assert new.checkpoint is not None
    assert (new.checkpoint.current, set(new.checkpoint.keys)) == ("2", {"1", "2"})
    assert (new.ledger, new.master, new.blind_index) == (old.ledger, old.master, old.blind_index)
    assert file.stat().st_mode & 0o777 == 0o600
