"""Everything that runs while it is measured: each part a process, its data in a temporary folder."""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from bench import ledgers, shop, tools
from bench.ledgers import Ledger, Size
from bench.load import Target
from laurel.protos import ROOT
from laurel.stack.children import STOP_SIGNALS
from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.processes import end_child, open_log, spawn
from laurel.stack.redis import EmbeddedRedis
from laurel.stack.servers import COMMAND, ServerProcess, reserve
from laurel.stack.workers import WorkerProcess
from migrations import migrate
from server import secrets

READY_SECONDS = 20.0
PAUSE_SECONDS = 0.02
NOTHING: Mapping[str, str | None] = {}


class Stack:
    """A durable PostgreSQL, Redis, the echo, a collector, and servers as they are asked for."""

    def __init__(self, folder: Path, members: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.database_url = ""
        self.secrets_file = folder / "secrets.json"
        self.key = ""
        self.members: Sequence[str] = ()
        self._wanted = members
        self._say = say
        self._redis_url = ""
        self._collector = ""
        self._database_pids: Sequence[int] = ()
        self._postgres: EmbeddedPostgres | None = None
        self._opened = ExitStack()

    def start(self) -> None:
        """Start all but servers, and enrol members. Call it from the main thread."""
        self._say("starting PostgreSQL (durable) and Redis")
        self._opened.callback(self._stop_postgres)
        self._start_postgres()
        self.database_url = self._url("laurel")
        redis = EmbeddedRedis(self.folder / "redis")
        self._opened.callback(redis.stop)
        redis.start()
        self._redis_url = redis.url
        if not self.secrets_file.exists():
            secrets.generate(self.secrets_file)
        asyncio.run(ledgers.drop(self._url("postgres"), "laurel"))
        self.key = asyncio.run(shop.found(self.database_url))
        self._collector, _ = self._helper([sys.executable, "-m", "bench.collector"], "collector")
        self._say(f"enrolling {self._wanted:,} members, each with points to spend")
        with self.server() as target:
            shop.publish(target.address, self.key)
            self.members = asyncio.run(shop.enrol(target.address, self.key, self._wanted))

    def stop(self) -> None:
        """End what was started, in the reverse order."""
        self._opened.close()

    @contextmanager
    def server(
        self,
        name: str = "Laurel",
        settings: Mapping[str, str | None] = NOTHING,
        command: Sequence[str] = COMMAND,
    ) -> Iterator[Target]:
        """A server with everything on, but for these variables; None takes one away."""
        with reserve("127.0.0.1", 0) as held, reserve("127.0.0.1", 0) as held_http:
            port, http_port = held.getsockname()[1], held_http.getsockname()[1]
            address, http = f"127.0.0.1:{port}", f"127.0.0.1:{http_port}"
            places = {"LAUREL_PORT": str(port), "LAUREL_HTTP_PORT": str(http_port)}
            environment = self.environment({**places, **settings})
            process = ServerProcess(
                environment, self.folder / "server.log", drain_seconds=5.0, command=command
            )
            try:
                process.start()
                process.wait_until_serving(address)
                yield Target(name, address, self.key, [process.pid], self._database_pids, http)
            finally:
                process.stop()

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker, as `make run` has one beside its server."""
        address = free_address()
        host, _, port = address.rpartition(":")
        places = {
            "LAUREL_WORKER_OPS_HOST": host,
            "LAUREL_WORKER_OPS_PORT": port,
            "LAUREL_CHECKPOINT_FILE": str(self.folder / "checkpoints.jsonl"),
            "LAUREL_MAIL_FOLDER": str(self.folder / "mail"),
        }
        process = WorkerProcess(self.environment(places), self.folder / "worker.log", 5.0, address)
        try:
            process.start()
            process.wait_until_at_work()
            yield
        finally:
            process.stop()

    def _start_postgres(self, settings: Mapping[str, str] | None = None) -> None:
        """Start it, anew if it runs: with these settings, and sized by the data that it has now."""
        self._stop_postgres()
        self._postgres = EmbeddedPostgres(
            self.folder / "postgres", settings, durable=True, notify=lambda line: None
        )
        self._postgres.start()
        self._database_pids = [self._postgres.pid]

    def _stop_postgres(self) -> None:
        if self._postgres is not None:
            self._postgres.stop()

    def _url(self, name: str) -> str:
        assert self._postgres is not None
        return self._postgres.url(name)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """While ledgers are filled. Afterwards PostgreSQL is started anew, and nothing is in memory."""
        self._start_postgres(ledgers.FILLING)
        try:
            yield
        finally:
            self._start_postgres(ledgers.FILLED)
            forget(self.folder / "postgres" / "data")

    def ledger(self, name: str, size: Size, *, anew: bool = False) -> Ledger:
        """A database of that name beside the stack's own, with a ledger of that size. Raises Missing.

        One that was kept is as large as runs have made it since, unless it is filled ``anew``.
        """
        kept = self.folder / f"{name}-{size.rows}-{size.members}.json"
        name = kept.stem
        if kept.exists() and not anew:
            self._say(f"{name} is there: vacuum and a checkpoint")
            asyncio.run(migrate(self._url(name), self._say))
            asyncio.run(ledgers.tidy(self._url(name)))
            return Ledger(self._url(name), **json.loads(kept.read_text()))
        asyncio.run(ledgers.drop(self._url("postgres"), name))
        ledgers.check_room(size, self.folder, self._say)
        self._say(f"filling {name}: {size}")
        url = self._url(name)
        key = asyncio.run(shop.found(url))
        with self.server(settings={"LAUREL_DATABASE_URL": url}) as target:
            shop.publish(target.address, key)
            model = ledgers.live(target.address, key, size.each)
        members = ledgers.fill(url, model, size, self._say)
        kept.write_text(json.dumps({"key": key, "members": members}))
        return Ledger(url, key, members)

    @contextmanager
    def over(self, ledger: Ledger, name: str) -> Iterator[Target]:
        """A server over that ledger."""
        with self.server(name, {"LAUREL_DATABASE_URL": ledger.url}) as target:
            yield replace(target, key=ledger.key)

    @contextmanager
    def echo(self) -> Iterator[Target]:
        """The bare server."""
        address, pid = self._helper([sys.executable, "-m", "bench.echo"], "echo")
        yield Target("echo", address, self.key, [pid])

    def environment(self, settings: Mapping[str, str | None]) -> dict[str, str]:
        """What a server process reads: nothing of the caller's own settings."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("LAUREL_", "OTEL_"))}
        wanted = {
            **own,
            "LAUREL_DATABASE_URL": self.database_url,
            "LAUREL_REDIS_URL": self._redis_url,
            "LAUREL_SECRETS_FILE": str(self.secrets_file),
            "LAUREL_OPS_PORT": "0",
            # One call in a hundred is traced, the default.
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self._collector}",
            **settings,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _helper(self, command: Sequence[str], name: str) -> tuple[str, int]:
        """Start a process that takes its port as its last argument; its address and id once it listens."""
        address = free_address()
        with open_log(self.folder / f"{name}.log") as log:
            child = spawn(
                [*command, address.rpartition(":")[2]], log=log, dies_by=STOP_SIGNALS[0], folder=ROOT
            )
        self._opened.callback(end_child, child, STOP_SIGNALS, 5.0)
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=READY_SECONDS)
        return address, child.pid

    @contextmanager
    def gateway(self, server: Target) -> Iterator[Target]:
        """Go's grpc-gateway in front of a server. Raises clients.Missing."""
        program, address = tools.gateway(), free_address()
        with open_log(self.folder / "gateway.log") as log:
            command = [str(program), "-listen", address, "-server", server.address]
            child = spawn(command, log=log, dies_by=STOP_SIGNALS[0])
        try:
            wait_until_listening(address)
            processes = [child.pid, *server.server]
            yield Target("grpc-gateway", server.address, self.key, processes, server.database, address)
        finally:
            end_child(child, STOP_SIGNALS, 5.0)


@contextmanager
def running(members: int, say: Callable[[str], None], kept: Path | None = None) -> Iterator[Stack]:
    """A stack for as long as the block lasts. Nothing of it stays, but for what is in the folder ``kept``."""
    folder = kept or Path(tempfile.mkdtemp(prefix="laurel-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    # PostgreSQL won't run as root, and its account has to get through to its data.
    folder.chmod(0o711)
    stack = Stack(folder, members, say)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def forget(folder: Path) -> None:
    """Have the system keep nothing of these files in memory, as after a start of the machine; on Linux."""
    if sys.platform == "linux":
        os.sync()  # what isn't written yet would stay
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def free_address() -> str:
    """An address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_listening(address: str) -> None:
    """Until a connection is taken there; raises TimeoutError."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on {address}") from None
            time.sleep(PAUSE_SECONDS)
        else:
            return
