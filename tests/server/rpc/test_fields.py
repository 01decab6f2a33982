from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2

from server.domain.errors import InvalidArgument, Violation
from server.rpc.fields import Fields

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def parse(read: Callable[[Fields], Any]) -> Any:
    fields = Fields()
    value = read(fields)
    fields.check()
    return value


def mistake(read: Callable[[Fields], Any]) -> Violation:
    with pytest.raises(InvalidArgument) as caught:
        parse(read)
    assert caught.value.reason == "INVALID_FIELD"
    (violation,) = caught.value.violations
    return violation


def purchase(**parts: Any) -> points_pb2.AccrueRequest:
    return points_pb2.AccrueRequest(**parts)


def test_all_mistakes_of_a_request_are_told_at_once() -> None:
    fields = Fields()
    fields.uuid("member_id", "")
    fields.token("request_id", "two words")
    fields.text("lines[3].sku", "x" * 65, max_length=64)
    with pytest.raises(InvalidArgument) as caught:
        fields.check()
    assert caught.value.violations == (
        Violation("member_id", "is required"),
        Violation("request_id", "must be 1 to 64 visible ASCII characters"),
        Violation("lines[3].sku", "must be at most 64 characters"),
    )


def test_a_thousand_mistakes_are_not_told_one_by_one() -> None:
    fields = Fields()
    for number in range(1000):
        fields.add(f"lines[{number}]", "is wrong")
    with pytest.raises(InvalidArgument) as caught:
        fields.check()
    assert len(caught.value.violations) == 20


def test_a_uuid_is_read_in_either_case() -> None:
    assert parse(lambda f: f.uuid("member_id", ID)) == UUID(ID)
    assert parse(lambda f: f.uuid("member_id", ID.upper())) == UUID(ID)
    assert parse(lambda f: f.uuid("member_id", "", required=False)) is None


@pytest.mark.parametrize(
    "value",
    [
        "x",
        ID[:-1],
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"urn:uuid:{ID}",
        ID.replace("0", "_"),
        ID.replace("5", "५"),
    ],
)
def test_other_spellings_of_a_uuid_are_refused(value: str) -> None:
    assert mistake(lambda f: f.uuid("member_id", value)).field == "member_id"


@pytest.mark.parametrize("value", ["Kirana No. 7", "पुणे", "ക്‍ഷ", "smile 🙂", " padded ", "non\u00a0breaking"])
def test_text_of_any_script_passes_unchanged(value: str) -> None:
    assert parse(lambda f: f.text("store", value, max_length=64)) == value


@pytest.mark.parametrize("character", ["\0", "\n", "\t", "\x1b", "\x7f", "\x85", "\ud800"])
def test_control_characters_and_lone_surrogates_are_refused(character: str) -> None:
    assert (
        "control characters"
        in mistake(lambda f: f.text("store", f"a{character}b", max_length=64)).description
    )


def test_length_is_counted_in_characters() -> None:
    assert parse(lambda f: f.text("store", "अ" * 64, max_length=64))
    assert mistake(lambda f: f.text("store", "अ" * 65, max_length=64))


def test_required_text_must_say_something() -> None:
    assert mistake(lambda f: f.text("store", "", max_length=64)).description == "is required"
    assert mistake(lambda f: f.text("store", "  ", max_length=64)).description == "must not be blank"
    assert parse(lambda f: f.text("store", "", max_length=64, required=False)) == ""


@pytest.mark.parametrize("value", ["a", "~" * 64, "order-1/refund!"])
def test_a_token_is_visible_ascii(value: str) -> None:
    assert parse(lambda f: f.token("request_id", value)) == value


@pytest.mark.parametrize("value", ["a b", "a\0", "a\n", "é", "~" * 65])
def test_anything_else_is_no_token(value: str) -> None:
    assert (
        mistake(lambda f: f.token("request_id", value)).description
        == "must be 1 to 64 visible ASCII characters"
    )


def test_a_count_names_its_range() -> None:
    assert parse(lambda f: f.count("points", 1, 1, 10**12)) == 1
    assert mistake(lambda f: f.count("points", 0, 1, 10**12)).description == "must be 1 to 1,000,000,000,000"


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_page_sizes_are_capped(asked: int, given: int) -> None:
    assert parse(lambda f: f.page_size("page_size", asked)) == given


def test_a_negative_page_size_is_a_mistake() -> None:
    assert mistake(lambda f: f.page_size("page_size", -1)) == Violation("page_size", "must not be negative")


def test_a_timestamp_is_utc_in_microseconds() -> None:
    sent = purchase(occur_time=Timestamp(seconds=1_700_000_000, nanos=123_456_789))
    expected = datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)
    assert parse(lambda f: f.timestamp("occur_time", sent)) == expected


def test_an_unset_timestamp_is_told_apart_from_the_epoch() -> None:
    assert parse(lambda f: f.timestamp("occur_time", purchase())) is None
    epoch = purchase(occur_time=Timestamp())
    assert parse(lambda f: f.timestamp("occur_time", epoch)) == datetime(1970, 1, 1, tzinfo=UTC)
    assert (
        mistake(lambda f: f.timestamp("occur_time", purchase(), required=True)).description == "is required"
    )


@pytest.mark.parametrize(
    "stamp",
    [
        Timestamp(seconds=2**62),
        Timestamp(seconds=-(2**62)),
        Timestamp(seconds=253_402_300_799),
        Timestamp(nanos=-1),
        Timestamp(nanos=10**9),
    ],
)
def test_times_that_no_calendar_holds_are_refused(stamp: Timestamp) -> None:
    assert mistake(lambda f: f.timestamp("occur_time", purchase(occur_time=stamp))).field.startswith(
        "occur_time"
    )


def test_a_date_is_a_day_of_the_calendar() -> None:
    sent = purchase(business_date=Date(year=2024, month=2, day=29))
    assert parse(lambda f: f.date("business_date", sent)) == date(2024, 2, 29)
    assert parse(lambda f: f.date("business_date", purchase())) is None


@pytest.mark.parametrize(
    "value", [Date(), Date(year=2023, month=2, day=29), Date(year=2023), Date(year=2**31 - 1, month=1, day=1)]
)
def test_half_a_date_is_refused(value: Date) -> None:
    assert mistake(lambda f: f.date("business_date", purchase(business_date=value))).field == "business_date"


@pytest.mark.parametrize(
    ("units", "nanos", "amount"),
    [
        (0, 0, "0"),
        (500, 0, "500"),
        (12, 500_000_000, "12.50"),
        (12, 345_000_000, "12.345"),
        (0, 1, "0.000000001"),
        (10**12, 999_999_999, "1000000000000.999999999"),
    ],
)
def test_money_is_exact(units: int, nanos: int, amount: str) -> None:
    sent = purchase(amount=Money(currency_code="INR", units=units, nanos=nanos))
    assert parse(lambda f: f.money("amount", sent)) == ("INR", Decimal(amount))


def test_money_below_zero_is_read_where_it_makes_sense() -> None:
    sent = purchase(amount=Money(currency_code="INR", units=-1, nanos=-750_000_000))
    assert parse(lambda f: f.money("amount", sent, negative_ok=True)) == ("INR", Decimal("-1.75"))
    assert mistake(lambda f: f.money("amount", sent)) == Violation("amount", "must not be negative")


def test_money_left_out_is_told_apart_from_nothing() -> None:
    assert parse(lambda f: f.money("amount", purchase())) is None
    assert mistake(lambda f: f.money("amount", purchase(), required=True)).description == "is required"


@pytest.mark.parametrize(
    ("money", "path"),
    [
        (Money(units=1), "lines[0].amount.currency_code"),
        (Money(currency_code="inr", units=1), "lines[0].amount.currency_code"),
        (Money(currency_code="ÅÄÖ", units=1), "lines[0].amount.currency_code"),
        (Money(currency_code="INR", units=10**12 + 1), "lines[0].amount.units"),
        (Money(currency_code="INR", units=1, nanos=10**9), "lines[0].amount.nanos"),
        (Money(currency_code="INR", units=1, nanos=-1), "lines[0].amount.nanos"),
        (Money(currency_code="INR", units=-1, nanos=1), "lines[0].amount.nanos"),
        (Money(currency_code="INR", nanos=-1), "lines[0].amount"),
    ],
)
def test_money_that_makes_no_sense_is_refused_at_its_part(money: Money, path: str) -> None:
    line = points_pb2.LineItem(amount=money)
    assert mistake(lambda f: f.money("lines[0].amount", line)).field == path


def test_a_mapping_is_copied_out() -> None:
    sent = purchase(attributes={"till": "7", "note": ""})
    assert parse(lambda f: f.mapping("attributes", sent.attributes, max_entries=2)) == {
        "till": "7",
        "note": "",
    }
    assert parse(lambda f: f.mapping("attributes", purchase().attributes, max_entries=2)) == {}


@pytest.mark.parametrize(
    ("entries", "path"),
    [
        ({"a": "", "b": "", "c": ""}, "attributes"),
        ({"": "x"}, "attributes (a key)"),
        ({"k" * 65: "x"}, "attributes (a key)"),
        ({"k": "a\0b"}, "attributes[k]"),
        ({"k": "x" * 257}, "attributes[k]"),
    ],
)
def test_a_mapping_is_bounded(entries: dict[str, str], path: str) -> None:
    assert mistake(lambda f: f.mapping("attributes", entries, max_entries=2)).field == path
