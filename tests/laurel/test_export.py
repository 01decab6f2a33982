"""`laurel export`: files that add up by themselves, and say nothing personal unasked."""

import asyncio
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import UUID, uuid4

import pyarrow.parquet
import pytest
from google.type import date_pb2
from google.type.money_pb2 import Money
from loyalty.v1 import households_pb2, member_pb2, points_pb2, rules_pb2

from server.domain.actor import CallerKind
from server.domain.program import Program
from server.store import exports
from tests.support import processes
from tests.support.personal import traces
from tests.support.programs import new_key, new_program
from tests.support.servers import Caller, Laurel

RULE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00"}}],
}
PERSON = member_pb2.Member(
    given_name="Ashalata",
    family_name="=Raghunathan",
    email="ashalata.r@example.com",
    phone="+919812377777",
    birth_date=date_pb2.Date(year=1987, month=6, day=23),
    address=member_pb2.Address(lines=["Malabar Hill", "Floor 3; left"], locality="Walkeshwar"),
    external_ids=[member_pb2.ExternalId(system="crm", id="CRM-PRIVATE-17")],
    card_numbers=["LCPRIVATE0001", "LCPRIVATE0002"],
    preferences=member_pb2.Preferences(language_code="hi-IN", channels=["email", "sms"]),
    tags=["vip", "=cmd"],
    attributes={"size": "L"},
)


class Desk:
    """A program with a member and some purchases, and `laurel export` of it."""

    def __init__(self, laurel: Laurel, program: Program, service: Caller, secrets_file: Path) -> None:
        self.laurel = laurel
        self.program = program
        self.service = service
        self.settings = {
            "LAUREL_DATABASE_URL": laurel.settings.database_url.get_secret_value(),
            "LAUREL_SECRETS_FILE": str(secrets_file),
        }

    async def export(self, *arguments: object, **settings: str) -> CompletedProcess[str]:
        wanted = ["export", *map(str, arguments)]
        return await asyncio.to_thread(
            partial(processes.run, *wanted, cwd=Path("/"), **{**self.settings, **settings})
        )

    async def whole(self, what: str, path: Path, *options: str, **settings: str) -> Path:
        done = await self.export(what, "--program", self.program.name, "-o", path, *options, **settings)
        assert done.returncode == 0, done.stderr
        return path

    async def table(self, query: str) -> list[Any]:
        async with self.laurel.database.connection() as connection:
            return list(await connection.fetch(query, self.program.program_id))

    async def register(self, member: member_pb2.Member) -> str:
        request = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)
        return (await self.service.members.RegisterMember(request)).member.member_id

    async def purchase(self, member_id: str, units: int, order: str) -> None:
        await self.service.points.Accrue(
            points_pb2.AccrueRequest(
                request_id=uuid4().hex,
                member_id=member_id,
                order_reference=order,
                amount=Money(currency_code=self.program.currency, units=units),
            )
        )

    async def redeem(self, member_id: str, points: int) -> None:
        await self.service.points.Redeem(
            points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
        )


@pytest.fixture(scope="module")
async def desk(laurel: Laurel, secrets_file: Path) -> Desk:
    program = await new_program(laurel.database)
    service = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    made = rules_pb2.CreateRuleRequest()
    made.definition.update(RULE)
    rule = (await service.rules.CreateRule(made)).rule
    version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
    await service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    desk = Desk(laurel, program, service, secrets_file)
    asha = await desk.register(PERSON)
    consent = member_pb2.Consent(purpose="sms", granted=True)
    for granted in (True, False):
        consent.granted = granted
        await service.members.RecordConsent(
            member_pb2.RecordConsentRequest(request_id=uuid4().hex, member_id=asha, consent=consent)
        )
    for number in range(3):
        member_id = await desk.register(member_pb2.Member(card_numbers=[f"4711000{number}"]))
        for order in range(4):
            await desk.purchase(member_id, 100 + 7 * order + number, f"=R-{number}-{order}")
        await desk.redeem(member_id, 50 + number)
    await desk.purchase(asha, 500, "A-1")
    # The pool of a household has a wallet, and is no member.
    await service.households.CreateHousehold(
        households_pb2.CreateHouseholdRequest(request_id=uuid4().hex, member_id=asha)
    )
    await service.households.ContributePoints(
        households_pb2.ContributePointsRequest(request_id=uuid4().hex, member_id=asha, points=30)
    )
    return desk


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summed(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, int]]:
    """What each wallet's figures must be, from the accounts of its rows and nothing else."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        figures = found.setdefault((row["member_id"], row["point_type"]), Counter())
        points = int(row["points"])
        for account, sign in ((row["debit_account"], -1), (row["credit_account"], 1)):
            owner, _, figure = account.partition(".")
            if owner == "wallet":
                figures[figure] += -sign * points if figure == "debt" else sign * points
        figures["lifetime"] += {"EARN": points, "REVERSE_EARN": -points}.get(row["kind"], 0)
    names = ("balance", "pending", "held", "debt", "lifetime")
    return {wallet: {name: figures[name] for name in names} for wallet, figures in found.items()}


async def figures(desk: Desk) -> dict[tuple[str, str], dict[str, int]]:
    rows = await desk.table("SELECT * FROM wallet WHERE program_id = $1")
    names = ("balance", "pending", "held", "debt", "lifetime")
    return {(str(r["member_id"]), r["point_type"]): {name: r[name] for name in names} for r in rows}


async def test_the_exported_ledger_adds_up_to_the_wallets(desk: Desk, tmp_path: Path) -> None:
    wallets = await figures(desk)
    assert len(wallets) == 5
    ledger = read(await desk.whole("ledger", tmp_path / "l.csv"))
    assert summed(ledger) == wallets
    parquet = pyarrow.parquet.read_table(await desk.whole("ledger", tmp_path / "l.parquet")).to_pylist()
    assert summed(parquet) == wallets
    for name in ("b.csv", "b.parquet"):
        path = await desk.whole("balances", tmp_path / name)
        rows = read(path) if name == "b.csv" else pyarrow.parquet.read_table(path).to_pylist()
        assert {
            (row["member_id"], row["point_type"]): {
                figure: int(row[figure]) for figure in ("balance", "pending", "held", "debt", "lifetime")
            }
            for row in rows
        } == wallets


async def test_both_formats_hold_every_row_whole_and_in_order(desk: Desk, tmp_path: Path) -> None:
    stored = await desk.table(
        "SELECT * FROM ledger_transaction WHERE program_id = $1 ORDER BY recorded_at, transaction_id"
    )
    texts = read(await desk.whole("ledger", tmp_path / "l.csv", "--with-hashes", "--raw"))
    assert [row["transaction_id"] for row in texts] == [str(row["transaction_id"]) for row in stored]
    typed = pyarrow.parquet.read_table(
        await desk.whole("ledger", tmp_path / "l.parquet", "--with-hashes")
    ).to_pylist()
    for text, value, row in zip(texts, typed, stored, strict=True):
        assert text.pop("program") == value.pop("program") == desk.program.name
        assert set(text) == set(value) == set(row.keys())
        for name, cell in row.items():
            if isinstance(cell, datetime):
                assert text[name].endswith("Z")
                assert datetime.fromisoformat(text[name]) == value[name] == cell
            elif name == "trace":
                assert json.loads(text[name]) == json.loads(value[name]) == json.loads(cell)
            elif isinstance(cell, bytes):
                assert bytes.fromhex(text[name]) == bytes.fromhex(value[name]) == cell
            else:
                assert text[name] == str(cell)
                assert value[name] == (str(cell) if isinstance(cell, UUID) else cell)


async def test_no_column_of_the_ledger_is_forgotten(desk: Desk) -> None:
    columns = await desk.table(
        """SELECT column_name FROM information_schema.columns
            WHERE table_name = 'ledger_transaction' AND $1::uuid IS NOT NULL"""
    )
    assert {row["column_name"] for row in columns} == {*exports.LEDGER, *exports.HASHES}


async def test_a_span_of_time_ends_before_its_end(desk: Desk, tmp_path: Path) -> None:
    rows = read(await desk.whole("ledger", tmp_path / "all.csv"))
    first, last = rows[5]["recorded_at"], rows[9]["recorded_at"]
    some = read(await desk.whole("ledger", tmp_path / "some.csv", "--since", first, "--until", last))
    assert [r["transaction_id"] for r in some] == [r["transaction_id"] for r in rows[5:9]]
    assert not {"hash", "previous_hash"} & set(some[0])


async def test_what_a_spreadsheet_could_run_is_guarded_unless_told(desk: Desk, tmp_path: Path) -> None:
    guarded = read(await desk.whole("ledger", tmp_path / "g.csv"))
    assert {row["order_reference"][:3] for row in guarded if row["kind"] == "EARN"} == {"'=R", "A-1"}
    raw = read(await desk.whole("ledger", tmp_path / "r.csv", "--raw"))
    assert {row["order_reference"][:2] for row in raw if row["kind"] == "EARN"} == {"=R", "A-"}
    assert (tmp_path / "g.csv").read_bytes().count(b"\r\n") == len(guarded) + 1


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("what", ["ledger", "members", "balances"])
async def test_nothing_personal_is_exported_unasked(desk: Desk, tmp_path: Path, what: str, form: str) -> None:
    path = await desk.whole(what, tmp_path / f"x.{form}", LAUREL_SECRETS_FILE="/nowhere")
    content = read(path) if form == "csv" else pyarrow.parquet.read_table(path).to_pylist()
    assert content
    assert traces(json.dumps(content, default=str)) == []
    assert traces(path.read_bytes().decode("latin-1")) == []


async def test_personal_data_is_exported_when_asked_and_every_member_stands_in_the_audit(
    desk: Desk, tmp_path: Path
) -> None:
    before = await desk.table("SELECT * FROM access_audit WHERE program_id = $1")
    rows = read(await desk.whole("members", tmp_path / "m.csv", "--personal-data"))
    [asha] = [row for row in rows if row["email"]]
    expected = {
        "given_name": "Ashalata",
        "family_name": "'=Raghunathan",
        "email": "ashalata.r@example.com",
        "phone": "+919812377777",
        "birth_date": "1987-06-23",
        "birth_month": "6",
        "address.lines": "Malabar Hill;Floor 3\\; left",
        "address.locality": "Walkeshwar",
        "external_ids": "crm:CRM-PRIVATE-17",
        "card_numbers": "LCPRIVATE0001;LCPRIVATE0002",
        "preferences.language_code": "hi-IN",
        "preferences.channels": "email;sms",
        "tags": "'=cmd;vip",
        "attributes": '{"size": "L"}',
        "consents": "sms=no",
        "status": "active",
    }
    assert {name: asha[name] for name in expected} == expected
    typed = pyarrow.parquet.read_table(
        await desk.whole("members", tmp_path / "m.parquet", "--personal-data")
    ).to_pylist()
    [asha_typed] = [row for row in typed if row["email"]]
    assert asha_typed["card_numbers"] == ["LCPRIVATE0001", "LCPRIVATE0002"]
    assert asha_typed["family_name"] == "=Raghunathan"

    after = await desk.table("SELECT * FROM access_audit WHERE program_id = $1 ORDER BY audit_id")
    [first, _] = [row for row in after if row not in before]
    assert re.fullmatch(r"staff:operator .+", first["actor"])
    assert first["method"] == "laurel export members --personal-data"
    assert {str(member_id) for member_id in first["member_ids"]} == {row["member_id"] for row in rows}


async def test_without_the_secrets_nothing_is_written(desk: Desk, tmp_path: Path) -> None:
    done = await desk.export(
        "members", "--personal-data", "-o", tmp_path / "m.csv", LAUREL_SECRETS_FILE=str(tmp_path / "none")
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert entries(tmp_path) == []


async def test_a_file_that_can_not_be_written_is_told_of_as_that(desk: Desk, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    refused = {tmp_path / "nowhere" / "b.csv": "no such folder", pipe: "no regular file"}
    for path, reason in refused.items():
        done = await desk.export("balances", "-o", path)
        assert done.returncode == 1
        assert f"{path} can't be written: " in done.stderr
        assert reason in done.stderr


async def test_a_file_whose_name_says_nothing_of_its_format_takes_an_option(
    desk: Desk, tmp_path: Path
) -> None:
    for name in ("members.xlsx", "members"):
        refused = await desk.export("members", "-o", tmp_path / name)
        assert refused.returncode == 2
        assert f"{name} ends neither in .csv nor in .parquet; --format says" in refused.stderr
        assert entries(tmp_path) == []
    by_ending = await desk.whole("members", tmp_path / "MEMBERS.CSV")
    by_option = await desk.whole("members", tmp_path / "members.xlsx", "--format", "csv")
    assert by_ending.read_bytes() == by_option.read_bytes()


async def test_what_was_exported_is_imported_as_it_was(desk: Desk, tmp_path: Path) -> None:
    path = await desk.whole("members", tmp_path / "m.csv", "--personal-data")
    program = await new_program(desk.laurel.database)
    key = await new_key(desk.laurel.database, program, CallerKind.SERVICE)
    settings = {"LAUREL_ADDRESS": desk.laurel.address, "LAUREL_API_KEY": key}
    arguments = ["import", "members", str(path)]
    done = await asyncio.to_thread(partial(processes.run, *arguments, cwd=tmp_path, **settings))
    assert done.returncode == 0, done.stdout + done.stderr

    fresh = Desk(desk.laurel, program, desk.service, Path(desk.settings["LAUREL_SECRETS_FILE"]))
    again = await fresh.whole("members", tmp_path / "again.csv", "--personal-data")
    assigned = {
        "program",
        "program_id",
        "member_id",
        "joined_at",
        "updated_at",
        "version",
        "purchases",
        "tier",
    }

    def told(path: Path) -> list[dict[str, str]]:
        rows = [{name: cell for name, cell in row.items() if name not in assigned} for row in read(path)]
        return sorted(rows, key=lambda row: row["card_numbers"])

    assert told(again) == told(path)


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())
