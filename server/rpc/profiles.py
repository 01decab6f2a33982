"""Members between the wire and the domain: profiles in, members, wallets and consents out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.type import date_pb2
from loyalty.v1 import member_pb2 as pb

from server.domain import members as rules
from server.domain.actor import Actor, CallerKind
from server.domain.ledger import Wallet
from server.domain.members import (
    Address,
    Consent,
    ExternalId,
    Identifier,
    Member,
    Preferences,
    Profile,
    Status,
)
from server.domain.outlook import Outlook
from server.operations import contacts
from server.operations.members import Decision
from server.rpc.fields import Fields

STATUSES: Mapping[Status, pb.MemberStatus.ValueType] = MappingProxyType(
    {
        Status.ACTIVE: pb.MEMBER_STATUS_ACTIVE,
        Status.SUSPENDED: pb.MEMBER_STATUS_SUSPENDED,
        Status.CLOSED: pb.MEMBER_STATUS_CLOSED,
        Status.MERGED: pb.MEMBER_STATUS_MERGED,
    }
)


def identifier(fields: Fields, path: str, message: pb.Identifier) -> Identifier:
    """The one identifier given, in the spelling that is compared."""
    kind = message.WhichOneof("kind")
    if kind == "email":
        return rules.email_identifier(_email(fields, f"{path}.email", message.email, required=True))
    if kind == "phone":
        return rules.phone_identifier(_phone(fields, f"{path}.phone", message.phone, required=True))
    if kind == "external_id":
        external = _external_id(fields, f"{path}.external_id", message.external_id)
        return rules.external_identifier(external)
    if kind == "card_number":
        return rules.card_identifier(_card_number(fields, f"{path}.card_number", message.card_number))
    fields.add(path, "one of email, phone, external_id and card_number is required")
    return rules.card_identifier("")


def profile(fields: Fields, message: pb.Member, names: Iterable[str] = rules.SETTABLE) -> Profile:
    """The named fields of a profile; the others are not even looked at."""
    return Profile(**{name: _PARSERS[name](fields, f"member.{name}", message) for name in names})


def decision(fields: Fields, message: pb.Consent) -> Decision:
    """What a member decided about a purpose."""
    limit = rules.MAX_CONSENT_TEXT
    return Decision(
        purpose=_normal(
            fields, "consent.purpose", message.purpose, rules.dotted_name, max_length=limit, required=True
        ),
        granted=message.granted,
        policy_version=fields.text(
            "consent.policy_version", message.policy_version, max_length=limit, required=False
        ),
        channel=fields.text("consent.channel", message.channel, max_length=limit, required=False),
    )


def status(fields: Fields, path: str, value: int) -> Status | None:
    """The status to filter by, None if unspecified."""
    if value == pb.MEMBER_STATUS_UNSPECIFIED:
        return None
    found = next((s for s, number in STATUSES.items() if number == value), None)
    if found is None:
        fields.add(path, "must be a MemberStatus")
    return found


def member_message(member: Member, reader: Actor) -> pb.Member:
    """The member as this reader may see it: a till gets no birth date, no address, masked contacts."""
    given = member.profile
    at_till = reader.kind is CallerKind.TERMINAL
    message = pb.Member(
        member_id=str(member.member_id),
        status=STATUSES[member.status],
        tier=member.tier,
        given_name=given.given_name,
        family_name=given.family_name,
        email=contacts.masked_email(given.email) if at_till else given.email,
        phone=contacts.masked_phone(given.phone) if at_till else given.phone,
        external_ids=[pb.ExternalId(system=e.system, id=e.id) for e in given.external_ids],
        card_numbers=given.card_numbers,
        preferences=pb.Preferences(
            language_code=given.preferences.language_code,
            time_zone=given.preferences.time_zone,
            channels=given.preferences.channels,
        ),
        tags=given.tags,
        segments=given.segments,
        attributes=given.attributes,
        wallets=[wallet_message(w) for w in member.wallets],
        etag=str(member.etag),
        version=member.version,
        merged_into="" if member.merged_into is None else str(member.merged_into),
    )
    message.create_time.FromDatetime(member.joined_at)
    message.update_time.FromDatetime(member.updated_at)
    if given.birth_date is not None and not at_till:
        born = given.birth_date
        message.birth_date.CopyFrom(date_pb2.Date(year=born.year, month=born.month, day=born.day))
    if given.address is not None and not at_till:
        message.address.CopyFrom(
            pb.Address(
                lines=given.address.lines,
                locality=given.address.locality,
                region=given.address.region,
                postal_code=given.address.postal_code,
                country_code=given.address.country_code,
            )
        )
    return message


def wallet_message(wallet: Wallet) -> pb.Wallet:
    """What a member holds of one point type."""
    return pb.Wallet(
        point_type=wallet.point_type,
        balance=wallet.balance,
        pending=wallet.pending,
        held=wallet.held,
        debt=wallet.debt,
        lifetime=wallet.lifetime,
    )


def wallet_with_outlook(wallet: Wallet, outlook: Outlook) -> pb.Wallet:
    """What a member holds of one point type, and what time will do to it."""
    message = wallet_message(wallet)
    told = message.outlook
    told.never_expiring = outlook.never_expiring
    if outlook.expiring:
        told.expiring_later = outlook.expiring_later
        for end in outlook.expiring:
            told.expiries.add(points=end.points).expire_time.FromDatetime(end.expires_at)
    if outlook.activating:
        told.activating_later = outlook.activating_later
        for start in outlook.activating:
            entry = told.activations.add(points=start.points, event_type=start.activates_on)
            if start.activates_at is not None:
                entry.activate_time.FromDatetime(start.activates_at)
    return message


def consent_message(consent: Consent) -> pb.Consent:
    """A decision as recorded."""
    recorded = Timestamp()
    recorded.FromDatetime(consent.recorded_at)
    return pb.Consent(
        purpose=consent.purpose,
        granted=consent.granted,
        policy_version=consent.policy_version,
        channel=consent.channel,
        record_time=recorded,
        actor=consent.actor,
    )


def _normal(
    fields: Fields,
    path: str,
    value: str,
    normalise: Callable[[str], str],
    *,
    max_length: int,
    required: bool = False,
) -> str:
    text = fields.text(path, value, max_length=max_length, required=required)
    if not text:
        return ""
    try:
        return normalise(text)
    except ValueError as error:
        fields.add(path, str(error))
        return ""


def _name(fields: Fields, path: str, value: str) -> str:
    return _normal(fields, path, value, str.strip, max_length=rules.MAX_NAME)


def _email(fields: Fields, path: str, value: str, *, required: bool = False) -> str:
    return _normal(fields, path, value, contacts.email, max_length=contacts.MAX_EMAIL, required=required)


def _phone(fields: Fields, path: str, value: str, *, required: bool = False) -> str:
    return _normal(fields, path, value, contacts.phone, max_length=contacts.MAX_PHONE, required=required)


def _card_number(fields: Fields, path: str, value: str) -> str:
    # Twice the length, for blanks and hyphens between the digits.
    return _normal(
        fields, path, value, rules.card_number, max_length=2 * rules.MAX_CARD_NUMBER, required=True
    )


def _external_id(fields: Fields, path: str, message: pb.ExternalId) -> ExternalId:
    limit = rules.MAX_EXTERNAL_ID
    return ExternalId(
        _normal(fields, f"{path}.system", message.system, rules.dotted_name, max_length=limit, required=True),
        _normal(fields, f"{path}.id", message.id, rules.external_id, max_length=limit, required=True),
    )


def _at_most(fields: Fields, path: str, values: Sequence[Any], limit: int) -> Sequence[Any]:
    if len(values) <= limit:
        return values
    fields.add(path, f"must have at most {limit} entries")
    return ()


def _external_ids(fields: Fields, path: str, message: pb.Member) -> tuple[ExternalId, ...]:
    given = _at_most(fields, path, message.external_ids, rules.MAX_EXTERNAL_IDS)
    return tuple(_external_id(fields, f"{path}[{i}]", e) for i, e in enumerate(given))


def _card_numbers(fields: Fields, path: str, message: pb.Member) -> tuple[str, ...]:
    given = _at_most(fields, path, message.card_numbers, rules.MAX_CARD_NUMBERS)
    return tuple(_card_number(fields, f"{path}[{i}]", number) for i, number in enumerate(given))


def _address(fields: Fields, path: str, message: pb.Member) -> Address | None:
    if not message.HasField("address"):
        return None
    given, limit = message.address, rules.MAX_ADDRESS_PART
    lines = _at_most(fields, f"{path}.lines", given.lines, rules.MAX_ADDRESS_LINES)
    address = Address(
        lines=tuple(
            fields.text(f"{path}.lines[{i}]", line, max_length=limit, required=False)
            for i, line in enumerate(lines)
        ),
        locality=fields.text(f"{path}.locality", given.locality, max_length=limit, required=False),
        region=fields.text(f"{path}.region", given.region, max_length=limit, required=False),
        postal_code=fields.text(f"{path}.postal_code", given.postal_code, max_length=limit, required=False),
        country_code=_normal(
            fields, f"{path}.country_code", given.country_code, rules.country_code, max_length=limit
        ),
    )
    return None if address == Address() else address


def _preferences(fields: Fields, path: str, message: pb.Member) -> Preferences:
    given = message.preferences
    channels = _at_most(fields, f"{path}.channels", given.channels, len(rules.CHANNELS))
    return Preferences(
        language_code=_normal(
            fields,
            f"{path}.language_code",
            given.language_code,
            rules.language_code,
            max_length=rules.MAX_LABEL,
        ),
        time_zone=_normal(
            fields, f"{path}.time_zone", given.time_zone, contacts.time_zone, max_length=rules.MAX_LABEL
        ),
        channels=tuple(
            dict.fromkeys(
                _normal(
                    fields,
                    f"{path}.channels[{i}]",
                    c,
                    rules.channel,
                    max_length=rules.MAX_LABEL,
                    required=True,
                )
                for i, c in enumerate(channels)
            )
        ),
    )


def _labels(fields: Fields, path: str, values: Sequence[str]) -> tuple[str, ...]:
    given = _at_most(fields, path, values, rules.MAX_LABELS)
    labels = (
        _normal(fields, f"{path}[{i}]", v, str.strip, max_length=rules.MAX_LABEL, required=True)
        for i, v in enumerate(given)
    )
    return tuple(dict.fromkeys(labels))


def _attributes(fields: Fields, path: str, message: pb.Member) -> dict[str, str]:
    return fields.mapping(
        path,
        message.attributes,
        max_entries=rules.MAX_ATTRIBUTES,
        max_key_length=rules.MAX_LABEL,
        max_value_length=rules.MAX_ATTRIBUTE_VALUE,
    )


# Every field that callers may set, and how it is read.
_PARSERS: Mapping[str, Callable[[Fields, str, pb.Member], Any]] = MappingProxyType(
    {
        "given_name": lambda f, path, m: _name(f, path, m.given_name),
        "family_name": lambda f, path, m: _name(f, path, m.family_name),
        "email": lambda f, path, m: _email(f, path, m.email),
        "phone": lambda f, path, m: _phone(f, path, m.phone),
        "birth_date": lambda f, path, m: f.date(path, m),
        "address": _address,
        "external_ids": _external_ids,
        "card_numbers": _card_numbers,
        "preferences": _preferences,
        "tags": lambda f, path, m: _labels(f, path, m.tags),
        "segments": lambda f, path, m: _labels(f, path, m.segments),
        "attributes": _attributes,
    }
)
