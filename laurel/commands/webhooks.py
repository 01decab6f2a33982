"""`laurel webhooks`: where partners hear of what happens."""

import time
from collections.abc import Iterable
from datetime import timedelta

import click
from loyalty.v1 import webhooks_pb2

from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import request_id
from laurel.commands.options import json_option, request_option, span
from laurel.failures import Failure
from laurel.output import as_dict, moment, show_fields, show_json, show_table

PAGE = 500
STATUSES = ("pending", "sent", "dead", "discarded")
PREFIX, DELIVERY_PREFIX = "WEBHOOK_STATUS_", "WEBHOOK_DELIVERY_STATUS_"
ONCE = "The secret is shown this once; whoever verifies the calls needs it."
LOOK_SECONDS = 0.2


@click.group()
def webhooks() -> None:
    """Webhooks: tell partners what happens, by signed calls."""


@webhooks.command()
@click.argument("url")
@click.option(
    "--event", "events", multiple=True, default=("*",), help="A type or pattern; repeat it for more."
)
@click.option("--description", default="", help="Whose it is, or what it is for.")
@request_option
@program_option
@json_option
def add(
    *,
    url: str,
    events: tuple[str, ...],
    description: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Register an endpoint, and show its secret.

    \b
    laurel webhooks add https://partner.example/hooks --event 'points.*' --event member.tier_changed
    """
    request = webhooks_pb2.RegisterWebhookRequest(
        request_id=request_id(given_request_id), url=url, event_types=events, description=description
    )
    with connect("staff", program) as client:
        reply = client.call(client.webhooks.RegisterWebhook, request)
    if as_json:
        show_json(reply)
        return
    show_fields((("endpoint", reply.webhook.endpoint_id), ("secret", reply.secret)))
    click.echo(ONCE, err=True)


@webhooks.command(name="list")
@program_option
@json_option
def list_(*, program: str, as_json: bool) -> None:
    """List the endpoints, oldest first."""
    found: list[webhooks_pb2.Webhook] = []
    request = webhooks_pb2.ListWebhooksRequest(page_size=PAGE)
    with connect("staff", program) as client:
        while True:
            page = client.call(client.webhooks.ListWebhooks, request)
            found += page.webhooks
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(webhook) for webhook in found])
        return
    show_table(
        ("ENDPOINT", "URL", "EVENTS", "STATUS", "DESCRIPTION"),
        [(w.endpoint_id, w.url, ", ".join(w.event_types), _state(w), w.description) for w in found],
    )


@webhooks.command()
@click.argument("endpoint")
@program_option
@json_option
def show(*, endpoint: str, program: str, as_json: bool) -> None:
    """Show an endpoint."""
    with connect("staff", program) as client:
        request = webhooks_pb2.GetWebhookRequest(endpoint_id=endpoint)
        webhook = client.call(client.webhooks.GetWebhook, request).webhook
    _show(webhook, as_json)


@webhooks.command()
@click.argument("endpoint")
@click.option(
    "--overlap",
    callback=span,
    metavar="SPAN",
    help="How long the secret of now signs too, such as 2h or 7d; a day, if left out.",
)
@click.option("--at-once", is_flag=True, help="The secret of now signs nothing more, as when it leaked.")
@request_option
@program_option
@json_option
def rotate(
    *,
    endpoint: str,
    overlap: timedelta | None,
    at_once: bool,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Make another secret, and show it. For a while calls are signed with both."""
    if at_once and overlap is not None:
        raise click.UsageError("either --overlap or --at-once")
    request = webhooks_pb2.RotateWebhookSecretRequest(
        request_id=request_id(given_request_id), endpoint_id=endpoint
    )
    if at_once:
        request.overlap.seconds = 0
    elif overlap is not None:
        request.overlap.FromTimedelta(overlap)
    with connect("staff", program) as client:
        reply = client.call(client.webhooks.RotateWebhookSecret, request)
    if as_json:
        show_json(reply)
        return
    before = max((moment(s.expire_time) for s in reply.webhook.secrets[1:]), default="")
    show_fields((("secret", reply.secret), ("the one before signs until", before)))
    click.echo(ONCE, err=True)


@webhooks.command()
@click.argument("endpoint")
@program_option
@json_option
def enable(*, endpoint: str, program: str, as_json: bool) -> None:
    """Have an endpoint called again. What happens from now on is sent to it."""
    with connect("staff", program) as client:
        request = webhooks_pb2.EnableWebhookRequest(endpoint_id=endpoint)
        webhook = client.call(client.webhooks.EnableWebhook, request).webhook
    _show(webhook, as_json)


@webhooks.command()
@click.argument("endpoint")
@click.option("--reason", default="", help="Why.")
@program_option
@json_option
def disable(*, endpoint: str, reason: str, program: str, as_json: bool) -> None:
    """Have an endpoint called no more. What is on its way to it is dead."""
    with connect("staff", program) as client:
        request = webhooks_pb2.DisableWebhookRequest(endpoint_id=endpoint, reason=reason)
        webhook = client.call(client.webhooks.DisableWebhook, request).webhook
    _show(webhook, as_json)


@webhooks.command()
@click.argument("endpoint")
@program_option
def remove(*, endpoint: str, program: str) -> None:
    """Forget an endpoint; what is on its way to it is discarded."""
    with connect("staff", program) as client:
        client.call(client.webhooks.RemoveWebhook, webhooks_pb2.RemoveWebhookRequest(endpoint_id=endpoint))
    click.echo("removed")


@webhooks.command()
@click.argument("endpoint")
@click.option("--seconds", type=click.FloatRange(0), default=20, show_default=True, help="Wait so long.")
@program_option
@json_option
def test(*, endpoint: str, seconds: float, program: str, as_json: bool) -> None:
    """Send an endpoint a test event, and show what it answers."""
    request = webhooks_pb2.TestWebhookRequest(request_id=request_id(None), endpoint_id=endpoint)
    with connect("staff", program) as client:
        delivery = client.call(client.webhooks.TestWebhook, request).delivery
        until = time.monotonic() + seconds
        while not delivery.attempts and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            delivery = _delivery(client, delivery.delivery_id)
    if as_json:
        show_json(delivery)
    elif delivery.attempts:
        _show_deliveries([delivery])
    if not delivery.attempts:
        raise Failure("nothing was sent yet: does a worker run? `laurel up` starts one, `laurel worker` too")
    if delivery.status != webhooks_pb2.WEBHOOK_DELIVERY_STATUS_SENT:
        raise Failure("the endpoint did not take it; it is tried again")


@webhooks.command()
@click.argument("endpoint")
@click.option("--status", type=click.Choice(STATUSES), help="Only of this status.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def deliveries(*, endpoint: str, status: str | None, limit: int, program: str, as_json: bool) -> None:
    """List what was and is to be sent to an endpoint. Newest first, with each attempt."""
    found: list[webhooks_pb2.WebhookDelivery] = []
    request = webhooks_pb2.ListWebhookDeliveriesRequest(endpoint_id=endpoint)
    if status is not None:
        request.status = webhooks_pb2.WebhookDeliveryStatus.Value(f"{DELIVERY_PREFIX}{status.upper()}")
    with connect("staff", program) as client:
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.webhooks.ListWebhookDeliveries, request)
            found += page.deliveries
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(delivery) for delivery in found])
        return
    _show_deliveries(found)


@webhooks.command()
@click.argument("delivery")
@program_option
@json_option
def redeliver(*, delivery: str, program: str, as_json: bool) -> None:
    """Send a delivery again, under the same webhook-id."""
    with connect("staff", program) as client:
        request = webhooks_pb2.RedeliverWebhookRequest(delivery_id=delivery)
        found = client.call(client.webhooks.RedeliverWebhook, request).delivery
    if as_json:
        show_json(found)
        return
    _show_deliveries([found])


def _delivery(client: Client, delivery_id: str) -> webhooks_pb2.WebhookDelivery:
    request = webhooks_pb2.GetWebhookDeliveryRequest(delivery_id=delivery_id)
    return client.call(client.webhooks.GetWebhookDelivery, request).delivery


def _state(webhook: webhooks_pb2.Webhook) -> str:
    state = webhooks_pb2.WebhookStatus.Name(webhook.status).removeprefix(PREFIX).lower()
    if webhook.disabled_reason:
        return f"{state}: {webhook.disabled_reason}"
    if webhook.HasField("failing_since_time"):
        return f"{state}, failing since {moment(webhook.failing_since_time)}"
    return state


def _show(webhook: webhooks_pb2.Webhook, as_json: bool) -> None:
    if as_json:
        show_json(webhook)
        return
    show_fields(
        (
            ("endpoint", webhook.endpoint_id),
            ("url", webhook.url),
            ("events", ", ".join(webhook.event_types)),
            ("status", _state(webhook)),
            ("description", webhook.description),
            ("registered", f"{moment(webhook.create_time)} by {webhook.creator}"),
            *(
                ("secret", f"of {moment(s.create_time)}, until {moment(s.expire_time) or 'the next'}")
                for s in webhook.secrets
            ),
        )
    )


def _show_deliveries(found: Iterable[webhooks_pb2.WebhookDelivery]) -> None:
    rows = []
    for delivery in found:
        status = webhooks_pb2.WebhookDeliveryStatus.Name(delivery.status)
        first = (
            moment(delivery.create_time),
            delivery.event_type,
            status.removeprefix(DELIVERY_PREFIX).lower(),
            delivery.delivery_id,
        )
        tried = [
            (
                moment(attempt.attempt_time),
                attempt.status_code or "",
                f"{attempt.latency.ToMilliseconds()} ms",
                attempt.error,
            )
            for attempt in delivery.attempts
        ]
        for place, attempt in enumerate(tried or [("", "", "", "")]):
            rows.append((*(first if not place else ("", "", "", "")), *attempt))
    show_table(("MADE", "EVENT", "STATUS", "DELIVERY", "TRIED", "CODE", "TOOK>", "ERROR"), rows)
