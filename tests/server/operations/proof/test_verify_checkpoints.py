"""What checkpoints saw can't go unseen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from server.domain.checkpoints import Head
from server.domain.proof import Check, Finding
from server.secrets import Keyring
from server.store.checkpoint_file import CheckpointWriter
from server.store.database import Database
from tests.support import processes
from tests.support.checkpoints import (
    CLEARED,
    CUT_OFF,
    checkpoints,
    evidence,
    put,
    taken,
    text,
)
from tests.support.programs import settings_for
from tests.support.servers import Laurel, started
from tests.support.tampering import (
    Customer,
    earn,
    found_after,
    open_shop,
    spend,
    tampered,
    verified,
)


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
