"""Dead letters are looked at, replayed and discarded by those who may, in their program."""

from uuid import UUID, uuid4

import grpc
import pytest
from loyalty.v1 import dead_letters_pb2 as pb

from server.domain.actor import CallerKind
from server.domain.deliveries import Wanted
from server.ids import new_id
from server.store import deliveries
from tests.support.log import NOTED, buried, noted, noting, relaying
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel
from tests.support.waiting import eventually
from workers.subscriptions import Subscription

DEAD, REPLAYING, REPLAYED, DISCARDED = (
    pb.DEAD_LETTER_STATUS_DEAD,
    pb.DEAD_LETTER_STATUS_REPLAYING,
    pb.DEAD_LETTER_STATUS_REPLAYED,
    pb.DEAD_LETTER_STATUS_DISCARDED,
)


@pytest.fixture(scope="module")
async def staff(laurel: Laurel) -> Caller:
    return await laurel.caller(await laurel.new_key(CallerKind.STAFF, scopes=["deadletters.*"]))


@pytest.fixture
def consumer() -> str:
    """A name that no other test has."""
    return f"test-{uuid4().hex[:8]}"


async def wanted_delivery(laurel: Laurel, channel: str) -> str:
    """A delivery that nobody has tried yet."""
    wanted = Wanted(
        program_id=laurel.program.program_id,
        delivery_id=new_id(),
        member_id=UUID(int=0),
        channel=channel,
        target=f"{channel}/partner",
        dedup_key=uuid4().hex,
        content={"event": "points.earned"},
    )
    async with laurel.database.transaction() as connection:
        await deliveries.add(connection, [wanted])
    return str(wanted.delivery_id)


async def dead_delivery(laurel: Laurel, channel: str) -> str:
    """A delivery that failed with every attempt."""
    delivery_id = await wanted_delivery(laurel, channel)
    async with laurel.database.connection() as connection:
        await connection.execute(
            """UPDATE delivery SET status = 'dead', finished_at = now(), attempts = 7, last_error = '503'
                WHERE delivery_id = $1""",
            delivery_id,
        )
    return delivery_id


async def arrives(laurel: Laurel, delivery_id: str) -> None:
    """As a worker writes it down."""
    async with laurel.database.connection() as connection:
        await connection.execute(
            "UPDATE delivery SET status = 'sent', finished_at = now() WHERE delivery_id = $1", delivery_id
        )


async def listed(staff: Caller, consumer: str, status: pb.DeadLetterStatus.ValueType) -> list[str]:
    request = pb.ListDeadLettersRequest(consumer=consumer, status=status)
    return [d.dead_letter_id for d in (await staff.dead_letters.ListDeadLetters(request)).dead_letters]


async def get(staff: Caller, dead_letter_id: str) -> pb.DeadLetter:
    request = pb.GetDeadLetterRequest(dead_letter_id=dead_letter_id)
    return (await staff.dead_letters.GetDeadLetter(request)).dead_letter


async def test_events_and_deliveries_are_listed_together_page_by_page(
    laurel: Laurel, staff: Caller, consumer: str
) -> None:
    member_id = await laurel.register()
    facts = {"program_id": laurel.program.program_id, "member_id": UUID(member_id)}
    died = [str(i) for i in await buried(laurel.database, consumer, 2, **facts)]
    died.append(await dead_delivery(laurel, consumer))
    died += [str(i) for i in await buried(laurel.database, consumer, 1, **facts)]

    request = pb.ListDeadLettersRequest(consumer=consumer, page_size=3)
    first = await staff.dead_letters.ListDeadLetters(request)
    request.page_token = first.next_page_token
    second = await staff.dead_letters.ListDeadLetters(request)
    assert second.next_page_token == ""
    found = [*first.dead_letters, *second.dead_letters]
    assert [dead.dead_letter_id for dead in found] == died[::-1]
    event, delivery = found[0], found[1]
    assert (event.kind, event.status, event.member_id) == (pb.DEAD_LETTER_KIND_EVENT, DEAD, member_id)
    assert (event.event_type, event.error, event.attempts) == ("test.happened", "KeyError", 1)
    assert delivery.kind == pb.DEAD_LETTER_KIND_DELIVERY
    assert (delivery.target, delivery.error, delivery.attempts) == (f"{consumer}/partner", "503", 7)
    assert (await get(staff, delivery.dead_letter_id)).content["event"] == "points.earned"

    request.page_token, request.consumer = first.next_page_token, "another"
    assert (await refusal(staff.dead_letters.ListDeadLetters(request))).reason == "PAGE_TOKEN_INVALID"


async def test_what_is_replayed_takes_effect_once(laurel: Laurel, staff: Caller, consumer: str) -> None:
    async with laurel.database.connection() as connection:
        await connection.execute(NOTED)
    [dead_letter_id] = await buried(laurel.database, consumer, program_id=laurel.program.program_id)
    request = pb.ReplayDeadLetterRequest(dead_letter_id=str(dead_letter_id))
    replying = [(await staff.dead_letters.ReplayDeadLetter(request)).dead_letter for _ in range(2)]
    assert [dead.status for dead in replying] == [REPLAYING, REPLAYING]
    assert replying[0].settler.startswith("staff:")

    subscription = Subscription(noting(consumer), from_beginning=False)
    async with relaying(laurel.database, {consumer: subscription}):

        async def settled() -> bool:
            return (await get(staff, str(dead_letter_id))).status == REPLAYED

        await eventually(settled, 30.0)
    again = (await staff.dead_letters.ReplayDeadLetter(request)).dead_letter
    assert again.status == REPLAYED
    assert again.HasField("settle_time")
    assert [str(i) for i in await noted(laurel.database, consumer)] == [again.event_id]
    assert (
        await refusal(
            staff.dead_letters.DiscardDeadLetter(
                pb.DiscardDeadLetterRequest(dead_letter_id=str(dead_letter_id))
            )
        )
    ).reason == "DEAD_LETTER_SETTLED"


async def test_what_is_discarded_stays_discarded(laurel: Laurel, staff: Caller, consumer: str) -> None:
    [event] = await buried(laurel.database, consumer, program_id=laurel.program.program_id)
    for dead_letter_id in (str(event), await dead_delivery(laurel, consumer)):
        discard = pb.DiscardDeadLetterRequest(dead_letter_id=dead_letter_id)
        for _ in range(2):
            found = (await staff.dead_letters.DiscardDeadLetter(discard)).dead_letter
            assert found.status == DISCARDED
        assert (
            await refusal(
                staff.dead_letters.ReplayDeadLetter(pb.ReplayDeadLetterRequest(dead_letter_id=dead_letter_id))
            )
        ).reason == "DEAD_LETTER_SETTLED"
    waiting = await staff.dead_letters.ListDeadLetters(pb.ListDeadLettersRequest(consumer=consumer))
    assert list(waiting.dead_letters) == []
    request = pb.ListDeadLettersRequest(consumer=consumer, status=DISCARDED)
    assert len((await staff.dead_letters.ListDeadLetters(request)).dead_letters) == 2


async def test_a_dead_delivery_is_sent_anew_under_its_id(
    laurel: Laurel, staff: Caller, consumer: str
) -> None:
    dead_letter_id = await dead_delivery(laurel, consumer)
    request = pb.ReplayDeadLetterRequest(dead_letter_id=dead_letter_id)
    assert (await staff.dead_letters.ReplayDeadLetter(request)).dead_letter.status == REPLAYING
    async with laurel.database.connection() as connection:
        claimed = await deliveries.claim(
            connection, [consumer], {}, at_once=9, per_target=9, lease_seconds=60.0
        )
    assert [str(delivery.delivery_id) for delivery in claimed] == [dead_letter_id]
    assert await listed(staff, consumer, REPLAYING) == [dead_letter_id]
    await arrives(laurel, dead_letter_id)
    assert await listed(staff, consumer, REPLAYING) == []
    assert await listed(staff, consumer, REPLAYED) == [dead_letter_id]
    found = await get(staff, dead_letter_id)
    assert found.die_time.ToDatetime() < found.settle_time.ToDatetime()


async def test_a_delivery_that_was_never_dead_is_no_dead_letter(
    laurel: Laurel, staff: Caller, consumer: str
) -> None:
    delivery_id = await wanted_delivery(laurel, consumer)
    show = pb.GetDeadLetterRequest(dead_letter_id=delivery_id)
    assert (await refusal(staff.dead_letters.GetDeadLetter(show))).reason == "DEAD_LETTER_NOT_FOUND"
    await arrives(laurel, delivery_id)
    assert (await refusal(staff.dead_letters.GetDeadLetter(show))).reason == "DEAD_LETTER_NOT_FOUND"
    # Also once somebody has it sent again.
    async with laurel.database.connection() as connection:
        assert await deliveries.replay(connection, laurel.program.program_id, UUID(delivery_id))
    replay = pb.ReplayDeadLetterRequest(dead_letter_id=delivery_id)
    assert (await refusal(staff.dead_letters.ReplayDeadLetter(replay))).reason == "DEAD_LETTER_NOT_FOUND"
    assert await listed(staff, consumer, REPLAYING) == []


async def test_other_programs_and_callers_are_kept_out(laurel: Laurel, consumer: str) -> None:
    [dead_letter_id] = await buried(laurel.database, consumer, program_id=laurel.program.program_id)
    foreign = await new_program(laurel.database)
    key = await new_key(laurel.database, foreign, CallerKind.STAFF, scopes=["deadletters.*"])
    stranger = await laurel.caller(key)
    for method, request in (
        (stranger.dead_letters.GetDeadLetter, pb.GetDeadLetterRequest),
        (stranger.dead_letters.ReplayDeadLetter, pb.ReplayDeadLetterRequest),
        (stranger.dead_letters.DiscardDeadLetter, pb.DiscardDeadLetterRequest),
    ):
        assert (
            await refusal(method(request(dead_letter_id=str(dead_letter_id))))
        ).reason == "DEAD_LETTER_NOT_FOUND"
    listed = await stranger.dead_letters.ListDeadLetters(pb.ListDeadLettersRequest())
    assert list(listed.dead_letters) == []
    for caller in (laurel.terminal, laurel.service, laurel.staff):
        refused = await refusal(caller.dead_letters.ListDeadLetters(pb.ListDeadLettersRequest()))
        assert refused.code is grpc.StatusCode.PERMISSION_DENIED
