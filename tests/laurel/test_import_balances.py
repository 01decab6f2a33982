"""`laurel import balances`: points into the ledger, each once, and sums that agree."""

import asyncio
import csv
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from uuid import uuid4

import pytest
from loyalty.v1 import adjustments_pb2, member_pb2

from server.domain.actor import CallerKind
from server.domain.program import Program
from tests.support import processes
from tests.support.programs import new_key, new_program
from tests.support.servers import Caller, Laurel
from tests.support.waiting import eventually


class Ledger:
    """A program of its own with two point types, and `laurel import balances` into it."""

    def __init__(self, laurel: Laurel, program: Program, service: Caller) -> None:
        self.laurel = laurel
        self.program = program
        self.service = service
        self.settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": service.key}

    async def run(self, *arguments: object, **settings: str) -> CompletedProcess[str]:
        wanted = {**self.settings, **settings}
        return await asyncio.to_thread(
            partial(processes.run, *map(str, arguments), cwd=Path("/"), seconds=120, **wanted)
        )

    async def bring(self, *arguments: object) -> CompletedProcess[str]:
        return await self.run("import", "balances", *arguments)

    async def register(self, **profile: object) -> str:
        request = member_pb2.RegisterMemberRequest(
            request_id=uuid4().hex, member=member_pb2.Member(**profile)
        )
        return (await self.service.members.RegisterMember(request)).member.member_id

    async def rows(self) -> list[tuple[str, str, str, int, str, str]]:
        async with self.laurel.database.connection() as connection:
            found = await connection.fetch(
                """SELECT member_id::text, point_type, kind, points, debit_account, reason
                     FROM ledger_transaction WHERE program_id = $1 ORDER BY transaction_id""",
                self.program.program_id,
            )
        return [tuple(row) for row in found]

    async def balances(self) -> dict[tuple[str, str], int]:
        async with self.laurel.database.connection() as connection:
            found = await connection.fetch(
                "SELECT member_id::text, point_type, balance FROM wallet WHERE program_id = $1",
                self.program.program_id,
            )
        return {(row[0], row[1]): row[2] for row in found}

    async def expiries(self) -> set[datetime | None]:
        async with self.laurel.database.connection() as connection:
            found = await connection.fetch(
                "SELECT expires_at FROM lot WHERE program_id = $1", self.program.program_id
            )
        return {row[0] for row in found}


async def opened(laurel: Laurel) -> Ledger:
    program = await new_program(laurel.database, point_types=("points", "credits"))
    return Ledger(
        laurel, program, await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    )


@pytest.fixture
async def ledger(laurel: Laurel) -> Ledger:
    return await opened(laurel)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def totals(done: CompletedProcess[str]) -> dict[str, list[int]]:
    """Of each point type: in the file, imported, already there, waiting, refused."""
    found = re.findall(r"^(\w+)" + 5 * r" +(-?[\d,]+)" + " *$", done.stdout, re.MULTILINE)
    return {name: [int(figure.replace(",", "")) for figure in figures] for name, *figures in found}


async def test_balances_go_into_the_ledger_once_and_the_sums_agree(ledger: Ledger, tmp_path: Path) -> None:
    asha = await ledger.register(email="asha@example.com")
    bhim = await ledger.register(card_numbers=["4711-0001"])
    esha = await ledger.register(external_ids=[member_pb2.ExternalId(system="crm", id="5")])

    def row(**cells: object) -> dict[str, object]:
        names = ("member_id", "email", "card", "external_id.crm", "points", "point_type", "expires_on")
        return {name: cells.get(name.replace(".", "_"), "") for name in (*names, "reference")}

    rows = [
        row(email="Asha@example.com", points=1200),
        row(email="asha@example.com", points=30, point_type="credits", expires_on="2199-12-31"),
        row(card="47110001", points=500, reference="old-1"),
        row(card="4711 0001", points=70, reference="old-2"),
        row(external_id_crm="5", points=9),
        row(member_id=esha, points=11, point_type="credits"),
        row(email="nobody@example.com", points=1000),
        row(email="asha@example.com", points=5000),
        row(card="47110001", points="many"),
        row(external_id_crm="5", points=0, reference="nothing"),
        row(points=8),
        row(member_id=esha, points=3, point_type="stars"),
    ]
    path = write(tmp_path / "points.csv", rows)
    dry = await ledger.bring(path, "--dry-run", "--refused", tmp_path / "dry.csv")
    assert await ledger.rows() == []
    first = await ledger.bring(
        path, "--refused", tmp_path / "first.csv", "--reason", "moved from the old scheme"
    )
    assert first.returncode == 1
    expected = {
        (asha, "points"): 1200,
        (asha, "credits"): 30,
        (bhim, "points"): 570,
        (esha, "points"): 9,
        (esha, "credits"): 11,
    }
    assert await ledger.balances() == expected
    assert {row[2:] for row in await ledger.rows()} == {
        ("ADJUST", points, "program.adjustment", "moved from the old scheme")
        for points in (1200, 30, 500, 70, 9, 11)
    }
    assert await ledger.expiries() == {None, datetime(2200, 1, 1, tzinfo=UTC)}
    assert totals(first) == {
        "points": [1200 + 500 + 70 + 9 + 1000 + 5000 + 8, 1779, 0, 0, 6008],
        "credits": [41, 41, 0, 0, 0],
        "stars": [3, 0, 0, 0, 3],
    }
    assert totals(dry) == totals(first)
    with (tmp_path / "first.csv").open(newline="", encoding="utf-8-sig") as file:
        refused = {(row["line"], row["reason"]) for row in csv.DictReader(file)}
    assert refused == {
        ("8", "MEMBER_NOT_FOUND"),
        ("9", "DUPLICATE_IN_FILE"),
        ("10", "INVALID_FIELD"),
        ("12", "MEMBER_NOT_NAMED"),
        ("13", "POINT_TYPE_NOT_FOUND"),
    }

    second = await ledger.bring(
        path, "--refused", tmp_path / "2.csv", "--reason", "moved from the old scheme"
    )
    assert "Nothing changed." in second.stdout
    assert totals(second)["points"] == [7787, 0, 1779, 0, 6008]
    assert await ledger.balances() == expected


async def test_another_figure_for_a_balance_that_is_there_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    asha = await ledger.register(email="asha@example.com")
    await ledger.bring(write(tmp_path / "a.csv", [{"email": "asha@example.com", "points": 100}]))
    again = await ledger.bring(write(tmp_path / "b.csv", [{"email": "ASHA@example.com", "points": 150}]))
    assert again.returncode == 1
    assert "REQUEST_ID_REUSED" in again.stdout
    assert await ledger.balances() == {(asha, "points"): 100}


async def test_a_large_balance_waits_for_a_second_person(ledger: Ledger, tmp_path: Path) -> None:
    asha, bhim, esha = [await ledger.register(external_ids=[crm(number)]) for number in range(3)]
    staff = await ledger.laurel.caller(
        await new_key(ledger.laurel.database, ledger.program, CallerKind.STAFF, scopes=["points.*"])
    )
    rows = [{"external_id.crm": n, "points": points} for n, points in enumerate((20_000, 30_000, 10))]
    path = write(tmp_path / "points.csv", rows)

    first = await ledger.bring(path)
    assert (first.returncode, totals(first)["points"]) == (0, [50_010, 10, 0, 50_000, 0])
    assert "laurel points approve" in first.stdout
    assert await ledger.balances() == {(esha, "points"): 10}
    second = await ledger.bring(path)
    assert "Nothing changed." in second.stdout
    assert totals(second)["points"] == [50_010, 0, 10, 50_000, 0]

    listed = await staff.adjustments.ListAdjustments(adjustments_pb2.ListAdjustmentsRequest())
    asked = {adjustment.member_id: adjustment.adjustment_id for adjustment in listed.adjustments}
    assert set(asked) == {asha, bhim}
    await staff.adjustments.ApproveAdjustment(
        adjustments_pb2.ApproveAdjustmentRequest(request_id=uuid4().hex, adjustment_id=asked[asha])
    )
    await staff.adjustments.RejectAdjustment(
        adjustments_pb2.RejectAdjustmentRequest(
            request_id=uuid4().hex, adjustment_id=asked[bhim], reason="counted twice"
        )
    )
    last = await ledger.bring(path)
    assert (last.returncode, totals(last)["points"]) == (1, [50_010, 0, 20_010, 0, 30_000])
    assert "ADJUSTMENT_REJECTED" in last.stdout
    assert "counted twice" in last.stdout
    assert await ledger.balances() == {(asha, "points"): 20_000, (esha, "points"): 10}


def crm(number: int) -> member_pb2.ExternalId:
    return member_pb2.ExternalId(system="crm", id=str(number))


@pytest.mark.faults
async def test_killed_in_the_middle_and_run_again_it_ends_the_same(ledger: Ledger, tmp_path: Path) -> None:
    members = [{"email": f"k{n}@example.com"} for n in range(300)]
    assert (await ledger.run("import", "members", write(tmp_path / "m.csv", members))).returncode == 0
    rows = [{**member, "points": 10 + n} for n, member in enumerate(members)]
    path = write(tmp_path / "points.csv", rows)
    process = subprocess.Popen(  # noqa: ASYNC220
        [processes.LAUREL, "import", "balances", str(path), "--workers", "2"],
        env=processes.environment(**ledger.settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        async def begun() -> bool:
            return len(await ledger.rows()) >= 20 or process.poll() is not None

        await eventually(begun)
    finally:
        process.kill()
    assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    assert len(await ledger.rows()) < len(rows)
    again = await ledger.bring(path)
    assert again.returncode == 0, again.stdout + again.stderr
    found = await ledger.rows()
    assert sorted(row[3] for row in found) == [10 + n for n in range(300)]
    [whole, now, before, waiting, refused] = totals(again)["points"]
    assert (whole, now + before, waiting, refused) == (sum(10 + n for n in range(300)), whole, 0, 0)
    assert now > 0
    assert before > 0


async def test_an_export_imported_into_a_fresh_program_gives_the_same_balances(
    ledger: Ledger, tmp_path: Path, secrets_file: Path
) -> None:
    for number in range(6):
        await ledger.register(card_numbers=[f"9000{number}"])
    rows = [{"card": f"9000{n}", "points": 100 * n + 1, "point_type": "points"} for n in range(6)]
    rows += [{"card": f"9000{n}", "points": 7 * n + 2, "point_type": "credits"} for n in range(3)]
    assert (await ledger.bring(write(tmp_path / "a.csv", rows))).returncode == 0
    base = {
        "LAUREL_DATABASE_URL": ledger.laurel.settings.database_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(secrets_file),
    }

    async def exported(of: Ledger, what: str, path: Path) -> Path:
        options = ["--program", of.program.name, "--personal-data", "-o", path]
        assert (await of.run("export", what, *options, **base)).returncode == 0
        return path

    members = await exported(ledger, "members", tmp_path / "m.csv")
    balances = await exported(ledger, "balances", tmp_path / "b.csv")
    fresh = await opened(ledger.laurel)
    assert (await fresh.run("import", "members", members)).returncode == 0
    # The ids are those of the old program.
    done = await fresh.bring(balances, "--map", "member_id=")
    assert done.returncode == 0, done.stdout + done.stderr
    again = await exported(fresh, "balances", tmp_path / "c.csv")

    def held(path: Path) -> set[tuple[str, str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return {(row["card_numbers"], row["point_type"], row["balance"]) for row in csv.DictReader(file)}

    assert held(again) == held(balances)
    assert len(held(balances)) == 9
