"""`laurel up`: the local stack in the foreground."""

import json
import os
import secrets
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from laurel.client import DEFAULT_PROGRAM
from laurel.issuer.users import users
from laurel.stack.folder import read_json
from laurel.stack.progress import Progress
from laurel.stack.supervisor import Options, Stack

WORKER_OPS_PORT = 9484


class Stopped(BaseException):
    """Somebody asked us to stop."""


@click.command()
@click.option(
    "--data-folder",
    envvar="LAUREL_DATA",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".laurel"),
    show_default=True,
    show_envvar=True,
    help="Where everything is kept.",
)
@click.option(
    "--host",
    envvar="LAUREL_HOST",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Listen there.",
)
@click.option(
    "--port",
    envvar="LAUREL_PORT",
    type=click.IntRange(0, 65535),
    default=50051,
    show_default=True,
    show_envvar=True,
    help="Of gRPC; 0 for a free one.",
)
@click.option(
    "--http-host",
    envvar="LAUREL_HTTP_HOST",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="REST listens there.",
)
@click.option(
    "--http-port",
    envvar="LAUREL_HTTP_PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    show_envvar=True,
    help="Of REST; 0 for a free one.",
)
@click.option(
    "--ops-port",
    envvar="LAUREL_OPS_PORT",
    type=click.IntRange(0, 65535),
    default=9464,
    show_default=True,
    show_envvar=True,
    help="Of /metrics, /livez and /readyz, for the first server; a free one if somebody has it.",
)
@click.option(
    "--servers",
    envvar="LAUREL_SERVERS",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    show_envvar=True,
    help="Server processes that share the port.",
)
@click.option(
    "--workers",
    envvar="LAUREL_WORKERS",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    show_envvar=True,
    help="Worker processes, which follow what happened.",
)
@click.option(
    "--drain-seconds",
    envvar="LAUREL_DRAIN_SECONDS",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    show_envvar=True,
    help="Time for calls under way when stopping.",
)
def up(
    data_folder: Path,
    host: str,
    port: int,
    http_host: str,
    http_port: int,
    ops_port: int,
    servers: int,
    workers: int,
    drain_seconds: float,
) -> None:
    """Run the local stack in the foreground.

    It is PostgreSQL, Redis, the demo programs, the server and a worker. Ctrl-C stops it in
    order and keeps its data. With LAUREL_DATABASE_URL or LAUREL_REDIS_URL set it uses those
    servers instead of its own.

    \b
    laurel up
    laurel up --servers 2
    laurel up --data-folder /tmp/other --port 50052 --http-port 8081     a second beside the first
    """
    options = Options(
        data_folder=data_folder,
        host=host,
        port=port,
        http_host=http_host,
        http_port=http_port,
        servers=servers,
        database_url=os.environ.get("LAUREL_DATABASE_URL") or None,
        redis_url=os.environ.get("LAUREL_REDIS_URL") or None,
        secrets_file=Path(given) if (given := os.environ.get("LAUREL_SECRETS_FILE")) else None,
        drain_seconds=drain_seconds,
        ops_port=None if os.environ.get("LAUREL_OPS_PORT") == "" else ops_port,
        workers=workers,
        worker_ops_port=_worker_ops_port(ops_port),
        checkpoint_file=os.environ.get("LAUREL_CHECKPOINT_FILE"),
    )
    progress = Progress()
    stack = Stack(options, progress)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        progress.say(f"Laurel, data in {stack.folder.path}")
        stack.start()
        _greet(stack, data_folder, progress)
        stack.watch()
    except Stopped:
        progress.say("\nstopping; a moment")
    finally:
        # Once is enough: whoever presses Ctrl-C twice must not cut the stopping short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
    progress.say(f"stopped; the data is kept in {stack.folder.path}")


def _worker_ops_port(ops_port: int) -> int | None:
    """As for servers: a free one where they take a free one, none where they have none."""
    given = os.environ.get("LAUREL_WORKER_OPS_PORT", os.environ.get("LAUREL_OPS_PORT"))
    if given == "":
        return None
    return int(os.environ.get("LAUREL_WORKER_OPS_PORT") or (WORKER_OPS_PORT if ops_port else 0))


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped


def _greet(stack: Stack, data_folder: Path, progress: Progress) -> None:
    """Addresses, a key, and commands that work as they stand, at every start."""
    keys = read_json(stack.folder.keys)
    command = _command(data_folder)
    card = f"{secrets.randbelow(10**12):012}"
    progress.say()
    progress.say(f"  gRPC           {stack.address}, with health and reflection")
    progress.say(f"  REST           http://{stack.http_address}, to try at http://{stack.http_address}/docs")
    for place in stack.ops:
        progress.say(f"  health         http://{place}/readyz, with /livez and /metrics")
    for place in stack.worker_ops:
        progress.say(f"  worker health  http://{place}/readyz, with /livez and /metrics")
    if stack.issuer:
        progress.say(f"  demo logins    {stack.issuer} for {', '.join(users())}, without passwords")
    if stack.mail:
        progress.say(f"  mail           {stack.mail}, a file each instead of being sent")
    progress.say(f"  terminal key   {keys[DEFAULT_PROGRAM]['terminal']}")
    progress.say(f"  all keys       {stack.folder.keys}")
    progress.say(f"  logs           {stack.folder.path}/*.log")
    progress.say()
    progress.say("Try, in another terminal:")
    progress.say(f"  {command} members register --given-name Asha --card {card} --email {card}@example.com")
    progress.say(f"  {command} points accrue {card} 500 INR --order R-{card}")
    progress.say(f"  {command} points balance {card}")
    progress.say(f"  {_curl(stack.http_address, keys[DEFAULT_PROGRAM]['terminal'], card)}")
    for login, member_id in list(stack.people.items())[:1]:
        token = f'"Authorization: Bearer $({command} login --user {login})"'
        progress.say(f"  curl http://{stack.http_address}/api/points/{member_id} -H {token}")
    progress.say()
    progress.say("Ctrl-C stops the stack and keeps its data.")


def _curl(address: str, key: str, card: str) -> str:
    """A second purchase, over REST."""
    order = f"S-{card}"
    body = {
        "requestId": order,
        "orderReference": order,
        "identifier": {"cardNumber": card},
        "amount": {"currencyCode": "INR", "units": "250"},
    }
    headers = (f"Authorization: Bearer {key}", "Content-Type: application/json")
    told = [part for header in headers for part in ("-H", header)]
    return shlex.join(["curl", f"http://{address}/transactions/accrue", *told, "-d", json.dumps(body)])


def _command(data_folder: Path) -> str:
    """How this `laurel` is called from this folder, with the data folder if it isn't the usual one."""
    program = Path(sys.argv[0])
    found = shutil.which("laurel")
    near = os.path.relpath(program)
    if program.name == "__main__.py":
        name = shlex.join([sys.executable, "-m", "laurel"])
    elif found is not None and Path(found).samefile(program):
        name = "laurel"
    elif near.startswith(os.pardir):
        name = shlex.quote(str(program.absolute()))
    else:
        name = shlex.quote(near if os.sep in near else os.path.join(os.curdir, near))
    if data_folder.resolve() == Path(".laurel").resolve():
        return name
    return f"LAUREL_DATA={shlex.quote(str(data_folder.resolve()))} {name}"
