"""`laurel dead-letters`: what was tried in vain, and what is to become of it."""

import click
from loyalty.v1 import dead_letters_pb2 as pb

from laurel.client import Client, connect, program_option
from laurel.commands.options import json_option
from laurel.output import as_dict, moment, show_fields, show_json, show_table

PAGE = 500
PREFIX = "DEAD_LETTER_STATUS_"
STATUSES = ("dead", "replaying", "replayed", "discarded")


@click.group("dead-letters")
def dead_letters() -> None:
    """What was tried in vain: events of one consumer, deliveries. Everything beside them went on."""


@dead_letters.command("list")
@click.option(
    "--status", type=click.Choice(STATUSES), default=None, help="Dead or being replayed, if left out."
)
@click.option("--consumer", default="", help="Only of this consumer or channel.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def list_(*, status: str | None, consumer: str, limit: int, program: str, as_json: bool) -> None:
    """List dead letters, newest first."""
    with connect("staff", program) as client:
        found = _list(client, status, consumer, limit)
    if as_json:
        show_json([as_dict(dead) for dead in found])
        return
    show_table(
        ("DIED", "CONSUMER", "ABOUT", "MEMBER", "ATTEMPTS>", "ERROR", "STATUS", "DEAD LETTER"),
        [
            (
                moment(dead.die_time),
                dead.consumer,
                dead.event_type or dead.target,
                dead.member_id,
                dead.attempts,
                dead.error,
                _status(dead),
                dead.dead_letter_id,
            )
            for dead in found
        ],
    )


@dead_letters.command()
@click.argument("dead_letter_id", metavar="DEAD_LETTER")
@program_option
@json_option
def show(*, dead_letter_id: str, program: str, as_json: bool) -> None:
    """Show one, with what it is about."""
    with connect("staff", program) as client:
        reply = client.call(
            client.dead_letters.GetDeadLetter, pb.GetDeadLetterRequest(dead_letter_id=dead_letter_id)
        )
    if as_json:
        show_json(reply)
        return
    dead = reply.dead_letter
    show_fields(
        (
            ("dead letter", dead.dead_letter_id),
            ("status", _status(dead)),
            ("consumer", dead.consumer),
            ("target", dead.target),
            ("event", f"{dead.event_type} {dead.event_id}".strip()),
            ("member", dead.member_id),
            ("died", moment(dead.die_time)),
            ("attempts", dead.attempts),
            ("error", dead.error),
            ("settled", f"{moment(dead.settle_time)} {dead.settler}" if dead.HasField("settle_time") else ""),
            *((f"  {name}", value) for name, value in as_dict(dead).get("content", {}).items()),
        )
    )


@dead_letters.command()
@click.argument("dead_letter_ids", metavar="[DEAD_LETTER]...", nargs=-1)
@click.option("--consumer", default="", help="All dead ones of this consumer or channel instead.")
@program_option
@json_option
def replay(*, dead_letter_ids: tuple[str, ...], consumer: str, program: str, as_json: bool) -> None:
    """Have them tried again, soon. Events are by their consumer, deliveries go under the ids that they had.

    An event of notifications that happened more than a week ago is settled by that too, and nobody is told
    of it any more.

    \b
    laurel dead-letters replay 0199f0c2-...
    laurel dead-letters replay --consumer daily_figures
    laurel dead-letters replay --consumer email
    """
    with connect("staff", program) as client:
        settled = [
            client.call(
                client.dead_letters.ReplayDeadLetter, pb.ReplayDeadLetterRequest(dead_letter_id=each)
            ).dead_letter
            for each in _chosen(client, dead_letter_ids, consumer)
        ]
    _told(settled, as_json)


@dead_letters.command()
@click.argument("dead_letter_ids", metavar="[DEAD_LETTER]...", nargs=-1)
@click.option("--consumer", default="", help="All dead ones of this consumer or channel instead.")
@program_option
@json_option
def discard(*, dead_letter_ids: tuple[str, ...], consumer: str, program: str, as_json: bool) -> None:
    """Leave them at that, for good."""
    with connect("staff", program) as client:
        settled = [
            client.call(
                client.dead_letters.DiscardDeadLetter, pb.DiscardDeadLetterRequest(dead_letter_id=each)
            ).dead_letter
            for each in _chosen(client, dead_letter_ids, consumer)
        ]
    _told(settled, as_json)


def _chosen(client: Client, dead_letter_ids: tuple[str, ...], consumer: str) -> list[str]:
    if bool(dead_letter_ids) == bool(consumer):
        raise click.UsageError("name dead letters, or a consumer with --consumer")
    if dead_letter_ids:
        return list(dead_letter_ids)
    return [dead.dead_letter_id for dead in _list(client, "dead", consumer, None)]


def _list(client: Client, status: str | None, consumer: str, limit: int | None) -> list[pb.DeadLetter]:
    found: list[pb.DeadLetter] = []
    request = pb.ListDeadLettersRequest(consumer=consumer)
    if status is not None:
        request.status = pb.DeadLetterStatus.Value(f"{PREFIX}{status.upper()}")
    while limit is None or len(found) < limit:
        request.page_size = PAGE if limit is None else min(PAGE, limit - len(found))
        page = client.call(client.dead_letters.ListDeadLetters, request)
        found += page.dead_letters
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    return found


def _status(dead: pb.DeadLetter) -> str:
    return pb.DeadLetterStatus.Name(dead.status).removeprefix(PREFIX).lower()


def _told(settled: list[pb.DeadLetter], as_json: bool) -> None:
    if as_json:
        show_json([as_dict(dead) for dead in settled])
        return
    show_fields([(dead.dead_letter_id, _status(dead)) for dead in settled])
