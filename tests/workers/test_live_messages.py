"""Messages reach open streams as they come into the inbox: none is left out, and none comes twice."""

import base64
import hmac
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest
from loyalty.v1 import member_pb2

from server import secrets
from tests.support.mailbox import AT_ONCE, Reader, buy, inbox, join, open_shop, set_terms
from tests.support.programs import worker_settings_for
from tests.support.relays import caught_up
from tests.support.servers import Laurel
from tests.support.watching import Watching, watching
from workers.main import running


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await open_shop(laurel)
    return laurel


async def subject(stream: Watching) -> str:
    """The next message's."""
    update = await stream.next("message")
    assert isinstance(update, member_pb2.MessageUpdate)
    return update.subject


async def test_a_stream_is_told_of_messages_at_once_and_goes_on_after_the_last(shop: Laurel) -> None:
    welcome = f"Welcome to {shop.program.name}"
    async with running(worker_settings_for(shop.settings)):
        await caught_up(shop.database, ["notifications"])
        key, member_id = shop.service.key, await join(shop, "inbox")
        await caught_up(shop.database, ["notifications"])
        async with watching(shop.address, key, member_id) as stream:
            await stream.next("standing")  # the welcome was before
            await buy(shop, member_id, 20)
            await stream.next("points")
            place = stream.event_id
            assert await subject(stream) == "You earned 20 points"
        # Another time nobody listens; what came meanwhile comes in its order, once.
        await buy(shop, member_id, 30)
        await caught_up(shop.database, ["notifications"])
        async with watching(shop.address, key, member_id, place) as stream:
            await stream.next("points")
            assert [await subject(stream), await subject(stream)] == [
                "You earned 20 points",
                "You earned 30 points",
            ]
            place = stream.event_id
        async with watching(shop.address, key, member_id, place) as stream:
            await buy(shop, member_id, 40)
            await stream.next("points")
            assert await subject(stream) == "You earned 40 points"
    shown = (await inbox(shop, member_id)).messages
    assert [m.subject for m in shown][-1] == welcome


async def test_a_new_tier_is_told_in_its_words_while_an_early_writer_holds_up_the_message_of_it(
    shop: Laurel, database_url: str
) -> None:
    platinum = "You've unlocked Platinum"
    early = await asyncpg.connect(database_url)
    try:
        async with running(worker_settings_for(shop.settings)):
            member_id = await join(shop, "inbox")
            await caught_up(shop.database, ["notifications"])
            async with watching(shop.address, shop.service.key, member_id) as stream:
                await stream.next("standing")
                async with early.transaction():
                    await early.execute("SELECT pg_current_xact_id()")
                    await buy(shop, member_id, 10_000)
                    await stream.next("points")
                    assert (await stream.next("tier")).message == platinum
                    subjects = [m.subject for m in (await inbox(shop, member_id)).messages]
                    assert platinum not in subjects
                told = {await subject(stream), await subject(stream)}
                assert told == {"You earned 10,000 points", platinum}
    finally:
        await early.close()


# Of what event ids hold beside the MAC: before streams told of messages, and before they told of pools.
WITHOUT_MESSAGE, WITHOUT_POOL = 36, 44


def of_old(shop: Laurel, member_id: str, event_id: str, length: int) -> str:
    """The event id as servers made it when it held no more than that."""
    key = hmac.digest(secrets.load(shop.settings.secrets_file).page_token, b"event id", "sha256")
    packed = base64.urlsafe_b64decode(event_id + "=" * (-len(event_id) % 4))[16:][:length]
    whose = shop.program.program_id.bytes + UUID(member_id).bytes
    mac = hmac.digest(key, whose + packed, "sha256")[:16]
    return base64.urlsafe_b64encode(mac + packed).decode().rstrip("=")


async def test_an_event_id_from_before_streams_told_of_pools_misses_no_message(shop: Laurel) -> None:
    reader, member_id = Reader(shop), await join(shop, "inbox")
    await reader.tell()
    async with watching(shop.address, shop.service.key, member_id) as stream:
        await stream.next("standing")
        place = of_old(shop, member_id, stream.event_id, WITHOUT_POOL)
    await buy(shop, member_id, 5)
    await reader.tell()
    async with watching(shop.address, shop.service.key, member_id, place) as stream:
        assert (await stream.next("points")).message == "You've earned 5 points"
        assert await subject(stream) == "You earned 5 points"


async def test_whoever_comes_with_an_event_id_of_old_is_told_of_messages_from_then_on(shop: Laurel) -> None:
    reader, member_id = Reader(shop), await join(shop, "inbox")
    await reader.tell()
    async with shop.database.connection() as connection:
        # The welcome, too, is of then.
        await connection.execute("UPDATE message SET position = NULL WHERE member_id = $1", UUID(member_id))
    async with watching(shop.address, shop.service.key, member_id) as stream:
        await stream.next("standing")
        place = of_old(shop, member_id, stream.event_id, WITHOUT_MESSAGE)
    await buy(shop, member_id, 5)
    await reader.tell()
    async with watching(shop.address, shop.service.key, member_id, place) as stream:
        assert (await stream.next("points")).message == "You've earned 5 points"
        await buy(shop, member_id, 6)
        await stream.next("points")
        await reader.tell()
        assert await subject(stream) == "You earned 6 points"


async def test_a_message_that_takes_in_more_comes_again_and_tills_see_none(shop: Laurel) -> None:
    await set_terms(shop, replace(AT_ONCE, join_seconds=3600))
    reader, member_id = Reader(shop), await join(shop, "inbox")
    await reader.tell()
    async with (
        watching(shop.address, shop.service.key, member_id) as stream,
        watching(shop.address, shop.terminal.key, member_id) as till,
    ):
        await stream.next("standing")
        await till.next("standing")
        told = []
        for rupees in (5, 6):
            await buy(shop, member_id, rupees)
            await stream.next("points")
            # Without a worker nobody gives a hint: the stream looks by itself.
            await reader.tell()
            told.append(await stream.next("message"))
        assert [one.subject for one in told] == ["You earned 5 points", "You earned 11 points"]
        assert told[0].message_id == told[1].message_id
        await till.next("points")
        await till.next("points")
        await buy(shop, member_id, 7)
        await till.next("points")
    await set_terms(shop, AT_ONCE)
