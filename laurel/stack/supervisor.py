"""The local stack as a whole: started in order, watched, stopped in the reverse order."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg
import redis

from laurel import demo, probes
from laurel.issuer import stack as issuer
from laurel.issuer.users import SYSTEM
from laurel.stack.children import STOP_SIGNALS, Child
from laurel.stack.folder import DataFolder, read_json, write_json
from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.processes import StackError, end_stray
from laurel.stack.progress import Progress
from laurel.stack.redis import EmbeddedRedis
from laurel.stack.servers import MARK, ServerProcess, reserve
from laurel.stack.workers import MARK as WORKER_MARK
from laurel.stack.workers import WorkerProcess
from migrations import migrate
from server import secrets

WATCH_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
# Who ran this long starts again at once when it dies.
STEADY_SECONDS = 30.0
# They tell anybody who asks, so they listen for this machine only.
OPS_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Options:
    """What `laurel up` is asked for. Without a URL the embedded server is used."""

    data_folder: Path
    host: str
    port: int
    http_host: str
    http_port: int
    servers: int
    database_url: str | None
    redis_url: str | None
    secrets_file: Path | None
    drain_seconds: float
    # Of the first server's ops listener; the others' follow. None: they have none.
    ops_port: int | None = None
    workers: int = 1
    # The same of the first worker.
    worker_ops_port: int | None = None
    # Where checkpoints go: "" for none, None for the data folder.
    checkpoint_file: str | None = None


class Part(Protocol):
    """A child process that can be started again."""

    @property
    def running(self) -> bool:
        """Whether it is alive."""

    def start(self) -> None:
        """Start it; raises StackError."""


class Watched:
    """A part, and when it may start again after it died."""

    def __init__(self, name: str, part: Part) -> None:
        self.name = name
        self.part = part
        self._started = time.monotonic()
        self._failures = 0
        self._due: float | None = None

    def mend(self, say: Callable[[str], None]) -> bool:
        """Start it again if it died and its time has come; whether that was done."""
        now = time.monotonic()
        if self._due is None:
            if self.part.running:
                return False
            self._failures = 0 if now - self._started > STEADY_SECONDS else self._failures
            wait = min(0.25 * 2**self._failures, LONGEST_WAIT_SECONDS)
            self._failures += 1
            self._due = now + wait
            how = f" ({self.part.ending}; see {self.part.log})" if isinstance(self.part, Child) else ""
            say(f"{self.name} died{how}; it starts again in {wait:g} s")
        if now < self._due:
            return False
        self._due, self._started = None, now
        try:
            self.part.start()
        except StackError as error:
            say(str(error))
            return False
        say(f"{self.name} was started again")
        return True


class Stack:
    """PostgreSQL, Redis, the servers and the workers of one data folder. Use it from the main thread."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.folder = DataFolder(options.data_folder)
        self.address = ""
        self.http_address = ""
        # Where the demo's people log in, "" if nobody can; and who of them is a member.
        self.issuer = ""
        self.people: dict[str, str] = {}
        self.database_url = options.database_url or ""
        self.redis_url = options.redis_url or ""
        self._options = options
        self._progress = progress
        self._secrets = (options.secrets_file or self.folder.secrets).resolve()
        named = options.checkpoint_file
        # Where checkpoints go, "" if nobody wants them.
        self.checkpoint_file = str(self.folder.checkpoints) if named is None else named
        # Where mail goes that members would get, "" if it really goes out.
        by_smtp = os.environ.get("LAUREL_SMTP_URL")
        self.mail = "" if by_smtp else os.environ.get("LAUREL_MAIL_FOLDER") or str(self.folder.mail)
        self._parts: list[Watched] = []
        self._servers: list[ServerProcess] = []
        self._workers: list[WorkerProcess] = []
        self.ops: list[str] = []
        self.worker_ops: list[str] = []
        # What was started is stopped in the reverse order, however far the start came.
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        """Bring everything up, a step after the other. Raises StackError; call ``stop`` then too."""
        self.folder.hold()
        self._undo.callback(self.folder.release)
        left = read_json(self.folder.runtime)
        for kind, mark in (("servers", MARK), ("workers", WORKER_MARK)):
            for pid in left.get(kind, []):
                end_stray(pid, mark, STOP_SIGNALS)
        held = self._undo.enter_context(reserve(self._options.host, self._options.port))
        self.address = f"{_bracketed(self._options.host)}:{held.getsockname()[1]}"
        held_http = self._undo.enter_context(
            reserve(self._options.http_host, self._options.http_port, "http-port")
        )
        http_port = held_http.getsockname()[1]
        self.http_address = f"{_bracketed(self._options.http_host)}:{http_port}"
        new_secrets = self._prepare_secrets()
        self._start_postgres()
        self._start_redis()
        self._migrate(new_secrets)
        with self._progress.step("demo programs"):
            asyncio.run(demo.seed_programs(self.database_url, self.folder.keys, self._progress.say))
        # Before the servers, so that they are stopped after them: what servers still did is worked off.
        self._start_workers()
        self._start_servers(held.getsockname()[1], http_port)
        self._await_workers()
        with self._progress.step("demo rules"):
            demo.seed_rules(self.address, read_json(self.folder.keys), self._progress.say)
        if self.issuer:
            with self._progress.step("demo people") as step:
                keys = read_json(self.folder.keys)
                self.people = demo.seed_people(self.address, keys, SYSTEM, self._progress.say)
                step.note = self.issuer

    def watch(self) -> None:
        """Start again what dies, until interrupted."""
        while True:
            time.sleep(WATCH_SECONDS)
            mended = [part.mend(self._progress.say) for part in self._parts]
            if any(mended):
                self._write_runtime()

    def stop(self) -> None:
        """Drain the servers, then the workers, then stop Redis, then PostgreSQL. The data stays."""
        self._parts.clear()
        self._undo.close()

    def _prepare_secrets(self) -> bool:
        with self._progress.step("secrets") as step:
            step.note = str(self._secrets)
            if self._secrets.exists():
                if secrets.load(self._secrets).checkpoint is None and self.checkpoint_file:
                    secrets.add_checkpoint_key(self._secrets)
                    step.note += ", with a key for checkpoints"
                return False
            if (self.folder.postgres / "data").exists() and not self._options.database_url:
                raise StackError(
                    f"{self._secrets} is missing, and without it nobody can read what is in "
                    f"{self.folder.postgres}: put it back, or move the data folder away to begin anew"
                )
            secrets.generate(self._secrets)
            return True

    def _start_postgres(self) -> None:
        with self._progress.step("PostgreSQL") as step:
            if self._options.database_url:
                step.note = "LAUREL_DATABASE_URL"
                return
            postgres = EmbeddedPostgres(self.folder.postgres, notify=self._progress.say)
            self._undo.callback(self._stopping("PostgreSQL", postgres.stop))
            postgres.start()
            self._parts.append(Watched("PostgreSQL", postgres))
            self.database_url = postgres.url()
            step.note = probes.postgres_facts(postgres.url("postgres")).version

    def _start_redis(self) -> None:
        with self._progress.step("Redis") as step:
            if not self._options.redis_url:
                embedded = EmbeddedRedis(self.folder.redis)
                self._undo.callback(self._stopping("Redis", embedded.stop))
                embedded.start()
                self._parts.append(Watched("Redis", embedded))
                self.redis_url = embedded.url
            try:
                version = probes.redis_version(self.redis_url)
            except (redis.RedisError, ValueError) as error:
                raise StackError(f"Redis at LAUREL_REDIS_URL can't be used: {error}") from None
            if not probes.is_redis_new_enough(version):
                raise StackError(f"Laurel needs Redis 6.2 or newer; LAUREL_REDIS_URL names a {version}")
            step.note = version + (", LAUREL_REDIS_URL" if self._options.redis_url else "")

    def _migrate(self, new_secrets: bool) -> None:
        with self._progress.step("migrations") as step:
            try:
                applied = asyncio.run(migrate(self.database_url))
                facts = probes.postgres_facts(self.database_url)
                foreign = new_secrets and asyncio.run(_has_members(self.database_url))
            except (OSError, TimeoutError) as error:
                raise StackError(f"PostgreSQL at LAUREL_DATABASE_URL can't be reached: {error}") from None
            if facts.major < probes.OLDEST_POSTGRES:
                raise StackError(f"Laurel needs PostgreSQL 15 or newer; the database is a {facts.version}")
            if foreign:
                self._secrets.unlink()
                raise StackError(
                    "the database has members whose data other secrets seal: name the secrets file that "
                    "belongs to it with LAUREL_SECRETS_FILE"
                )
            step.note = f"{len(applied)} applied" if applied else "nothing to do"

    def _start_workers(self) -> None:
        environment = {
            **os.environ,
            **self._places(),
            "LAUREL_CHECKPOINT_FILE": self.checkpoint_file,
            "LAUREL_MAIL_FOLDER": self.mail,
        }
        self._undo.callback(self._stopping("workers", lambda: _stop(self._workers)))
        self._undo.callback(self.folder.runtime.unlink, missing_ok=True)
        for number in range(1, self._options.workers + 1):
            ops = self._reserve_ops(self._options.worker_ops_port, number)
            host, _, port = ops.rpartition(":")
            worker = WorkerProcess(
                environment | {"LAUREL_WORKER_OPS_HOST": host or OPS_HOST, "LAUREL_WORKER_OPS_PORT": port},
                self.folder.worker_log(number),
                self._options.drain_seconds,
                ops,
            )
            worker.start()
            self._workers.append(worker)
            if ops:
                self.worker_ops.append(ops)
        self._write_runtime()

    def _await_workers(self) -> None:
        count = self._options.workers
        with self._progress.step("worker" if count == 1 else f"{count} workers"):
            for worker in self._workers:
                worker.wait_until_at_work()
        for number, worker in enumerate(self._workers, start=1):
            self._parts.append(Watched("the worker" if count == 1 else f"worker {number}", worker))

    def _places(self) -> dict[str, str]:
        """What every process of ours is told."""
        return {
            "LAUREL_DATABASE_URL": self.database_url,
            "LAUREL_REDIS_URL": self.redis_url,
            "LAUREL_SECRETS_FILE": str(self._secrets),
        }

    def _start_servers(self, port: int, http_port: int) -> None:
        environment = {
            **os.environ,
            **self._places(),
            "LAUREL_HOST": self._options.host,
            "LAUREL_PORT": str(port),
            "LAUREL_HTTP_HOST": self._options.http_host,
            "LAUREL_HTTP_PORT": str(http_port),
            "LAUREL_DRAIN_SECONDS": str(self._options.drain_seconds),
            **self._prepare_issuer(http_port),
        }
        count = self._options.servers
        with self._progress.step("server" if count == 1 else f"{count} servers") as step:
            self._undo.callback(self._stopping("servers", lambda: _stop(self._servers)))
            for number in range(1, count + 1):
                ops = self._reserve_ops(self._options.ops_port, number)
                host, _, ops_port = ops.rpartition(":")
                if ops:
                    self.ops.append(ops)
                server = ServerProcess(
                    environment | {"LAUREL_OPS_HOST": host or OPS_HOST, "LAUREL_OPS_PORT": ops_port},
                    self.folder.server_log(number),
                    self._options.drain_seconds,
                )
                server.start()
                self._servers.append(server)
            self._write_runtime()
            for server in self._servers:
                server.wait_until_serving(self.address)
            for number, server in enumerate(self._servers, start=1):
                self._parts.append(Watched("the server" if count == 1 else f"server {number}", server))
            step.note = f"{self.address}, http://{self.http_address}"

    def _prepare_issuer(self, http_port: int) -> dict[str, str]:
        """How servers come to serve and trust the stack's own issuer, where it has a place."""
        if why := issuer.why_not(os.environ, self._options.http_host):
            self._progress.say(f"  no demo logins: {why}")
            return {}
        self.issuer = f"http://{self.http_address}{issuer.PATH}/"
        return issuer.prepare(self.folder.path, self._options.http_host, http_port)

    def _reserve_ops(self, first: int | None, number: int) -> str:
        """Where a process tells of itself: on the port wished for, or a free one if somebody has that."""
        if first is None:
            return ""
        try:
            held = reserve(OPS_HOST, first + number - 1 if first else 0)
        except StackError:
            held = reserve(OPS_HOST, 0)
        self._undo.enter_context(held)
        return f"{OPS_HOST}:{held.getsockname()[1]}"

    def _stopping(self, name: str, stop: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            started = time.monotonic()
            stop()
            self._progress.say(f"  {name:<14}{time.monotonic() - started:6.2f} s  stopped")

        return run

    def _write_runtime(self) -> None:
        """For commands to find us, and for the next start to find what we may leave behind."""
        write_json(
            self.folder.runtime,
            {
                "pid": os.getpid(),
                "address": self.address,
                "http_address": self.http_address,
                "ops": self.ops,
                "worker_ops": self.worker_ops,
                "database_url": self.database_url,
                "redis_url": self.redis_url,
                "secrets_file": str(self._secrets),
                "checkpoint_file": self.checkpoint_file,
                "servers": [server.pid for server in self._servers],
                "workers": [worker.pid for worker in self._workers],
            },
        )


def _stop(children: Sequence[Child]) -> None:
    """All at once, and wait for each."""
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.stop()


async def _has_members(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM member_key)"))
    finally:
        await connection.close()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
