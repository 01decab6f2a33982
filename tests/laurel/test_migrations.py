import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

import migrations
from migrations import MigrationError, migrate, pending, state

FOLDER = Path(migrations.__file__).parent


@pytest.fixture
async def url(postgres: Callable[[str], str]) -> AsyncIterator[str]:
    """Of a database that isn't there yet."""
    name = f"laurel_test_{uuid4().hex}"
    yield postgres(name)
    await execute(postgres("postgres"), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_database_is_made_and_the_second_time_nothing_happens(url: str) -> None:
    lines: list[str] = []
    applied = await migrate(url, lines.append)
    assert applied
    assert len(lines) == len(applied) + 1
    assert await migrate(url, lines.append) == []
    assert await pending(url) == []
    assert list((await state(url)).applied) == applied


async def test_several_at_once_apply_each_migration_once(url: str) -> None:
    results = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(map(len, results)) == [0, 0, 0, len((await state(url)).applied)]


async def test_piccolo_reads_the_records_as_its_own(url: str) -> None:
    applied = await migrate(url)
    checked = await asyncio.to_thread(
        subprocess.run,
        [str(Path(sys.executable).parent / "piccolo"), "migrations", "check", "--app_name=laurel"],
        env=os.environ | {"PICCOLO_CONF": "migrations.piccolo_conf", "LAUREL_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [line.split("|") for line in checked.stdout.splitlines() if applied[0] in line]
    assert [line[-1].strip() for line in shown] == ["True"]


async def test_two_databases_at_once_get_their_own_tables(url: str, postgres: Callable[[str], str]) -> None:
    other = f"laurel_test_{uuid4().hex}"
    try:
        assert await asyncio.gather(migrate(url), migrate(postgres(other))) == [
            list((await state(url)).applied),
            list((await state(postgres(other))).applied),
        ]
    finally:
        await execute(postgres("postgres"), f"DROP DATABASE {other} WITH (FORCE)")


async def test_a_database_of_a_newer_laurel_is_left_alone(url: str) -> None:
    await migrate(url)
    await execute(url, "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00', 'laurel')")
    with pytest.raises(MigrationError, match="2999-01-01"):
        await migrate(url)


async def test_a_migration_that_fails_leaves_nothing_behind(url: str) -> None:
    await migrate(url)
    await execute(url, "DELETE FROM migration")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(url)
    assert (await state(url)).applied == ()


async def test_a_database_gets_the_type_of_members_whichever_way_0021_was_run(url: str) -> None:
    await migrate(url)
    [step] = [path for path in (FOLDER / "steps").glob("laurel_*.py") if "0023_" in path.read_text()]
    [name] = migrations.ID.findall(step.read_text())
    for change in ("", "; DROP TYPE member_known_row"):
        await execute(url, f"DELETE FROM migration WHERE name = '{name}'" + change)
        assert await migrate(url) == [name]
        await execute(url, "SELECT NULL::member_known_row")


async def test_sessions_of_our_role_may_not_hold_the_event_log_back_for_ever(url: str) -> None:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
        version = connection.get_server_version().major
        if version >= 17:
            assert await connection.fetchval("SHOW transaction_timeout") == "10min"
    finally:
        await connection.close()


def test_every_sql_file_is_run_by_exactly_one_step() -> None:
    files = sorted(path.name for path in (FOLDER / "sql").glob("*.sql"))
    steps = "".join(path.read_text() for path in (FOLDER / "steps").glob("laurel_*.py"))
    assert sorted(re.findall(r'"(\d{4}_\w+\.sql)"', steps)) == files
