"""WebhookService: parse, act, render."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from uuid import UUID

from loyalty.v1 import webhooks_pb2 as pb

from server.domain.deliveries import NOBODY, DeliveryStatus
from server.domain.webhooks import DEFAULT_OVERLAP, MAX_OVERLAP, MAX_PATTERNS, MAX_URL, EndpointStatus
from server.operations.webhooks import Shown, Webhooks
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.pages import Pages
from server.store.deliveries import Stored, Tried

MAX_TEXT = 200
MAX_PATTERN = 64

STATUSES: Mapping[EndpointStatus, pb.WebhookStatus.ValueType] = MappingProxyType(
    {
        EndpointStatus.ENABLED: pb.WEBHOOK_STATUS_ENABLED,
        EndpointStatus.DISABLED: pb.WEBHOOK_STATUS_DISABLED,
    }
)
DELIVERY_STATUSES: Mapping[DeliveryStatus, pb.WebhookDeliveryStatus.ValueType] = MappingProxyType(
    {
        DeliveryStatus.PENDING: pb.WEBHOOK_DELIVERY_STATUS_PENDING,
        DeliveryStatus.SENT: pb.WEBHOOK_DELIVERY_STATUS_SENT,
        DeliveryStatus.DEAD: pb.WEBHOOK_DELIVERY_STATUS_DEAD,
        DeliveryStatus.DISCARDED: pb.WEBHOOK_DELIVERY_STATUS_DISCARDED,
    }
)


class WebhookService:
    """The RPCs of WebhookService, called by the gate."""

    def __init__(self, webhooks: Webhooks, pages: Pages) -> None:
        self._webhooks = webhooks
        self._pages = pages

    async def RegisterWebhook(
        self, request: pb.RegisterWebhookRequest, call: Call
    ) -> pb.RegisterWebhookResponse:
        """Add an endpoint, and tell its secret."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        url = fields.text("url", request.url, max_length=MAX_URL)
        description = fields.text("description", request.description, max_length=MAX_TEXT, required=False)
        fields.count("event_types", len(request.event_types), 1, MAX_PATTERNS)
        for place, pattern in enumerate(request.event_types[:MAX_PATTERNS]):
            fields.text(f"event_types[{place}]", pattern, max_length=MAX_PATTERN)
        fields.check()
        event_types = tuple(dict.fromkeys(request.event_types))
        shown = await self._webhooks.register(call.actor, request_id, url, event_types, description)
        return pb.RegisterWebhookResponse(webhook=_webhook(shown), secret=shown.secret)

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, call: Call) -> pb.ListWebhooksResponse:
        """Page through the endpoints."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        filters = {"program": str(call.actor.program_id)}
        position = self._pages.decode("ListWebhooks", filters, request.page_token)
        found, more = await self._webhooks.page(
            call.actor.program_id, after=UUID(position[0]) if position else None, size=size
        )
        last = [str(found[-1].endpoint.endpoint_id)] if more else []
        return pb.ListWebhooksResponse(
            webhooks=[_webhook(shown) for shown in found],
            next_page_token=self._pages.encode("ListWebhooks", filters, last) if more else "",
        )

    async def GetWebhook(self, request: pb.GetWebhookRequest, call: Call) -> pb.GetWebhookResponse:
        """Show an endpoint."""
        shown = await self._webhooks.get(call.actor.program_id, _endpoint_id(request.endpoint_id))
        return pb.GetWebhookResponse(webhook=_webhook(shown))

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, call: Call
    ) -> pb.RotateWebhookSecretResponse:
        """Make another secret, and tell it."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        endpoint_id = fields.uuid("endpoint_id", request.endpoint_id)
        overlap = DEFAULT_OVERLAP
        if request.HasField("overlap"):
            # More than any timedelta can hold may be asked for.
            if not request.overlap.nanos and 0 <= request.overlap.seconds <= MAX_OVERLAP.total_seconds():
                overlap = timedelta(seconds=request.overlap.seconds)
            else:
                fields.add("overlap", f"must be 0 to {MAX_OVERLAP.days} days, in whole seconds")
        fields.check()
        shown = await self._webhooks.rotate(call.actor, request_id, endpoint_id, overlap)
        return pb.RotateWebhookSecretResponse(webhook=_webhook(shown), secret=shown.secret)

    async def EnableWebhook(self, request: pb.EnableWebhookRequest, call: Call) -> pb.EnableWebhookResponse:
        """Have it called again."""
        endpoint_id = _endpoint_id(request.endpoint_id)
        shown = await self._webhooks.set_status(call.actor, endpoint_id, EndpointStatus.ENABLED)
        return pb.EnableWebhookResponse(webhook=_webhook(shown))

    async def DisableWebhook(
        self, request: pb.DisableWebhookRequest, call: Call
    ) -> pb.DisableWebhookResponse:
        """Have it called no more."""
        fields = Fields()
        endpoint_id = fields.uuid("endpoint_id", request.endpoint_id)
        reason = fields.text("reason", request.reason, max_length=MAX_TEXT, required=False)
        fields.check()
        shown = await self._webhooks.set_status(call.actor, endpoint_id, EndpointStatus.DISABLED, reason)
        return pb.DisableWebhookResponse(webhook=_webhook(shown))

    async def RemoveWebhook(self, request: pb.RemoveWebhookRequest, call: Call) -> pb.RemoveWebhookResponse:
        """Forget it."""
        await self._webhooks.remove(call.actor, _endpoint_id(request.endpoint_id))
        return pb.RemoveWebhookResponse()

    async def TestWebhook(self, request: pb.TestWebhookRequest, call: Call) -> pb.TestWebhookResponse:
        """Have a test event sent."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        endpoint_id = fields.uuid("endpoint_id", request.endpoint_id)
        fields.check()
        return pb.TestWebhookResponse(
            delivery=_delivery(await self._webhooks.test(call.actor, request_id, endpoint_id))
        )

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, call: Call
    ) -> pb.ListWebhookDeliveriesResponse:
        """Page through what was and is to be sent."""
        fields = Fields()
        endpoint_id = fields.uuid("endpoint_id", request.endpoint_id)
        size = fields.page_size("page_size", request.page_size)
        status = _status(fields, request.status)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "endpoint_id": str(endpoint_id),
            "status": status or "",
        }
        position = self._pages.decode("ListWebhookDeliveries", filters, request.page_token)
        found, more = await self._webhooks.deliveries(
            call.actor.program_id,
            endpoint_id,
            before=UUID(position[0]) if position else None,
            status=status,
            size=size,
        )
        call.touched.extend(stored.member_id for stored in found if stored.member_id != NOBODY)
        last = [str(found[-1].delivery_id)] if more else []
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[_delivery(stored) for stored in found],
            next_page_token=self._pages.encode("ListWebhookDeliveries", filters, last) if more else "",
        )

    async def GetWebhookDelivery(
        self, request: pb.GetWebhookDeliveryRequest, call: Call
    ) -> pb.GetWebhookDeliveryResponse:
        """Show a delivery."""
        found = await self._webhooks.delivery(call.actor.program_id, _delivery_id(request.delivery_id))
        return pb.GetWebhookDeliveryResponse(delivery=_touching(found, call))

    async def RedeliverWebhook(
        self, request: pb.RedeliverWebhookRequest, call: Call
    ) -> pb.RedeliverWebhookResponse:
        """Send it again."""
        found = await self._webhooks.redeliver(call.actor.program_id, _delivery_id(request.delivery_id))
        return pb.RedeliverWebhookResponse(delivery=_touching(found, call))


def _endpoint_id(value: str) -> UUID:
    fields = Fields()
    endpoint_id = fields.uuid("endpoint_id", value)
    fields.check()
    return endpoint_id


def _delivery_id(value: str) -> UUID:
    fields = Fields()
    delivery_id = fields.uuid("delivery_id", value)
    fields.check()
    return delivery_id


def _status(fields: Fields, value: int) -> DeliveryStatus | None:
    if value == pb.WEBHOOK_DELIVERY_STATUS_UNSPECIFIED:
        return None
    found = next((status for status, number in DELIVERY_STATUSES.items() if number == value), None)
    if found is None:
        fields.add("status", "must be a WebhookDeliveryStatus")
    return found


def _webhook(shown: Shown) -> pb.Webhook:
    endpoint = shown.endpoint
    message = pb.Webhook(
        endpoint_id=str(endpoint.endpoint_id),
        url=endpoint.url,
        description=endpoint.description,
        event_types=endpoint.event_types,
        status=STATUSES[endpoint.status],
        disabled_reason=endpoint.disabled_reason,
        creator=endpoint.created_by,
    )
    message.create_time.FromDatetime(endpoint.created_at)
    if endpoint.failing_since is not None:
        message.failing_since_time.FromDatetime(endpoint.failing_since)
    for secret in shown.secrets:
        told = message.secrets.add()
        told.create_time.FromDatetime(secret.created_at)
        if secret.expires_at is not None:
            told.expire_time.FromDatetime(secret.expires_at)
    return message


def _touching(stored: Stored, call: Call) -> pb.WebhookDelivery:
    if stored.member_id != NOBODY:
        call.touched.append(stored.member_id)
    return _delivery(stored)


def _delivery(stored: Stored) -> pb.WebhookDelivery:
    message = pb.WebhookDelivery(
        delivery_id=str(stored.delivery_id),
        endpoint_id=stored.content["endpoint_id"],
        event_type=stored.content["event_type"],
        member_id="" if stored.member_id == NOBODY else str(stored.member_id),
        status=DELIVERY_STATUSES[stored.status],
        attempts=[_attempt(tried) for tried in stored.tried],
    )
    message.create_time.FromDatetime(stored.created_at)
    if stored.finished_at is not None:
        message.finish_time.FromDatetime(stored.finished_at)
    else:
        message.next_attempt_time.FromDatetime(stored.next_attempt_at)
    return message


def _attempt(tried: Tried) -> pb.WebhookAttempt:
    message = pb.WebhookAttempt(status_code=int(tried.response or 0), error=tried.error)
    message.attempt_time.FromDatetime(tried.attempted_at)
    message.latency.FromMilliseconds(tried.milliseconds)
    return message
