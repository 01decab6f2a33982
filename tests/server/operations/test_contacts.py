"""Emails, phone numbers and time zones have one spelling."""

import pytest

from server.operations import contacts


@pytest.mark.parametrize(
    "spelling", ["+919812345678", "+91 98123-45678", " +91 (98123) 45678 ", "+91.98123.45678"]
)
def test_a_phone_number_has_one_spelling(spelling: str) -> None:
    assert contacts.phone(spelling) == "+919812345678"


@pytest.mark.parametrize(
    "text",
    ["9812345678", "00919812345678", "+91", "+1 650 253 0000 ext 5", "+1 800 FLOWERS", "+999123456789", "+"],
)
def test_what_is_no_international_number_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="international form") as caught:
        contacts.phone(text)
    assert caught.value.__suppress_context__


def test_an_email_keeps_its_local_part_and_gets_a_lower_case_domain() -> None:
    assert contacts.email(" Asha.K@Example.COM ") == "Asha.K@example.com"


@pytest.mark.parametrize(
    "text", ["asha", "asha@", "@example.com", "a b@example.com", "a@b@example.com", "a@localhost"]
)
def test_what_is_no_email_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be an email address, such as asha@example\.com$"):
        contacts.email(text)


def test_time_zones_are_those_of_iana() -> None:
    assert contacts.time_zone("Asia/Kolkata") == "Asia/Kolkata"


@pytest.mark.parametrize(
    "text", ["Asia", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Asia/", "IST+5:30"]
)
def test_what_is_no_time_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        contacts.time_zone(text)


@pytest.mark.parametrize(
    ("email", "shown"),
    [("asha@example.com", "a***@example.com"), ("a@example.com", "a***@example.com"), ("", "")],
)
def test_a_masked_email_shows_one_letter(email: str, shown: str) -> None:
    assert contacts.masked_email(email) == shown


@pytest.mark.parametrize(
    ("phone", "shown"),
    [
        ("+919812345678", "+91******5678"),
        ("+12015550123", "+1******0123"),
        ("+2904123", "+290**23"),
        ("", ""),
    ],
)
def test_a_masked_phone_shows_country_and_end(phone: str, shown: str) -> None:
    assert contacts.masked_phone(phone) == shown
