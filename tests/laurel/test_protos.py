import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

POINTS = "protos/loyalty/v1/points.proto"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the generator reads and writes, to be spoilt."""
    for name in ("protos", "sdk"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "laurel").mkdir()
    for name in ("buf.yaml", "laurel/protos.py", "laurel/contracts.binpb"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def generate(checkout: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "laurel" / "protos.py"), *options]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_committed_is_what_the_contracts_say(checkout: Path) -> None:
    checked = generate(checkout, "--check")
    assert checked.returncode == 0, checked.stdout


def test_a_stub_edited_by_hand_is_found_and_made_good(checkout: Path) -> None:
    stub = checkout / "sdk/python/loyalty/v1/points_pb2.pyi"
    before = stub.read_text()
    stub.write_text(before + "# mine\n")
    assert "points_pb2.pyi" in generate(checkout, "--check").stdout
    assert generate(checkout).returncode == 0
    assert stub.read_text() == before


def test_a_break_is_refused_and_the_baseline_stays(checkout: Path) -> None:
    baseline = checkout / "protos/baseline.binpb"
    before = baseline.read_bytes()
    edit(checkout / POINTS, "  string order_reference = 4;", "  string order_number = 4;")
    for options in (["--check"], []):
        refused = generate(checkout, *options)
        assert refused.returncode == 1
        assert "order_reference" in refused.stdout
    assert baseline.read_bytes() == before
    assert generate(checkout, "--allow-breaking").returncode == 0
    assert baseline.read_bytes() != before
