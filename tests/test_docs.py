"""What README and docs say is there is there."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from gateway.settings import GatewaySettings
from laurel.cli import laurel as command
from laurel.commands.up import up
from server.settings import Settings
from tests.support.servers import Laurel
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
README = (ROOT / "README.md").read_text()

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CALL = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?laurel((?: [a-z][a-z-]*)+)")


def spans(text: str) -> list[str]:
    """What stands in backticks within the prose."""
    return re.findall(r"`([^`]+)`", BLOCK.sub("", text))


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def tree() -> list[str]:
    """Every path of the tree in the README, by its indentation."""
    drawing = next(body for _, body in BLOCK.findall(README) if body.startswith("protos/"))
    paths: list[str] = []
    above: list[str] = []
    for line in drawing.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], line.split()[0]]
        paths.append("".join(above))
    return paths


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Every call of `laurel` that a page shows: the page and the words up to the first argument."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        lines = [line for _, body in BLOCK.findall(text) for line in body.splitlines()]
        for shown in [*lines, *spans(text)]:
            if call := CALL.match(shown):
                found.add((page.name, tuple(call[1].split())))
    return sorted(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if place:
            assert place in map(anchor, re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)), link


def test_the_tree_is_the_one_that_stands_here() -> None:
    paths = tree()
    assert "server/domain/points.py" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_package_is_left_out_of_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    top = {line.split("/")[0] + "/" for line in listed.stdout.splitlines() if "/" in line}
    assert {name for name in top if not name.startswith(".")} <= set(tree())


def test_files_named_in_the_text_are_there() -> None:
    shown = [s for s in spans(README) if re.fullmatch(r"[\w./]+/[\w./]*", s)]
    named = [s for s in shown if not s.startswith(".laurel") and "NNNN" not in s]
    assert "server/operations/committer.py" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("page", "words"), commands())
def test_commands_named_are_there(page: str, words: tuple[str, ...]) -> None:
    found: click.Command = command
    used = []
    for word in words:
        if not isinstance(found, click.Group):
            break  # from here on arguments
        context = click.Context(found)
        deeper = found.get_command(context, word)
        assert deeper is not None, f"{page}: there is no `laurel {' '.join([*used, word])}`"
        found = deeper
        used.append(word)
    assert CliRunner().invoke(command, [*used, "--help"]).exit_code == 0


def test_the_overview_has_every_command() -> None:
    assert isinstance(command, click.Group)
    shown = {words[0] for page, words in commands() if page == "README.md"}
    assert shown == set(command.list_commands(click.Context(command)))


def test_make_targets_named_are_there() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {found[1] for page in PAGES for found in re.finditer(r"`make ([a-z]+)", page.read_text())}
    assert "faults" in named
    assert named <= set(targets)


def test_help_for_make_stands_in_two_columns() -> None:
    # As at a prompt, though `make test` may run this: make says more when it runs within make.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    ).stdout
    assert len({re.match(r"[a-z]+ +", line).end() for line in shown.splitlines()}) == 1  # type: ignore[union-attr]


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(LAUREL_\w+)` \|.*\| (.+) \|$", README, re.MULTILINE))
    fields = {**Settings.model_fields, **GatewaySettings.model_fields, **WorkerSettings.model_fields}
    assert set(rows) == {f"LAUREL_{name.upper()}" for name in fields}
    for name, field in fields.items():
        shown = rows[f"LAUREL_{name.upper()}"]
        if field.default is PydanticUndefined:
            assert shown.startswith("`laurel up`: ")
        elif field.default in ("", SecretStr("")):
            assert shown == "none", name
        elif isinstance(field.default, bool):
            assert shown == f"`{field.default}`".lower(), name
        else:
            assert type(field.default)(shown.strip("`")) == field.default, name


def test_what_up_reads_from_the_environment_is_named() -> None:
    variables = [str(p.envvar) for p in up.params if isinstance(p, click.Option) and p.envvar]
    assert "LAUREL_DATA" in variables
    assert [name for name in variables if f"`{name}`" not in README] == []


async def test_the_example_in_python_works(laurel: Laurel, tmp_path: Path) -> None:
    (tmp_path / ".laurel").mkdir()
    keys = {"demo": {"terminal": laurel.terminal.key}}
    (tmp_path / ".laurel" / "keys.json").write_text(json.dumps(keys))
    example = next(body for language, body in BLOCK.findall(README) if language == "python")
    program = example.replace("127.0.0.1:50051", laurel.address)
    program = program.replace('"INR"', f'"{laurel.program.currency}"')

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ points, balance \d+, tier \w+\n", done.stdout)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.stem)
def test_a_decision_is_named_by_its_claim_and_says_why(decision: Path) -> None:
    text = decision.read_text()
    number, _, slug = decision.stem.partition("-")
    title = re.match(r"# (.+)\n", text)
    assert title
    assert re.sub(r"[^a-z0-9]+", "-", title[1].lower()) == slug
    assert re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE) == ["Context", "Decision", "Consequence"]
    numbers = {other.stem.partition("-")[0] for other in DECISIONS}
    assert len(numbers) == len(DECISIONS)
    assert set(re.findall(r"\((\d{4})\)", text)) <= numbers - {number}
