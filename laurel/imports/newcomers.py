"""A row of a file as a registration: the member, the decisions, and what finds the member."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from google.protobuf.json_format import MessageToDict
from google.type.date_pb2 import Date
from loyalty.v1 import member_pb2

from laurel.imports.columns import Columns, Target
from laurel.imports.refusals import Refusal
from laurel.imports.table import Row
from laurel.spreadsheets import parted
from server.domain import members as rules
from server.domain.errors import InvalidArgument
from server.domain.members import Identifier, Profile
from server.rpc import profiles
from server.rpc.fields import Fields

EXTERNAL, ATTRIBUTES, CONSENT = "external_id.", "attributes.", "consent."
SINGULAR = {"external_ids": "external_id", "consents": "consent"}
DECISIONS = {
    **dict.fromkeys(("yes", "y", "true", "1", "granted", "ja", "oui", "si", "sí"), True),
    **dict.fromkeys(("no", "n", "false", "0", "refused", "nein", "non"), False),
}
TARGET = Target(
    single=(
        "given_name",
        "family_name",
        "email",
        "phone",
        "birth_date",
        "address.locality",
        "address.region",
        "address.postal_code",
        "address.country_code",
        "preferences.language_code",
        "preferences.time_zone",
        "attributes",
        "consents",
        "status",
    ),
    several=("address.lines", "external_ids", "card_numbers", "preferences.channels", "tags", "segments"),
    prefixes=(EXTERNAL, ATTRIBUTES, CONSENT),
    headings={
        **dict.fromkeys(("first_name", "firstname", "forename", "vorname", "prénom", "nombre"), "given_name"),
        **dict.fromkeys(
            ("last_name", "lastname", "surname", "nachname", "familienname", "apellido"), "family_name"
        ),
        **dict.fromkeys(("e_mail", "mail", "email_address", "e_mail_address", "e_mail_adresse"), "email"),
        **dict.fromkeys(
            ("phone_number", "mobile", "mobile_number", "mobile_phone", "telephone", "telefon", "handy"),
            "phone",
        ),
        **dict.fromkeys(("date_of_birth", "birthdate", "birthday", "dob", "geburtsdatum"), "birth_date"),
        **dict.fromkeys(
            ("card", "cards", "card_number", "loyalty_card", "card_no", "karte", "kartennummer"),
            "card_numbers",
        ),
        **dict.fromkeys(
            ("address", "street", "address_1", "address_2", "address_line_1", "address_line_2", "strasse"),
            "address.lines",
        ),
        **dict.fromkeys(("city", "town", "locality", "ort", "stadt"), "address.locality"),
        **dict.fromkeys(("region", "state", "province", "county"), "address.region"),
        **dict.fromkeys(
            ("postal_code", "postcode", "zip", "zip_code", "pin_code", "plz"), "address.postal_code"
        ),
        "country_code": "address.country_code",
        **dict.fromkeys(("language", "language_code", "locale"), "preferences.language_code"),
        **dict.fromkeys(("time_zone", "timezone"), "preferences.time_zone"),
        "tag": "tags",
        "segment": "segments",
    },
)

_PLACE = re.compile(r"[\[ ]")  # what follows the field in a path such as card_numbers[1]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every row. ``date_format`` as of strptime."""

    date_format: str = "%Y-%m-%d"
    policy_version: str = ""
    channel: str = "import"


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who a row registers. ``identifiers``: what finds the member, with the field it stands in.

    ``request_id`` follows from the content alone, whatever file and order it comes in.
    """

    request_id: str
    member: member_pb2.Member
    profile: Profile
    consents: Sequence[member_pb2.Consent]
    identifiers: Mapping[Identifier, str]

    def consent_request_id(self, consent: member_pb2.Consent) -> str:
        """Of the recording of one decision."""
        return _request_id(self.request_id, MessageToDict(consent))


class Reader:
    """Reads the rows of one file."""

    def __init__(self, columns: Columns, terms: Terms) -> None:
        self._columns = columns
        self._terms = terms
        names = columns.places
        self._systems = [name for name in names if name.startswith(EXTERNAL)]
        self._attributes = [name for name in names if name.startswith(ATTRIBUTES)]
        self._purposes = [name for name in names if name.startswith(CONSENT)]

    def read(self, row: Row) -> Newcomer:
        """Who the row is about. Raises Refusal with everything that is wrong with it."""
        self._check_status(row)
        mistakes: list[tuple[str, str]] = []
        member = self._member(row, mistakes)
        consents = self._consents(row, mistakes)
        fields = Fields()
        profile = profiles.profile(fields, member)
        for index, consent in enumerate(consents):
            try:
                own = Fields()
                profiles.decision(own, consent)
                own.check()
            except InvalidArgument as refused:
                mistakes += [(f"consents[{index}]", v.description) for v in refused.violations]
        self._check(fields, profile, mistakes)
        if mistakes:
            raise refusal_of(self._columns, "INVALID_FIELD", mistakes)
        return Newcomer(
            _request_id("", MessageToDict(member)), member, profile, consents, rules.identifiers(profile)
        )

    def names(self, newcomer: Newcomer) -> Iterator[tuple[str, str]]:
        """What nobody else in the file may be found by, with the headings it stands under."""
        for identifier, path in newcomer.identifiers.items():
            yield f"{identifier.kind}:{identifier.value}", _heading(self._columns, path)

    def _check_status(self, row: Row) -> None:
        status = self._columns.text(row, "status").lower()
        if status not in ("", rules.Status.ACTIVE):
            raise Refusal(
                "STATUS_NOT_ACTIVE",
                f"only active members are imported, and this one is {status}",
                self._columns.named("status"),
            )

    def _check(self, fields: Fields, profile: Profile, mistakes: list[tuple[str, str]]) -> None:
        try:
            fields.check()
            # Members may be where tomorrow has begun; the server knows the program's own day.
            rules.check(profile, datetime.now(UTC).date() + timedelta(days=1))
        except InvalidArgument as refused:
            mistakes += [(violation.field, violation.description) for violation in refused.violations]

    def _member(self, row: Row, mistakes: list[tuple[str, str]]) -> member_pb2.Member:
        one, several = self._columns.text, self._several
        member = member_pb2.Member(
            given_name=one(row, "given_name"),
            family_name=one(row, "family_name"),
            email=one(row, "email"),
            phone=one(row, "phone"),
            external_ids=self._external_ids(row, mistakes),
            card_numbers=several(row, "card_numbers"),
            tags=several(row, "tags"),
            segments=several(row, "segments"),
            attributes=self._facts(row, mistakes),
        )
        address = member_pb2.Address(
            lines=several(row, "address.lines"),
            locality=one(row, "address.locality"),
            region=one(row, "address.region"),
            postal_code=one(row, "address.postal_code"),
            country_code=one(row, "address.country_code"),
        )
        if address != member_pb2.Address():
            member.address.CopyFrom(address)
        preferences = member_pb2.Preferences(
            language_code=one(row, "preferences.language_code"),
            time_zone=one(row, "preferences.time_zone"),
            channels=several(row, "preferences.channels"),
        )
        if preferences != member_pb2.Preferences():
            member.preferences.CopyFrom(preferences)
        if born := one(row, "birth_date"):
            try:
                day = datetime.strptime(born, self._terms.date_format)
                member.birth_date.CopyFrom(Date(year=day.year, month=day.month, day=day.day))
            except ValueError:
                mistakes.append(("birth_date", f"must be a day written as {self._terms.date_format}"))
        return member

    def _several(self, row: Row, name: str) -> list[str]:
        return [value for text in self._columns.texts(row, name) for value in parted(text)]

    def _external_ids(self, row: Row, mistakes: list[tuple[str, str]]) -> list[member_pb2.ExternalId]:
        found = []
        for text in self._several(row, "external_ids"):
            system, colon, own = text.partition(":")
            if not colon:
                mistakes.append(("external_ids", "each must be written as system:id, such as crm:4711"))
                continue
            found.append(member_pb2.ExternalId(system=system, id=own))
        for name in self._systems:
            if text := self._columns.text(row, name):
                found.append(member_pb2.ExternalId(system=name.removeprefix(EXTERNAL), id=text))
        return found

    def _facts(self, row: Row, mistakes: list[tuple[str, str]]) -> dict[str, str]:
        facts: dict[str, str] = {}
        if text := self._columns.text(row, "attributes"):
            try:
                facts = {str(name): str(value) for name, value in json.loads(text).items()}
            except (ValueError, AttributeError):
                mistakes.append(("attributes", 'must be a JSON object, such as {"size": "L"}'))
        for name in self._attributes:
            if text := self._columns.text(row, name):
                facts[name.removeprefix(ATTRIBUTES)] = text
        return facts

    def _consents(self, row: Row, mistakes: list[tuple[str, str]]) -> list[member_pb2.Consent]:
        decided = {name: decision for name in self._purposes if (decision := self._columns.text(row, name))}
        for text in parted(self._columns.text(row, "consents")):
            purpose, _, decision = text.partition("=")
            decided[CONSENT + purpose.strip()] = decision.strip()
        consents = []
        for name, decision in decided.items():
            granted = DECISIONS.get(decision.lower())
            if granted is None:
                place = name if name in self._columns.places else "consents"
                mistakes.append((place, "must be yes or no, or empty where nothing was decided"))
                continue
            consents.append(
                member_pb2.Consent(
                    purpose=name.removeprefix(CONSENT),
                    granted=granted,
                    policy_version=self._terms.policy_version,
                    channel=self._terms.channel,
                )
            )
        return consents


def refusal_of(columns: Columns, reason: str, mistakes: Sequence[tuple[str, str]]) -> Refusal:
    """The refusal for mistakes at paths such as ``member.card_numbers[1]``, by their columns."""
    told: dict[str, str] = {}
    for path, description in mistakes:
        heading = _heading(columns, path)
        told.setdefault(f"{heading}: {description}" if heading else description, heading)
    return Refusal(reason, "; ".join(told), ", ".join(dict.fromkeys(filter(None, told.values()))))


def _heading(columns: Columns, path: str) -> str:
    """The headings of the columns to blame, "" if it isn't any in particular."""
    name = _PLACE.split(path.removeprefix("member."))[0]
    for candidate in (name, name.partition(".")[0]):
        found = [columns.named(candidate), columns.named(SINGULAR.get(candidate, ""))]
        if any(found):
            return ", ".join(filter(None, found))
    return ""


def _request_id(prefix: str, content: Mapping[str, object]) -> str:
    text = json.dumps([prefix, content], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"import-{sha256(text.encode()).hexdigest()[:48]}"
