"""`laurel doctor`: what is wrong, and what to do about it."""

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import asyncpg
import click
import httpx
import redis
from pydantic import SecretStr, ValidationError

import migrations
from laurel import channels, probes
from laurel.client import address, data_folder, stack
from laurel.issuer.stack import TRUST
from laurel.output import counted, moment, show_json, show_table
from laurel.stack.servers import is_serving
from server import issuers, secrets
from server.domain.errors import Refused
from server.domain.schedules import PATIENCE, Outcome
from server.domain.schedules import Standing as ScheduleStanding
from server.operations.schedules import CHECKPOINT
from server.operations.signing_keys import SigningKeys, Unusable
from server.rpc.access import declared_scopes
from server.settings import Settings
from server.store import dead_letters, deliveries, subscriptions
from server.store import schedules as schedule_store
from server.store.database import Database
from server.store.deliveries import Backlog
from server.store.subscriptions import Standing
from server.tls import TlsError

OK, WARN, FAIL = "ok", "warn", "fail"
MOST_SKEW_SECONDS = 2.0
SOON_DAYS = 21
LONG_BEHIND_SECONDS = 30.0
# Some segments of PostgreSQL's log.
LEAST_FREE_MB = 256
# What the hot path stands on; the lock file says the rest.
PACKAGES = ("asyncpg", "grpcio", "protobuf", "piccolo", "redis", "uvloop")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``remedy`` says what to do unless all is well."""

    check: str
    state: str
    detail: str
    remedy: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check all from Python to the server's health. Exit code 1 if something fails.

    It looks at the running local stack, or at what LAUREL_DATABASE_URL, LAUREL_REDIS_URL,
    LAUREL_SECRETS_FILE and LAUREL_ADDRESS name. It changes nothing.
    """
    findings = [finding for check in CHECKS for finding in check()]
    if as_json:
        show_json(
            [{"check": f.check, "state": f.state, "detail": f.detail, "remedy": f.remedy} for f in findings]
        )
    else:
        show_table(
            ("STATE", "CHECK", "FOUND", "WHAT TO DO"),
            [(f.state, f.check, f.detail, f.remedy) for f in findings],
        )
    if any(finding.state == FAIL for finding in findings):
        raise SystemExit(1)


def _python() -> Iterator[Finding]:
    yield Finding("python", OK, ".".join(str(part) for part in sys.version_info[:3]))
    for package in PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            yield Finding(
                "packages", FAIL, f"{package} is missing", "run `make run` or `make test` to set up"
            )


def _local_stack() -> Iterator[Finding]:
    found = stack()
    if found:
        yield Finding("local stack", OK, f"runs in {data_folder()} as process {found.get('pid')}")
    elif os.environ.get("LAUREL_DATABASE_URL"):
        yield Finding("local stack", OK, "not used: LAUREL_DATABASE_URL is set")
    else:
        yield Finding("local stack", WARN, f"doesn't run in {data_folder()}", "start it: laurel up")


def _disk() -> Iterator[Finding]:
    """Whether there is room for what the local stack writes."""
    if not stack():
        return
    folder = data_folder()
    free = shutil.disk_usage(folder).free // 2**20
    told = f"{free:,} MB free in {folder}"
    if free < LEAST_FREE_MB:
        yield Finding("disk", FAIL, told, "make room; what was refused meanwhile may be sent again")
    else:
        yield Finding("disk", OK, told)


def _files() -> Iterator[Finding]:
    folder = data_folder()
    sealed = Path(_setting("LAUREL_SECRETS_FILE", "secrets_file") or folder / "secrets.json")
    private = os.environ.get("LAUREL_TLS_KEY_FILE")
    for path in (sealed, folder / "keys.json", *([Path(private)] if private else [])):
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield Finding("permissions", WARN, f"{path} is open to others ({mode:03o})", f"chmod 600 {path}")
        else:
            yield Finding("permissions", OK, f"{path} is yours only")
    if not sealed.exists():
        yield Finding("secrets", WARN, f"no {sealed}", "`laurel up` makes one; servers elsewhere need theirs")
        return
    try:
        secrets.load(sealed)
    except secrets.SecretsError as error:
        yield Finding("secrets", FAIL, str(error), "put the right file back; nothing can be read without it")
    else:
        yield Finding("secrets", OK, "complete")


def _issuers() -> Iterator[Finding]:
    """Whether people can log in: the issuers are named rightly and show their keys."""
    local = data_folder() / TRUST
    try:
        settings = Settings(
            database_url=SecretStr(""), redis_url=SecretStr(""), secrets_file=data_folder() / "secrets.json"
        )
    except ValidationError as error:
        wrong = ", ".join("LAUREL_" + "_".join(map(str, e["loc"])).upper() for e in error.errors())
        yield Finding("settings", FAIL, f"{wrong}: no value that makes sense", "the README lists them")
        return
    if stack() and local.exists() and not settings.oidc_issuer and not settings.oidc_file:
        settings = settings.model_copy(update={"oidc_file": str(local)})
    try:
        trusted = issuers.load(settings, declared_scopes())
    except issuers.IssuersError as error:
        yield Finding("issuers", FAIL, str(error), "docs/people.md shows how it is written")
        return
    for url, place in {issuer.issuer: issuer.jwks_uri for issuer in trusted}.items():
        try:
            number = asyncio.run(_count_keys(url, place))
        except (Unusable, httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            yield Finding("issuer", FAIL, f"{url}: {why}", "does it run, and is the URL what its tokens say?")
        else:
            told = OK if number else FAIL
            yield Finding(
                "issuer", told, f"{url}: {counted(number, 'key')}", "" if number else "it can't sign tokens"
            )


async def _count_keys(url: str, place: str) -> int:
    keys = SigningKeys(url, place)
    try:
        return await keys.count()
    finally:
        await keys.close()


def _database() -> Iterator[Finding]:
    url = _setting("LAUREL_DATABASE_URL", "database_url")
    if not url:
        yield Finding("database", WARN, "none named", "start `laurel up`, or set LAUREL_DATABASE_URL")
        return
    try:
        facts = probes.postgres_facts(url)
        state = asyncio.run(migrations.state(url))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield Finding(
            "database",
            FAIL,
            f"can't be reached: {error or type(error).__name__}",
            "is it running, is the URL right?",
        )
        return
    if facts.major < probes.OLDEST_POSTGRES:
        yield Finding("database", FAIL, f"PostgreSQL {facts.version}", "use PostgreSQL 15 or newer")
    else:
        yield Finding("database", OK, f"PostgreSQL {facts.version}")
    if not facts.durable:
        yield Finding(
            "durability", FAIL, "fsync, full_page_writes or synchronous_commit is off", "switch them on"
        )
    for lacking in facts.room.lacks():
        yield Finding(
            "room", WARN, lacking, "docs/sizing.md; the embedded PostgreSQL grows when started anew"
        )
    if state.pending:
        yield Finding("migrations", FAIL, f"missing: {', '.join(state.pending)}", "run: laurel migrate")
    elif state.unknown:
        yield Finding("migrations", FAIL, "the database is ahead of this Laurel", "use a newer Laurel")
    else:
        yield Finding("migrations", OK, f"{len(state.applied)} applied")
    skew = f"the database's clock is {facts.skew_seconds:+.3f} s from ours"
    if abs(facts.skew_seconds) > MOST_SKEW_SECONDS:
        yield Finding("clock", WARN, skew, "synchronise both by NTP")
    else:
        yield Finding("clock", OK, skew)


def _schedules() -> Iterator[Finding]:
    """Whether what is done by the clock is done: that takes a worker."""
    url = _setting("LAUREL_DATABASE_URL", "database_url")
    if not url:
        return
    try:
        found = asyncio.run(_scheduled(url))
    except (Refused, OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return  # of the database another check tells
    if not found:
        yield Finding("schedules", WARN, "no worker has ever run", "start `laurel up`, or `laurel worker`")
        return
    now = datetime.now(UTC)
    late = {_named(standing): standing.late(now) for standing in found if standing.late(now)}
    failed = [standing for standing in found if standing.outcome is Outcome.FAILED]
    for standing in failed:
        told = f"{_named(standing)} failed, attempt {standing.attempts}: {standing.error}"
        yield Finding("schedules", WARN, told, f"it is tried again at {moment(standing.next_at)}")
    if late:
        most = max(late, key=lambda name: late[name])
        told = f"{len(late)} of {len(found)} late, {most} by {late[most].total_seconds():,.0f} s"
        yield Finding("schedules", WARN, told, "does a worker run? `laurel worker`, or see its log")
    elif not failed:
        yield Finding("schedules", OK, f"{len(found)} on time")
    yield from _checkpoint(found, now)


async def _scheduled(url: str) -> list[ScheduleStanding]:
    database = await Database.open(url, connections=1)
    try:
        async with database.connection() as connection:
            return await schedule_store.standings(connection)
    finally:
        await database.close()


def _checkpoint(found: Sequence[ScheduleStanding], now: datetime) -> Iterator[Finding]:
    standing = next((standing for standing in found if standing.name == CHECKPOINT), None)
    if standing is None:
        remedy = "name a file with LAUREL_CHECKPOINT_FILE where workers run"
        yield Finding("checkpoints", WARN, "none are taken: a cut-off end would not be noticed", remedy)
    elif standing.done_period is None:
        yield Finding("checkpoints", WARN, "none was taken yet", "see the worker's log if that stays so")
    else:
        age = now - standing.done_period
        state = OK if age <= PATIENCE + standing.every else WARN
        remedy = "" if state == OK else "what is newer could vanish unseen; see the worker's log"
        yield Finding("checkpoints", state, f"the last one {age.total_seconds():,.0f} s ago", remedy)


def _named(standing: ScheduleStanding) -> str:
    return f"{standing.name} of {standing.program}" if standing.program else standing.name


def _redis() -> Iterator[Finding]:
    url = _setting("LAUREL_REDIS_URL", "redis_url")
    if not url:
        yield Finding("redis", WARN, "none named", "start `laurel up`, or set LAUREL_REDIS_URL")
        return
    try:
        found = probes.redis_version(url)
    except (redis.RedisError, ValueError) as error:
        yield Finding("redis", FAIL, f"can't be reached: {error}", "is it running, is the URL right?")
        return
    if probes.is_redis_new_enough(found):
        yield Finding("redis", OK, f"Redis {found}")
    else:
        yield Finding("redis", FAIL, f"Redis {found}", "use Redis 6.2 or newer")


def _server() -> Iterator[Finding]:
    place = address()
    if is_serving(place, seconds=3.0):
        yield Finding("server", OK, f"serving on {place}")
    else:
        yield Finding(
            "server", FAIL, f"no healthy server on {place}", "start `laurel up`, or set LAUREL_ADDRESS"
        )


def _readiness() -> Iterator[Finding]:
    for place in stack().get("ops", []):
        yield _ready("readiness", place, "it takes no calls until this is mended")


def _ready(check: str, place: str, remedy: str) -> Finding:
    try:
        reply = httpx.get(f"http://{place}/readyz", timeout=5.0)
        checks: dict[str, str] = reply.json()["checks"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Finding(check, FAIL, f"{place} doesn't tell ({type(error).__name__})", "see its log")
    wrong = "; ".join(f"{name}: {outcome}" for name, outcome in checks.items() if outcome != "ok")
    if wrong:
        return Finding(check, FAIL, f"{place}: {wrong}", remedy)
    return Finding(check, OK, f"{place}: {', '.join(checks)}")


def _workers() -> Iterator[Finding]:
    """Whether somebody follows what happened, and how closely."""
    for place in stack().get("worker_ops", []):
        yield _ready("worker", place, "see the worker's log")
    if not (url := _setting("LAUREL_DATABASE_URL", "database_url")):
        return
    try:
        found, dead, held_back, waiting = asyncio.run(_consumers(url))
    except (Refused, OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return  # said by the check of the database
    for standing in found:
        behind = counted(standing.behind, "event")
        detail = f"{standing.consumer}: {behind}, {standing.behind_seconds:.1f} s behind"
        if standing.attempts:
            tried = f"{detail}; failed {standing.attempts} times in a row: {standing.last_error}"
            yield Finding("consumer", FAIL, tried, "mend the cause; it tries again by itself")
        elif standing.behind_seconds > LONG_BEHIND_SECONDS:
            remedy = "do workers run? `laurel worker` is one; `laurel subscriptions` tells more"
            yield Finding("consumer", FAIL, detail, remedy)
        else:
            yield Finding("consumer", OK, detail)
    if held_back > LONG_BEHIND_SECONDS:
        told = f"an old transaction has kept the log from being read for {held_back:.0f} s"
        yield Finding("event log", FAIL, told, "end it; it is in pg_stat_activity, with a backend_xid")
    for consumer, number in dead.items():
        told = f"{number:,} events of {consumer} wait for somebody to decide"
        yield Finding("dead letters", WARN, told, "see `laurel dead-letters list`")

    for channel, backlog in waiting.items():
        yield from _channel(channel, backlog)


def _channel(channel: str, backlog: Backlog) -> Iterator[Finding]:
    detail = f"{channel}: {backlog.due:,} due, the first for {backlog.seconds:.1f} s"
    if backlog.seconds > LONG_BEHIND_SECONDS:
        yield Finding("deliveries", FAIL, detail, "do workers run, and does whom they send to answer?")
    else:
        yield Finding("deliveries", OK, detail)
    if backlog.dead:
        told = f"{channel}: {backlog.dead:,} were given up"
        yield Finding("deliveries", WARN, told, "see `laurel dead-letters list`")


async def _consumers(url: str) -> tuple[list[Standing], dict[str, int], float, dict[str, Backlog]]:
    database = await Database.open(url, connections=1)
    try:
        async with database.connection() as connection:
            return (
                await subscriptions.standings(connection),
                await dead_letters.count_dead(connection),
                await subscriptions.held_back_seconds(connection),
                await deliveries.backlog(connection),
            )
    finally:
        await database.close()


def _certificates() -> Iterator[Finding]:
    try:
        files = channels.own_files()
        found = None if files is None else files.read()
    except TlsError as error:
        yield Finding("certificate file", FAIL, str(error), "put files there that fit together")
    else:
        if found is not None:
            yield _expiry("certificate file", found.expires_at, "renew it; servers notice by themselves")
    if channels.credentials() is not None:
        try:
            expires_at = probes.certificate_expiry(address())
        except OSError as error:
            yield Finding("certificate", FAIL, f"{address()} shows none: {error}", "does it speak TLS?")
        else:
            yield _expiry("certificate", expires_at, f"renew the one of {address()}")


def _expiry(check: str, expires_at: datetime, remedy: str) -> Finding:
    days = (expires_at - datetime.now(UTC)).days
    if days < 0:
        return Finding(check, FAIL, f"expired on {expires_at:%Y-%m-%d}", remedy)
    if days < SOON_DAYS:
        return Finding(check, WARN, f"expires on {expires_at:%Y-%m-%d}", remedy)
    return Finding(check, OK, f"expires on {expires_at:%Y-%m-%d}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _local_stack,
    _disk,
    _files,
    _database,
    _schedules,
    _redis,
    _server,
    _readiness,
    _workers,
    _certificates,
    _issuers,
)


def _setting(variable: str, name: str) -> str:
    return os.environ.get(variable) or str(stack().get(name, ""))
