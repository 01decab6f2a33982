"""Where a member can be reached: the one spelling of emails, phone numbers and time zones.

Like the normalisers of ``domain/members.py``, but on libraries that know the world's
rules. Each raises ValueError with a sentence that never holds the value.
"""

import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
from email_validator import EmailNotValidError, validate_email

MAX_EMAIL = 254
MAX_PHONE = 40

_PHONE = re.compile(r"\+[\d\s()./-]+")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def email(text: str) -> str:
    """The address with its domain in lower case, the rest as given. No DNS is asked."""
    try:
        return validate_email(text.strip(), check_deliverability=False).normalized
    except EmailNotValidError:
        raise ValueError("must be an email address, such as asha@example.com") from None


def phone(text: str) -> str:
    """The number in E.164 form, such as +919812345678.

    Any number that its country's numbering could hold is taken: tables of the ranges
    in use are always behind.
    """
    try:
        if not _PHONE.fullmatch(text.strip()):
            raise ValueError
        number = phonenumbers.parse(text.strip(), None)
        if not phonenumbers.is_possible_number(number):
            raise ValueError
    except (phonenumbers.NumberParseException, ValueError):
        raise ValueError("must be a phone number in international form, such as +919812345678") from None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def time_zone(text: str) -> str:
    """An IANA time zone that this machine knows."""
    try:
        if not _ZONE.fullmatch(text):
            raise ValueError
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be an IANA time zone, such as Asia/Kolkata") from None
    return text


def masked_email(address: str) -> str:
    """Enough to recognise an address by: ``a***@example.com``."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}" if address else ""


def masked_phone(number: str) -> str:
    """Enough to recognise an E.164 number by: ``+91******5678``."""
    if not number:
        return ""
    code = f"+{phonenumbers.parse(number, None).country_code}"
    shown = 4 if len(number) - len(code) >= 8 else 2
    return code + "*" * (len(number) - len(code) - shown) + number[-shown:]
