import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from laurel import clients
from tests.support.processes import ROOT


def run(*languages: str, path: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "laurel.clients", *languages],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_toolchains_python_is_generated_and_the_rest_is_named(tmp_path: Path) -> None:
    done = run(path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "python: build/clients/python",
        "typescript: left out, npm isn't installed",
        "go: left out, go isn't installed",
        "java: left out, mvn isn't installed",
    ]
    stubs = ROOT / "build" / "clients" / "python" / "loyalty" / "v1"
    assert {path.name for path in stubs.glob("points_*")} == {
        "points_pb2.py",
        "points_pb2.pyi",
        "points_pb2_grpc.py",
    }


def test_a_language_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    assert run("go", path=str(tmp_path)).returncode == 1
    assert run("cobol", path=str(tmp_path)).returncode == 2


def test_every_plugin_writes_for_one_language() -> None:
    template = yaml.safe_load(clients.TEMPLATE.read_text())
    parts = [clients.part(template, language.folder) for language in clients.LANGUAGES.values()]
    assert [plugin for part in parts for plugin in part["plugins"]] == template["plugins"]
    assert all(part["plugins"] for part in parts)


@pytest.mark.parametrize("name", ["package-lock.json", "package.json"])
def test_packages_are_pinned_by_hash_and_by_no_address(name: str) -> None:
    text = (ROOT / "sdk" / "typescript" / name).read_text()
    assert "://" not in text
    packages = json.loads(text).get("packages", {})
    assert all("integrity" in package for path, package in packages.items() if path)
