"""Checkpoints hold what changed, each once; and what they saw can't go unseen."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from loyalty.v1 import member_pb2
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.checkpoints import Checkpoint, CheckpointError, Head, NoSuchCheckpointError
from server.domain.proof import Check, Finding
from server.operations.checkpoints import Taken, take
from server.operations.evidence import Evidence
from server.secrets import Keyring
from server.store.checkpoint_file import CheckpointWriter, lines, public_keys
from server.store.database import Database
from tests.support import processes
from tests.support.programs import settings_for
from tests.support.servers import Laurel, started
from tests.support.tampering import (
    Customer,
    as_owner,
    earn,
    found_after,
    new_customer,
    open_shop,
    spend,
    tampered,
    verified,
)
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


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    return await open_shop(laurel)


@pytest.fixture
async def customer(shop: Laurel) -> Customer:
    return await new_customer(shop)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.jsonl"


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


async def test_a_whole_ledger_agrees_with_its_checkpoints(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 1)
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 1)
    results = await verified(shop, evidence=evidence(shop, path))
    assert set(results) == set(Check)
    assert [r for r in results.values() if r.faults] == []
    assert results[Check.CHECKPOINT_FILE].checked == 2
    assert results[Check.CHECKPOINTS].checked == sum(len(c.heads) for c in checkpoints(shop, path))


async def test_an_end_cut_off_with_everything_edited_along_is_missed_by_the_checkpoint_alone(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    assert await found_after(shop, customer, CUT_OFF) == {}
    await taken(shop, path)
    found = await found_after(shop, customer, CUT_OFF, evidence=evidence(shop, path))
    assert set(found) == {Check.CHECKPOINTS}
    (finding,) = found[Check.CHECKPOINTS]
    (checkpoint,) = checkpoints(shop, path)
    assert (finding.member_id, finding.sequence) == (customer.member_id, 4)
    assert finding.problem == (
        f"checkpoint 1 of {checkpoint.taken_at:%Y-%m-%d %H:%M:%SZ} is missed: it has sequence 4, "
        "the rows end at sequence 3"
    )


async def test_what_is_newer_than_the_last_checkpoint_can_vanish_unseen(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    await taken(shop, path)
    newest = await earn(shop, str(customer.member_id), 7)
    later = Customer(customer.program_id, customer.member_id, [*customer.rows[:2], customer.rows[3], newest])
    cut = CUT_OFF.replace(
        "balance = 20, lifetime = 140, sequence = 3", "balance = 27, lifetime = 147, sequence = 4"
    )
    assert await found_after(shop, later, cut, evidence=evidence(shop, path)) == {}


async def test_a_member_whose_wallet_is_gone_without_a_trace_is_missed(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    assert await found_after(shop, customer, CLEARED) == {}
    await taken(shop, path)
    found = await found_after(shop, customer, CLEARED, evidence=evidence(shop, path))
    assert set(found) == {Check.CHECKPOINTS}
    (finding,) = found[Check.CHECKPOINTS]
    assert finding.member_id == customer.member_id
    assert finding.problem.endswith("is missed: it has sequence 4, the wallet has no rows")


async def test_another_row_in_place_of_the_last_is_missed_even_if_it_is_authentic(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    """As after a restore and new purchases: every chain is good, and yet it isn't the one that was seen."""
    await taken(shop, path)
    async with tampered(shop, customer, CUT_OFF):
        other = await earn(shop, str(customer.member_id), 7)
        found = await verified(shop, evidence=evidence(shop, path))
    assert {check for check, r in found.items() if r.faults} == {Check.CHECKPOINTS}
    (finding,) = found[Check.CHECKPOINTS].findings
    assert finding.transaction_id == other
    assert finding.problem.endswith("it has sequence 4, another row stands there")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(b'",4,"', b'",3,"'), "was changed after it was signed"),
        (lambda text: b"\n".join(text.split(b"\n")[1:]), "checkpoint 1 was due"),
        (lambda text: text.split(b"\n")[0] + b"\n", "its end was cut off"),
        (lambda text: b"", "has no checkpoint, the database knows of"),
    ],
    ids=["edited", "the first gone", "the last gone", "empty"],
)
async def test_a_file_that_was_changed_is_told(
    shop: Laurel, customer: Customer, path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 1)
    await taken(shop, path)
    put(path, change(text(path)))
    findings = (await verified(shop, evidence=evidence(shop, path)))[Check.CHECKPOINT_FILE].findings
    assert words in findings[0].problem


async def test_lines_of_another_key_count_for_nothing(shop: Laurel, customer: Customer, path: Path) -> None:
    theirs = CheckpointWriter(path, Keyring("1", {"1": bytes(32)}))
    made_up = Head(customer.program_id, customer.member_id, "points", 99, bytes(32))
    theirs.append(None, uuid7(), datetime.now(UTC), None, [made_up])
    results = await verified(shop, evidence=evidence(shop, path))
    finding, empty = results[Check.CHECKPOINT_FILE].findings
    assert "signed with another key" in finding.problem
    assert "has no checkpoint, the database knows of" in empty.problem
    assert (results[Check.CHECKPOINTS].checked, results[Check.CHECKPOINTS].faults) == (0, 0)


async def test_since_a_checkpoint_only_what_is_newer_is_verified(shop: Laurel, path: Path) -> None:
    old, busy = await new_customer(shop), await new_customer(shop)
    await taken(shop, path)
    newest = await earn(shop, str(busy.member_id), 5)
    since = partial(verified, shop, since=1)

    results = await since(evidence=evidence(shop, path))
    assert {check: r.faults for check, r in results.items() if r.faults} == {}
    assert (results[Check.CHAIN].checked, results[Check.FIGURES].checked) == (1, 1)
    assert results[Check.CHECKPOINTS].checked == len(heads(shop, path))

    edit = "UPDATE ledger_transaction SET reason = 'x' WHERE transaction_id ="
    # What is old and trusted isn't looked at, whoever's it is.
    for customer, row in ((old, "$2"), (busy, "$2")):
        assert (
            await found_after(shop, customer, f"{edit} {row}", evidence=evidence(shop, path), since=1) == {}
        )
    found = await found_after(shop, busy, f"{edit} '{newest}'", evidence=evidence(shop, path), since=1)
    assert [(f.check, f.sequence) for f in found[Check.CHAIN]] == [(Check.CHAIN, 5)]
    found = await found_after(
        shop,
        busy,
        "UPDATE wallet SET balance = 33, lifetime = 153 WHERE member_id = $m",
        evidence=evidence(shop, path),
        since=1,
    )
    assert {"balance is 33", "lifetime is 153"} <= {
        f.problem.removeprefix("the wallet's ").partition(";")[0] for f in found[Check.FIGURES]
    }


async def test_since_a_checkpoint_what_it_has_must_be_there(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    await taken(shop, path)
    newest = await earn(shop, str(customer.member_id), 5)
    both = f"DELETE FROM ledger_transaction WHERE transaction_id IN ($4, '{newest}')"
    found = await found_after(shop, customer, both, evidence=evidence(shop, path), since=1)
    (finding,) = found[Check.CHECKPOINTS]
    assert finding.problem.endswith("it has sequence 4, the rows end at sequence 3")
    found = await found_after(
        shop,
        customer,
        "UPDATE ledger_transaction SET hash = '\\x00' WHERE transaction_id = $4",
        evidence=evidence(shop, path),
        since=1,
    )
    assert found[Check.CHECKPOINTS][0].problem.endswith("another row stands there")


async def test_since_a_checkpoint_a_merged_member_is_looked_at_with_who_lives_on(
    shop: Laurel, path: Path
) -> None:
    """What the one bought counts for the other, so either alone would seem to be wrong."""
    survivor, merged = await new_customer(shop), await new_customer(shop)
    request = member_pb2.MergeMembersRequest(
        request_id="merge", member_id=str(survivor.member_id), merged_member_id=str(merged.member_id)
    )
    await shop.service.members.MergeMembers(request)
    await taken(shop, path)
    await earn(shop, str(survivor.member_id), 5)
    since = partial(verified, shop, evidence=evidence(shop, path), since=1)
    results = await since()
    assert [r for r in results.values() if r.faults] == []
    assert results[Check.COUNTED].checked == 2
    edit = "UPDATE member SET purchases = purchases - 1 WHERE member_id = $m"
    async with tampered(shop, survivor, edit):
        (finding,) = (await since())[Check.COUNTED].findings
    assert "has 6 purchases and took over 147 lifetime points; recorded are 7 and 147" in finding.problem


FORGED = """
    INSERT INTO ledger_transaction
    SELECT program_id, member_id, gen_random_uuid(), point_type, 5, kind, 5000, debit_account, credit_account,
           balance_after + 5000, now(), now(), event_id, event_type, order_reference, store, channel,
           source_system, actor, credential_id, reason, trace, key_id, hash, sha256('made up')
      FROM ledger_transaction WHERE transaction_id = $4"""
QUIET = {
    "a forged row": (FORGED, Check.CHAIN, "was changed after it was written, or forged"),
    "a forged row, and the wallet with it": (
        f"""{FORGED}; UPDATE wallet SET balance = balance + 5000, lifetime = lifetime + 5000, sequence = 5,
                      head_hash = sha256('made up') WHERE member_id = $m""",
        Check.CHAIN,
        "was changed after it was written, or forged",
    ),
    "a forged wallet": (
        FORGED.replace("point_type, 5", "'gold', 1"),
        Check.HEAD,
        "is the last of rows without a wallet",
    ),
    "a wallet without rows": (
        "INSERT INTO wallet SELECT program_id, member_id, 'gold', 5, 0, 0, 0, 5, 1, head_hash FROM wallet "
        "WHERE member_id = $m",
        Check.WALLETS,
        "has no rows",
    ),
    "another balance": (
        "UPDATE wallet SET balance = 999, sequence = 5 WHERE member_id = $m", Check.FIGURES, "balance is 999",
    ),
    "the end cut off": (CUT_OFF, Check.CHECKPOINTS, "the rows end at sequence 3"),
    "everything gone": (CLEARED, Check.CHECKPOINTS, "the wallet has no rows"),
    "another last row": (
        "UPDATE ledger_transaction SET hash = '\\x00' WHERE transaction_id = $4",
        Check.CHECKPOINTS,
        "another row stands there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", QUIET)
async def test_since_a_checkpoint_who_is_quiet_is_not_out_of_sight(
    shop: Laurel, path: Path, what: str
) -> None:
    """Nobody does anything after the checkpoint but the owner of the database, who leaves no event."""
    await new_customer(shop)
    victim = await new_customer(shop)
    await taken(shop, path)
    tampering, check, words = QUIET[what]
    found = await found_after(shop, victim, tampering, evidence=evidence(shop, path), since=1)
    assert [f.member_id for f in found[check]] == [victim.member_id]
    assert words in found[check][0].problem


async def test_a_wallet_that_came_after_the_checkpoint_is_verified_whole(shop: Laurel, path: Path) -> None:
    await new_customer(shop)
    await taken(shop, path)
    fresh = await new_customer(shop)
    results = await verified(shop, evidence=evidence(shop, path), since=1)
    assert results[Check.CHAIN].checked == 4
    found = await found_after(
        shop,
        fresh,
        "DELETE FROM ledger_transaction WHERE transaction_id = $1",
        evidence=evidence(shop, path),
        since=1,
    )
    assert [f.sequence for f in found[Check.CHAIN]] == [2]


async def test_who_may_be_trusted(shop: Laurel, customer: Customer, path: Path) -> None:
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 5)
    await taken(shop, path, later=120)
    known = evidence(shop, path)
    now = datetime.now(UTC)
    assert [known.number_at(now + timedelta(seconds=s)) for s in (1, 200)] == [1, 2]
    with pytest.raises(NoSuchCheckpointError, match="is so old"):
        known.number_at(now - timedelta(days=1))
    with pytest.raises(NoSuchCheckpointError, match="has no checkpoint 3"):
        await verified(shop, evidence=known, since=3)
    put(path, b"")
    elsewhere = CheckpointWriter(path, signing(shop))
    elsewhere.append(None, uuid7(), now, None, [])
    with pytest.raises(NoSuchCheckpointError, match="doesn't reach back"):
        await verified(shop, evidence=evidence(shop, path), since=1)


@pytest.fixture
async def copies(
    postgres: Callable[[str], str],
) -> AsyncIterator[Callable[[str, str], Awaitable[None]]]:
    """Copies databases, as `createdb --template` does."""
    administrator = await asyncpg.connect(postgres("postgres"))
    made = []

    async def copy(name: str, template: str) -> None:
        await administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        made.append(name)

    yield copy
    for name in made:
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administrator.close()


async def test_an_old_backup_put_back_is_missed(
    copies: Callable[[str, str], Awaitable[None]],
    postgres: Callable[[str], str],
    template: str,
    redis_url: str,
    secrets_file: Path,
    path: Path,
) -> None:
    live, backup = f"live_{uuid7().hex}", f"backup_{uuid7().hex}"
    await copies(live, template)

    async def day(name: str, work: Callable[[Laurel], Awaitable[None]]) -> None:
        database = await Database.open(postgres(name), connections=4)
        settings = settings_for(postgres(name), redis_url, secrets_file)
        try:
            async with started(settings, database) as shop:
                await work(shop)
        finally:
            await database.close()

    member: list[str] = []

    async def monday(shop: Laurel) -> None:
        await open_shop(shop)
        member.append(await shop.register())
        await earn(shop, member[0], 100)
        await taken(shop, path)

    async def tuesday(shop: Laurel) -> None:
        # The program of Monday is this shop's no more, so write as the server does, by another.
        await open_shop(shop)
        member.append(await shop.register())
        await earn(shop, member[1], 50)
        await spend(shop, member[1], 20)
        await taken(shop, path)

    found: list[Finding] = []

    async def wednesday(shop: Laurel) -> None:
        results = await verified(shop, evidence=evidence(shop, path))
        assert {check for check, r in results.items() if r.faults} == {Check.CHECKPOINTS}
        found.extend(results[Check.CHECKPOINTS].findings)

    await day(live, monday)
    await copies(backup, live)
    await day(live, tuesday)
    await day(backup, wednesday)
    assert [str(f.member_id) for f in found] == [member[1]]
    assert found[0].problem.startswith("checkpoint 2 of ")
    assert found[0].problem.endswith("it has sequence 2, the wallet has no rows")


async def test_commands_take_check_and_name_what_is_missed(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    environment = {
        "LAUREL_DATABASE_URL": shop.settings.database_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(shop.settings.secrets_file),
        "LAUREL_CHECKPOINT_FILE": str(path),
    }

    async def laurel(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(partial(processes.run, *words, **environment))
        return done.returncode, done.stdout + done.stderr

    code, said = await laurel("checkpoint", "take")
    assert (code, said.startswith("checkpoint 1 of ")) == (0, True), said
    assert await laurel("checkpoint", "take") == (0, "nothing changed since the last one\n")
    code, public = await laurel("checkpoint", "key")
    assert code == 0
    code, said = await laurel("checkpoint", "check", str(path), "--public-key", public.strip())
    assert code == 0, said
    assert "last checkpoint  1 of " in said
    code, said = await laurel("verify")
    assert code == 0, said
    assert "no checkpoints" not in said
    async with tampered(shop, customer, CUT_OFF):
        for since in ((), ("--since", "1")):
            code, said = await laurel("verify", *since)
            assert code == 1
            assert "the rows end at sequence 3" in next(
                line for line in said.splitlines() if str(customer.member_id) in line
            )
    put(path, text(path).replace(b'"number":1', b'"number":2'))
    code, said = await laurel("checkpoint", "check", str(path))
    assert (code, "was changed after it was signed" in said) == (1, True)
    put(path, b"no line\n" * 99)
    code, said = await laurel("checkpoint", "check", str(path))
    assert (code, said.count("is no checkpoint"), "99 lines are wrong, 20 of them shown" in said) == (
        1,
        20,
        True,
    )
    code, said = await laurel("verify", "--since", "yesterday")
    assert (code, "neither a checkpoint's number nor a time" in said) == (2, True)


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
