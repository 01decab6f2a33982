"""What holds for members whatever stores or sends them."""

from datetime import date

import pytest

from server.domain import members
from server.domain.errors import FailedPrecondition, InvalidArgument
from server.domain.ledger import Wallet
from server.domain.members import (
    Address,
    ExternalId,
    Identifier,
    Kind,
    Preferences,
    Profile,
    Status,
)

TODAY = date(2026, 11, 8)
ASHA = Profile(
    given_name="Asha",
    email="Asha@example.com",
    phone="+919812345678",
    birth_date=date(1990, 11, 5),
    external_ids=(ExternalId("crm", "C-17"),),
    card_numbers=("LC123456",),
    preferences=Preferences(language_code="en", time_zone="Asia/Kolkata", channels=("email",)),
    tags=("early",),
)


def test_every_identifier_of_a_profile_is_known_by_the_field_it_stands_in() -> None:
    assert members.identifiers(ASHA) == {
        Identifier(Kind.EMAIL, "asha@example.com"): "email",
        Identifier(Kind.PHONE, "+919812345678"): "phone",
        Identifier(Kind.EXTERNAL_ID, "crm:C-17"): "external_ids[0]",
        Identifier(Kind.CARD_NUMBER, "LC123456"): "card_numbers[0]",
    }


@pytest.mark.parametrize("spelling", ["lc123456", "LC 1234 56", "lc-1234-56", " LC-12 34-56 "])
def test_blanks_hyphens_and_case_of_a_card_number_do_not_matter(spelling: str) -> None:
    assert members.card_number(spelling) == "LC123456"


@pytest.mark.parametrize("spelling", ["123", "1" * 65, "LC_1234", "LC\u0661\u0662\u0663\u0664", "---- ", ""])
def test_what_is_no_card_number_is_refused_without_repeating_it(spelling: str) -> None:
    with pytest.raises(ValueError, match="4 to 64 letters and digits") as caught:
        members.card_number(spelling)
    assert not spelling.strip() or spelling not in str(caught.value)


@pytest.mark.parametrize("name", ["CRM", "crm:eu", "", "a b", "x" * 65, "crm\n"])
def test_the_name_of_an_external_system_is_lower_case_and_has_no_colon(name: str) -> None:
    with pytest.raises(ValueError, match="a-z"):
        members.dotted_name(name)


def test_external_ids_of_two_systems_never_meet() -> None:
    one = members.external_identifier(ExternalId("a", "b:c"))
    other = members.external_identifier(ExternalId("a.b", "c"))
    assert one != other


@pytest.mark.parametrize(
    ("given", "kept"), [("EN", "en"), ("hi-in", "hi-IN"), ("HI-LATN-IN", "hi-Latn-IN"), ("es-419", "es-419")]
)
def test_language_tags_are_kept_in_their_customary_case(given: str, kept: str) -> None:
    assert members.language_code(given) == kept


@pytest.mark.parametrize("given", ["english", "e", "en_US", "en-", "en-US-", ""])
def test_what_is_no_language_tag_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="BCP 47"):
        members.language_code(given)


def test_a_profile_that_nothing_finds_is_refused_unless_that_is_allowed() -> None:
    nameless = Profile(given_name="Asha")
    with pytest.raises(InvalidArgument, match="one of email, phone, external_ids and card_numbers"):
        members.check(nameless, TODAY)
    members.check(nameless, TODAY, findable=False)


def test_an_identifier_given_twice_is_named() -> None:
    profile = Profile(
        card_numbers=("A123", "B123", "A123"), external_ids=(ExternalId("crm", "1"), ExternalId("crm", "1"))
    )
    with pytest.raises(InvalidArgument) as caught:
        members.check(profile, TODAY)
    assert [v.field for v in caught.value.violations] == ["member.external_ids[1]", "member.card_numbers[2]"]


@pytest.mark.parametrize("born", [date(2026, 11, 9), date(1899, 12, 31)])
def test_nobody_was_born_in_the_future_or_before_1900(born: date) -> None:
    with pytest.raises(InvalidArgument) as caught:
        members.check(Profile(email="a@example.com", birth_date=born), TODAY)
    assert [v.field for v in caught.value.violations] == ["member.birth_date"]
    members.check(Profile(email="a@example.com", birth_date=TODAY), TODAY)


def test_a_mask_names_fields_once_and_ignores_what_only_names_the_member() -> None:
    paths, mistakes = members.read_mask(["tags", "email", "tags", "member_id", "etag"])
    assert (paths, mistakes) == (("email", "tags"), [])


@pytest.mark.parametrize("paths", [[], ["etag"], ["member_id", "etag"]])
def test_a_mask_that_changes_nothing_is_a_mistake(paths: list[str]) -> None:
    assert [v.field for v in members.read_mask(paths)[1]] == ["update_mask"]


@pytest.mark.parametrize("path", ["status", "tier", "wallets", "wallets.balance", "version", "create_time"])
def test_what_is_output_only_is_refused_by_name(path: str) -> None:
    _, [mistake] = members.read_mask(["email", path])
    assert mistake.description.startswith(f"{path.partition('.')[0]} is output only")


@pytest.mark.parametrize(
    "path", ["*", "emails", "address.locality", "preferences.colour", "preferences.", ""]
)
def test_an_unknown_path_is_a_mistake(path: str) -> None:
    assert [v.field for v in members.read_mask([path])[1]] == ["update_mask"]


def test_a_mask_takes_what_it_names_and_leaves_the_rest() -> None:
    given = Profile(given_name="Usha", address=Address(locality="Pune"), preferences=Preferences("hi"))
    changed = members.apply_mask(ASHA, given, ["address", "email", "preferences.language_code"])
    assert changed.given_name == "Asha"
    assert changed.email == ""
    assert changed.address == Address(locality="Pune")
    assert changed.preferences == Preferences("hi", "Asia/Kolkata", ("email",))
    assert members.changed_fields(ASHA, changed) == ("email", "address", "preferences")


def test_whole_preferences_win_over_their_parts() -> None:
    given = Profile(preferences=Preferences("hi"))
    changed = members.apply_mask(ASHA, given, ["preferences", "preferences.language_code"])
    assert changed.preferences == Preferences("hi")


def test_members_may_not_give_themselves_what_earns_points() -> None:
    paths = ("email", "segments", "status", "preferences.channels", "tags", "wallets.balance")
    assert members.beyond_member(paths) == ("segments", "status", "tags", "wallets.balance")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.ACTIVE, Status.SUSPENDED),
        (Status.SUSPENDED, Status.ACTIVE),
        (Status.ACTIVE, Status.CLOSED),
        (Status.SUSPENDED, Status.CLOSED),
    ],
)
def test_a_membership_is_suspended_reactivated_and_closed(before: Status, after: Status) -> None:
    assert members.change_status(before, after)
    assert not members.change_status(after, after)


@pytest.mark.parametrize("after", [Status.ACTIVE, Status.SUSPENDED])
def test_closed_is_final(after: Status) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        members.change_status(Status.CLOSED, after)
    assert caught.value.reason == "STATUS_TRANSITION_INVALID"
    assert caught.value.metadata == {"from": "closed", "to": str(after)}


def test_every_point_type_has_a_wallet_and_none_is_lost() -> None:
    opened = (Wallet("credits", balance=5), Wallet("retired", balance=7))
    assert [(w.point_type, w.balance) for w in members.all_wallets(opened, ("points", "credits"))] == [
        ("points", 0),
        ("credits", 5),
        ("retired", 7),
    ]


def test_nothing_personal_stands_in_a_repr() -> None:
    shown = repr(ASHA) + repr(members.identifiers(ASHA)) + repr(ASHA.external_ids) + repr(Address(("1 Rd",)))
    for secret in ("Asha", "example.com", "9812345678", "1990", "C-17", "LC123456", "1 Rd"):
        assert secret not in shown
