import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook

from server.domain.deliveries import NOBODY
from server.domain.webhooks import (
    Place,
    UrlError,
    body_of,
    known_event_types,
    matches,
    may_connect,
    pattern_mistake,
    place_of,
    secret_text,
    signatures,
)

REFUSED = {
    "": "at most 1,000",
    "https://partner.example/" + "a" * 1000: "at most 1,000",
    "https://partner.example/a b": "ASCII",
    "https://partner.example\\@127.0.0.1/": "ASCII",
    "https://пример.example/": "ASCII",
    "https://partner.example/\n": "ASCII",
    "http://partner.example/": "https",
    "ftp://partner.example/": "https",
    "//partner.example/": "https",
    "file:///etc/passwd": "https",
    "gopher://127.0.0.1:6379/": "https",
    "https://user@partner.example/": "user",
    "https://user:word@partner.example/": "user",
    "https://partner.example@127.0.0.1/": "user",
    "https://partner.example/#here": "fragment",
    "https://partner.example:80/": "port",
    "https://partner.example:22/": "port",
    "https://partner.example:0/": "port",
    "https://partner.example:99999/": "URL such as",
    "https://partner.example:x/": "URL such as",
    "https://[::1/": "URL such as",
    "https:///hooks": "name a host",
    "https://-partner.example/": "name a host",
    "https://partner..example/": "name a host",
    "https://partner.example./": "name a host",
    "https://partner_1.example/": "name a host",
    "https://partner%2eexample/": "name a host",
    **dict.fromkeys(
        (
            "https://localhost/",
            "https://a.localhost/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://a.1/",
            "https://[::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[64:ff9b:1::a9fe:a9fe]/",
            "https://[2002:a9fe:a9fe::]/",
            "https://[fd00:ec2::254]/",
        ),
        "public address",
    ),
}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/hooks", "https://localhost:9000/"])
def test_of_this_machine_it_is_said_what_would_let_it_in(url: str) -> None:
    with pytest.raises(UrlError, match="LAUREL_WEBHOOK_LOOPBACK"):
        place_of(url, loopback=False)


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_leads_nowhere_good_is_refused(url: str) -> None:
    with pytest.raises(UrlError, match=REFUSED[url]):
        place_of(url, loopback=False)


@pytest.mark.parametrize(
    ("url", "place", "authority"),
    [
        (
            "https://Partner.Example/Hooks?of=a%20b",
            Place("https", "partner.example", 443, "/Hooks?of=a%20b"),
            "partner.example",
        ),
        (
            "https://partner.example:8443",
            Place("https", "partner.example", 8443, "/"),
            "partner.example:8443",
        ),
        (
            "https://xn--e1afmkfd.example/",
            Place("https", "xn--e1afmkfd.example", 443, "/"),
            "xn--e1afmkfd.example",
        ),
        ("https://1.1.1.1/", Place("https", "1.1.1.1", 443, "/"), "1.1.1.1"),
        ("https://[2606:4700::1111]:443/", Place("https", "2606:4700::1111", 443, "/"), "[2606:4700::1111]"),
    ],
)
def test_a_url_says_where_it_leads(url: str, place: Place, authority: str) -> None:
    assert place_of(url, loopback=False) == place
    assert place.authority == authority


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_in_development_this_machine_is_called_by_its_plain_names(host: str) -> None:
    assert place_of(f"http://{host}:9000/hooks", loopback=True).port == 9000
    for other in (
        "http://partner.example/",
        "https://10.0.0.1/",
        "http://127.1/",
        "https://[::ffff:127.0.0.1]/",
    ):
        with pytest.raises(UrlError):
            place_of(other, loopback=True)


def test_only_a_plain_name_of_this_machine_leads_to_this_machine() -> None:
    assert may_connect("localhost", "127.0.0.1", loopback=True)
    assert may_connect("localhost", "::1", loopback=True)
    assert not may_connect("localhost", "1.1.1.1", loopback=True)
    assert not may_connect("partner.example", "127.0.0.1", loopback=True)
    assert not may_connect("localhost", "127.0.0.1", loopback=False)
    assert may_connect("partner.example", "1.1.1.1", loopback=True)


@pytest.mark.parametrize(
    "pattern", ["*", "points.*", "points.earned", "member.*", "webhook.changed", "rules.published"]
)
def test_a_filter_names_types_that_there_are(pattern: str) -> None:
    assert pattern_mistake(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    ["", "points", "points.", ".*", "*.earned", "points.e*", "Points.*", "orders.*", "points.bought", "**"],
)
def test_a_filter_that_matches_nothing_is_a_mistake(pattern: str) -> None:
    assert pattern_mistake(pattern)


def test_a_filter_lets_through_what_it_names() -> None:
    patterns = ("points.*", "member.merged")
    passed = {known for known in known_event_types() if matches(patterns, known)}
    assert passed == {
        "member.merged",
        *(known for known in known_event_types() if known.startswith("points.")),
    }
    assert all(matches(("*",), known) for known in known_event_types())
    assert not matches(("points.*",), "pointsmore.earned")


def test_each_secret_signs_as_standard_webhooks_says() -> None:
    moment = datetime(2026, 11, 24, 10, 15, tzinfo=UTC)
    times = moment, moment + timedelta(seconds=2.5)
    body = body_of("points.earned", UUID(int=1), UUID(int=2), times, {"name": "Zoë", "points": 5})
    now = int(datetime.now(UTC).timestamp())
    one, two = b"1" * 32, b"2" * 32
    headers = {
        "webhook-id": "message",
        "webhook-timestamp": str(now),
        "webhook-signature": signatures([one, two], "message", now, body),
    }
    for secret in (one, two):
        assert Webhook(secret_text(secret)).verify(body, headers) == {
            "type": "points.earned",
            "timestamp": "2026-11-24T10:15:00Z",
            "data": {
                "event_id": str(UUID(int=1)),
                "member_id": str(UUID(int=2)),
                "occurred_at": "2026-11-24T10:15:00Z",
                "recorded_at": "2026-11-24T10:15:02.500000Z",
                "payload": {"name": "Zoë", "points": 5},
            },
        }
    assert (
        Webhook(secret_text(one)).sign("message", datetime.fromtimestamp(now, UTC), body.decode())
        in headers["webhook-signature"]
    )


def test_what_is_about_nobody_names_no_member() -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    body = body_of("rules.published", UUID(int=1), NOBODY, (moment, moment), {})
    assert "member_id" not in json.loads(body)["data"]
