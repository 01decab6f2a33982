"""`make clients`: from protos/ to clients for Python, TypeScript, Go and Java, as buf.gen.yaml says.

Generators come from PyPI, npm, the Go module proxy and Maven Central, each pinned by the
package file of its language in sdk/; so a language needs its toolchain: Node 20 with npm,
Go, a JDK with Maven. One that is absent is left out and named. What was generated is
compiled, so that what is written works.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from laurel.protos import PROGRAMS, PROTOS, ROOT, lay_out_googleapis

TEMPLATE = ROOT / "buf.gen.yaml"
TOOLS = ROOT / "build" / "bin"
SDK = ROOT / "sdk"
STEP_SECONDS = 900
GO_GENERATORS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
)
JAVA_GENERATORS = ("protoc", "protoc-gen-grpc-java")


class Missing(Exception):  # noqa: N818 - reads as the sentence it is
    """A language can't be served here; the message says why."""


@dataclass(frozen=True)
class Language:
    """``folder`` is what is generated anew, ``prepare`` fetches generators, ``build`` compiles."""

    folder: Path
    prepare: Callable[[], None]
    build: Callable[[], None]


def main() -> int:
    """Generate; 0 if every language asked for by name is there."""
    parser = argparse.ArgumentParser(prog="python -m laurel.clients", description=__doc__)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(LANGUAGES)}; all")
    asked = parser.parse_args().languages
    for name in asked:
        if name not in LANGUAGES:
            parser.error(f"no language {name}; there are {', '.join(LANGUAGES)}")
    left_out = 0
    for name in asked or LANGUAGES:
        try:
            generate(name)
        except Missing as reason:
            left_out += 1
            print(f"{name}: left out, {reason}", flush=True)
        else:
            print(f"{name}: {LANGUAGES[name].folder.relative_to(ROOT)}", flush=True)
    return 1 if asked and left_out else 0


def generate(name: str) -> None:
    """Write one language's client and compile it. Raises Missing; SystemExit if it can't be compiled."""
    language = LANGUAGES[name]
    lay_out_googleapis()
    language.prepare()
    shutil.rmtree(language.folder, ignore_errors=True)
    template = yaml.safe_dump(part(yaml.safe_load(TEMPLATE.read_text()), language.folder))
    demand([PROGRAMS / "buf", "generate", PROTOS, "--template", template])
    language.build()


def part(template: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The template with only those plugins that write into ``folder`` or above it."""
    plugins = [plugin for plugin in template["plugins"] if folder.is_relative_to(ROOT / plugin["out"])]
    return {**template, "plugins": plugins}


def _prepare_python() -> None:
    """The generator came with requirements.lock."""


def _build_python() -> None:
    code = "import loyalty.v1.member_pb2_grpc, loyalty.v1.points_pb2_grpc, loyalty.v1.rules_pb2_grpc"
    demand([sys.executable, "-c", code], PYTHONPATH=str(LANGUAGES["python"].folder))


def _prepare_typescript() -> None:
    fetch(["npm", "ci", "--no-fund", "--no-audit"], SDK / "typescript")


def _build_typescript() -> None:
    demand([SDK / "typescript" / "node_modules" / ".bin" / "tsc", "--noEmit"], SDK / "typescript")


def _prepare_go() -> None:
    fetch(["go", "install", *GO_GENERATORS], SDK / "go", GOBIN=str(TOOLS))


def _build_go() -> None:
    demand(["go", "build", "./..."], SDK / "go")


def _prepare_java() -> None:
    fetch(["mvn", "--quiet", "--batch-mode", "dependency:copy@generators"], SDK / "java")
    for name in JAVA_GENERATORS:
        (TOOLS / name).chmod(0o755)


def _build_java() -> None:
    demand(["mvn", "--quiet", "--batch-mode", "compile"], SDK / "java")


def fetch(command: Sequence[str], folder: Path, **variables: str) -> None:
    """Run what brings generators; raises Missing if the program isn't there or fails."""
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} isn't installed")
    TOOLS.mkdir(parents=True, exist_ok=True)
    finished = _run(command, folder, variables)
    if finished.returncode:
        said = [line for line in finished.stdout.splitlines() if line.strip()]
        raise Missing(f"`{' '.join(command[:3])}` failed: {said[-1] if said else finished.returncode}")


def demand(command: Sequence[str | Path], folder: Path = ROOT, **variables: str) -> None:
    """Run what must succeed."""
    finished = _run(command, folder, variables)
    if finished.returncode:
        print(finished.stdout, file=sys.stderr)
        raise SystemExit(f"{Path(command[0]).name} failed")


def _run(
    command: Sequence[str | Path], folder: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command lines
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )


LANGUAGES: dict[str, Language] = {
    "python": Language(ROOT / "build" / "clients" / "python", _prepare_python, _build_python),
    "typescript": Language(SDK / "typescript" / "src", _prepare_typescript, _build_typescript),
    "go": Language(SDK / "go" / "loyalty", _prepare_go, _build_go),
    "java": Language(SDK / "java" / "src" / "main" / "java", _prepare_java, _build_java),
}


if __name__ == "__main__":
    sys.exit(main())
