import json

import pytest
from google.type.date_pb2 import Date
from loyalty.v1 import member_pb2 as pb

from laurel.imports.columns import match
from laurel.imports.newcomers import TARGET, Newcomer, Reader, Terms
from laurel.imports.refusals import Refusal
from laurel.imports.table import Row
from server.domain.members import SETTABLE


def read(terms: Terms | None = None, **cells: str) -> Newcomer:
    """What a row of these cells comes to; ``__`` in a name stands for a dot."""
    header = [name.replace("__", ".") for name in cells]
    reader = Reader(match(TARGET, header, []), terms or Terms())
    return reader.read(Row(2, list(cells.values())))


def refused(terms: Terms | None = None, **cells: str) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        read(terms, **cells)
    return refusal.value


WHOLE = {
    "given_name": " Asha ",
    "family_name": "'=Rao",
    "email": "asha@example.com",
    "phone": "+919812345678",
    "birth_date": "1990-05-17",
    "address__lines": "12 Hill Road;Floor 3",
    "address__locality": "Mumbai",
    "address__region": "MH",
    "address__postal_code": "400050",
    "address__country_code": "IN",
    "external_ids": "crm:4711",
    "external_id__pos": "9",
    "card_numbers": "4417-1234; 4417-1235",
    "preferences__language_code": "hi-IN",
    "preferences__time_zone": "Asia/Kolkata",
    "preferences__channels": "email;push",
    "tags": r"vip;a\;b",
    "segments": "west",
    "attributes": '{"size": "L", "kids": 2}',
    "attributes__club": "chess",
    "status": "active",
}


def test_every_field_that_callers_may_set_can_be_imported() -> None:
    expected = pb.Member(
        given_name="Asha",
        family_name="=Rao",
        email="asha@example.com",
        phone="+919812345678",
        birth_date=Date(year=1990, month=5, day=17),
        address=pb.Address(
            lines=["12 Hill Road", "Floor 3"],
            locality="Mumbai",
            region="MH",
            postal_code="400050",
            country_code="IN",
        ),
        external_ids=[pb.ExternalId(system="crm", id="4711"), pb.ExternalId(system="pos", id="9")],
        card_numbers=["4417-1234", "4417-1235"],
        preferences=pb.Preferences(
            language_code="hi-IN", time_zone="Asia/Kolkata", channels=["email", "push"]
        ),
        tags=["vip", "a;b"],
        segments=["west"],
        attributes={"size": "L", "kids": "2", "club": "chess"},
    )
    found = read(**WHOLE)
    assert found.member == expected
    assert [name for name in SETTABLE if not getattr(found.profile, name)] == []
    assert set(found.identifiers.values()) == {
        "email",
        "phone",
        "external_ids[0]",
        "external_ids[1]",
        "card_numbers[0]",
        "card_numbers[1]",
    }


def test_the_request_follows_from_the_content_alone() -> None:
    first = read(**WHOLE)
    backwards = read(**dict(reversed(WHOLE.items())))
    assert backwards.request_id == first.request_id
    assert 0 < len(first.request_id) <= 64
    german = read(Terms(date_format="%d.%m.%Y"), **{**WHOLE, "birth_date": "17.05.1990"})
    assert german.request_id == first.request_id
    others = [read(**{**WHOLE, field: "x@y.example"}).request_id for field in ("email", "given_name", "tags")]
    assert len({first.request_id, *others}) == 4


def test_decisions_are_read_from_columns_of_a_purpose_and_from_one_of_all() -> None:
    terms = Terms(policy_version="2026-04", channel="paper")
    found = read(
        terms,
        email="a@b.example",
        consent__marketing__email="Yes",
        consent__sms="0",
        consent__post="",
        consents="profiling=no;push=yes",
    )
    told = {(c.purpose, c.granted, c.policy_version, c.channel) for c in found.consents}
    assert told == {
        ("marketing.email", True, "2026-04", "paper"),
        ("sms", False, "2026-04", "paper"),
        ("profiling", False, "2026-04", "paper"),
        ("push", True, "2026-04", "paper"),
    }
    ids = {found.consent_request_id(consent) for consent in found.consents} | {found.request_id}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("cells", "field"),
    [
        ({"email": "no address"}, "email"),
        ({"email": "a@b.example", "phone": "12"}, "phone"),
        ({"email": "a@b.example", "birth_date": "17.05.1990"}, "birth_date"),
        ({"email": "a@b.example", "birth_date": "2999-01-01"}, "birth_date"),
        ({"email": "a@b.example", "external_ids": "4711"}, "external_ids"),
        ({"email": "a@b.example", "external_id__CRM": "4711"}, "external_id.CRM"),
        ({"card_numbers": "4711;4-7-1-1"}, "card_numbers"),
        ({"email": "a@b.example", "address__country_code": "India"}, "address.country_code"),
        ({"email": "a@b.example", "preferences__channels": "pigeon"}, "preferences.channels"),
        ({"email": "a@b.example", "attributes": "[1]"}, "attributes"),
        ({"email": "a@b.example", "attributes": "{"}, "attributes"),
        ({"email": "a@b.example", "consent__sms": "perhaps"}, "consent.sms"),
        ({"email": "a@b.example", "consents": "sms"}, "consents"),
        ({"email": "a@b.example", "tags": "x" * 65}, "tags"),
        ({"given_name": "Asha"}, ""),
    ],
)
def test_what_is_wrong_is_refused_with_its_column(cells: dict[str, str], field: str) -> None:
    refusal = refused(**cells)
    assert (refusal.reason, refusal.field) == ("INVALID_FIELD", field)
    assert refusal.message


def test_all_mistakes_of_a_row_are_told_at_once() -> None:
    refusal = refused(email="no address", phone="12", birth_date="never")
    assert refusal.field == "birth_date, email, phone"
    assert len(refusal.message.split("; ")) == 3


def test_a_message_holds_nothing_of_the_row() -> None:
    refusal = refused(email="SECRET at home", phone="SECRET", external_ids="SECRET", attributes="SECRET")
    assert "SECRET" not in json.dumps([refusal.message, refusal.field])


def test_a_member_who_is_not_active_would_become_so_and_is_refused() -> None:
    assert refused(email="a@b.example", status="Closed").reason == "STATUS_NOT_ACTIVE"
    assert read(email="a@b.example", status="Active").member.email == "a@b.example"
