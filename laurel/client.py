"""How commands reach the server: address, key and stubs.

The address comes from LAUREL_ADDRESS or from the stack of the data folder, the key from
LAUREL_API_KEY or from that folder's keys: there is one for each program and kind of caller.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from loyalty.v1 import (
    adjustments_pb2_grpc,
    dead_letters_pb2_grpc,
    holds_pb2_grpc,
    households_pb2_grpc,
    member_pb2_grpc,
    notifications_pb2_grpc,
    points_pb2_grpc,
    reports_pb2_grpc,
    reviews_pb2_grpc,
    rules_pb2_grpc,
    schedules_pb2_grpc,
    webhooks_pb2_grpc,
)

from laurel import channels
from laurel.failures import Failure

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_PROGRAM = "demo"
CALL_SECONDS = 20.0
ROLES = ("terminal", "service", "staff")

Request = TypeVar("Request")
Reply = TypeVar("Reply")


def data_folder() -> Path:
    """Where the local stack keeps its data: LAUREL_DATA, or .laurel in the current folder."""
    return Path(os.environ.get("LAUREL_DATA") or ".laurel")


def stack() -> dict[str, Any]:
    """What `laurel up` wrote down about itself; empty if it doesn't run."""
    return _read(data_folder() / "stack.json")


def address() -> str:
    """Host and port of the server."""
    return os.environ.get("LAUREL_ADDRESS") or str(stack().get("address", DEFAULT_ADDRESS))


def database_url() -> str:
    """Of the database that LAUREL_DATABASE_URL or the running stack names. Raises Failure."""
    url = os.environ.get("LAUREL_DATABASE_URL") or stack().get("database_url")
    if not url:
        raise Failure("no database: start the local stack with `laurel up`, or set LAUREL_DATABASE_URL")
    return str(url)


def redis_url() -> str:
    """Of the Redis that LAUREL_REDIS_URL or the running stack names. Raises Failure."""
    url = os.environ.get("LAUREL_REDIS_URL") or stack().get("redis_url")
    if not url:
        raise Failure("no Redis: start the local stack with `laurel up`, or set LAUREL_REDIS_URL")
    return str(url)


def secrets_file() -> Path:
    """Where the keys of the ledger are: LAUREL_SECRETS_FILE, or the running stack's."""
    given = os.environ.get("LAUREL_SECRETS_FILE") or stack().get("secrets_file")
    return Path(given) if given else data_folder() / "secrets.json"


def key_for(role: str, program: str) -> str:
    """The API key to call with. Raises Failure."""
    if given := os.environ.get("LAUREL_API_KEY"):
        return given
    path = data_folder() / "keys.json"
    keys = _read(path)
    if keys and program not in keys:
        raise Failure(
            f"no keys of program {program} in {path}, but of {', '.join(sorted(keys))}; for another, set "
            "LAUREL_API_KEY to one that `laurel keys create` shows"
        )
    key = keys.get(program, {}).get(role)
    if not key:
        raise Failure(
            f"no {role} key of program {program} in {path}: start the local stack with `laurel up`, or set "
            "LAUREL_API_KEY to one that `laurel keys create` shows"
        )
    return str(key)


class Client:
    """Stubs, and the key and deadline to call them with."""

    def __init__(self, channel: grpc.Channel, key: str, seconds: float = CALL_SECONDS) -> None:
        self.members = member_pb2_grpc.MemberServiceStub(channel)
        self.points = points_pb2_grpc.PointsServiceStub(channel)
        self.rules = rules_pb2_grpc.RulesServiceStub(channel)
        self.holds = holds_pb2_grpc.HoldServiceStub(channel)
        self.adjustments = adjustments_pb2_grpc.AdjustmentServiceStub(channel)
        self.dead_letters = dead_letters_pb2_grpc.DeadLetterServiceStub(channel)
        self.webhooks = webhooks_pb2_grpc.WebhookServiceStub(channel)
        self.reports = reports_pb2_grpc.ReportServiceStub(channel)
        self.reviews = reviews_pb2_grpc.ReviewServiceStub(channel)
        self.notifications = notifications_pb2_grpc.NotificationServiceStub(channel)
        self.households = households_pb2_grpc.HouseholdServiceStub(channel)
        self.schedules = schedules_pb2_grpc.ScheduleServiceStub(channel)
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._seconds = seconds

    def call(self, method: "grpc.UnaryUnaryMultiCallable[Request, Reply]", request: Request) -> Reply:
        """The reply, such as of ``client.call(client.points.Accrue, request)``. Raises grpc.RpcError."""
        return method(request, timeout=self._seconds, metadata=self._metadata)

    def listen(
        self, method: "grpc.UnaryStreamMultiCallable[Request, Reply]", request: Request
    ) -> Iterator[Reply]:
        """The replies as they come, without an end. Raises grpc.RpcError, CANCELLED after Ctrl-C."""
        call = method(request, metadata=self._metadata)
        # An exception out of nowhere could leave a lock of gRPC's held, and then the process never ends.
        before = signal.signal(signal.SIGINT, lambda *_: call.cancel())
        try:
            yield from call
        finally:
            signal.signal(signal.SIGINT, before)

    def reaches(self, seconds: float) -> bool:
        """Whether there is a connection within so many seconds; it is waited for."""
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(seconds)
        except grpc.FutureTimeoutError:
            return False
        finally:
            ready.cancel()
        return True


@contextmanager
def connect(role: str, program: str | None = None) -> Iterator[Client]:
    """A client with the key of ``role``."""
    key = key_for(role, program or os.environ.get("LAUREL_PROGRAM") or DEFAULT_PROGRAM)
    with channels.connect(address()) as channel:
        yield Client(channel, key)


def program_option(command: Any) -> Any:
    """The option ``--program`` of commands that call with a key of the stack's."""
    return click.option(
        "--program",
        envvar="LAUREL_PROGRAM",
        default=DEFAULT_PROGRAM,
        show_default=True,
        help="Whose key of the local stack to call with.",
    )(command)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except PermissionError:
        raise Failure(f"{path} can't be read; it belongs to whoever ran `laurel up`") from None
    except ValueError:
        raise Failure(f"{path} isn't JSON; remove it and start `laurel up` again") from None
    if not isinstance(content, dict):
        raise Failure(f"{path} isn't a JSON object; remove it and start `laurel up` again")
    return content
