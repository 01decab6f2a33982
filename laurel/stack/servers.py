"""The server processes of the local stack: `python -m laurel.process`, the same ports for all of them."""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from laurel import channels
from laurel.stack.children import Child
from laurel.stack.processes import POLL_SECONDS, StackError, last_lines

READY_SECONDS = 60.0
COMMAND = (sys.executable, "-m", "laurel.process")
# In the command line of every server process, to know a stray by.
MARK = "-m laurel.process"


class ServerProcess(Child):
    """One server process and its log."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        drain_seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        grace = float(environment.get("LAUREL_GRACE_SECONDS") or 0)
        super().__init__(command, environment, log, grace + drain_seconds + 5.0)

    def wait_until_serving(self, address: str) -> None:
        """Wait until a server of this address says so and this process listens. Raises StackError."""
        deadline = time.monotonic() + READY_SECONDS
        port = int(address.rpartition(":")[2])
        while not (self._listens(port) and is_serving(address)):
            if not self.running:
                raise StackError(f"the server {self.ending}; from {self.log}:\n{last_lines(self.log, 15)}")
            if time.monotonic() > deadline:
                raise StackError(f"the server isn't ready after {READY_SECONDS:.0f} s; see {self.log}")
            time.sleep(POLL_SECONDS * 3)

    def _listens(self, port: int) -> bool:
        """With several processes on one port, only the kernel tells which of them listen."""
        if sys.platform != "linux":
            return True
        try:
            sockets = {os.readlink(entry) for entry in Path(f"/proc/{self.pid}/fd").iterdir()}
        except OSError:
            return False
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                listening = fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
                if listening and f"socket:[{fields[9]}]" in sockets:
                    return True
        return False


def is_serving(address: str, seconds: float = 1.0) -> bool:
    """Whether the server there reports itself healthy."""
    with channels.connect(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def reserve(host: str, port: int, option: str = "port") -> socket.socket:
    """Keep a port for our servers, 0 for a free one. Raises StackError if somebody has it.

    ``option`` is the one of `laurel up` that names another.

    Servers share the port (SO_REUSEPORT), which would let two stacks share one by
    mistake; so first it is tried without. The socket returned never listens.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            place = probe.getsockname()
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(place)
    except OSError as error:
        raise StackError(
            f"port {port} on {host} can't be used ({error.strerror}); choose another with --{option} or "
            f"LAUREL_{option.replace('-', '_').upper()}, 0 for a free one"
        ) from None
    return held
