"""`laurel members watch`: what happens to a member, as it happens."""

import json
import time
from collections.abc import Iterable, Iterator

import click
import grpc
from loyalty.v1 import member_pb2

from laurel.calls import PASSING, details_of
from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import member_id_of
from laurel.output import as_dict, moment

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0


@click.command()
@click.argument("member")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one update a line.")
@program_option
def watch(*, member: str, as_json: bool, program: str) -> None:
    """Print how a member stands, then what happens. Each change is shown as it is committed; Ctrl-C ends it.

    When the server stops it says so, waits for it to come back, and goes on with what happened meanwhile.

    \b
    laurel members watch 4417-1234
    """
    try:
        with connect("terminal", program) as client:
            for update in updates(client, member_id_of(client, member)):
                if as_json:
                    print(json.dumps(as_dict(update), ensure_ascii=False), flush=True)
                elif line := told(update):
                    click.echo(f"{moment(update.record_time)}  {line}")
    except KeyboardInterrupt:
        return


def updates(client: Client, member_id: str) -> Iterator[member_pb2.WatchMemberResponse]:
    """All updates, whatever becomes of servers meanwhile. Raises grpc.RpcError if it can't begin."""
    request = member_pb2.WatchMemberRequest(member_id=member_id)
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            for update in client.listen(client.members.WatchMember, request):
                request.last_event_id = update.event_id
                wait = FIRST_WAIT_SECONDS
                yield update
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                return  # by Ctrl-C
            if not request.last_event_id or not _passing(error):
                raise
        click.echo("the connection is lost; trying again", err=True)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        while not client.reaches(LONGEST_WAIT_SECONDS):
            pass
        click.echo("connected again", err=True)


def told(update: member_pb2.WatchMemberResponse) -> str:
    """An update in words, "" if there is nothing to tell."""
    match update.WhichOneof("update"):
        case "standing":
            now = update.standing
            pool = f"; household: {_figures(now.household.wallets)}" if now.HasField("household") else ""
            return f"{_status(now.status)}, {now.tier}: {_figures(now.wallets)}{pool}"
        case "points":
            moved = update.points
            about = " ".join(
                part for part in (moved.activity_type, moved.order_reference, moved.store) if part
            )
            figures = _figures([entry.wallet for entry in moved.moved])
            return f"{moved.message}{f' ({about})' if about else ''}{f': {figures}' if figures else ''}"
        case "tier":
            return update.tier.message
        case "message":
            return f"{update.message.subject}: {' '.join(update.message.text.split())}"
        case "status":
            into = f" into {update.status.merged_into}" if update.status.merged_into else ""
            return f"{_status(update.status.after)}{into}"
        case _:
            return ""


def _figures(wallets: Iterable[member_pb2.Wallet]) -> str:
    return ", ".join(_wallet(wallet) for wallet in wallets)


def _wallet(wallet: member_pb2.Wallet) -> str:
    beside = {"pending": wallet.pending, "held": wallet.held, "owed": wallet.debt}
    others = ", ".join(f"{points:,} {name}" for name, points in beside.items() if points)
    return f"{wallet.balance:,} {wallet.point_type}{f' ({others})' if others else ''}"


def _status(status: member_pb2.MemberStatus.ValueType) -> str:
    return member_pb2.MemberStatus.Name(status).removeprefix("MEMBER_STATUS_").lower()


def _passing(error: grpc.RpcError) -> bool:
    """Also what gRPC itself says of a connection that broke: INTERNAL, without our details."""
    assert isinstance(error, grpc.Call)
    own = error.code() is grpc.StatusCode.INTERNAL and not details_of(error)[0].reason
    return own or error.code() in PASSING
