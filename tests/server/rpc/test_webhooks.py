"""WebhookService, over gRPC."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from loyalty.v1 import webhooks_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.domain.deliveries import NOBODY, Permanent, Wanted, judge
from server.domain.webhooks import CHANNEL, MAX_ENDPOINTS, MAX_SECRETS
from server.ids import new_id, parsed
from server.operations.webhooks import Webhooks
from server.store import deliveries
from server.store.deliveries import Attempt
from server.store.sealing import Sealer
from server.store.webhooks import target_of
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel

URL = "https://partner.example/hooks"


@dataclass(frozen=True)
class Desk:
    """Somebody who may keep webhooks."""

    laurel: Laurel
    staff: Caller

    async def register(self, request_id: str = "", url: str = URL, **more: Any) -> pb.RegisterWebhookResponse:
        request = pb.RegisterWebhookRequest(
            request_id=request_id or uuid4().hex, url=url, **{"event_types": ["points.*"], **more}
        )
        return await self.staff.webhooks.RegisterWebhook(request)

    async def rotate(self, endpoint_id: str, request_id: str = "") -> pb.RotateWebhookSecretResponse:
        request = pb.RotateWebhookSecretRequest(request_id=request_id or uuid4().hex, endpoint_id=endpoint_id)
        return await self.staff.webhooks.RotateWebhookSecret(request)

    async def show(self, endpoint_id: str) -> pb.Webhook:
        request = pb.GetWebhookRequest(endpoint_id=endpoint_id)
        return (await self.staff.webhooks.GetWebhook(request)).webhook


@pytest.fixture
async def desk(laurel: Laurel) -> AsyncIterator[Desk]:
    key = await laurel.new_key(CallerKind.STAFF, scopes=["webhooks.*"])
    yield Desk(laurel, await laurel.caller(key))
    async with laurel.database.connection() as connection:
        await connection.execute("UPDATE webhook_endpoint SET status = 'removed'")


async def test_a_secret_is_told_once_and_stored_sealed(desk: Desk) -> None:
    request_id = uuid4().hex
    made = await desk.register(request_id, description="the partner")
    prefix, _, secret = made.secret.partition("_")
    assert (prefix, len(base64.b64decode(secret))) == ("whsec", 32)
    assert made.webhook.event_types == ["points.*"]
    assert (made.webhook.description, made.webhook.status) == ("the partner", pb.WEBHOOK_STATUS_ENABLED)
    assert made.webhook.creator.startswith("staff:")

    again = await desk.register(request_id, description="the partner")
    assert (again.webhook, again.secret) == (made.webhook, "")
    assert await desk.show(made.webhook.endpoint_id) == made.webhook
    async with desk.laurel.database.connection() as connection:
        rows = await connection.fetch("SELECT webhook_secret::text FROM webhook_secret")
        replies = await connection.fetch("SELECT reply::text FROM request_key")
    plain = base64.b64decode(secret)
    stored = " ".join(row[0] for row in [*rows, *replies])
    assert made.webhook.endpoint_id in stored
    assert plain.hex() not in stored
    assert secret not in stored


async def test_a_request_id_belongs_to_one_request(desk: Desk) -> None:
    request_id = uuid4().hex
    made = await desk.register(request_id)
    reused = await refusal(desk.register(request_id, url=f"{URL}/other"))
    assert reused.reason == "REQUEST_ID_REUSED"
    rotated = await desk.rotate(made.webhook.endpoint_id, request_id := uuid4().hex)
    again = await desk.rotate(made.webhook.endpoint_id, request_id)
    assert (again.secret, again.webhook) == ("", rotated.webhook)


async def test_a_rotation_keeps_the_secrets_before_for_a_while_but_not_without_end(desk: Desk) -> None:
    endpoint_id = (await desk.register()).webhook.endpoint_id
    made_secrets = {(await desk.rotate(endpoint_id)).secret for _ in range(MAX_SECRETS + 2)}
    assert len(made_secrets) == MAX_SECRETS + 2
    left = (await desk.show(endpoint_id)).secrets
    assert [secret.HasField("expire_time") for secret in left] == [False] + [True] * (MAX_SECRETS - 1)
    made, ends = left[1].create_time.ToDatetime(), left[1].expire_time.ToDatetime()
    assert 86_000 < (ends - made).total_seconds() < 87_000


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("overlap", {"overlap": {"seconds": -1}}),
        ("overlap", {"overlap": {"seconds": 31 * 86_400}}),
        ("overlap", {"overlap": {"seconds": 1, "nanos": 1}}),
        ("endpoint_id", {"endpoint_id": "x"}),
        ("request_id", {"request_id": ""}),
    ],
)
async def test_a_rotation_that_makes_no_sense_is_refused(
    desk: Desk, field: str, wrong: dict[str, Any]
) -> None:
    right = {"request_id": uuid4().hex, "endpoint_id": str(uuid4())}
    request = pb.RotateWebhookSecretRequest(**{**right, **wrong})
    refused = await refusal(desk.staff.webhooks.RotateWebhookSecret(request))
    assert list(refused.violations) == [field]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("url", {"url": "http://partner.example/"}),
        ("url", {"url": ""}),
        ("event_types", {"event_types": []}),
        ("event_types", {"event_types": ["*"] * 51}),
        ("event_types[1]", {"event_types": ["*", "orders.*"]}),
        ("event_types[0]", {"event_types": [""]}),
        ("description", {"description": "x" * 201}),
    ],
)
async def test_an_endpoint_that_makes_no_sense_is_refused(
    desk: Desk, field: str, wrong: dict[str, Any]
) -> None:
    refused = await refusal(desk.register(**wrong))
    assert (refused.code, list(refused.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_nobody_reaches_endpoints_of_another_program(desk: Desk) -> None:
    made = await desk.register()
    other = await new_program(desk.laurel.database)
    key = await new_key(desk.laurel.database, other, CallerKind.STAFF, scopes=["webhooks.*"])
    stranger = (await desk.laurel.caller(key)).webhooks
    endpoint_id = made.webhook.endpoint_id
    request_id = uuid4().hex
    for call in (
        stranger.GetWebhook(pb.GetWebhookRequest(endpoint_id=endpoint_id)),
        stranger.EnableWebhook(pb.EnableWebhookRequest(endpoint_id=endpoint_id)),
        stranger.DisableWebhook(pb.DisableWebhookRequest(endpoint_id=endpoint_id)),
        stranger.RemoveWebhook(pb.RemoveWebhookRequest(endpoint_id=endpoint_id)),
        stranger.ListWebhookDeliveries(pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id)),
        stranger.TestWebhook(pb.TestWebhookRequest(request_id=request_id, endpoint_id=endpoint_id)),
        stranger.RotateWebhookSecret(
            pb.RotateWebhookSecretRequest(request_id=request_id, endpoint_id=endpoint_id)
        ),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "WEBHOOK_NOT_FOUND")
    assert (await stranger.ListWebhooks(pb.ListWebhooksRequest())).webhooks == []


async def test_who_may_read_may_not_change_and_tills_may_neither(desk: Desk) -> None:
    reader = await desk.laurel.caller(await desk.laurel.new_key(CallerKind.STAFF, scopes=["webhooks.read"]))
    await reader.webhooks.ListWebhooks(pb.ListWebhooksRequest())
    request = pb.RegisterWebhookRequest(request_id=uuid4().hex, url=URL, event_types=["*"])
    assert (await refusal(reader.webhooks.RegisterWebhook(request))).reason == "SCOPE_MISSING"
    for caller in (desk.laurel.terminal, desk.laurel.service):
        refused = await refusal(caller.webhooks.ListWebhooks(pb.ListWebhooksRequest()))
        assert refused.reason == "CALLER_NOT_ADMITTED"


async def test_endpoints_come_in_pages_and_a_removed_one_is_gone(desk: Desk) -> None:
    made = [(await desk.register()).webhook for _ in range(3)]
    first = await desk.staff.webhooks.ListWebhooks(pb.ListWebhooksRequest(page_size=2))
    rest = await desk.staff.webhooks.ListWebhooks(
        pb.ListWebhooksRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [*first.webhooks, *rest.webhooks] == made
    assert rest.next_page_token == ""

    removal = pb.RemoveWebhookRequest(endpoint_id=made[1].endpoint_id)
    await desk.staff.webhooks.RemoveWebhook(removal)
    assert (await refusal(desk.staff.webhooks.RemoveWebhook(removal))).reason == "WEBHOOK_NOT_FOUND"
    assert (await refusal(desk.show(made[1].endpoint_id))).reason == "WEBHOOK_NOT_FOUND"
    listing = pb.ListWebhookDeliveriesRequest(endpoint_id=made[1].endpoint_id)
    assert (await desk.staff.webhooks.ListWebhookDeliveries(listing)).deliveries == []
    listed = await desk.staff.webhooks.ListWebhooks(pb.ListWebhooksRequest())
    assert [webhook.endpoint_id for webhook in listed.webhooks] == [made[0].endpoint_id, made[2].endpoint_id]


async def test_what_is_disabled_says_why_until_it_is_enabled(desk: Desk) -> None:
    endpoint_id = (await desk.register()).webhook.endpoint_id
    disable = desk.staff.webhooks.DisableWebhook
    webhook = (await disable(pb.DisableWebhookRequest(endpoint_id=endpoint_id, reason="moving"))).webhook
    assert (webhook.status, webhook.disabled_reason) == (pb.WEBHOOK_STATUS_DISABLED, "moving")
    enabled = await desk.staff.webhooks.EnableWebhook(pb.EnableWebhookRequest(endpoint_id=endpoint_id))
    assert (enabled.webhook.status, enabled.webhook.disabled_reason) == (pb.WEBHOOK_STATUS_ENABLED, "")
    webhook = (await disable(pb.DisableWebhookRequest(endpoint_id=endpoint_id))).webhook
    assert webhook.disabled_reason.startswith("by staff:")


async def test_a_program_has_only_so_many(desk: Desk) -> None:
    async with desk.laurel.database.connection() as connection:
        await connection.execute(
            """INSERT INTO webhook_endpoint (program_id, endpoint_id, url, description, event_types, status,
                                             created_at, created_by)
               SELECT $1, gen_random_uuid(), '', '', '{}', 'enabled', now(), ''
                 FROM generate_series(1, $2)""",
            desk.laurel.program.program_id,
            MAX_ENDPOINTS,
        )
    assert list((await refusal(desk.register())).violations) == ["url"]


async def test_deliveries_show_their_attempts_and_are_sent_again(desk: Desk) -> None:
    database, program_id = desk.laurel.database, desk.laurel.program.program_id
    endpoint_id = (await desk.register()).webhook.endpoint_id
    member_id = await desk.laurel.register()
    content = {"endpoint_id": endpoint_id, "event_type": "points.earned", "place": [1, 2, 3]}
    wanted = [
        Wanted(
            program_id=program_id,
            delivery_id=new_id(),
            channel=CHANNEL,
            target=target_of(parsed(endpoint_id)),
            dedup_key=uuid4().hex,
            content=content,
            member_id=parsed(member_id) if number else NOBODY,
        )
        for number in range(3)
    ]
    async with database.connection() as connection:
        await deliveries.add(connection, wanted)
        (taken,) = await deliveries.claim(
            connection, [CHANNEL], {}, at_once=1, per_target=1, lease_seconds=60
        )
        failure = Permanent("no", "400")
        attempt = Attempt(
            delivery=taken,
            attempted_at=datetime.now(UTC),
            milliseconds=1500,
            outcome=failure.outcome,
            response=failure.response,
            error=failure.error,
            verdict=judge(1, failure, 0.5),
        )
        await deliveries.record(connection, [attempt])
    listing = pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id, page_size=2)
    first = await desk.staff.webhooks.ListWebhookDeliveries(listing)
    listing.page_token = first.next_page_token
    rest = await desk.staff.webhooks.ListWebhookDeliveries(listing)
    found = [*first.deliveries, *rest.deliveries]
    assert [d.delivery_id for d in found] == [str(w.delivery_id) for w in reversed(wanted)]
    assert [d.member_id for d in found] == [member_id, member_id, ""]
    dead = pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id, status=pb.WEBHOOK_DELIVERY_STATUS_DEAD)
    (delivery,) = (await desk.staff.webhooks.ListWebhookDeliveries(dead)).deliveries
    (tried,) = delivery.attempts
    assert (tried.status_code, tried.error, tried.latency.ToMilliseconds()) == (400, "no", 1500)

    again = pb.RedeliverWebhookRequest(delivery_id=delivery.delivery_id)
    disabling = pb.DisableWebhookRequest(endpoint_id=endpoint_id)
    await desk.staff.webhooks.DisableWebhook(disabling)
    refused = await refusal(desk.staff.webhooks.RedeliverWebhook(again))
    assert (refused.reason, refused.metadata) == ("WEBHOOK_NOT_ENABLED", {"status": "disabled"})
    await desk.staff.webhooks.EnableWebhook(pb.EnableWebhookRequest(endpoint_id=endpoint_id))
    redelivered = (await desk.staff.webhooks.RedeliverWebhook(again)).delivery
    assert redelivered.status == pb.WEBHOOK_DELIVERY_STATUS_PENDING
    assert len(redelivered.attempts) == 1

    nothing = pb.GetWebhookDeliveryRequest(delivery_id=str(uuid4()))
    assert (await refusal(desk.staff.webhooks.GetWebhookDelivery(nothing))).reason == "DELIVERY_NOT_FOUND"


async def test_what_an_endpoint_took_is_forgotten_after_a_month(desk: Desk) -> None:
    database, program_id = desk.laurel.database, desk.laurel.program.program_id
    now = datetime.now(UTC)
    endpoint_id = (await desk.register()).webhook.endpoint_id
    ages = {"sent": 31, "discarded": 31, "dead": 31, "pending": 31, "kept": 29}
    ids = {}
    for status, days in ages.items():
        made = now - timedelta(days=days)
        ids[status] = UUID(int=(int(made.timestamp() * 1000) << 80) | uuid4().int >> 48)
        wanted = Wanted(
            program_id=program_id,
            delivery_id=ids[status],
            channel=CHANNEL,
            target=target_of(parsed(endpoint_id)),
            dedup_key=uuid4().hex,
            content={"endpoint_id": endpoint_id, "event_type": "points.earned", "place": [1, 2, 3]},
        )
        async with database.connection() as connection:
            await deliveries.add(connection, [wanted])
            await connection.execute(
                """UPDATE delivery
                      SET status = $2, finished_at = CASE WHEN $2 <> 'pending' THEN $3::timestamptz END
                    WHERE delivery_id = $1""",
                ids[status],
                "sent" if status == "kept" else status,
                made,
            )
    sealer = Sealer(secrets.load(desk.laurel.settings.secrets_file))
    webhooks = Webhooks(database, sealer, lambda: now)
    assert await webhooks.forget(program_id) == 2
    assert await webhooks.forget(program_id) == 0
    listing = pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id)
    left = (await desk.staff.webhooks.ListWebhookDeliveries(listing)).deliveries
    assert {d.delivery_id for d in left} == {str(ids[status]) for status in ("dead", "pending", "kept")}


async def test_looking_at_deliveries_about_members_leaves_a_trace(desk: Desk) -> None:
    endpoint_id = (await desk.register()).webhook.endpoint_id
    member_id = await desk.laurel.register()
    wanted = Wanted(
        program_id=desk.laurel.program.program_id,
        delivery_id=new_id(),
        channel=CHANNEL,
        target=target_of(parsed(endpoint_id)),
        dedup_key=uuid4().hex,
        content={"endpoint_id": endpoint_id, "event_type": "points.earned", "place": [1, 2, 3]},
        member_id=parsed(member_id),
    )
    async with desk.laurel.database.connection() as connection:
        await deliveries.add(connection, [wanted])
        listing = pb.ListWebhookDeliveriesRequest(endpoint_id=endpoint_id)
        await desk.staff.webhooks.ListWebhookDeliveries(listing)
        seen = await connection.fetchval(
            "SELECT method FROM access_audit WHERE member_ids @> ARRAY[$1::uuid]", parsed(member_id)
        )
    assert seen == "loyalty.v1.WebhookService.ListWebhookDeliveries"
