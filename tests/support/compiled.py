"""Contracts made for a test, compiled as protoc would do it for anybody."""

import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc


def compiled(text: str) -> FileDescriptorSet:
    """The descriptors of a .proto file, of what it imports, and its comments."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "made.proto").write_text(text)
        out = folder / "made.binpb"
        includes = [f"-I{folder}", *(f"-I{path}" for path in _includes())]
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *includes, *options, "made.proto"]) != 0:
            raise ValueError("the contract is wrong, see protoc's words above")
        return FileDescriptorSet.FromString(out.read_bytes())


def pool_of(files: FileDescriptorSet) -> DescriptorPool:
    """A pool of exactly these files."""
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def _includes() -> Iterable[Path]:
    """Where protoc finds the well-known types, and google/api and its like."""
    for package, place in (("grpc_tools", "_proto"), ("google.api", "../..")):
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        yield (Path(next(iter(spec.submodule_search_locations))) / place).resolve()
