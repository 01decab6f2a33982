"""`make protos`: from protos/ to the stubs in sdk/python and the baseline of `buf breaking`.

`--check` changes nothing but build/ and fails if what is committed differs from what
protos/ says. The baseline, protos/baseline.binpb, is the contract as it was last
generated: `make lint` compares with it, needs no history for that and so works in any
clone, and it moves on only after the comparison found nothing broken. `--allow-breaking`
moves it on regardless, for a deliberate break before a release.

laurel/contracts.binpb holds the same contract with its comments, which stubs leave out:
the OpenAPI document takes its words from there.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"
STUBS = ROOT / "sdk" / "python"
GOOGLEAPIS = ROOT / "build" / "googleapis"
BASELINE = PROTOS / "baseline.binpb"
CONTRACTS = ROOT / "laurel" / "contracts.binpb"
# Their comments explain protobuf to authors of contracts, nothing to callers.
NOT_FOR_CALLERS = ("google/api/", "google/protobuf/")
PROGRAMS = Path(sys.executable).parent
IMPORT = re.compile(r'^import (?:public )?"(google/(?!protobuf/)[^"]+)";', re.MULTILINE)
SERVICE = re.compile(r"^service \w+ \{", re.MULTILINE)
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main() -> int:
    """Generate, or check; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m laurel.protos", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    parser.add_argument(
        "--allow-breaking", action="store_true", help="accept what breaks callers of the last baseline"
    )
    options = parser.parse_args()
    lay_out_googleapis()
    if not options.allow_breaking and not _compatible():
        return 1
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        differences = list(_differences(fresh))
        if not options.check:
            _take_over(fresh, differences)
    for path in differences:
        done = "written" if path.exists() else "removed"
        print(f"{'differs from protos/' if options.check else done}: {path.relative_to(ROOT)}")
    if options.check and differences:
        print("run `make protos` and commit the result")
    return 1 if options.check and differences else 0


def lay_out_googleapis() -> None:
    """Copy the Google files that ours import from their wheel, where buf and protoc find them."""
    spec = importlib.util.find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos isn't installed")
    source = Path(next(iter(spec.submodule_search_locations))).parents[1]
    seen: set[str] = set()
    waiting = list(_imports(path.read_text() for path in PROTOS.rglob("*.proto")))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        text = (source / name).read_text()
        target = GOOGLEAPIS / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        waiting += _imports([text])


def generate(folder: Path) -> None:
    """Write stubs, baseline and commented contracts into ``folder``, laid out as in the checkout."""
    stubs = folder / STUBS.relative_to(ROOT)
    stubs.mkdir(parents=True)
    files = sorted(PROTOS.rglob("*.proto"))
    with_services = [path for path in files if SERVICE.search(path.read_text())]
    _protoc(files, f"--python_out={stubs}", f"--mypy_out=quiet:{stubs}")
    _protoc(with_services, f"--grpc_python_out={stubs}", f"--mypy_grpc_out=quiet:{stubs}")
    baseline = folder / BASELINE.relative_to(ROOT)
    baseline.parent.mkdir(parents=True)
    _run(PROGRAMS / "buf", "build", "protos", "--exclude-source-info", "--output", baseline)
    contracts = folder / CONTRACTS.relative_to(ROOT)
    contracts.parent.mkdir(parents=True)
    _run(PROGRAMS / "buf", "build", "protos", "--as-file-descriptor-set", "--output", contracts)
    contracts.write_bytes(_comments_only(contracts.read_bytes()))


def _comments_only(raw: bytes) -> bytes:
    """The same contract without source information that no caller reads: it is most of the bytes."""
    files = FileDescriptorSet.FromString(raw)
    for file in files.file:
        told = [
            place
            for place in file.source_code_info.location
            if not file.name.startswith(NOT_FOR_CALLERS)
            and (place.leading_comments or place.trailing_comments)
        ]
        file.ClearField("source_code_info")
        if told:
            file.source_code_info.location.extend(told)
    return files.SerializeToString(deterministic=True)


def _protoc(files: Iterable[Path], *outputs: str) -> None:
    plugins = [
        f"--plugin=protoc-gen-{name}={PROGRAMS / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")
    ]
    includes = [f"-I{PROTOS}", f"-I{GOOGLEAPIS}", f"-I{_well_known_types()}"]
    _run(sys.executable, "-m", "grpc_tools.protoc", *includes, *plugins, *outputs, *files)


def _well_known_types() -> Path:
    spec = importlib.util.find_spec("grpc_tools")
    if spec is None or spec.origin is None:
        raise SystemExit("grpcio-tools isn't installed")
    return Path(spec.origin).parent / "_proto"


def _compatible() -> bool:
    if not BASELINE.exists():
        print(f"no {BASELINE.relative_to(ROOT)} yet: nothing to compare the contracts with")
        return True
    command = [str(PROGRAMS / "buf"), "breaking", "protos", "--against", str(BASELINE)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0  # noqa: S603


def _differences(fresh: Path) -> Iterator[Path]:
    """Where checkout and ``fresh`` differ: other content, missing, or generated once and no longer."""
    names = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    old = {path.relative_to(ROOT) for pattern in GENERATED for path in STUBS.rglob(pattern)}
    for name in sorted(names | old):
        here, there = ROOT / name, fresh / name
        if not (here.exists() and there.exists() and here.read_bytes() == there.read_bytes()):
            yield here


def _take_over(fresh: Path, differences: Iterable[Path]) -> None:
    for path in differences:
        source = fresh / path.relative_to(ROOT)
        if source.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
        else:
            path.unlink()


def _imports(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from IMPORT.findall(text)


def _run(*command: str | Path) -> None:
    finished = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)  # noqa: S603
    if finished.returncode != 0:
        raise SystemExit(finished.returncode)


if __name__ == "__main__":
    sys.exit(main())
