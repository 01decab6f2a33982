"""What staff do with webhooks: endpoints, their secrets, and what was delivered to them.

A secret is told once, in the reply that made it. A repeated request gets the same endpoint
without it.
"""

import json
import secrets as randomness
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.actor import Actor
from server.domain.deliveries import NOBODY, DeliveryStatus, Wanted
from server.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Violation, invalid
from server.domain.events import WebhookChanged
from server.domain.webhooks import (
    CHANNEL,
    KEPT,
    MAX_ENDPOINTS,
    MAX_SECRETS,
    SECRET_BYTES,
    TEST_TYPE,
    Endpoint,
    EndpointStatus,
    UrlError,
    pattern_mistake,
    place_of,
    secret_text,
)
from server.ids import new_id
from server.operations.collisions import repeated
from server.store import deliveries, events, keys, locks
from server.store import webhooks as store
from server.store.database import Connection, Database
from server.store.deliveries import Stored
from server.store.keys import Remembered, RequestKey
from server.store.sealing import Sealer
from server.store.together import ask, write
from server.store.webhooks import Secret

FORGOTTEN_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Shown:
    """An endpoint and its secrets, the newest first, still sealed. ``secret`` is told this once, or ""."""

    endpoint: Endpoint
    secrets: tuple[Secret, ...]
    secret: str = field(default="", repr=False)


class Webhooks:
    """The webhooks of all programs.

    ``clock`` tells the time, aware, in UTC. ``loopback``: whether endpoints may be on this machine.
    """

    def __init__(
        self, database: Database, sealer: Sealer, clock: Callable[[], datetime], *, loopback: bool = False
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._loopback = loopback

    @repeated
    async def register(
        self, actor: Actor, request_id: str, url: str, event_types: tuple[str, ...], description: str
    ) -> Shown:
        """Add an endpoint, enabled; what happens from now on is sent to it. Raises InvalidArgument."""
        self._check(url, event_types)
        program_id = actor.program_id
        command = {"url": url, "event_types": event_types, "description": description}
        request = _Request(actor, request_id, {"change": "register_webhook", **command})
        async with self._database.transaction() as connection:
            if (first := await self._begin(connection, request)) is not None:
                return await self._show(connection, program_id, UUID(first["endpoint_id"]))
            # One at a time, so that the count holds.
            await locks.take(connection, [locks.drafts_lock(program_id)])
            if await store.count(connection, program_id) >= MAX_ENDPOINTS:
                raise invalid("url", f"a program has at most {MAX_ENDPOINTS} endpoints")
            now = self._clock()
            endpoint = Endpoint(
                program_id=program_id,
                endpoint_id=new_id(),
                url=url,
                description=description,
                event_types=event_types,
                status=EndpointStatus.ENABLED,
                disabled_reason="",
                failing_since=None,
                created_at=now,
                created_by=actor.label,
            )
            await store.insert(connection, endpoint)
            secret = await self._add_secret(connection, endpoint, now)
            await self._log(connection, actor, endpoint.endpoint_id, "registered")
            await self._finish(connection, request, {"endpoint_id": str(endpoint.endpoint_id)})
            return await self._show(connection, program_id, endpoint.endpoint_id, secret)

    async def get(self, program_id: UUID, endpoint_id: UUID) -> Shown:
        """The endpoint. Raises NotFound."""
        async with self._database.connection() as connection:
            return await self._show(connection, program_id, endpoint_id)

    async def page(self, program_id: UUID, *, after: UUID | None, size: int) -> tuple[list[Shown], bool]:
        """At most ``size`` endpoints after that id, oldest first, and whether there are more."""
        async with self._database.connection() as connection:
            found = await store.page(connection, program_id, after, size + 1)
            shown = [
                Shown(endpoint, tuple(await store.secrets(connection, program_id, endpoint.endpoint_id)))
                for endpoint in found[:size]
            ]
        return shown, len(found) > size

    @repeated
    async def rotate(self, actor: Actor, request_id: str, endpoint_id: UUID, overlap: timedelta) -> Shown:
        """Sign with another secret, and for ``overlap`` with those of now too. Raises NotFound."""
        said = {"endpoint_id": str(endpoint_id), "overlap": overlap.total_seconds()}
        request = _Request(actor, request_id, {"change": "rotate_webhook_secret", **said})
        async with self._database.transaction() as connection:
            if await self._begin(connection, request) is not None:
                return await self._show(connection, actor.program_id, endpoint_id)
            endpoint = await self._found(connection, actor.program_id, endpoint_id)
            now = self._clock()
            await store.expire_secrets(
                connection, actor.program_id, endpoint_id, now + overlap, now, MAX_SECRETS - 1
            )
            secret = await self._add_secret(connection, endpoint, now)
            await self._log(connection, actor, endpoint_id, "rotated")
            await self._finish(connection, request, said)
            return await self._show(connection, actor.program_id, endpoint_id, secret)

    @repeated
    async def set_status(
        self, actor: Actor, endpoint_id: UUID, status: EndpointStatus, reason: str = ""
    ) -> Shown:
        """Enable or disable it. Raises NotFound."""
        program_id = actor.program_id
        said = (reason or f"by {actor.label}") if status is EndpointStatus.DISABLED else ""
        async with self._database.transaction() as connection:
            await self._found(connection, program_id, endpoint_id)
            if await store.set_status(connection, program_id, endpoint_id, status, said):
                await self._log(connection, actor, endpoint_id, str(status), reason)
            return await self._show(connection, program_id, endpoint_id)

    @repeated
    async def remove(self, actor: Actor, endpoint_id: UUID) -> None:
        """Forget its secrets, and discard what is on its way to it. Raises NotFound."""
        program_id, removed = actor.program_id, EndpointStatus.REMOVED
        async with self._database.transaction() as connection:
            await self._found(connection, program_id, endpoint_id)
            await store.set_status(connection, program_id, endpoint_id, removed)
            await store.remove(connection, program_id, endpoint_id)
            await self._log(connection, actor, endpoint_id, str(removed))

    @repeated
    async def test(self, actor: Actor, request_id: str, endpoint_id: UUID) -> Stored:
        """Have a test event sent to it, also while it is disabled. Raises NotFound."""
        said = {"endpoint_id": str(endpoint_id)}
        request = _Request(actor, request_id, {"change": "test_webhook", **said})
        async with self._database.transaction() as connection:
            first = await self._begin(connection, request)
            if first is None:
                await self._found(connection, actor.program_id, endpoint_id)
                first = {"delivery_id": str(new_id())}
                ping = Wanted(
                    program_id=actor.program_id,
                    delivery_id=UUID(first["delivery_id"]),
                    channel=CHANNEL,
                    target=store.target_of(endpoint_id),
                    dedup_key=f"{TEST_TYPE}:{first['delivery_id']}",
                    content={"endpoint_id": str(endpoint_id), "event_type": TEST_TYPE},
                )
                await deliveries.add(connection, [ping])
                await self._finish(connection, request, first)
            return await self._delivery(connection, actor.program_id, UUID(first["delivery_id"]))

    async def deliveries(
        self,
        program_id: UUID,
        endpoint_id: UUID,
        *,
        before: UUID | None,
        status: DeliveryStatus | None,
        size: int,
    ) -> tuple[list[Stored], bool]:
        """At most ``size`` deliveries to it before that id, newest first, and whether there are more.

        Raises NotFound if there never was such an endpoint.
        """
        async with self._database.connection() as connection:
            found = await deliveries.page(
                connection,
                program_id,
                target=store.target_of(endpoint_id),
                before=before,
                status=status,
                size=size + 1,
            )
            if not found and not await store.was_made(connection, program_id, endpoint_id):
                raise _not_found()
        return found[:size], len(found) > size

    async def delivery(self, program_id: UUID, delivery_id: UUID) -> Stored:
        """The delivery. Raises NotFound."""
        async with self._database.connection() as connection:
            return await self._delivery(connection, program_id, delivery_id)

    @repeated
    async def redeliver(self, program_id: UUID, delivery_id: UUID) -> Stored:
        """Send it again, under the same id; one that is pending stays so.

        Raises NotFound, and FailedPrecondition if its endpoint is disabled or no more.
        """
        async with self._database.transaction() as connection:
            found = await self._delivery(connection, program_id, delivery_id)
            endpoint = await store.get(connection, program_id, UUID(found.content["endpoint_id"]), lock=True)
            if endpoint is None or endpoint.status is not EndpointStatus.ENABLED:
                status = EndpointStatus.REMOVED if endpoint is None else endpoint.status
                raise FailedPrecondition(
                    "WEBHOOK_NOT_ENABLED", f"its endpoint is {status}", {"status": str(status)}
                )
            await deliveries.replay(connection, program_id, delivery_id)
            return await self._delivery(connection, program_id, delivery_id)

    async def forget(self, program_id: UUID) -> int:
        """Drop what endpoints took, and what nobody wanted, a month ago; how many that were."""
        before, after, dropped = self._clock() - KEPT, UUID(int=0), 0
        while True:
            async with self._database.transaction() as connection:
                found, last = await deliveries.forget(
                    connection, program_id, [CHANNEL], before, after, FORGOTTEN_AT_ONCE
                )
            if last is None:
                return dropped
            dropped, after = dropped + found, last

    def _check(self, url: str, event_types: tuple[str, ...]) -> None:
        wrong = []
        try:
            place_of(url, self._loopback)
        except UrlError as error:
            wrong.append(Violation("url", f"must {error}"))
        for place, pattern in enumerate(event_types):
            if mistake := pattern_mistake(pattern):
                wrong.append(Violation(f"event_types[{place}]", mistake))
        if wrong:
            raise InvalidArgument(wrong)

    async def _found(self, connection: Connection, program_id: UUID, endpoint_id: UUID) -> Endpoint:
        endpoint = await store.get(connection, program_id, endpoint_id, lock=True)
        if endpoint is None:
            raise _not_found()
        return endpoint

    async def _show(
        self, connection: Connection, program_id: UUID, endpoint_id: UUID, secret: str = ""
    ) -> Shown:
        endpoint = await store.get(connection, program_id, endpoint_id)
        if endpoint is None:
            raise _not_found()
        return Shown(endpoint, tuple(await store.secrets(connection, program_id, endpoint_id)), secret)

    async def _delivery(self, connection: Connection, program_id: UUID, delivery_id: UUID) -> Stored:
        found = await deliveries.get(connection, program_id, delivery_id)
        if found is None or found.channel != CHANNEL:
            raise NotFound("DELIVERY_NOT_FOUND", "no such delivery to a webhook in this program")
        return found

    async def _add_secret(self, connection: Connection, endpoint: Endpoint, now: datetime) -> str:
        secret = randomness.token_bytes(SECRET_BYTES)
        sealed = self._sealer.seal_secret(endpoint.program_id, endpoint.endpoint_id, secret)
        await store.add_secret(
            connection, endpoint.program_id, endpoint.endpoint_id, Secret(new_id(), sealed, now, None)
        )
        return secret_text(secret)

    async def _log(
        self, connection: Connection, actor: Actor, endpoint_id: UUID, change: str, reason: str = ""
    ) -> None:
        now = self._clock()
        event = WebhookChanged(
            event_id=new_id(),
            program_id=actor.program_id,
            member_id=NOBODY,
            occurred_at=now,
            recorded_at=now,
            endpoint_id=endpoint_id,
            change=change,
            reason=reason,
            actor=actor.label,
        )
        await write(connection, events.append([event]))

    async def _begin(self, connection: Connection, request: "_Request") -> dict[str, Any] | None:
        """Lock the request; what it brought if it was made before. Raises InvalidArgument."""
        await locks.take(connection, [locks.request_lock(request.key)])
        (known,) = await ask(connection, keys.requests_known([request.key]))
        remembered = known.get(request.key)
        if remembered is None:
            return None
        if remembered.request_hash != self._sealer.request_hash(request.command):
            raise invalid("request_id", "was used with another request", "REQUEST_ID_REUSED")
        brought: dict[str, Any] = json.loads(remembered.reply)
        return brought

    async def _finish(self, connection: Connection, request: "_Request", brought: Mapping[str, Any]) -> None:
        remembered = Remembered(self._sealer.request_hash(request.command), json.dumps(brought))
        await write(connection, keys.remember_requests([(request.key, remembered)], self._clock()))


class _Request:
    """A request to change something, by its key."""

    __slots__ = ("command", "key")

    def __init__(self, actor: Actor, request_id: str, command: Mapping[str, Any]) -> None:
        self.key = RequestKey(actor.program_id, actor.source_system, request_id)
        self.command = command


def _not_found() -> NotFound:
    return NotFound("WEBHOOK_NOT_FOUND", "no such webhook endpoint in this program")
