"""Partners hear of what happens: signed, once, and in spite of outages on either side."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2
from loyalty.v1 import webhooks_pb2 as pb
from standardwebhooks.webhooks import WebhookVerificationError

from server.domain.actor import CallerKind
from server.domain.webhooks import FAILING_LIMIT
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import worker_settings_for
from tests.support.receivers import Received, listening
from tests.support.servers import Caller, Laurel, started
from tests.support.waiting import eventually
from tests.support.workers import ended, hasty_worker
from workers.deliveries import Pace
from workers.main import running

# Soon again, and soon given up.
QUICK = Pace(poll_seconds=0.1, waits=(0.05, 0.1))
SENT, DEAD = pb.WEBHOOK_DELIVERY_STATUS_SENT, pb.WEBHOOK_DELIVERY_STATUS_DEAD


@dataclass
class Partners:
    """A program with a worker, and staff who register endpoints."""

    laurel: Laurel
    staff: Caller

    async def register(self, url: str, *events: str) -> pb.RegisterWebhookResponse:
        request = pb.RegisterWebhookRequest(request_id=uuid4().hex, url=url, event_types=events or ["*"])
        return await self.staff.webhooks.RegisterWebhook(request)

    async def show(self, endpoint_id: str) -> pb.Webhook:
        request = pb.GetWebhookRequest(endpoint_id=endpoint_id)
        return (await self.staff.webhooks.GetWebhook(request)).webhook

    async def buy(self, member_id: str) -> points_pb2.AccrueResponse:
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=500),
        )
        return await self.laurel.terminal.points.Accrue(request)

    async def deliveries(self, endpoint_id: str) -> Sequence[pb.WebhookDelivery]:
        request = pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id)
        return (await self.staff.webhooks.ListWebhookDeliveries(request)).deliveries

    async def ended(self, endpoint_id: str, *statuses: int) -> list[pb.WebhookDelivery]:
        """The deliveries to it, when they are so many and have these statuses, the oldest first."""

        async def so() -> bool:
            found = await self.deliveries(endpoint_id)
            return sorted(delivery.status for delivery in found) == sorted(statuses)

        await eventually(so, 60)
        return list(reversed(await self.deliveries(endpoint_id)))


@pytest.fixture(scope="module")
async def server(settings: Settings, database: Database) -> AsyncIterator[Partners]:
    """The program, without a worker."""
    async with started(settings.model_copy(update={"webhook_loopback": True}), database) as laurel:
        key = await laurel.new_key(CallerKind.STAFF, scopes=["webhooks.*"])
        yield Partners(laurel, await laurel.caller(key))


@pytest.fixture(autouse=True)
async def nobody_is_left(server: Partners) -> AsyncIterator[None]:
    """Endpoints of one test are not called in the next."""
    yield
    for webhook in (await server.staff.webhooks.ListWebhooks(pb.ListWebhooksRequest())).webhooks:
        request = pb.RemoveWebhookRequest(endpoint_id=webhook.endpoint_id)
        await server.staff.webhooks.RemoveWebhook(request)


@pytest.fixture
async def partners(server: Partners) -> AsyncIterator[Partners]:
    """The program, with a worker."""
    async with running(worker_settings_for(server.laurel.settings), pace=QUICK):
        yield server


async def test_an_endpoint_hears_of_what_passes_its_filter_once(partners: Partners) -> None:
    async with listening() as receiver, listening() as other:
        hook = await partners.register(receiver.url("/hooks?of=laurel"), "points.*")
        await partners.register(other.url(), "member.tier_changed")
        member_id = await partners.laurel.register()
        bought = await partners.buy(member_id)
        await receiver.has(1)
        (delivery,) = await partners.ended(hook.webhook.endpoint_id, SENT)
        (call,) = receiver.received
        content = call.verified(hook.secret)
        assert content["type"] == "points.earned"
        assert content["data"]["member_id"] == member_id
        assert content["data"]["event_id"] == bought.event_id
        assert content["data"]["payload"]["activity"]["amount"] == "500"
        assert datetime.fromisoformat(content["timestamp"]) <= datetime.now(UTC)
        assert (call.path, call.message_id) == ("/hooks", delivery.delivery_id)
        assert call.headers["content-type"] == "application/json"
        (attempt,) = delivery.attempts
        assert (attempt.status_code, attempt.error, delivery.event_type) == (204, "", "points.earned")
        assert other.received == []


async def test_during_a_rotation_both_secrets_verify_and_afterwards_one(partners: Partners) -> None:
    async with listening() as receiver:
        hook = await partners.register(receiver.url(), "points.earned")
        endpoint_id = hook.webhook.endpoint_id
        member_id = await partners.laurel.register()

        async def rotate(**overlap: int) -> str:
            request = pb.RotateWebhookSecretRequest(request_id=uuid4().hex, endpoint_id=endpoint_id)
            if overlap:
                request.overlap.FromTimedelta(timedelta(**overlap))
            return (await partners.staff.webhooks.RotateWebhookSecret(request)).secret

        second = await rotate(hours=1)
        await partners.buy(member_id)
        await receiver.has(1)
        assert receiver.received[0].verified(hook.secret) == receiver.received[0].verified(second)
        shown = await partners.show(endpoint_id)
        assert [secret.HasField("expire_time") for secret in shown.secrets] == [False, True]

        third = await rotate(seconds=0)
        await partners.buy(member_id)
        await receiver.has(2)
        receiver.received[1].verified(third)
        for gone in (hook.secret, second):
            with pytest.raises(WebhookVerificationError):
                receiver.received[1].verified(gone)


async def test_a_receiver_that_is_dead_too_long_gets_it_when_it_is_sent_again(partners: Partners) -> None:
    async with listening(status=500) as receiver, listening() as neighbour:
        hook = await partners.register(receiver.url(), "points.earned")
        other = await partners.register(neighbour.url(), "points.earned")
        await partners.buy(await partners.laurel.register())
        (delivery,) = await partners.ended(hook.webhook.endpoint_id, DEAD)
        assert [(a.status_code, a.error) for a in delivery.attempts] == [(500, "answered 500")] * 3
        await partners.ended(other.webhook.endpoint_id, SENT)
        assert len(neighbour.received) == 1
        assert (await partners.show(hook.webhook.endpoint_id)).HasField("failing_since_time")

        receiver.status = 200
        again = pb.RedeliverWebhookRequest(delivery_id=delivery.delivery_id)
        await partners.staff.webhooks.RedeliverWebhook(again)
        (delivery,) = await partners.ended(hook.webhook.endpoint_id, SENT)
        assert {call.message_id for call in receiver.received} == {delivery.delivery_id}
        assert {call.body for call in receiver.received} == {receiver.received[0].body}
        receiver.received[-1].verified(hook.secret)
        assert not (await partners.show(hook.webhook.endpoint_id)).HasField("failing_since_time")


async def test_a_receiver_that_says_it_is_gone_is_asked_no_more(partners: Partners) -> None:
    async with listening(status=410) as receiver, listening() as neighbour:
        hook = await partners.register(receiver.url(), "points.earned")
        await partners.register(neighbour.url(), "points.earned")
        endpoint_id = hook.webhook.endpoint_id
        member_id = await partners.laurel.register()
        await partners.buy(member_id)
        await partners.ended(endpoint_id, DEAD)
        shown = await partners.show(endpoint_id)
        assert (shown.status, shown.disabled_reason) == (pb.WEBHOOK_STATUS_DISABLED, "answered 410 Gone")
        assert (await changes(partners, endpoint_id))[-1] == ("disabled", "laurel")
        await partners.buy(member_id)
        await neighbour.has(2)  # so it was decided who is to hear of it

        receiver.status = 200
        await partners.staff.webhooks.EnableWebhook(pb.EnableWebhookRequest(endpoint_id=endpoint_id))
        await partners.buy(member_id)
        await partners.ended(endpoint_id, DEAD, SENT)
        assert len(receiver.received) == 2


async def test_a_receiver_that_fails_for_days_is_disabled(partners: Partners) -> None:
    async with listening(status=503) as receiver:
        hook = await partners.register(receiver.url(), "points.earned")
        endpoint_id = hook.webhook.endpoint_id
        member_id = await partners.laurel.register()
        await partners.buy(member_id)
        await partners.ended(endpoint_id, DEAD)
        assert (await partners.show(endpoint_id)).status == pb.WEBHOOK_STATUS_ENABLED
        async with partners.laurel.database.connection() as connection:
            await connection.execute(
                """UPDATE webhook_endpoint SET failing_since = failing_since - $1::interval
                    WHERE endpoint_id = $2""",
                FAILING_LIMIT,
                endpoint_id,
            )
        await partners.buy(member_id)
        await partners.ended(endpoint_id, DEAD, DEAD)
        shown = await partners.show(endpoint_id)
        assert (shown.status, shown.disabled_reason) == (
            pb.WEBHOOK_STATUS_DISABLED,
            "took nothing for 5 days",
        )


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_kept_to(partners: Partners, status: int) -> None:
    async with listening(status=status, headers={"retry-after": "3600"}) as receiver:
        hook = await partners.register(receiver.url(), "points.earned")
        await partners.buy(await partners.laurel.register())
        await receiver.has(1)

        async def noted() -> bool:
            (delivery,) = await partners.deliveries(hook.webhook.endpoint_id)
            return bool(delivery.attempts)

        await eventually(noted, 60)
        (delivery,) = await partners.deliveries(hook.webhook.endpoint_id)
        wait = delivery.next_attempt_time.ToDatetime(UTC) - delivery.create_time.ToDatetime(UTC)
        assert timedelta(seconds=3600) <= wait < timedelta(seconds=3900)


async def test_a_test_shows_what_the_endpoint_answers_also_while_it_is_disabled(partners: Partners) -> None:
    async with listening() as receiver:
        hook = await partners.register(receiver.url(), "points.earned")
        endpoint_id = hook.webhook.endpoint_id
        await partners.staff.webhooks.DisableWebhook(pb.DisableWebhookRequest(endpoint_id=endpoint_id))
        request = pb.TestWebhookRequest(request_id=uuid4().hex, endpoint_id=endpoint_id)
        first = (await partners.staff.webhooks.TestWebhook(request)).delivery
        assert (await partners.staff.webhooks.TestWebhook(request)).delivery.delivery_id == first.delivery_id
        await partners.ended(endpoint_id, SENT)
        (call,) = receiver.received
        content = call.verified(hook.secret)
        assert (content["type"], content["data"]["payload"]) == ("webhook.test", {})
        assert call.message_id == first.delivery_id


async def test_what_is_on_its_way_to_a_removed_endpoint_is_discarded(server: Partners) -> None:
    async with listening() as receiver:
        hook = await server.register(receiver.url(), "points.earned")
        endpoint_id = hook.webhook.endpoint_id
        ping = pb.TestWebhookRequest(request_id=uuid4().hex, endpoint_id=endpoint_id)
        await server.staff.webhooks.TestWebhook(ping)
        await server.staff.webhooks.RemoveWebhook(pb.RemoveWebhookRequest(endpoint_id=endpoint_id))
        await server.ended(endpoint_id, pb.WEBHOOK_DELIVERY_STATUS_DISCARDED)
        async with server.laurel.database.connection() as connection:
            left = "SELECT count(*) FROM webhook_secret WHERE endpoint_id = $1"
            assert await connection.fetchval(left, endpoint_id) == 0
        assert receiver.received == []


async def test_what_happened_before_an_endpoint_came_is_not_for_it(server: Partners) -> None:
    async with listening() as receiver:
        member_id = await server.laurel.register()
        await server.buy(member_id)
        hook = await server.register(receiver.url(), "points.earned")
        bought = await server.buy(member_id)
        async with running(worker_settings_for(server.laurel.settings), pace=QUICK):
            await server.ended(hook.webhook.endpoint_id, SENT)
        (call,) = receiver.received
        assert call.verified(hook.secret)["data"]["event_id"] == bought.event_id


@pytest.mark.faults
async def test_a_worker_killed_before_it_wrote_it_down_repeats_it_under_the_same_id(
    server: Partners, tmp_path: Path
) -> None:
    workers: list[asyncio.subprocess.Process] = []

    async def kill_the_first(_: Received) -> None:
        if len(receiver.received) == 1:
            workers[0].send_signal(signal.SIGKILL)
            await workers[0].wait()

    async with AsyncExitStack() as opened:
        receiver = await opened.enter_async_context(listening(answer=kill_the_first))
        hook = await server.register(receiver.url(), "points.earned")
        await server.buy(await server.laurel.register())
        for _ in range(2):
            workers.append(await hasty_worker(server.laurel.settings, tmp_path))
            opened.push_async_callback(ended, workers[-1])
            await receiver.has(len(workers))
        (delivery,) = await server.ended(hook.webhook.endpoint_id, SENT)
        first, second = receiver.received
        assert first.message_id == second.message_id == delivery.delivery_id
        assert first.body == second.body
        first.verified(hook.secret)
        second.verified(hook.secret)


async def changes(partners: Partners, endpoint_id: str) -> list[tuple[str, str]]:
    """What the log says of the endpoint: what was done, and by whom."""
    async with partners.laurel.database.connection() as connection:
        rows = await connection.fetch(
            """SELECT payload ->> 'change', payload ->> 'actor' FROM event_log
                WHERE event_type = 'webhook.changed' AND payload ->> 'endpoint_id' = $1
                ORDER BY epoch, xid, position""",
            endpoint_id,
        )
    return [tuple(row) for row in rows]
