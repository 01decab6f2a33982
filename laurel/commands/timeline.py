"""`laurel members timeline`: everything that happened to a member."""

from collections.abc import Iterator
from datetime import datetime

import click
from loyalty.v1 import member_pb2

from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import end_after, instant, member_id_of
from laurel.commands.options import json_option
from laurel.output import as_dict, moment, show_json, show_table

PAGE = 500


@click.command()
@click.argument("member")
@click.option("--kind", "kinds", multiple=True, help="Only these, such as earned or tier; repeatable.")
@click.option("--from", "since", callback=instant, help="The first day, or moment.")
@click.option("--to", "until", callback=end_after, help="The last day, or moment; it is part of it.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@program_option
@json_option
def timeline(
    *,
    member: str,
    kinds: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    program: str,
    as_json: bool,
) -> None:
    """Show everything that happened to a member, newest first. Times are UTC unless they say otherwise.

    It follows what happens within seconds. What moved points alone, exact at once: `laurel points history`.

    \b
    laurel members timeline asha@example.com
    laurel members timeline 4417-1234 --kind earned --kind redeemed --from 2026-11-01
    """
    request = member_pb2.ListTimelineRequest(kinds=kinds)
    if since is not None:
        request.from_time.FromDatetime(since)
    if until is not None:
        request.to_time.FromDatetime(until)
    with connect("staff", program) as client:
        request.member_id = member_id_of(client, member)
        found = list(_entries(client, request, limit))
    if as_json:
        show_json([as_dict(entry) for entry in found])
        return
    show_table(
        ("OCCURRED", "KIND", "WHAT", "LEFT>", "ORDER", "STORE", "EVENT"),
        [
            (
                moment(e.occur_time),
                e.kind,
                e.message,
                ", ".join(f"{m.wallet.balance:,} {m.wallet.point_type}" for m in e.points.moved),
                e.points.order_reference,
                e.points.store,
                e.event_id,
            )
            for e in found
        ],
    )


def _entries(
    client: Client, request: member_pb2.ListTimelineRequest, limit: int
) -> Iterator[member_pb2.TimelineEntry]:
    while limit:
        request.page_size = min(PAGE, limit)
        page = client.call(client.members.ListTimeline, request)
        yield from page.entries
        limit -= len(page.entries)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return
