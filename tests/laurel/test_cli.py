import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import click
import grpc
import pytest

from laurel import output
from laurel.cli import COMMANDS
from laurel.cli import laurel as laurel_command
from laurel.failures import explain
from laurel.output import show_fields, show_table
from server import secrets
from server.domain.actor import CallerKind
from server.domain.errors import NotFound
from server.store import subscriptions
from tests.support import processes
from tests.support.log import buried
from tests.support.servers import Laurel
from workers.subscriptions import SUBSCRIPTIONS


async def cli(laurel: Laurel, *arguments: str, key: str = "", **settings: str) -> CompletedProcess[str]:
    """`laurel` against the running server of the tests."""
    wanted = {
        "LAUREL_ADDRESS": laurel.address,
        "LAUREL_DATABASE_URL": laurel.settings.database_url.get_secret_value(),
        "LAUREL_PROGRAM": laurel.program.name,
        **({"LAUREL_API_KEY": key} if key else {}),
        **settings,
    }
    return await asyncio.to_thread(partial(processes.run, *arguments, cwd=Path("/"), **wanted))


def test_help_names_every_command() -> None:
    shown = processes.run("--help")
    assert shown.returncode == 0
    assert all(f"  {name} " in shown.stdout for name in COMMANDS)


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    context = click.Context(laurel_command)
    for name, (_, told) in COMMANDS.items():
        command = laurel_command.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == told, name


def test_the_list_of_commands_imports_none_of_them() -> None:
    script = """if True:
        import sys
        from laurel.cli import laurel
        laurel(["--help"], standalone_mode=False)
        print([name for name in sys.modules if name.startswith("laurel.commands")], "grpc" in sys.modules)"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("[] False\n")


def commands_of(group: click.Group) -> Iterator[tuple[click.Group, str, click.Command]]:
    """Every command with the group that it is listed in."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield group, name, command
        if isinstance(command, click.Group):
            yield from commands_of(command)


def test_no_line_of_a_list_of_commands_is_cut_short() -> None:
    for group, name, command in commands_of(laurel_command):
        # As click lays it out on a terminal of 80 columns.
        room = 72 - max(map(len, group.list_commands(click.Context(group))))
        assert not command.get_short_help_str(room).endswith("..."), f"the first sentence of {name} is long"


def test_who_names_no_command_is_told_which_there_are(tmp_path: Path) -> None:
    assert "Did you mean 'list'?" in processes.run("members", "lisst", cwd=tmp_path).stderr
    assert "There is close, consent," in processes.run("members", "show", cwd=tmp_path).stderr


def test_a_reader_who_has_seen_enough_is_no_failure_of_the_database(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "laurel", "rules", "schema"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as printing:
        assert printing.stdout is not None
        assert printing.stderr is not None
        printing.stdout.close()
        assert printing.stderr.read() == b""


def test_wrong_usage_ends_with_2(tmp_path: Path) -> None:
    for arguments in (["nonsense"], ["points", "accrue", "a@b.example"], ["members", "list", "--limit", "0"]):
        shown = processes.run(*arguments, cwd=tmp_path)
        assert shown.returncode == 2
        assert "Traceback" not in shown.stderr


def test_without_a_stack_a_command_says_how_to_start_one(tmp_path: Path) -> None:
    for arguments in (["members", "list"], ["keys", "list"], ["migrate"]):
        shown = processes.run(*arguments, cwd=tmp_path)
        assert shown.returncode == 1
        assert "laurel up" in shown.stderr
        assert len(shown.stderr.splitlines()) == 1


def test_without_a_server_a_call_says_so(tmp_path: Path) -> None:
    shown = processes.run(
        "members", "list", LAUREL_ADDRESS="127.0.0.1:1", LAUREL_API_KEY="lrl_x", cwd=tmp_path
    )
    assert shown.returncode == 1
    assert shown.stderr.startswith("Error: UNAVAILABLE: no server answers")


async def test_a_refusal_is_shown_with_its_code_reason_and_every_field(laurel: Laurel) -> None:
    shown = await cli(
        laurel, "members", "register", "--email", "no address", "--phone", "12", key=laurel.terminal.key
    )
    assert shown.returncode == 1
    first, *fields = shown.stderr.splitlines()
    assert first.startswith("Error: INVALID_ARGUMENT (INVALID_FIELD): ")
    assert [line.split(":")[0] for line in fields] == ["  member.email", "  member.phone"]


async def test_a_foreign_key_is_refused_in_one_line(laurel: Laurel) -> None:
    shown = await cli(laurel, "members", "list", key="lrl_wrong")
    assert shown.returncode == 1
    assert shown.stderr.splitlines() == [
        "Error: UNAUTHENTICATED (CREDENTIAL_INVALID): the credential is not valid"
    ]


async def test_a_key_is_shown_once_works_and_is_revoked(laurel: Laurel) -> None:
    made = await cli(laurel, "keys", "create", "--role", "staff", "--name", "asha", "--expires-in", "1d")
    key = made.stdout.strip()
    assert made.returncode == 0
    assert key.startswith("lrl_")
    assert (await cli(laurel, "members", "list", key=key)).returncode == 0

    listed = json.loads((await cli(laurel, "keys", "list", "--json")).stdout)
    [mine] = [entry for entry in listed if entry["name"] == "asha"]
    assert mine["expireTime"]
    assert key.rsplit("_", 1)[1] not in json.dumps(listed)

    assert (await cli(laurel, "keys", "create", "--name", "asha")).returncode == 1
    assert (await cli(laurel, "keys", "revoke", "asha")).returncode == 0
    assert "asha" not in (await cli(laurel, "keys", "list")).stdout
    await asyncio.sleep(laurel.settings.credential_cache_seconds)
    assert (await cli(laurel, "members", "list", key=key)).returncode == 1


async def test_keys_are_listed_within_a_terminal_and_each_is_shown_whole(laurel: Laurel) -> None:
    till, store = "mumbai-central-till-7", "mumbai-central"
    made = await cli(laurel, "keys", "create", "--name", till, "--store", store, "--expires-in", "1y")
    assert made.returncode == 0
    listed = (await cli(laurel, "keys", "list")).stdout.splitlines()
    assert max(map(len, listed)) <= 120
    assert all(line == line.rstrip() for line in listed), "blanks fill the last column"
    one = await cli(laurel, "keys", "show", till)
    assert all(word in one.stdout for word in ("terminal", "in force", store, "points.redeem"))
    none = await cli(laurel, "keys", "show", "nobody")
    assert (none.returncode, none.stderr) == (
        1,
        f"Error: program {laurel.program.name} has no key of the name nobody\n",
    )


async def test_a_membership_is_closed_for_good_only_when_that_was_confirmed(laurel: Laurel) -> None:
    member_id, staff = await laurel.register(), laurel.staff.key
    asked = await cli(laurel, "members", "close", member_id, key=staff)
    assert asked.returncode == 1
    assert "nothing changed: there is nobody to ask; give --yes" in asked.stderr
    shown = await cli(laurel, "members", "close", member_id, "--yes", "--json", key=staff)
    assert shown.returncode == 0, shown.stderr
    assert "MEMBER_STATUS_CLOSED" in shown.stdout


async def test_what_a_member_prefers_is_said_changed_and_taken_back(laurel: Laurel) -> None:
    staff, card = laurel.staff.key, uuid4().hex[:12]

    async def preferred(*arguments: str, key: str) -> dict[str, Any]:
        shown = await cli(laurel, "members", *arguments, "--json", key=key)
        assert shown.returncode == 0, shown.stderr
        found: dict[str, Any] = json.loads(shown.stdout)["member"]["preferences"]
        return found

    wish = ("--language", "hi", "--time-zone", "Asia/Kolkata", "--channel", "push", "--channel", "inbox")
    joined = await preferred("register", "--card", card, *wish, key=laurel.terminal.key)
    assert joined == {"languageCode": "hi", "timeZone": "Asia/Kolkata", "channels": ["push", "inbox"]}
    changed = await preferred("update", card, "--language", "en", "--clear", "channels", key=staff)
    assert changed == {"languageCode": "en", "timeZone": "Asia/Kolkata", "channels": []}


async def test_memberships_become_one_for_good_only_when_that_was_confirmed(laurel: Laurel) -> None:
    staff = laurel.staff.key
    lives_on, other = await laurel.register(), await laurel.register()
    asked = await cli(laurel, "members", "merge", lives_on, other, key=staff)
    assert asked.returncode == 1
    assert "nothing changed: there is nobody to ask; give --yes" in asked.stderr
    shown = await cli(laurel, "members", "get", other, "--json", key=staff)
    assert "MEMBER_STATUS_ACTIVE" in shown.stdout, shown.stderr
    merged = await cli(laurel, "members", "merge", lives_on, other, "--yes", "--json", key=staff)
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["member"]["memberId"] == lives_on


async def test_two_keys_adjust_what_one_may_not(laurel: Laurel) -> None:
    member_id = await laurel.register()
    asked = await cli(
        laurel,
        "points",
        "adjust",
        member_id,
        "20000",
        "--reason",
        "a prize",
        "--json",
        key=laurel.service.key,
    )
    adjustment_id = json.loads(asked.stdout)["adjustmentId"]
    staff = await laurel.new_key(CallerKind.STAFF, scopes=["points.*"])
    listed = await cli(laurel, "points", "adjustments", key=staff)
    assert adjustment_id in listed.stdout
    done = await cli(laurel, "points", "approve", adjustment_id, key=staff)
    assert "20,000" in done.stdout
    late = await cli(laurel, "points", "reject", adjustment_id, "--reason", "no", key=staff)
    assert (late.returncode, "ADJUSTMENT_NOT_PENDING" in late.stderr) == (1, True)
    out = await cli(laurel, "points", "adjust", member_id, "-5", "--reason", "x", key=laurel.service.key)
    assert "19,995" in out.stdout


async def test_dead_letters_are_listed_shown_replayed_and_discarded(laurel: Laurel) -> None:
    first, *others = map(str, await buried(laurel.database, "cli", 3, program_id=laurel.program.program_id))
    staff = await laurel.new_key(CallerKind.STAFF, scopes=["deadletters.*"])
    listed = json.loads((await cli(laurel, "dead-letters", "list", "--json", key=staff)).stdout)
    assert {dead["deadLetterId"] for dead in listed} == {first, *others}
    shown = await cli(laurel, "dead-letters", "show", first, key=staff)
    assert "test.happened" in shown.stdout
    done = await cli(laurel, "dead-letters", "discard", first, key=staff)
    assert done.stdout.split() == [first, "discarded"]
    late = await cli(laurel, "dead-letters", "replay", first, key=staff)
    assert (late.returncode, "DEAD_LETTER_SETTLED" in late.stderr) == (1, True)
    done = await cli(laurel, "dead-letters", "replay", "--consumer", "cli", "--json", key=staff)
    assert {dead["deadLetterId"] for dead in json.loads(done.stdout)} == set(others)
    listed = json.loads((await cli(laurel, "dead-letters", "list", "--json", key=staff)).stdout)
    assert {dead["status"] for dead in listed} == {"DEAD_LETTER_STATUS_REPLAYING"}
    assert (await cli(laurel, "dead-letters", "replay", key=staff)).returncode == 2


async def test_a_template_is_put_in_force_and_taken_out_again(laurel: Laurel, tmp_path: Path) -> None:
    staff = laurel.staff.key
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "welcome.yaml").write_text('email: {subject: "Hi {{ given_name }}", text: You are in}')

    async def beginning() -> str:
        shown = await cli(laurel, "templates", "show", "welcome", "email", key=staff)
        return shown.stdout.splitlines()[0]

    before = await beginning()
    applied = await cli(laurel, "templates", "apply", str(tmp_path), key=staff)
    assert applied.stdout == "en/welcome.yaml email: version 1\n"
    assert await beginning() == "Hi {{ given_name }}"
    removed = await cli(laurel, "templates", "remove", "welcome", "email", key=staff)
    assert removed.stdout == "en/welcome.yaml email: out of force\n"
    assert await beginning() == before
    again = await cli(laurel, "templates", "remove", "welcome", "email", key=staff)
    assert (again.returncode, "TEMPLATE_NOT_FOUND" in again.stderr) == (1, True)


async def test_subscriptions_show_how_far_each_has_come(laurel: Laurel) -> None:
    await laurel.register()
    known = next(iter(SUBSCRIPTIONS))
    async with laurel.database.transaction() as connection:
        await subscriptions.enrol(connection, ["of-old", known], [])
    listed = json.loads((await cli(laurel, "subscriptions", "--json")).stdout)
    [found] = [one for one in listed if one["consumer"] == "of-old"]
    assert (found["moved_at"], found["holder"]) == (None, "")
    assert found["behind"] >= 1
    assert found["behind_seconds"] > 0
    table = (await cli(laurel, "subscriptions")).stdout
    assert "not begun" in table
    assert (await cli(laurel, "subscriptions", "forget", known)).returncode == 1
    assert (await cli(laurel, "subscriptions", "forget", "of-old")).returncode == 0
    listed = json.loads((await cli(laurel, "subscriptions", "--json")).stdout)
    assert [one["consumer"] for one in listed] == [known]
    assert (await cli(laurel, "subscriptions", "forget", "of-old")).returncode == 1
    async with laurel.database.connection() as connection:  # it would be found behind, as nobody works for it
        await connection.execute("DELETE FROM subscription")


async def test_a_program_is_made_once_with_the_terms_asked_for(laurel: Laurel) -> None:
    terms = [
        "--currency",
        "EUR",
        "--time-zone",
        "Europe/Paris",
        "--tiers",
        "new:0,old:100",
        "--rate",
        "CHF=1.05",
    ]
    assert (await cli(laurel, "programs", "create", "cafe", *terms)).returncode == 0
    assert (await cli(laurel, "programs", "create", "cafe", *terms)).returncode == 1
    [cafe] = [
        program
        for program in json.loads((await cli(laurel, "programs", "list", "--json")).stdout)
        if program["name"] == "cafe"
    ]
    assert cafe["tiers"] == [{"name": "new", "fromPoints": 0}, {"name": "old", "fromPoints": 100}]
    assert cafe["rates"] == {"CHF": "1.05"}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--currency", "euro"],
        ["--time-zone", "Paris"],
        ["--tiers", "a:1"],
        ["--tiers", "a:0,b:5,c:5"],
        ["--tiers", "a:0,a:5"],
        ["--rate", "CHF=0"],
        ["--rate", "CHF=NaN"],
        ["--point-type", "Points!"],
        ["--expiry", "points"],
        ["--expiry", "points=never", "--expiry", "points=days:3"],
        ["--clawback", "shrug"],
        ["--refund-grace-days", "-1"],
    ],
)
def test_terms_that_make_no_sense_are_wrong_usage(wrong: list[str]) -> None:
    right = ["--currency", "EUR", "--time-zone", "Europe/Paris"]
    assert processes.run("programs", "create", "x", *right, *wrong).returncode == 2


async def test_doctor_finds_a_healthy_installation_and_says_what_ails_another(
    laurel: Laurel, redis_url: str, secrets_file: Path
) -> None:
    settings = {"LAUREL_REDIS_URL": redis_url, "LAUREL_SECRETS_FILE": str(secrets_file)}

    async def states(**changes: str) -> dict[str, str]:
        shown = await cli(laurel, "doctor", "--json", **{**settings, **changes})
        found = {entry["check"]: entry["state"] for entry in json.loads(shown.stdout)}
        assert (shown.returncode == 1) == ("fail" in found.values())
        return found

    well = await states()
    # The tests' PostgreSQL doesn't wait for the disk, and no worker runs, which doctor must notice.
    assert {check for check, state in well.items() if state != "ok"} <= {"durability", "schedules"}
    assert well["schedules"] == "warn"
    ill = await states(LAUREL_ADDRESS="127.0.0.1:1", LAUREL_REDIS_URL="redis://127.0.0.1:1/0")
    assert (ill["server"], ill["redis"]) == ("fail", "fail")


def test_a_program_that_the_stack_has_no_keys_of_is_told_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / ".laurel").mkdir()
    (tmp_path / ".laurel" / "keys.json").write_text('{"demo": {"terminal": "lrl_x"}, "cafe": {}}')
    refused = processes.run("members", "list", "--program", "nosuch", cwd=tmp_path)
    assert refused.returncode == 1
    assert "no keys of program nosuch" in refused.stderr
    assert "but of cafe, demo" in refused.stderr
    assert "start the local stack" not in refused.stderr


def test_of_a_stopped_stack_nothing_is_said_that_can_not_be_known(tmp_path: Path) -> None:
    folder = tmp_path / ".laurel"
    folder.mkdir()
    secrets.generate(folder / "secrets.json")
    assert "no checkpoints to compare with" in processes.run("verify", cwd=tmp_path).stderr
    (folder / "checkpoints.jsonl").touch()
    verified = processes.run("verify", cwd=tmp_path).stderr
    assert "no database" in verified
    assert "no checkpoints" not in verified
    found = json.loads(processes.run("doctor", "--json", cwd=tmp_path).stdout)
    assert {entry["check"] for entry in found} >= {"database", "redis"}
    assert [entry for entry in found if entry["check"] == "schedules"] == []


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("NAME",), [("\x1b[31mred",)])
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_there_to_be_copied_is_broken_at_no_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PIPE_WIDTH", 60)
    ids, scopes = [str(uuid4()), str(uuid4())], ["households.write", "households.read"]
    show_table(("MEMBER", "NAME", "SCOPES", "URL"), [(ids[0], "Asha R", ", ".join(scopes), "u" * 100)] * 2)
    show_fields((("the household of the member", ids[1]),))
    shown = capsys.readouterr().out
    assert [word for word in (*ids, *scopes) if word not in shown] == []
    assert shown.count("u") >= 200


def test_failures_read_as_one_line() -> None:
    class Bare(grpc.RpcError):
        pass

    errors: list[Any] = [NotFound("MEMBER_NOT_FOUND", "no such member"), ConnectionRefusedError(), Bare()]
    assert [len(explain(error).splitlines()) for error in errors] == [1, 1, 1]
