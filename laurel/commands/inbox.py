"""`laurel members inbox`: what a member was told."""

import click
from loyalty.v1 import notifications_pb2 as pb

from laurel.client import connect, program_option
from laurel.commands.identifiers import member_id_of
from laurel.output import as_dict, moment, show_json, show_table

PAGE = 500


@click.command()
@click.argument("member")
@click.option("--unread", is_flag=True, help="Only messages that are unread.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@click.option("--mark-read", is_flag=True, help="And say that they were read; takes a service's key.")
@program_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inbox(*, member: str, unread: bool, limit: int, mark_read: bool, program: str, as_json: bool) -> None:
    """Show a member's messages, newest first.

    \b
    laurel members inbox 328475451347
    laurel members inbox 328475451347 --unread --mark-read
    """
    found: list[pb.Message] = []
    with connect("service" if mark_read else "staff", program) as client:
        member_id = member_id_of(client, member)
        request = pb.ListMessagesRequest(member_id=member_id, unread_only=unread)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.notifications.ListMessages, request)
            found += page.messages
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        left = page.unread_count
        ids = [m.message_id for m in found if not m.HasField("read_time")] if mark_read else []
        for first in range(0, len(ids), PAGE):
            some = pb.MarkReadRequest(member_id=member_id, message_ids=ids[first : first + PAGE])
            left = client.call(client.notifications.MarkRead, some).unread_count
    if as_json:
        show_json([as_dict(message) for message in found])
        return
    show_table(
        ("MADE", "READ", "OCCASION", "SUBJECT", "TEXT"),
        [
            (moment(m.create_time), moment(m.read_time), m.occasion, m.subject, " ".join(m.text.split()))
            for m in found
        ],
    )
    click.echo(f"{left} unread")
