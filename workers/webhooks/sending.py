"""One call of a partner's endpoint: signed, bounded, and what its answer means."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import httpcore
import structlog

from server.domain.deliveries import NOBODY, Delivery, NotSent, Permanent, Temporary, Unwanted
from server.domain.events import WebhookChanged
from server.domain.webhooks import (
    FAILING_LIMIT,
    TEST_TYPE,
    Endpoint,
    EndpointStatus,
    Place,
    UrlError,
    body_of,
    place_of,
    signatures,
)
from server.ids import new_id
from server.store import events, webhooks
from server.store import log as event_log
from server.store.database import Database
from server.store.log import LoggedEvent, Position
from server.store.sealing import Sealer
from server.store.together import Question, ask, write
from workers.means import Means, Send
from workers.webhooks.connections import Forbidden, Resolver, pool

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
# So much of an answer is read, to keep its connection; nothing of it is kept.
MOST_ANSWER_BYTES = 4096
REST_SECONDS = 1.0
# Of a number in a header so many are read: enough to be too large.
MOST_DIGITS = 9
GONE = 410
NO_CONTENT = 204
# Their Retry-After counts.
BUSY = (429, 503)
ACTOR = "laurel"
TIMEOUTS = {
    "connect": CONNECT_SECONDS,
    "read": ANSWER_SECONDS,
    "write": ANSWER_SECONDS,
    "pool": CONNECT_SECONDS,
}
# What stands between us and an answer, said without anything that the other side chose.
FAILURES: Mapping[type[Exception], str] = MappingProxyType(
    {
        Forbidden: "its address is not public",
        UrlError: "its URL is not called",
        httpcore.ConnectTimeout: "no connection in time",
        httpcore.ConnectError: "no connection",
        httpcore.TimeoutException: "no answer in time",
        httpcore.NetworkError: "the connection broke",
        httpcore.ProtocolError: "its answer is not HTTP",
    }
)

log = structlog.get_logger()


@asynccontextmanager
async def webhook(means: Means) -> AsyncIterator[Send]:
    """The channel ``webhook``."""
    resolver, loopback = Resolver(), means.settings.webhook_loopback
    try:
        async with pool(resolver.resolve, loopback=loopback) as connections:
            sender = Sender(means.database, means.sealer, connections, means.clock, loopback=loopback)
            yield sender.send
    finally:
        resolver.close()


class Sender:
    """Sends deliveries of the channel ``webhook``. ``clock`` tells the time, aware, in UTC."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        connections: httpcore.AsyncConnectionPool,
        clock: Callable[[], datetime],
        *,
        loopback: bool,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._connections = connections
        self._clock = clock
        self._loopback = loopback

    async def send(self, delivery: Delivery) -> str:
        """The status of the answer. Raises NotSent."""
        endpoint, secrets, body = await self._load(delivery)
        try:
            answered = await self._call(delivery, endpoint, secrets, body)
        except NotSent as failure:
            await self._failed(endpoint, failure)
            raise
        if endpoint.failing_since is not None:
            async with self._database.connection() as connection:
                await webhooks.set_failing(connection, endpoint.program_id, endpoint.endpoint_id, None)
        return answered

    async def _load(self, delivery: Delivery) -> tuple[Endpoint, list[bytes], bytes]:
        """Where it goes, what signs it, and what is posted. Raises NotSent."""
        program_id, endpoint_id = delivery.program_id, UUID(delivery.content["endpoint_id"])
        test = delivery.content["event_type"] == TEST_TYPE
        now = self._clock()
        wanted: list[Question[Any]] = [*webhooks.to_call(program_id, endpoint_id)]
        if not test:
            wanted.append(event_log.standing(Position(*delivery.content["place"])))
        async with self._database.connection() as connection:
            endpoint, sealed, *found = await ask(connection, *wanted)
        if endpoint is None:
            raise Unwanted("the endpoint was removed")
        if endpoint.status is not EndpointStatus.ENABLED and not test:
            raise Permanent("the endpoint is disabled")
        body = _test(delivery) if test else _body(found[0])
        secrets = [
            self._sealer.open_secret(secret.key, program_id, endpoint_id)
            for secret in sealed
            if secret.expires_at is None or secret.expires_at > now
        ]
        return endpoint, secrets, body

    async def _call(self, delivery: Delivery, endpoint: Endpoint, secrets: list[bytes], body: bytes) -> str:
        try:
            place = place_of(endpoint.url, self._loopback)
            status, retry_after = await self._post(place, delivery.delivery_id, secrets, body)
        except tuple(FAILURES) as error:
            known = next(text for kind, text in FAILURES.items() if isinstance(error, kind))
            raise Temporary(known) from None
        if 200 <= status < 300:
            return str(status)
        if status == GONE:
            raise Permanent("the endpoint says it is gone", str(status))
        if 300 <= status < 400:
            raise Temporary("redirects are not followed", str(status))
        raise Temporary(f"answered {status}", str(status), retry_after if status in BUSY else None)

    async def _post(
        self, place: Place, message_id: UUID, secrets: list[bytes], body: bytes
    ) -> tuple[int, float | None]:
        """The answer's status, and for how many seconds it puts us off, if it says."""
        timestamp = int(self._clock().timestamp())
        headers = {
            "host": place.authority,
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "laurel-webhooks",
            "webhook-id": str(message_id),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(secrets, str(message_id), timestamp, body),
        }
        url = httpcore.URL(
            scheme=place.scheme.encode(),
            host=place.host.encode(),
            port=place.port,
            target=place.target.encode(),
        )
        async with self._connections.stream(
            "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": TIMEOUTS}
        ) as response:
            said = {name.lower(): value for name, value in response.headers}
            length = said.get(b"content-length", b"").decode("latin-1")[:MOST_DIGITS]
            if response.status == NO_CONTENT or (length.isdecimal() and int(length) <= MOST_ANSWER_BYTES):
                # The status is what counts; the rest only spares the next call a connection.
                with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
                    async with asyncio.timeout(REST_SECONDS):
                        await response.aread()
            return response.status, self._retry_after(said.get(b"retry-after", b"").decode("latin-1"))

    def _retry_after(self, value: str) -> float | None:
        if value.isdecimal():
            return float(value[:MOST_DIGITS])
        try:
            moment = parsedate_to_datetime(value)
            return (moment - self._clock()).total_seconds()
        except (ValueError, TypeError):
            return None

    async def _failed(self, endpoint: Endpoint, failure: NotSent) -> None:
        """Note it; an endpoint that is gone, or has failed for days, is called no more."""
        now = self._clock()
        since = endpoint.failing_since
        if failure.response == str(GONE):
            await self._disable(endpoint, "answered 410 Gone")
        elif since is None:
            async with self._database.connection() as connection:
                await webhooks.set_failing(connection, endpoint.program_id, endpoint.endpoint_id, now)
        elif now - since >= FAILING_LIMIT:
            await self._disable(endpoint, f"took nothing for {FAILING_LIMIT.days} days")

    async def _disable(self, endpoint: Endpoint, reason: str) -> None:
        program_id, endpoint_id = endpoint.program_id, endpoint.endpoint_id
        now = self._clock()
        async with self._database.transaction() as connection:
            if not await webhooks.set_status(
                connection, program_id, endpoint_id, EndpointStatus.DISABLED, reason
            ):
                return
            event = WebhookChanged(
                event_id=new_id(),
                program_id=program_id,
                member_id=NOBODY,
                occurred_at=now,
                recorded_at=now,
                endpoint_id=endpoint_id,
                change="disabled",
                reason=reason,
                actor=ACTOR,
            )
            await write(connection, events.append([event]))
        log.warning("webhook_disabled", endpoint_id=str(endpoint_id), reason=reason)


def _body(event: LoggedEvent | None) -> bytes:
    if event is None:
        raise Permanent("its event is no more")
    times = event.occurred_at, event.recorded_at
    return body_of(event.event_type, event.event_id, event.member_id, times, event.payload)


def _test(delivery: Delivery) -> bytes:
    # The moment is in the id, so that the body is the same at every attempt.
    made = datetime.fromtimestamp((delivery.delivery_id.int >> 80) / 1000, UTC)
    return body_of(TEST_TYPE, delivery.delivery_id, NOBODY, (made, made), {})
