"""docs/rules.md keeps its word: every example is a rule, and nothing that rules can do is left out."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import json_format
from jsonschema import Draft202012Validator
from loyalty.v1 import rules_pb2

from laurel import rule_files
from server.domain.rules.compile import RuleSet
from server.domain.rules.fields import ALL_OPERATORS, FIELDS
from server.domain.rules.json_schema import JSON_SCHEMA
from server.domain.rules.read_actions import ACTIONS
from server.domain.rules.schema import KEYS, MODES, PERIODS
from tests.support.shop import PROGRAM, points, purchase

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "rules.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_rule(example: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(example)
    file = rule_files.read(path)
    own = {event_type["name"]: event_type["attributes"] for event_type in file.event_types.values()}
    program = replace(PROGRAM, event_types={**PROGRAM.event_types, **own})
    RuleSet.compile(program, [(1, definition) for definition in file.rules.values()])
    for definition in file.rules.values():
        Draft202012Validator(JSON_SCHEMA).validate(definition)


def test_the_first_example_gives_what_the_text_says(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLES[0])
    rules = list(rule_files.read(path).rules.values())
    friday_evening = datetime(2026, 11, 6, 12, 30, tzinfo=UTC)
    assert points(rules, purchase(at=friday_evening)) == 200


def test_the_dry_run_is_one() -> None:
    example = re.search(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert example
    json_format.Parse(example[1], rules_pb2.DryRunRequest())


def test_nothing_is_left_out() -> None:
    fields = [name.removeprefix("item.") for name in FIELDS]
    actions = [action for names in ACTIONS.values() for action in names]
    for word in (*KEYS, *fields, *ALL_OPERATORS, *actions, *MODES, *PERIODS):
        assert f"`{word}" in TEXT or f"mode: {word}`" in TEXT, word


def test_the_published_schema_is_the_one_in_force() -> None:
    """If this fails: `laurel rules schema > docs/rule.schema.json`."""
    assert json.loads((DOCS / "rule.schema.json").read_text()) == JSON_SCHEMA
