"""Events become messages and deliveries: once each, joined in bursts, to who wants them."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from loyalty.v1 import member_pb2, points_pb2
from loyalty.v1 import notifications_pb2 as pb

from server import secrets
from server.domain.deliveries import Delivery, Permanent, Postponed, Unwanted
from server.domain.events import Event
from server.domain.notifications.quiet_hours import QuietHours
from server.operations.messages import Letter, Messages
from server.store import events as event_store
from server.store.channels import say_open
from server.store.sealing import Sealer
from server.store.together import write
from tests.support.mailbox import AT_ONCE, Reader, buy, decide, deliveries, inbox, join, open_shop, set_terms
from tests.support.personal import traces
from tests.support.servers import Laurel

BURSTS = replace(AT_ONCE, join_seconds=600)


class Birthday(Event):
    event_type = "member.birthday"


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await open_shop(laurel)
    return laurel


@pytest.fixture
async def reader(shop: Laurel) -> AsyncIterator[Reader]:
    """Reads what happens in the test alone."""
    found = Reader(shop)
    await found.events()
    yield found
    await set_terms(shop, AT_ONCE)


def messages(shop: Laurel, now: datetime | None = None) -> Messages:
    keys = secrets.load(shop.settings.secrets_file)
    return Messages(shop.database, Sealer(keys), lambda: now or datetime.now(UTC))


async def letter(shop: Laurel, member_id: str, channel: str = "email", now: datetime | None = None) -> Letter:
    """What the member's last delivery of the channel sends now."""
    found = [d for d in await deliveries(shop, member_id) if d["channel"] == channel][-1]
    delivery = Delivery(
        **{
            name: found[name]
            for name in ("program_id", "delivery_id", "member_id", "channel", "target", "content")
        },
        attempts=1,
        token=1,
    )
    return await messages(shop, now).letter(delivery)


async def test_a_purchase_that_brings_a_member_to_platinum_is_told_everywhere_once(
    shop: Laurel, reader: Reader
) -> None:
    member_id = await join(shop, given_name="Asha")
    await buy(shop, member_id, 10_000)
    logged = await reader.events()
    await reader.tell_of(logged)
    await reader.tell_of(logged)  # a replay
    found = await inbox(shop, member_id)
    assert [m.occasion for m in found.messages] == ["tier_reached", "points_earned", "welcome"]
    assert found.messages[0].subject == "You've unlocked Platinum"
    assert found.messages[1].subject == "You earned 10,000 points"
    wanted = await deliveries(shop, member_id)
    assert [d["channel"] for d in wanted] == ["email", "push"] * 3
    sent = await letter(shop, member_id)
    assert sent.content.subject == "You've unlocked Platinum"
    assert sent.content.text.startswith("Hello Asha,\n\nYou've unlocked Platinum.")
    assert "<p>Hello Asha,</p>" in sent.content.html


async def test_a_burst_is_one_message_with_the_sum(shop: Laurel, reader: Reader) -> None:
    await set_terms(shop, BURSTS)
    member_id = await join(shop)
    other = await join(shop)
    for rupees in (100, 20):
        await buy(shop, member_id, rupees)
    await buy(shop, other, 7)
    await reader.tell(None, "points.earned")
    await buy(shop, member_id, 3)
    await reader.tell(None, "points.earned")
    (message,) = (await inbox(shop, member_id)).messages
    assert message.subject == "You earned 123 points"
    assert message.text == "123 points are yours, earned in 3 steps."
    email, push = await deliveries(shop, member_id)
    assert email["next_attempt_at"] == push["next_attempt_at"] > datetime.now(UTC) + timedelta(minutes=5)
    assert [m.subject for m in (await inbox(shop, other)).messages] == ["You earned 7 points"]


async def test_what_comes_after_a_message_is_sent_or_its_time_is_over_gets_one_of_its_own(
    shop: Laurel, reader: Reader
) -> None:
    await set_terms(shop, BURSTS)
    member_id = await join(shop)
    await buy(shop, member_id, 100)
    await reader.tell(None, "points.earned")
    assert (await letter(shop, member_id)).content.subject == "You earned 100 points"
    await buy(shop, member_id, 20)
    await reader.tell(None, "points.earned")
    await buy(shop, member_id, 3)
    await reader.tell(datetime.now(UTC) + timedelta(minutes=11), "points.earned")
    subjects = [m.subject for m in (await inbox(shop, member_id)).messages]
    assert subjects == ["You earned 3 points", "You earned 20 points", "You earned 100 points"]


async def test_what_joins_while_a_message_is_being_sent_is_in_that_or_in_the_next(
    shop: Laurel, reader: Reader
) -> None:
    await set_terms(shop, BURSTS)
    member_id = await join(shop)
    await buy(shop, member_id, 1)
    await reader.tell(None, "points.earned")
    sent = {}
    for _ in range(8):
        await buy(shop, member_id, 1)
        logged = await reader.events("points.earned")
        written, _ = await asyncio.gather(letter(shop, member_id), reader.tell_of(logged))
        sent[str(written.delivery_id)] = written.content.subject
    kept = {m.message_id: m.subject for m in (await inbox(shop, member_id)).messages}
    assert sum(int(subject.split()[2]) for subject in kept.values()) == 9
    message_of = {
        str(d["delivery_id"]): d["content"]["message_id"] for d in await deliveries(shop, member_id)
    }
    assert sent == {delivery_id: kept[message_of[delivery_id]] for delivery_id in sent}


async def test_who_withdraws_gets_nothing_of_what_waits(shop: Laurel, reader: Reader) -> None:
    await set_terms(shop, BURSTS)
    member_id = await join(shop)
    await buy(shop, member_id, 100)
    await reader.tell(None, "points.earned")
    await decide(shop, member_id, "service.email", granted=False)
    with pytest.raises(Unwanted):
        await letter(shop, member_id)
    assert (await letter(shop, member_id, "push")).content.subject == "You earned 100 points"
    await decide(shop, member_id, "service", granted=False)
    await buy(shop, member_id, 10_000)
    before = len(await deliveries(shop, member_id))
    await reader.tell(None, "member.tier_changed")
    assert len(await deliveries(shop, member_id)) == before
    with pytest.raises(Unwanted):
        await letter(shop, member_id, "push")


async def birthday(shop: Laurel, reader: Reader, member_id: str, at: datetime) -> None:
    event = Birthday(
        event_id=uuid4(),
        program_id=shop.program.program_id,
        member_id=UUID(member_id),
        occurred_at=at,
        recorded_at=at,
    )
    async with shop.database.transaction() as connection:
        await write(connection, event_store.append([event]))
    await reader.tell(at + timedelta(minutes=1), "member.birthday")


async def test_marketing_takes_a_yes_and_waits_for_the_morning(shop: Laurel, reader: Reader) -> None:
    await set_terms(shop, replace(AT_ONCE, quiet_hours=QuietHours(time(21), time(8))))
    midnight = datetime(2026, 11, 24, tzinfo=shop.program.zone)
    silent, keen, refused = [await join(shop, "email") for _ in range(3)]
    await decide(shop, keen, "marketing.email", granted=True)
    await decide(shop, refused, "marketing.email", granted=True)
    await decide(shop, refused, "marketing", granted=False)
    for member_id in (silent, keen, refused):
        await birthday(shop, reader, member_id, midnight)
    assert await deliveries(shop, silent) == await deliveries(shop, refused) == []
    (wanted,) = await deliveries(shop, keen)
    assert wanted["next_attempt_at"] == midnight + timedelta(hours=8)
    await birthday(shop, reader, keen, midnight + timedelta(hours=1))  # told twice of the same one
    assert len(await deliveries(shop, keen)) == 1
    morning = midnight + timedelta(hours=9)
    assert (await letter(shop, keen, now=morning)).content.subject == "Happy birthday!"
    with pytest.raises(Unwanted):  # nobody wants to be congratulated the day after
        await letter(shop, keen, now=midnight + timedelta(hours=33))


async def test_a_retry_in_quiet_hours_waits_for_their_end(shop: Laurel, reader: Reader) -> None:
    await set_terms(shop, replace(AT_ONCE, quiet_hours=QuietHours(time(21), time(8))))
    member_id = await join(shop, "email", zone="America/New_York")
    there = ZoneInfo("America/New_York")
    noon = datetime.now(there).replace(hour=12)
    await reader.tell(noon, "member.registered")
    (wanted,) = await deliveries(shop, member_id)
    assert wanted["next_attempt_at"] == noon
    with pytest.raises(Postponed) as put_off:
        await letter(shop, member_id, now=noon.replace(hour=22))
    morning = datetime.combine(noon.date() + timedelta(days=1), time(8), there)
    waited = morning.astimezone(UTC) - noon.replace(hour=22).astimezone(UTC)
    assert put_off.value.seconds == waited.total_seconds()


async def test_a_large_redemption_is_told_by_what_the_member_asked_for(shop: Laurel, reader: Reader) -> None:
    member_id = await join(shop, "sms", language="hi-IN")
    await buy(shop, member_id, 9000)
    for points in (5000, 100):
        await shop.terminal.points.Redeem(
            points_pb2.RedeemRequest(
                request_id=uuid4().hex, member_id=member_id, points=points, order_reference=uuid4().hex
            )
        )
    await reader.tell(None, "points.redeemed")
    (wanted,) = await deliveries(shop, member_id)
    assert wanted["channel"] == "sms"
    sent = await letter(shop, member_id, "sms")
    assert "आपके 5,000 पॉइंट ख़र्च हुए, 4,000 बचे हैं" in sent.content.text
    assert sent.language == "hi"


async def test_only_channels_that_are_set_up_and_reach_somebody_make_deliveries(
    shop: Laurel, reader: Reader
) -> None:
    member_id = await join(shop, "email", "sms", "push", phone="")
    without_push = Reader(shop, {"email", "sms"})
    await without_push.tell(None, "member.registered")
    assert [d["channel"] for d in await deliveries(shop, member_id)] == ["email"]


async def test_who_left_is_told_nothing_any_more(shop: Laurel, reader: Reader) -> None:
    member_id = await join(shop)
    await reader.tell(None, "member.registered")
    await shop.service.members.CloseMember(
        member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=member_id)
    )
    with pytest.raises(Unwanted):
        await letter(shop, member_id)
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM member_key WHERE member_id = $1", UUID(member_id))
    with pytest.raises(Unwanted):
        await letter(shop, member_id)


async def test_a_name_that_no_template_can_hold_is_a_dead_letter_that_says_where(
    shop: Laurel, reader: Reader
) -> None:
    request = pb.PutTemplateRequest(
        occasion="welcome", channel="sms", language_code="en", text="x" + "{{ given_name }}" * 40
    )
    await shop.service.notifications.PutTemplate(request)
    member_id = await join(shop, "sms", given_name="Sushmita" * 20)
    await reader.tell(None, "member.registered")
    with pytest.raises(Permanent) as found:
        await letter(shop, member_id, "sms")
    assert found.value.error == (
        "template welcome.sms.en version 1: text: line 1: comes to more than 1,000 characters"
    )
    gone = pb.DeleteTemplateRequest(occasion="welcome", channel="sms", language_code="en")
    await shop.service.notifications.DeleteTemplate(gone)


async def test_nothing_personal_is_written_down(shop: Laurel, reader: Reader) -> None:
    member_id = await join(
        shop,
        given_name="Ashalata",
        family_name="Raghunathan",
        email="ashalata.r@example.com",
        phone="+919812377777",
    )
    await buy(shop, member_id, 20_000)
    await reader.tell()
    assert (await letter(shop, member_id)).address == "ashalata.r@example.com"
    assert "ashalata" not in repr(await letter(shop, member_id)).lower()
    async with shop.database.connection() as connection:
        for table in ("message", "delivery", "event_log", "template"):
            rows = await connection.fetch(f"SELECT to_jsonb(t) FROM {table} t")
            assert traces(json.dumps([row[0] for row in rows])) == [], table


async def test_old_messages_are_forgotten_and_what_no_channel_takes_is_given_up(
    shop: Laurel, reader: Reader
) -> None:
    old, sent, waiting = [await join(shop, "email") for _ in range(3)]
    await reader.tell(None, "member.registered")
    program_id, now = shop.program.program_id, datetime.now(UTC)
    week_ago, month_ago = now - timedelta(days=8), now - timedelta(days=31)
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM open_channel")
        await say_open(connection, ["email"])
        await connection.execute(
            "UPDATE delivery SET status = 'sent', finished_at = $2 WHERE member_id = ANY($1::uuid[])",
            [UUID(old), UUID(sent)],
            month_ago,
        )
        await connection.execute(
            "UPDATE delivery SET next_attempt_at = $2 WHERE member_id = $1", UUID(waiting), week_ago
        )
    later = messages(shop, now + timedelta(days=31))
    # While a worker has the channel it will be sent.
    assert (await later.clear(program_id)).lapsed == 0
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE open_channel SET seen_at = $1", week_ago)
    cleared = await later.clear(program_id)
    assert cleared.lapsed == 1
    (given_up,) = await deliveries(shop, waiting)
    assert (given_up["status"], given_up["last_error"]) == ("dead", "no worker had the channel open")
    assert [await deliveries(shop, member_id) for member_id in (old, sent)] == [[], []]
    async with shop.database.connection() as connection:
        kept = "SELECT count(*) FROM message WHERE program_id = $1"
        assert await connection.fetchval(kept, program_id) >= 3
        await messages(shop, now + timedelta(days=366)).clear(program_id)
        assert await connection.fetchval(kept, program_id) == 0
