"""`laurel import members`: files in, members out, and nothing twice."""

import asyncio
import csv
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from loyalty.v1 import member_pb2

from laurel.commands.imports import imports
from server.domain.actor import CallerKind
from server.domain.program import Program
from tests.support import processes
from tests.support.mailbox import Reader
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel
from tests.support.waiting import eventually


class Office:
    """A program of its own, and `laurel import` into it."""

    def __init__(self, laurel: Laurel, program: Program, service: Caller) -> None:
        self.laurel = laurel
        self.program = program
        self.service = service
        self.settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": service.key}

    async def bring(self, *arguments: object) -> CompletedProcess[str]:
        wanted = ["import", "members", *map(str, arguments)]
        return await asyncio.to_thread(
            partial(processes.run, *wanted, cwd=Path("/"), seconds=120, **self.settings)
        )

    async def members(self) -> list[dict[str, Any]]:
        """Everything that the members' tables hold, apart from what is sealed differently each time."""
        async with self.laurel.database.connection() as connection:
            rows = await connection.fetch(
                """SELECT member_id, tags, attributes, version, etag, updated_at,
                          (SELECT count(*) FROM consent c WHERE c.member_id = m.member_id) AS consents
                     FROM member m JOIN member_profile p USING (program_id, member_id)
                    WHERE program_id = $1 ORDER BY member_id""",
                self.program.program_id,
            )
        return [dict(row) for row in rows]

    async def found(self, email: str) -> member_pb2.Member:
        request = member_pb2.FindMemberRequest(identifier=member_pb2.Identifier(email=email))
        return (await self.service.members.FindMember(request)).member


@pytest.fixture
async def office(laurel: Laurel) -> Office:
    program = await new_program(laurel.database)
    service = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    return Office(laurel, program, service)


def write(path: Path, rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def counts(done: CompletedProcess[str]) -> dict[str, int]:
    """The closing table."""
    found = re.findall(r"^((?:would be: )?[a-z][\w :]*?) {2,}([\d,]+) *$", done.stdout, re.MULTILINE)
    return {what: int(number.replace(",", "")) for what, number in found if number != "0"}


def reports(folder: Path) -> list[Path]:
    return list(folder.glob("*refused*"))


def killable(office: Office, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [processes.LAUREL, "import", "members", *map(str, arguments)],
        env=processes.environment(**office.settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


CUSTOMERS = [
    {"E-Mail": "asha@example.com", "Vorname": "Asha", "Karten": "4417-0001;4417-0002", "Newsletter": "yes"},
    {"E-Mail": "no address", "Vorname": "Bhim", "Karten": "4417-0003", "Newsletter": "no"},
    {"E-Mail": "chitra@example.com", "Vorname": "Chitra", "Karten": "44170001", "Newsletter": ""},
    {"E-Mail": "taken@example.com", "Vorname": "Divya", "Karten": "4417-0005", "Newsletter": "no"},
    {"E-Mail": "esha@example.com", "Vorname": "=Esha", "Karten": "", "Newsletter": "no"},
]
MAPPING = ["--map", "card_numbers=Karten", "--map", "consent.newsletter=Newsletter", "--policy-version", "7"]


async def test_whoever_was_a_customer_before_is_not_welcomed_unless_it_is_wanted(
    office: Office, tmp_path: Path
) -> None:
    old, new = "old@example.com", "new@example.com"
    await office.bring(write(tmp_path / "old.csv", [{"email": old}]))
    await office.bring(write(tmp_path / "new.csv", [{"email": new}]), "--welcome")
    await Reader(office.laurel).tell()
    async with office.laurel.database.connection() as connection:
        told = await connection.fetch(
            "SELECT member_id, occasion FROM message WHERE program_id = $1", office.program.program_id
        )
    assert [(str(m), occasion) for m, occasion in told] == [((await office.found(new)).member_id, "welcome")]

    request = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, imported=True)
    request.member.email = "till@example.com"
    said = await refusal(office.laurel.terminal.members.RegisterMember(request))
    assert said.violations == {"imported": "may be said by services and staff"}


async def test_rows_become_members_and_what_is_refused_can_be_corrected(
    office: Office, tmp_path: Path
) -> None:
    taken = member_pb2.Member(email="taken@example.com")
    await office.service.members.RegisterMember(
        member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=taken)
    )
    path = write(tmp_path / "customers.csv", CUSTOMERS, ";")
    first = await office.bring(path, *MAPPING)
    assert first.returncode == 1
    assert counts(first) == {
        "rows read": 5,
        "members new": 2,
        "consents recorded": 2,
        "rows refused: INVALID_FIELD": 1,
        "rows refused: DUPLICATE_IN_FILE": 1,
        "rows refused: IDENTIFIER_TAKEN": 1,
    }
    asha = await office.found("asha@example.com")
    assert (asha.given_name, list(asha.card_numbers)) == ("Asha", ["44170001", "44170002"])
    decisions = await office.service.members.ListConsents(
        member_pb2.ListConsentsRequest(member_id=asha.member_id)
    )
    [decision] = decisions.consents
    assert (decision.purpose, decision.granted, decision.policy_version) == ("newsletter", True, "7")
    assert (await office.found("esha@example.com")).given_name == "=Esha"

    report = tmp_path / "customers.refused.csv"
    lines = report.read_text("utf-8-sig").splitlines()
    assert lines[0] == "E-Mail;Vorname;Karten;Newsletter;line;reason;message;field"
    refused = list(csv.DictReader(lines, delimiter=";"))
    assert {(row["line"], row["reason"], row["field"]) for row in refused} == {
        ("3", "INVALID_FIELD", "E-Mail"),
        ("4", "DUPLICATE_IN_FILE", "Karten"),
        ("5", "IDENTIFIER_TAKEN", "E-Mail"),
    }
    assert "line 2" in next(row["message"] for row in refused if row["line"] == "4")

    for row in refused:
        row["E-Mail"] = f"{row['Vorname'].lower()}@example.com"
        row["Karten"] = ""
    second = await office.bring(write(report, refused, ";"), *MAPPING)
    assert second.returncode == 0, second.stderr
    assert counts(second) == {"rows read": 3, "members new": 3, "consents recorded": 2}
    assert len(await office.members()) == 6


async def test_again_it_changes_nothing_and_says_so(office: Office, tmp_path: Path) -> None:
    rows = [
        {
            "email": f"m{n}@example.com",
            "tags": "a;b",
            "attributes.size": "L",
            "consent.sms": "no",
            "shoe": str(n),
        }
        for n in range(20)
    ]
    path = write(tmp_path / "rows.csv", rows)
    first = await office.bring(path)
    assert first.returncode == 0, first.stderr
    assert counts(first) == {"rows read": 20, "members new": 20, "consents recorded": 20}
    assert re.search(r"^shoe +not imported", first.stdout, re.MULTILINE)
    assert "Nothing changed" not in first.stdout
    before = await office.members()

    # As another file: another order, other columns, another delimiter.
    turned = [dict(reversed(row.items())) for row in reversed(rows)]
    second = await office.bring(write(tmp_path / "turned.csv", turned, ";"))
    assert second.returncode == 0, second.stderr
    assert counts(second) == {"rows read": 20, "members already there": 20}
    assert "Nothing changed." in second.stdout
    assert await office.members() == before
    assert reports(tmp_path) == []


async def test_a_member_who_changed_since_is_left_as_he_is(office: Office, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"email": "m@example.com", "given_name": "Asha"}])
    await office.bring(path)
    member = await office.found("m@example.com")
    changed = member_pb2.UpdateMemberRequest(
        request_id=uuid4().hex, member=member_pb2.Member(member_id=member.member_id, given_name="Usha")
    )
    changed.update_mask.paths.append("given_name")
    await office.service.members.UpdateMember(changed)
    again = await office.bring(path)
    assert counts(again) == {"rows read": 1, "members already there": 1}
    assert (await office.found("m@example.com")).given_name == "Usha"


async def test_a_dry_run_writes_nothing_and_tells_what_would_be(office: Office, tmp_path: Path) -> None:
    known = {"E-Mail": "known@example.com", "Vorname": "Known", "Karten": "", "Newsletter": ""}
    await office.bring(write(tmp_path / "known.csv", [known]), *MAPPING)
    await office.service.members.RegisterMember(
        member_pb2.RegisterMemberRequest(
            request_id=uuid4().hex, member=member_pb2.Member(email="taken@example.com")
        )
    )
    before = await office.members()
    path = write(tmp_path / "customers.csv", [*CUSTOMERS, known])
    dry = await office.bring(path, *MAPPING, "--dry-run", "--refused", tmp_path / "dry.csv")
    assert dry.returncode == 1
    assert counts(dry) == {
        "rows read": 6,
        "would be: members new": 2,
        "would be: members already there": 1,
        "would be: consents recorded": 2,
        "rows refused: INVALID_FIELD": 1,
        "rows refused: DUPLICATE_IN_FILE": 1,
        "rows refused: IDENTIFIER_TAKEN": 1,
    }
    assert "Nothing was written" in dry.stdout
    assert await office.members() == before

    real = await office.bring(path, *MAPPING, "--refused", tmp_path / "real.csv")
    assert {what.removeprefix("would be: "): n for what, n in counts(dry).items()} == counts(real)

    def by_line(path: Path) -> list[dict[str, str]]:
        return sorted(read(path), key=lambda row: int(row["line"]))

    assert by_line(tmp_path / "dry.csv") == by_line(tmp_path / "real.csv")


@pytest.mark.faults
async def test_killed_in_the_middle_and_run_again_it_ends_the_same(office: Office, tmp_path: Path) -> None:
    rows = [{"email": f"k{n}@example.com", "tags": "k", "consent.sms": "yes"} for n in range(500)]
    path = write(tmp_path / "rows.csv", rows)
    process = killable(office, path, "--workers", "4")
    try:

        async def begun() -> bool:
            return len(await office.members()) >= 30 or process.poll() is not None

        await eventually(begun)
    finally:
        process.kill()
    assert await asyncio.to_thread(process.wait) == -signal.SIGKILL  # and not at its end
    killed = await office.members()
    assert 30 <= len(killed) < len(rows)

    again = await office.bring(path)
    assert again.returncode == 0, again.stderr
    told = counts(again)
    # What was under way when the client died may still have been committed after the count.
    assert len(killed) <= told["members already there"] <= len(killed) + 4
    assert told["members new"] + told["members already there"] == len(rows)
    found = await office.members()
    assert len(found) == len(rows)
    assert {row["consents"] for row in found} == {1}
    assert {row["member_id"] for row in killed} <= {row["member_id"] for row in found}


async def test_what_is_no_csv_ends_it_with_the_line(office: Office, tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_text('email,given_name\na@example.com,Asha\nb@example.com,"Bhim\n')
    done = await office.bring(path)
    assert done.returncode == 1
    assert f"{path}, line 3: " in done.stderr
    assert "import the file again" in done.stderr
    assert "Traceback" not in done.stderr


async def test_an_earlier_report_is_not_written_over(office: Office, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"email": "no address"}])
    report = tmp_path / "mine.csv"
    report.write_text("corrected by hand")
    done = await office.bring(path, "--refused", report)
    assert done.returncode == 1
    assert "may hold corrections" in done.stderr
    assert report.read_text() == "corrected by hand"


@pytest.mark.parametrize(
    "wrong", [["--map", "email"], ["--encoding", "nonsense"], ["--delimiter", "ab"], ["--workers", "0"]]
)
def test_wrong_usage_is_told_before_anything_is_read(tmp_path: Path, wrong: list[str]) -> None:
    path = write(tmp_path / "rows.csv", [{"email": "a@b.example"}])
    shown = CliRunner().invoke(imports, ["members", str(path), *wrong])
    assert shown.exit_code == 2, shown.output
