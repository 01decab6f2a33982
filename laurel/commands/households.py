"""`laurel households`: members who share a pool of points."""

import click
from loyalty.v1 import households_pb2 as pb

from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import is_member_id, member_id_of, request_id
from laurel.commands.options import json_option, request_option
from laurel.output import as_dict, moment, show_fields, show_json, show_table

HELP = (
    "HOUSEHOLD is its id, or an email, a phone number with +, system:id or a card number of somebody who "
    "sits there; MEMBER one of these or the member's id."
)
PAGE = 500
HEAD = pb.SEAT_ROLE_HEAD

reason_option = click.option("--reason", default="", help="Why; no personal data.")


@click.group(help=f"Households: share a pool of points, spend it together.\n\n{HELP}")
def households() -> None:
    """See ``help``."""


@households.command()
@click.argument("member")
@click.option("--contributes", is_flag=True, help="All that the head earns goes to the pool.")
@request_option
@program_option
@json_option
def create(
    *, member: str, contributes: bool, given_request_id: str | None, program: str, as_json: bool
) -> None:
    """Make a household of one, its head.

    \b
    laurel households create asha@example.com --contributes
    """
    with connect("service", program) as client:
        request = pb.CreateHouseholdRequest(
            request_id=request_id(given_request_id),
            member_id=member_id_of(client, member),
            contributes=contributes,
        )
        reply = client.call(client.households.CreateHousehold, request)
    _show(reply.household, as_json)


@households.command()
@click.argument("household")
@click.option("--former", is_flag=True, help="Seats that ended, too.")
@program_option
@json_option
def show(*, household: str, former: bool, program: str, as_json: bool) -> None:
    """Show who sits there, and what of the pool is whose."""
    with connect("staff", program) as client:
        request = pb.GetHouseholdRequest(
            household_id=_household_id_of(client, household), include_former=former
        )
        reply = client.call(client.households.GetHousehold, request)
    _show(reply.household, as_json)


@households.command("list")
@click.option("--dissolved", is_flag=True, help="Those that were dissolved, too.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def list_households(*, dissolved: bool, limit: int, program: str, as_json: bool) -> None:
    """List households, newest first."""
    found: list[pb.Household] = []
    with connect("staff", program) as client:
        request = pb.ListHouseholdsRequest(include_dissolved=dissolved)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.households.ListHouseholds, request)
            found += page.households
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(household) for household in found])
        return
    show_table(
        ("MADE", "SEATS", "HEAD", "DISSOLVED", "HOUSEHOLD"),
        [
            (
                moment(h.create_time),
                len(h.seats),
                next((seat.member_id for seat in h.seats if seat.role == HEAD), ""),
                moment(h.dissolve_time),
                h.household_id,
            )
            for h in found
        ],
    )


@households.command()
@click.argument("household")
@click.option("--may-spend/--may-not-spend", default=True, help="Whether the pool will pay for who joins.")
@click.option("--seconds", type=click.IntRange(1), help="How long the token is good; 7 days, if left out.")
@request_option
@program_option
@json_option
def invite(
    *,
    household: str,
    may_spend: bool,
    seconds: int | None,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Make a token with which one member may join. Whoever has it can.

    \b
    laurel households invite asha@example.com
    """
    with connect("service", program) as client:
        request = pb.InviteToHouseholdRequest(
            request_id=request_id(given_request_id),
            household_id=_household_id_of(client, household),
            may_spend=may_spend,
            time_limit_seconds=seconds or 0,
        )
        reply = client.call(client.households.InviteToHousehold, request)
    if as_json:
        show_json(reply)
        return
    show_fields((("token", reply.token), ("good until", moment(reply.expire_time))))


@households.command()
@click.argument("token")
@click.argument("member")
@click.option("--contributes", is_flag=True, help="All that the member earns goes to the pool.")
@request_option
@program_option
@json_option
def join(
    *,
    token: str,
    member: str,
    contributes: bool,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Take the seat that a token offers. A token that begins with - goes behind --.

    \b
    laurel households join --contributes -- TOKEN ravi@example.com
    """
    with connect("service", program) as client:
        request = pb.JoinHouseholdRequest(
            request_id=request_id(given_request_id),
            member_id=member_id_of(client, member),
            token=token,
            contributes=contributes,
        )
        reply = client.call(client.households.JoinHousehold, request)
    _show(reply.household, as_json)


@households.command()
@click.argument("household")
@click.argument("member")
@click.option("--may-spend/--may-not-spend", default=None, help="Whether the pool pays for the member.")
@click.option("--contributes/--keeps", default=None, help="Whether what the member earns goes to the pool.")
@click.option("--head", is_flag=True, help="The member is the head from now on.")
@request_option
@program_option
@json_option
def seat(
    *,
    household: str,
    member: str,
    may_spend: bool | None,
    contributes: bool | None,
    head: bool,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Change what a seat lets its member do; what isn't said stays.

    \b
    laurel households seat asha@example.com ravi@example.com --may-not-spend --contributes
    """
    with connect("service", program) as client:
        request = pb.UpdateSeatRequest(
            request_id=request_id(given_request_id),
            household_id=_household_id_of(client, household),
            seated_id=member_id_of(client, member),
            may_spend=may_spend,
            contributes=contributes,
            make_head=head,
        )
        reply = client.call(client.households.UpdateSeat, request)
    _show(reply.household, as_json)


@households.command()
@click.argument("member")
@click.argument("amount", metavar="POINTS", type=click.IntRange(1))
@click.option("--point-type", default="", help="The wallet; the program's main one, if left out.")
@reason_option
@request_option
@program_option
@json_option
def contribute(
    *,
    member: str,
    amount: int,
    point_type: str,
    reason: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Put points of a member into the pool; they keep their expiry.

    `laurel points redeem --household` takes them out.

    \b
    laurel households contribute asha@example.com 50
    """
    with connect("service", program) as client:
        request = pb.ContributePointsRequest(
            request_id=request_id(given_request_id),
            member_id=member_id_of(client, member),
            points=amount,
            point_type=point_type,
            reason=reason,
        )
        reply = client.call(client.households.ContributePoints, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("contributed", f"{reply.points:,} {reply.point_type}"),
            ("balance", reply.balance),
            ("pool", reply.pool_balance),
            ("household", reply.household_id),
            ("transaction", reply.transaction_id),
        )
    )


@households.command()
@click.argument("household")
@click.argument("member")
@reason_option
@request_option
@program_option
@json_option
def leave(
    *,
    household: str,
    member: str,
    reason: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """End a member's seat. What is left of what the member gave goes back.

    \b
    laurel households leave asha@example.com ravi@example.com --reason "moved out"
    """
    with connect("service", program) as client:
        request = pb.EndSeatRequest(
            request_id=request_id(given_request_id),
            household_id=_household_id_of(client, household),
            seated_id=member_id_of(client, member),
            reason=reason,
        )
        reply = client.call(client.households.EndSeat, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("came back", ", ".join(f"{a.points:,} {a.point_type}" for a in reply.awards) or "nothing"),
            ("balance", reply.balance),
            ("debt", reply.debt or ""),
            *((f"transaction ({a.point_type})", a.transaction_id) for a in reply.awards),
        )
    )


@households.command()
@click.argument("household")
@reason_option
@request_option
@program_option
@json_option
def dissolve(
    *, household: str, reason: str, given_request_id: str | None, program: str, as_json: bool
) -> None:
    """End all seats, for good. Everybody gets what is left of what they gave, the head the rest."""
    with connect("service", program) as client:
        request = pb.DissolveHouseholdRequest(
            request_id=request_id(given_request_id),
            household_id=_household_id_of(client, household),
            reason=reason,
        )
        reply = client.call(client.households.DissolveHousehold, request)
    _show(reply.household, as_json)


def _household_id_of(client: Client, text: str) -> str:
    """The id of the household. Raises grpc.RpcError if nobody is found, or sits nowhere."""
    if is_member_id(text):
        return text
    request = pb.GetMemberHouseholdRequest(member_id=member_id_of(client, text))
    return client.call(client.households.GetMemberHousehold, request).household.household_id


def _show(household: pb.Household, as_json: bool) -> None:
    if as_json:
        show_json(household)
        return
    show_fields(
        (
            ("household", household.household_id),
            ("made", moment(household.create_time)),
            ("dissolved", moment(household.dissolve_time)),
            *((w.point_type, _figures(w.balance, w.pending, w.held)) for w in household.wallets),
        )
    )
    click.echo()
    show_table(
        ("MEMBER", "ROLE", "SPENDS", "CONTRIBUTES", "SHARE>", "JOINED", "LEFT"),
        [
            (
                seat.member_id,
                "head" if seat.role == HEAD else "member",
                _yes(seat.may_spend),
                _yes(seat.contributes),
                ", ".join(f"{share.points:,} {share.point_type}" for share in seat.shares),
                moment(seat.join_time),
                moment(seat.leave_time),
            )
            for seat in household.seats
        ],
    )


def _figures(balance: int, pending: int, held: int) -> str:
    more = [f"{number:,} {what}" for number, what in ((pending, "pending"), (held, "held")) if number]
    return ", ".join([f"{balance:,}", *more])


def _yes(said: bool) -> str:
    return "yes" if said else "no"
