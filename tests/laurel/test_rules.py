"""`laurel rules`: files in, differences shown first, the same file twice changes nothing."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from laurel import rule_files
from laurel.failures import Failure
from laurel.rule_changes import differences
from server.domain.actor import CallerKind
from server.domain.rules.json_schema import JSON_SCHEMA
from tests.support import processes
from tests.support.programs import new_key, new_program
from tests.support.servers import Laurel

FILE = """
event_types:
  - {name: REVIEW_SUBMITTED, attributes: {stars: number}, description: A review.}
rules:
  - rule: base
    when: {event: PURCHASE}
    then:
      - earn: {points: 20, per: 100.00}   # unquoted, and exact all the same
  - rule: diwali
    when:
      all:
        - event: PURCHASE
        - {field: member.tier, op: in, value: [gold, platinum]}
    then:
      - multiply: {by: 2}
    active: {from: 2026-11-01, until: 2026-11-15T00:00, hours: 17:00-21:00}
---
- rule: review
  when: {all: [{event: REVIEW_SUBMITTED}, {field: attributes.stars, op: gte, value: 4}]}
  then: [{fixed: {points: 50}}]
"""

Cli = Callable[..., Awaitable[CompletedProcess[str]]]


@pytest.fixture
async def cli(laurel: Laurel) -> Cli:
    """`laurel` with a service key of a program that nobody else uses."""
    program = await new_program(laurel.database)
    key = await new_key(laurel.database, program, CallerKind.SERVICE)
    settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": key}

    async def run(*arguments: object, **more: Any) -> CompletedProcess[str]:
        wanted = [str(argument) for argument in arguments]
        return await asyncio.to_thread(partial(processes.run, *wanted, cwd=Path("/"), **settings, **more))

    return run


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    return path


async def test_a_file_is_shown_then_applied_and_the_second_time_changes_nothing(
    cli: Cli, tmp_path: Path
) -> None:
    path = written(tmp_path, FILE)
    looked = await cli("rules", "apply", path, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "+ event type REVIEW_SUBMITTED (stars number)" in looked.stdout
    assert "+ diwali (added)" in looked.stdout
    assert "3 added, 1 new event type\n" in looked.stdout
    assert "in force." not in looked.stdout

    first = await cli("rules", "apply", path, "--yes")
    assert first.returncode == 0, first.stderr
    assert "+ base (added)" in first.stdout
    assert "Revision 2 is in force." in first.stdout
    again = await cli("rules", "apply", path, "--yes")
    assert (again.returncode, again.stdout) == (0, "3 unchanged\n")


async def test_a_change_is_shown_field_by_field_and_pruning_retires(cli: Cli, tmp_path: Path) -> None:
    await cli("rules", "apply", written(tmp_path, FILE), "--yes")
    changed = FILE.replace("[gold, platinum]", "[silver, gold]").replace("by: 2}", 'by: "2.5"}')
    path = written(tmp_path, changed.partition("---")[0])
    applied = await cli("rules", "apply", path, "--yes", "--prune")
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.splitlines() == [
        "~ diwali (changed, version 1 in force)",
        '    ~ when.all[1].value[1]: "platinum" -> "silver"',
        '    ~ then[0].multiply.by: "2" -> "2.5"',
        "- review (retired, version 1 in force)",
        "1 changed, 1 retired, 1 unchanged",
        "Revision 3 is in force.",
    ]
    listed = json.loads((await cli("rules", "list", "--json")).stdout)
    assert {rule["name"]: (rule["version"], rule["in_force"]) for rule in listed["rules"]} == {
        "base": (1, 1),
        "diwali": (2, 2),
        "review": (1, 0),
    }


async def test_without_prune_other_rules_stay(cli: Cli, tmp_path: Path) -> None:
    await cli("rules", "apply", written(tmp_path, FILE), "--yes")
    alone = await cli("rules", "apply", written(tmp_path, FILE.partition("---")[0]), "--yes")
    assert alone.stdout == "2 unchanged, 1 in force that the file doesn't name\n"


async def test_with_nobody_to_ask_nothing_changes(cli: Cli, tmp_path: Path) -> None:
    asked = await cli("rules", "apply", written(tmp_path, FILE))
    assert asked.returncode == 1
    assert "--yes" in asked.stderr
    assert json.loads((await cli("rules", "list", "--json")).stdout)["rules"] == []


async def test_what_only_the_server_can_refuse_names_the_rule_and_the_path(cli: Cli, tmp_path: Path) -> None:
    refused = await cli("rules", "apply", written(tmp_path, FILE.replace("gold", "golden")), "--yes")
    assert refused.returncode == 1
    assert "rule diwali, nothing was put in force" in refused.stderr
    assert "when.all[1].value[0]" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_a_slip_in_an_event_is_refused_by_a_look_ahead_too(cli: Cli, tmp_path: Path) -> None:
    slip = FILE.replace("{event: REVIEW_SUBMITTED}", "{event: REVIEW_SUBMITED}")
    looked = await cli("rules", "apply", written(tmp_path, slip), "--dry-run")
    assert looked.returncode == 1
    assert "rule review: 'REVIEW_SUBMITED' is no registered event type" in looked.stderr
    assert 'did you mean "REVIEW_SUBMITTED"?' in looked.stderr
    slip = FILE.replace("{event: PURCHASE}", "{event: PURCHSE}")
    sold = await cli("rules", "apply", written(tmp_path, slip))
    assert 'did you mean "PURCHASE"?' in sold.stderr


async def test_a_rule_is_shown_as_yaml_that_can_be_applied_again(cli: Cli, tmp_path: Path) -> None:
    await cli("rules", "apply", written(tmp_path, FILE), "--yes")
    shown = await cli("rules", "show", "diwali")
    head, *told = shown.stdout.splitlines()
    assert head.startswith("# version 1, in force, made ")
    # In the order in which people write it; the database keeps keys by their length.
    assert [line.split(":")[0] for line in told if line[0].isalpha()] == ["rule", "when", "then", "active"]
    assert "  - field: member.tier\n    op: in\n    value: [gold, platinum]\n" in shown.stdout
    again = await cli("rules", "apply", written(tmp_path, shown.stdout), "--yes")
    assert again.stdout.startswith("1 unchanged")
    assert (await cli("rules", "show", "nobody")).returncode == 1
    types = await cli("rules", "event-types")
    assert "REVIEW_SUBMITTED" in types.stdout


async def test_a_dry_run_tells_what_a_purchase_would_bring(cli: Cli, tmp_path: Path) -> None:
    await cli("rules", "apply", written(tmp_path, FILE), "--yes")
    made = await cli("members", "register", "--email", "asha@example.com", "--json")
    assert made.returncode == 0, made.stderr
    happened = tmp_path / "purchase.json"
    happened.write_text(
        json.dumps(
            {
                "purchase": {
                    "identifier": {"email": "asha@example.com"},
                    "amount": {"currency_code": "INR", "units": "500"},
                }
            }
        )
    )
    drafts = tmp_path / "drafts.yaml"
    drafts.write_text("{rule: double, when: {event: PURCHASE}, then: [{multiply: {by: 2}}]}")
    tried = await cli("rules", "dry-run", happened, "--rules", drafts)
    assert tried.returncode == 0, tried.stderr
    assert "20 per 100.00 INR on 500.00 INR" in tried.stdout
    assert "Together 200 points" in tried.stdout
    happened.write_text("{]")
    wrong = await cli("rules", "dry-run", happened)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)


def test_the_schema_needs_no_server() -> None:
    assert json.loads(processes.run("rules", "schema").stdout) == JSON_SCHEMA


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("rules: [", "is not YAML"),
        ("- rule: a\n  rule: b\n", "the key 'rule' stands there twice"),
        ("", "there are no rules"),
        ("hello", "a document is a list of rules"),
        ("rulez: []", "rulez: is unknown"),
        ("rules: {}\nevent_types: x", "event_types: must be a list"),
        ("- 5", "rule that is no object: definition: must be an object"),
        (
            "- {rule: a, then: [{fixed: {pionts: 5}}]}",
            'rule a: then[0].fixed.pionts: is unknown; did you mean "points"?',
        ),
        ("- &r {rule: a, then: [{fixed: {points: 5}}]}\n- *r", "rule a: stands there twice"),
        ("event_types: [{name: A, colour: red}]", "event type A: colour: is unknown"),
        ("event_types: [{name: A, attributes: [b]}]", "event type A: attributes: must be names"),
        ("event_types: [{attributes: {}}]", "each has a name"),
    ],
)
def test_a_wrong_file_is_refused_before_a_server_is_asked(tmp_path: Path, content: str, part: str) -> None:
    with pytest.raises(Failure) as refused:
        rule_files.read(written(tmp_path, content))
    assert part in refused.value.message


def test_yaml_is_read_as_written(tmp_path: Path) -> None:
    condition = "{field: store, op: in, value: [no, on, 2026-11-01, 1.10, ~x]}"
    content = f"- {{rule: a, when: {condition}, then: [{{add_tag: {{tag: t}}}}]}}"
    rule = rule_files.read(written(tmp_path, content)).rules["a"]
    assert rule["when"]["value"] == ["no", "on", "2026-11-01", "1.10", "~x"]


def test_differences_follow_entries_that_moved() -> None:
    before = {"all": [{"event": "A"}, {"field": "x"}], "priority": 1}
    after = {"all": [{"event": "A"}, {"field": "new"}, {"field": "x"}], "caps": 3}
    assert list(differences(before, after)) == [
        ("+", 'all[1]: {"field": "new"}'),
        ("-", "priority: 1"),
        ("+", "caps: 3"),
    ]
