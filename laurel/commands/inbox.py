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
@program_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inbox(*, member: str, unread: bool, limit: int, program: str, as_json: bool) -> None:
    """Show a member's messages, newest first.

    \b
    laurel members inbox 328475451347
    """
    found: list[pb.Message] = []
    with connect("staff", program) as client:
        request = pb.ListMessagesRequest(member_id=member_id_of(client, member), unread_only=unread)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.notifications.ListMessages, request)
            found += page.messages
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
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
    click.echo(f"{page.unread_count} unread")
