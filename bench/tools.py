"""What loads and what is compared with, built from bench/go into build/bin; needs Go.

Versions are pinned with hashes by bench/go/go.mod and go.sum. The first build takes a
minute or two, later ones a second.
"""

from pathlib import Path

from laurel import clients
from laurel.clients import TOOLS, demand, fetch
from laurel.protos import PROGRAMS, PROTOS, ROOT

MODULE = ROOT / "bench" / "go"
CONTRACTS = PROTOS / "baseline.binpb"


def ghz() -> Path:
    """The load generator for gRPC. Raises clients.Missing."""
    return _install("ghz", "github.com/bojand/ghz/cmd/ghz")


def vegeta() -> Path:
    """The load generator for HTTP. Raises clients.Missing."""
    return _install("vegeta", "github.com/tsenart/vegeta/v12")


def gateway() -> Path:
    """Go's grpc-gateway of these contracts. Raises clients.Missing."""
    clients.generate("go")
    _install("protoc-gen-grpc-gateway", "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway")
    demand([PROGRAMS / "buf", "generate", PROTOS, "--template", MODULE / "buf.gen.yaml"])
    return _install("gateway", "./gateway")


def _install(name: str, package: str) -> Path:
    path = TOOLS / name
    if not path.exists():
        print(f"building {name}, once", flush=True)
    fetch(["go", "install", package], MODULE, GOBIN=str(TOOLS))
    return path
