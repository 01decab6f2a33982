"""Members: who they are, how they are found, what they agreed to.

What a caller may set is a ``Profile``; ``Member`` adds what Laurel keeps of it. Every
normaliser returns the one spelling that is stored and compared, or raises ValueError
with a sentence that never holds the value.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from server.domain.errors import FailedPrecondition, InvalidArgument, Violation
from server.domain.ledger import Wallet

MAX_NAME = 200
MAX_ADDRESS_PART = 200
MAX_ADDRESS_LINES = 4
MAX_EXTERNAL_IDS = 20
MAX_EXTERNAL_ID = 128
MAX_CARD_NUMBERS = 20
MAX_CARD_NUMBER = 64
MAX_LABELS = 50
MAX_LABEL = 64
MAX_ATTRIBUTES = 50
MAX_ATTRIBUTE_VALUE = 256
MAX_CONSENT_TEXT = 64
MAX_REASON = 500
CHANNELS = ("email", "sms", "push", "inbox")
EARLIEST_BIRTH = date(1900, 1, 1)

_DOTTED_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
_CARD_NUMBER = re.compile(r"[A-Z0-9]{4,64}")
_COUNTRY_CODE = re.compile(r"[A-Z]{2}")
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}")
_CARD_FILLERS = re.compile(r"[\s-]+")


class Status(StrEnum):
    """Where a membership stands."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"
    MERGED = "merged"  # is one with another membership, which lives on


ENDED = (Status.CLOSED, Status.MERGED)


class Kind(StrEnum):
    """The kinds of identifier."""

    EMAIL = "email"
    PHONE = "phone"
    EXTERNAL_ID = "external_id"
    CARD_NUMBER = "card_number"


@dataclass(frozen=True, slots=True)
class Identifier:
    """One thing that finds a member: ``value`` is the spelling that is compared."""

    kind: Kind
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ExternalId:
    """The name another system has for a member."""

    system: str
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """A postal address."""

    lines: tuple[str, ...] = field(default=(), repr=False)
    locality: str = field(default="", repr=False)
    region: str = field(default="", repr=False)
    postal_code: str = field(default="", repr=False)
    country_code: str = ""


@dataclass(frozen=True, slots=True)
class Preferences:
    """How a member wants to be addressed. "" means not said."""

    language_code: str = ""
    time_zone: str = ""
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What a caller may set of a member. The repr holds nothing personal."""

    given_name: str = field(default="", repr=False)
    family_name: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    birth_date: date | None = field(default=None, repr=False)
    address: Address | None = field(default=None, repr=False)
    external_ids: tuple[ExternalId, ...] = field(default=(), repr=False)
    card_numbers: tuple[str, ...] = field(default=(), repr=False)
    preferences: Preferences = Preferences()
    tags: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """One person in one program. ``etag`` counts changes of the profile, ``version`` every change.

    ``merged_into`` is who lives on if the membership was merged into another one.
    """

    program_id: UUID
    member_id: UUID
    status: Status
    tier: str
    profile: Profile
    joined_at: datetime
    updated_at: datetime
    etag: int = 1
    version: int = 1
    wallets: tuple[Wallet, ...] = ()
    merged_into: UUID | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """One decision of a member about one purpose, as recorded."""

    consent_id: UUID
    purpose: str
    granted: bool
    policy_version: str
    channel: str
    recorded_at: datetime
    actor: str


SETTABLE = tuple(f.name for f in fields(Profile))
PREFERENCES = tuple(f.name for f in fields(Preferences))
OUTPUT_ONLY = ("status", "tier", "wallets", "create_time", "update_time", "version", "merged_into")
# They say which member and which state of it is meant. A mask inferred from a request's
# body names them too; they change nothing.
TARGET = ("member_id", "etag")
NOT_BY_MEMBER = (*OUTPUT_ONLY, "external_ids", "tags", "segments", "attributes")


def dotted_name(text: str) -> str:
    """The name of an external system or of a purpose."""
    if not _DOTTED_NAME.fullmatch(text):
        raise ValueError("must be 1 to 64 characters of a-z, 0-9, -, _ and .")
    return text


def external_id(text: str) -> str:
    """An id in another system: as given there, without blanks around it."""
    stripped = text.strip()
    if not 1 <= len(stripped) <= MAX_EXTERNAL_ID:
        raise ValueError(f"must be 1 to {MAX_EXTERNAL_ID} characters")
    return stripped


def card_number(text: str) -> str:
    """A card number without blanks and hyphens, in capitals."""
    number = _CARD_FILLERS.sub("", text).upper()
    if not _CARD_NUMBER.fullmatch(number):
        raise ValueError("must be 4 to 64 letters and digits; blanks and hyphens don't count")
    return number


def country_code(text: str) -> str:
    """An ISO 3166 alpha-2 code in capitals."""
    code = text.strip().upper()
    if not _COUNTRY_CODE.fullmatch(code):
        raise ValueError("must be two letters, such as IN")
    return code


def language_code(text: str) -> str:
    """A BCP 47 tag in its customary case: ``HI-latn-in`` becomes ``hi-Latn-IN``."""
    if not _LANGUAGE_TAG.fullmatch(text):
        raise ValueError("must be a BCP 47 language tag, such as en or hi-IN")
    language, *subtags = text.lower().split("-")
    return "-".join([language, *(_subtag(s) for s in subtags)])


def _subtag(text: str) -> str:
    if len(text) == 2:
        return text.upper()
    return text.title() if len(text) == 4 and text.isalpha() else text


def channel(text: str) -> str:
    """A channel for messages."""
    if text not in CHANNELS:
        raise ValueError(f"must be one of {', '.join(CHANNELS)}")
    return text


def email_identifier(email: str) -> Identifier:
    """The identifier of a valid address: case does not matter."""
    return Identifier(Kind.EMAIL, email.lower())


def phone_identifier(phone: str) -> Identifier:
    """The identifier of a number in E.164 form."""
    return Identifier(Kind.PHONE, phone)


def external_identifier(external: ExternalId) -> Identifier:
    """The identifier of an external id. No system's name holds a colon, so no two ids meet."""
    return Identifier(Kind.EXTERNAL_ID, f"{external.system}:{external.id}")


def card_identifier(number: str) -> Identifier:
    """The identifier of a normalised card number."""
    return Identifier(Kind.CARD_NUMBER, number)


def identifiers(profile: Profile) -> dict[Identifier, str]:
    """Everything that finds the member, with the field it stands in."""
    found = {}
    if profile.email:
        found[email_identifier(profile.email)] = "email"
    if profile.phone:
        found[phone_identifier(profile.phone)] = "phone"
    for index, external in enumerate(profile.external_ids):
        found.setdefault(external_identifier(external), f"external_ids[{index}]")
    for index, number in enumerate(profile.card_numbers):
        found.setdefault(card_identifier(number), f"card_numbers[{index}]")
    return found


def check(profile: Profile, today: date, *, findable: bool = True) -> None:
    """Refuse a profile that no single field is to blame for.

    ``findable``: at least one identifier is required. Raises InvalidArgument with every
    mistake, each under ``member``.
    """
    violations = []
    known = identifiers(profile)
    if findable and not known:
        violations.append(
            Violation("member", "one of email, phone, external_ids and card_numbers is required")
        )
    for index, external in enumerate(profile.external_ids):
        if known[external_identifier(external)] != f"external_ids[{index}]":
            violations.append(Violation(f"member.external_ids[{index}]", "stands there twice"))
    for index, number in enumerate(profile.card_numbers):
        if known[card_identifier(number)] != f"card_numbers[{index}]":
            violations.append(Violation(f"member.card_numbers[{index}]", "stands there twice"))
    if profile.birth_date is not None and not EARLIEST_BIRTH <= profile.birth_date <= today:
        violations.append(
            Violation("member.birth_date", f"must not be before {EARLIEST_BIRTH} nor in the future")
        )
    if violations:
        raise InvalidArgument(violations)


def read_mask(paths: Sequence[str]) -> tuple[tuple[str, ...], list[Violation]]:
    """The fields that a mask changes, in order, once each, and what is wrong with it."""
    wanted = tuple(sorted(set(paths) - set(TARGET)))
    if not wanted:
        return (), [Violation("update_mask", "must name at least one field that changes")]
    mistakes = dict.fromkeys(why for path in wanted if (why := _mask_mistake(path)))
    return wanted, [Violation("update_mask", why) for why in mistakes]


def beyond_member(paths: Sequence[str]) -> tuple[str, ...]:
    """Those of the paths that members may not change of themselves: what earns points or is computed."""
    return tuple(p for p in paths if p.partition(".")[0] in NOT_BY_MEMBER)


def _mask_mistake(path: str) -> str | None:
    top, _, part = path.partition(".")
    if top in OUTPUT_ONLY:
        return f"{top} is output only: it is never changed by UpdateMember"
    if part in PREFERENCES if top == "preferences" and part else path in SETTABLE:
        return None
    if top in SETTABLE:
        return f"{top} is changed as a whole or by its parts as documented"
    # What the caller sent is echoed only where it is a name of ours.
    return f"each path must be one of {', '.join(SETTABLE)}"


def apply_mask(current: Profile, given: Profile, paths: Sequence[str]) -> Profile:
    """``current`` with the fields that the checked paths name taken from ``given``."""
    whole = [p for p in paths if "." not in p]
    changed = replace(current, **{p: getattr(given, p) for p in whole})
    parts = [p.partition(".")[2] for p in paths if "." in p and "preferences" not in whole]
    preferences = replace(changed.preferences, **{p: getattr(given.preferences, p) for p in parts})
    return replace(changed, preferences=preferences)


def changed_fields(before: Profile, after: Profile) -> tuple[str, ...]:
    """The names of the fields that differ, never their values."""
    return tuple(name for name in SETTABLE if getattr(before, name) != getattr(after, name))


def change_status(current: Status, target: Status) -> bool:
    """Whether the status changes; False if it is there already. A closed membership stays closed."""
    if current == target:
        return False
    if current in ENDED:
        raise FailedPrecondition(
            "STATUS_TRANSITION_INVALID",
            f"a {current} membership can't become {target}",
            {"from": str(current), "to": str(target)},
        )
    return True


def all_wallets(opened: Sequence[Wallet], point_types: Sequence[str]) -> tuple[Wallet, ...]:
    """One wallet per point type of the program, the main one first; what was never earned is zero."""
    by_type = {name: Wallet(name) for name in point_types}
    return tuple((by_type | {w.point_type: w for w in opened}).values())
