"""Reflection that finds a method by its name: ghz asks so, and a pool knows only services."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection


def enable(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Let callers ask ``server`` for the contracts of these services, and of reflection itself."""
    pool: Any = Symbols()
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool)


class Symbols:
    """The descriptors of this process, as grpc_reflection looks for them."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares a message, an enum, a service or a method; raises KeyError."""
        found: FileDescriptor
        try:
            found = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            name, _, method = symbol.rpartition(".")
            service = self._pool.FindServiceByName(name)
            if method not in service.methods_by_name:
                raise
            found = service.file
        return found
