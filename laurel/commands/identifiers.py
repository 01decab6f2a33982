"""How commands name members and build requests."""

import re
import secrets
from datetime import UTC, datetime, timedelta
from datetime import date as calendar_day
from typing import Any
from uuid import UUID

import click
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2

from laurel.client import Client

EXTERNAL = re.compile(r"([a-z0-9_.-]{1,64}):(.+)")
AMOUNT = re.compile(r"(\d{1,13})(?:\.(\d{1,9}))?")
MEMBER_HELP = (
    "MEMBER is an id, an email, a phone number with +, system:id of another system, or a card number."
)


def is_member_id(text: str) -> bool:
    """Whether it is a member's own id."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def identifier(text: str) -> member_pb2.Identifier:
    """What finds a member, by how it looks."""
    if "@" in text:
        return member_pb2.Identifier(email=text)
    if text.startswith("+"):
        return member_pb2.Identifier(phone=text)
    if found := EXTERNAL.fullmatch(text):
        return member_pb2.Identifier(external_id=external_id(text, found))
    return member_pb2.Identifier(card_number=text)


def whose(text: str) -> dict[str, Any]:
    """The field of a request that says whose points, and its value."""
    return {"member_id": text} if is_member_id(text) else {"identifier": identifier(text)}


def external_id(text: str, found: re.Match[str] | None = None) -> member_pb2.ExternalId:
    """``system:id``. Raises click.BadParameter."""
    found = found or EXTERNAL.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r}: write system:id, such as crm:4711")
    return member_pb2.ExternalId(system=found[1], id=found[2])


def member_id_of(client: Client, text: str) -> str:
    """The id of the member. Raises grpc.RpcError if nobody is found."""
    if is_member_id(text):
        return text
    request = member_pb2.FindMemberRequest(identifier=identifier(text))
    return client.call(client.members.FindMember, request).member.member_id


def money(text: str, currency: str) -> Money:
    """An amount such as 499.50. Raises click.BadParameter."""
    found = AMOUNT.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no amount such as 499.50")
    return Money(currency_code=currency, units=int(found[1]), nanos=int((found[2] or "").ljust(9, "0")))


def date(text: str) -> Date:
    """A day such as 1990-05-17. Raises click.BadParameter."""
    parts = text.split("-")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is no day such as 1990-05-17")
    year, month, day = (int(part) for part in parts)
    return Date(year=year, month=month, day=day)


def instant(_ctx: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """An option's time, in UTC if it names no zone. Raises click.BadParameter."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no time such as 2026-11-01 or 2026-11-01T12:00+01:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def end_after(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Where a span ends that an option's day, or its time, still belongs to. Raises click.BadParameter."""
    last = instant(context, option, value)
    if last is None or value is None:
        return None
    try:
        return last + (timedelta(days=1) if _is_day(value) else timedelta(microseconds=1))
    except OverflowError:
        raise click.BadParameter(f"{value!r} is too late") from None


def _is_day(text: str) -> bool:
    try:
        calendar_day.fromisoformat(text)
    except ValueError:
        return False
    return True


def pairs(values: tuple[str, ...]) -> dict[str, str]:
    """``name=value`` each. Raises click.BadParameter."""
    found = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r}: write name=value")
        found[name] = content
    return found


def request_id(given: str | None) -> str:
    """The one given, or a fresh one."""
    return given or f"cli-{secrets.token_hex(12)}"
