"""`laurel members`: register, look up and change members."""

from collections.abc import Callable
from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask
from loyalty.v1 import member_pb2

from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import (
    MEMBER_HELP,
    date,
    external_id,
    identifier,
    is_member_id,
    member_id_of,
    pairs,
    request_id,
)
from laurel.commands.inbox import inbox
from laurel.commands.options import confirm, yes_option
from laurel.commands.timeline import timeline
from laurel.commands.watch import watch
from laurel.output import as_dict, moment, show_fields, show_json, show_table

STATUSES = ("active", "suspended", "closed", "merged")
PAGE = 500


@click.group(help=f"Members of a program.\n\n{MEMBER_HELP}")
def members() -> None:
    """See ``help``."""


members.add_command(watch)
members.add_command(inbox)
members.add_command(timeline)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
request_option = click.option("--request-id", help="Repeat a request by its id; a fresh one, if left out.")

PROFILE = {
    "given_name": click.option("--given-name", help="Given name."),
    "family_name": click.option("--family-name", help="Family name."),
    "email": click.option("--email", help="Email; finds the member."),
    "phone": click.option("--phone", help="Phone, such as +919812345678; finds the member."),
    "birth_date": click.option("--birth-date", help="Day of birth, such as 1990-05-17."),
    "card_numbers": click.option("--card", "card_numbers", multiple=True, help="Loyalty card; repeatable."),
    "external_ids": click.option(
        "--external-id", "external_ids", multiple=True, help="system:id; repeatable."
    ),
    "tags": click.option("--tag", "tags", multiple=True, help="Label for rules; repeatable."),
    "segments": click.option("--segment", "segments", multiple=True, help="Group; repeatable."),
    "attributes": click.option(
        "--attribute", "attributes", multiple=True, help="name=value for rules, not personal; repeatable."
    ),
    "language_code": click.option("--language", "language_code", help="Of messages, such as en or hi-IN."),
    "time_zone": click.option("--time-zone", help="Where the member lives, such as Asia/Kolkata."),
    "channels": click.option(
        "--channel", "channels", multiple=True, help="Where messages are wanted, such as email; repeatable."
    ),
}
PREFERENCES = ("language_code", "time_zone", "channels")


def profile_options(command: Any) -> Any:
    """The options that say who a member is."""
    for option in reversed(PROFILE.values()):
        command = option(command)
    return command


@members.command()
@profile_options
@request_option
@program_option
@json_option
def register(*, request_id: str | None, program: str, as_json: bool, **profile: Any) -> None:
    """Register a member. At least an email, phone, card or external id is needed.

    \b
    laurel members register --given-name Asha --email asha@example.com --card 4417-1234
    """
    request = member_pb2.RegisterMemberRequest(request_id=_request_id(request_id), member=_member(profile))
    with connect("terminal", program) as client:
        reply = client.call(client.members.RegisterMember, request)
    _show(reply, as_json)


@members.command()
@click.argument("member")
@program_option
@json_option
def get(*, member: str, program: str, as_json: bool) -> None:
    """Show a member, found by anything that finds one.

    \b
    laurel members get asha@example.com
    laurel members get +919812345678 --json
    """
    with connect("staff", program) as client:
        _show(_get(client, member), as_json)


@members.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only these.")
@click.option("--tier", default="", help="Only members of this tier.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@program_option
@json_option
def list_(*, status: str | None, tier: str, limit: int, program: str, as_json: bool) -> None:
    """List members, oldest first."""
    found: list[member_pb2.Member] = []
    request = member_pb2.ListMembersRequest(tier=tier)
    if status:
        request.status = member_pb2.MemberStatus.Value(f"MEMBER_STATUS_{status.upper()}")
    with connect("staff", program) as client:
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.members.ListMembers, request)
            found += page.members
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(member) for member in found])
        return
    show_table(
        ("MEMBER", "STATUS", "TIER", "NAME", "EMAIL", "POINTS", "JOINED"),
        [
            (
                m.member_id,
                _status(m),
                m.tier,
                f"{m.given_name} {m.family_name}".strip(),
                m.email,
                m.wallets[0].balance if m.wallets else 0,
                moment(m.create_time),
            )
            for m in found
        ],
    )


@members.command()
@click.argument("member")
@profile_options
@click.option(
    "--clear", "cleared", multiple=True, type=click.Choice(list(PROFILE)), help="Empty it; repeatable."
)
@click.option("--etag", default="", help="Refuse if the profile changed since it was read.")
@request_option
@program_option
@json_option
def update(
    *,
    member: str,
    cleared: tuple[str, ...],
    etag: str,
    request_id: str | None,
    program: str,
    as_json: bool,
    **profile: Any,
) -> None:
    """Change the fields given and leave the others. Lists are replaced as a whole.

    \b
    laurel members update asha@example.com --phone +919812345678 --clear tags
    """
    named = [field for field, value in profile.items() if value]
    if both := set(named) & set(cleared):
        raise click.UsageError(f"{', '.join(sorted(both))}: either set it or clear it")
    if not named and not cleared:
        raise click.UsageError("name at least one field to change")
    request = member_pb2.UpdateMemberRequest(
        request_id=_request_id(request_id),
        member=_member(profile),
        update_mask=FieldMask(paths=[_path(field) for field in (*named, *cleared)]),
    )
    request.member.etag = etag
    with connect("staff", program) as client:
        request.member.member_id = member_id_of(client, member)
        _show(client.call(client.members.UpdateMember, request), as_json)


def _change_status(
    name: str, help_text: str, request_of: Any, method_of: Callable[[Client], Any], question: str = ""
) -> None:
    """Add a command that changes a status; they differ in name, request and method only.

    ``question``: what to ask before, {member} in it being whom it is about; "" where it can be undone.
    """

    @members.command(name, help=f"{help_text} Doing it twice changes nothing.", short_help=help_text)
    @click.argument("member")
    @click.option("--reason", default="", help="For the record; no personal data.")
    @request_option
    @program_option
    @json_option
    def command(
        *,
        member: str,
        reason: str,
        request_id: str | None,
        program: str,
        as_json: bool,
        yes: bool = False,
    ) -> None:
        if question and not yes:
            confirm(question.format(member=member))
        with connect("staff", program) as client:
            request = request_of(
                request_id=_request_id(request_id), member_id=member_id_of(client, member), reason=reason
            )
            _show(client.call(method_of(client), request), as_json)

    if question:
        yes_option(command)


_change_status(
    "suspend",
    "Stop a member from earning and spending.",
    member_pb2.SuspendMemberRequest,
    lambda client: client.members.SuspendMember,
)
_change_status(
    "reactivate",
    "Make a suspended member active again.",
    member_pb2.ReactivateMemberRequest,
    lambda client: client.members.ReactivateMember,
)
_change_status(
    "close",
    "End a membership for good; the ledger stays.",
    member_pb2.CloseMemberRequest,
    lambda client: client.members.CloseMember,
    "Close the membership of {member} for good?",
)


@members.command()
@click.argument("member")
@click.argument("other")
@click.option("--reason", default="", help="Why; no personal data.")
@yes_option
@request_option
@program_option
@json_option
def merge(
    *, member: str, other: str, reason: str, yes: bool, request_id: str | None, program: str, as_json: bool
) -> None:
    """Make OTHER one with MEMBER, who lives on. There is no undoing it.

    \b
    laurel members merge asha@example.com 4417-1234 --reason "two cards"
    """
    if not yes:
        confirm(f"Make {other} one with {member} for good?")
    with connect("staff", program) as client:
        merge_request = member_pb2.MergeMembersRequest(
            request_id=_request_id(request_id),
            member_id=member_id_of(client, member),
            merged_member_id=member_id_of(client, other),
            reason=reason,
        )
        reply = client.call(client.members.MergeMembers, merge_request)
    _show(reply, as_json)


@members.command()
@click.argument("member")
@click.argument("purpose")
@click.option("--granted/--refused", required=True, default=None, help="What the member decided.")
@click.option("--policy-version", required=True, help="Which wording the member saw.")
@click.option("--channel", default="cli", show_default=True, help="How the member told.")
@request_option
@program_option
@json_option
def consent(
    *,
    member: str,
    purpose: str,
    granted: bool,
    policy_version: str,
    channel: str,
    request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Record what a member agreed to or refused; the latest counts.

    \b
    laurel members consent asha@example.com marketing.email --granted --policy-version 2026-04
    """
    with connect("staff", program) as client:
        request = member_pb2.RecordConsentRequest(
            request_id=_request_id(request_id),
            member_id=member_id_of(client, member),
            consent=member_pb2.Consent(
                purpose=purpose, granted=granted, policy_version=policy_version, channel=channel
            ),
        )
        reply = client.call(client.members.RecordConsent, request)
    if as_json:
        show_json(reply)
        return
    click.echo(f"recorded: {purpose} {'granted' if granted else 'refused'}")


@members.command()
@click.argument("member")
@program_option
@json_option
def consents(*, member: str, program: str, as_json: bool) -> None:
    """List every decision of a member, newest first."""
    found: list[member_pb2.Consent] = []
    with connect("staff", program) as client:
        request = member_pb2.ListConsentsRequest(member_id=member_id_of(client, member), page_size=PAGE)
        while True:
            page = client.call(client.members.ListConsents, request)
            found += page.consents
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(decision) for decision in found])
        return
    show_table(
        ("RECORDED", "PURPOSE", "DECISION", "POLICY", "CHANNEL", "BY"),
        [
            (
                moment(c.record_time),
                c.purpose,
                "granted" if c.granted else "refused",
                c.policy_version,
                c.channel,
                c.actor,
            )
            for c in found
        ],
    )


# Under this name because `request_id` is the option's.
_request_id = request_id


def _path(field: str) -> str:
    """Of a field of the profile, in a mask."""
    return f"preferences.{field}" if field in PREFERENCES else field


def _member(profile: dict[str, Any]) -> member_pb2.Member:
    values = dict(profile)
    birth_date = values.pop("birth_date")
    values["external_ids"] = [external_id(text) for text in values["external_ids"]]
    values["attributes"] = pairs(values["attributes"])
    preferences = member_pb2.Preferences(**{name: values.pop(name) for name in PREFERENCES})
    member = member_pb2.Member(**{name: value for name, value in values.items() if value})
    member.preferences.CopyFrom(preferences)
    if birth_date:
        member.birth_date.CopyFrom(date(birth_date))
    return member


def _get(client: Client, text: str) -> Any:
    if is_member_id(text):
        return client.call(client.members.GetMember, member_pb2.GetMemberRequest(member_id=text))
    request = member_pb2.FindMemberRequest(identifier=identifier(text))
    return client.call(client.members.FindMember, request)


def _status(member: member_pb2.Member) -> str:
    return member_pb2.MemberStatus.Name(member.status).removeprefix("MEMBER_STATUS_").lower()


def _show(reply: Any, as_json: bool) -> None:
    if as_json:
        show_json(reply)
        return
    member: member_pb2.Member = reply.member
    born = member.birth_date
    show_fields(
        (
            ("member", member.member_id),
            ("status", _status(member)),
            ("merged into", member.merged_into),
            ("tier", member.tier),
            ("name", f"{member.given_name} {member.family_name}".strip()),
            ("email", member.email),
            ("phone", member.phone),
            ("born", f"{born.year:04}-{born.month:02}-{born.day:02}" if born.year else ""),
            ("cards", ", ".join(member.card_numbers)),
            ("external ids", ", ".join(f"{e.system}:{e.id}" for e in member.external_ids)),
            ("tags", ", ".join(member.tags)),
            ("segments", ", ".join(member.segments)),
            ("attributes", ", ".join(f"{k}={v}" for k, v in sorted(member.attributes.items()))),
            ("language", member.preferences.language_code),
            ("time zone", member.preferences.time_zone),
            ("channels", ", ".join(member.preferences.channels)),
            *((wallet.point_type, wallet.balance) for wallet in member.wallets),
            ("joined", moment(member.create_time)),
            ("etag", member.etag),
        )
    )
