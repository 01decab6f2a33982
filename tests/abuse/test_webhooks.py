"""Webhooks that are to make a worker call its own network: refused, and no connection arrives."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpcore
import pytest
from loyalty.v1 import webhooks_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.domain.deliveries import Delivery, Temporary
from server.domain.webhooks import CHANNEL, TEST_TYPE, Endpoint, EndpointStatus
from server.ids import new_id
from server.store import webhooks as store
from server.store.database import Database
from server.store.sealing import Sealer
from server.store.webhooks import Secret
from tests.support.certificates import Authority
from tests.support.refusals import refusal
from tests.support.servers import Laurel
from workers.webhooks.connections import pool
from workers.webhooks.sending import Sender

# Public by its number; here the network leads it to a server of the test's own.
PARTNER = "93.184.216.34"
OUR_OWN = (
    "127.0.0.1",
    "127.0.0.2",
    "0.0.0.0",
    "::1",
    "::",
    "::ffff:127.0.0.1",
)
OTHERS = (
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
    "fd00:ec2::254",
    "fe80::1",
    "10.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
)


@dataclass
class Place:
    """A server that counts who connects, and answers all alike."""

    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening(place: Place, context: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    """The place, on the same port of several addresses of this machine."""
    async with AsyncExitStack() as opened:
        for bound in same_port():
            server = await asyncio.start_server(place.serve, sock=bound, ssl=context)
            await opened.enter_async_context(server)
            place.port = bound.getsockname()[1]
        yield place


def same_port() -> list[socket.socket]:
    """Sockets that have a port in common."""
    addresses = ["127.0.0.1", "127.0.0.2", *(["::1"] if socket.has_dualstack_ipv6() else [])]
    for _ in range(100):
        bound: list[socket.socket] = []
        try:
            for address in addresses:
                port = bound[0].getsockname()[1] if bound else 0
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                bound.append(socket.create_server((address, port), family=family))
        except OSError:
            for taken in bound:
                taken.close()
        else:
            return bound
    raise AssertionError("no port is free on all of them")


class Network(httpcore.AnyIOBackend):
    """The real network, but for the partner's address, which leads to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.called: list[str] = []

    async def connect_tcp(self, host: str, port: int, *more: Any, **named: Any) -> Any:
        """As asked, or to the partner."""
        self.called.append(host)
        place = ("127.0.0.1", self.port) if host == PARTNER else (host, port)
        return await super().connect_tcp(*place, *more, **named)


class Names:
    """A name server: what it says of a host, one answer after the other, the last one for ever."""

    def __init__(self, *answers: Iterable[str]) -> None:
        self.answers = [list(answer) for answer in answers]
        self.asked = 0

    async def resolve(self, _host: str, _port: int) -> list[str]:
        """The next answer."""
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


@dataclass
class Attempts:
    """Makes calls of an endpoint."""

    database: Database
    sealer: Sealer

    async def call(
        self, url: str, names: Names, network: Network, trust: ssl.SSLContext | None = None
    ) -> str:
        """What is noted of one attempt. Raises NotSent."""
        program_id, endpoint_id, now = new_id(), new_id(), datetime.now(UTC)
        endpoint = Endpoint(
            program_id=program_id,
            endpoint_id=endpoint_id,
            url=url,
            description="",
            event_types=("*",),
            status=EndpointStatus.ENABLED,
            disabled_reason="",
            failing_since=None,
            created_at=now,
            created_by="test",
        )
        async with self.database.connection() as connection:
            await store.insert(connection, endpoint)
            key = self.sealer.seal_secret(program_id, endpoint_id, b"s" * 32)
            await store.add_secret(connection, program_id, endpoint_id, Secret(new_id(), key, now, None))
        delivery = Delivery(
            program_id=program_id,
            delivery_id=new_id(),
            member_id=new_id(),
            channel=CHANNEL,
            target="here",
            content={"endpoint_id": str(endpoint_id), "event_type": TEST_TYPE},
            attempts=1,
            token=1,
        )
        async with pool(names.resolve, loopback=False, trust=trust, network=network) as connections:
            sender = Sender(
                self.database, self.sealer, connections, lambda: datetime.now(UTC), loopback=False
            )
            return await sender.send(delivery)


@pytest.fixture
def attempts(database: Database, secrets_file: Path) -> Attempts:
    return Attempts(database, Sealer(secrets.load(secrets_file)))


@pytest.fixture
async def trap() -> AsyncIterator[Place]:
    """What must not be reached."""
    async with listening(Place()) as place:
        yield place
        assert place.connections == 0


@pytest.mark.parametrize("address", [*OUR_OWN, *OTHERS])
async def test_a_name_that_leads_to_a_special_address_is_not_called(
    attempts: Attempts, trap: Place, address: str
) -> None:
    names, network = Names([address]), Network(trap.port)
    with pytest.raises(Temporary, match="not public"):
        await attempts.call(f"https://partner.example:{trap.port}/", names, network)
    assert (names.asked, network.called) == (1, [])


async def test_the_trap_would_notice(trap: Place) -> None:
    """Otherwise the tests above would show nothing."""
    for address in ("127.0.0.2", "::ffff:127.0.0.1", "0.0.0.0"):
        _, writer = await asyncio.open_connection(address, trap.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await writer.drain()
        writer.close()
    async with asyncio.timeout(30):
        while len(trap.requests) < 3:  # noqa: ASYNC110 - it comes about in other tasks
            await asyncio.sleep(0.01)
    trap.connections = 0


async def test_a_special_address_beside_a_public_one_is_enough(attempts: Attempts, trap: Place) -> None:
    for answer in ([PARTNER, "127.0.0.1"], ["127.0.0.1", PARTNER]):
        network = Network(trap.port)
        with pytest.raises(Temporary, match="not public"):
            await attempts.call("https://partner.example/", Names(answer), network)
        assert network.called == []


@pytest.fixture
def authority() -> Authority:
    return Authority()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


@asynccontextmanager
async def partner(authority: Authority, folder: Path, *hosts: str, **terms: Any) -> AsyncIterator[Place]:
    """A partner's server, with a certificate for these hosts."""
    certificate, key = authority.issue("partner", 90, *hosts)
    (folder / "partner.pem").write_bytes(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "partner.pem")
    place = Place(**terms)
    context.sni_callback = lambda _socket, name, _context: place.names.append(name)  # type: ignore[assignment]
    async with listening(place, context):
        yield place


async def test_a_name_that_means_something_else_the_next_time_leads_where_it_did(
    attempts: Attempts, trap: Place, authority: Authority, tmp_path: Path
) -> None:
    async with partner(authority, tmp_path, "partner.example") as place:
        names, network = Names([PARTNER], ["127.0.0.1"]), Network(place.port)
        url = f"https://partner.example:{trap.port}/hooks"
        # Asked once, and called where the answer said, under the name of the URL.
        assert await attempts.call(url, names, network, trusting(authority)) == "200"
        assert (names.asked, network.called, place.connections) == (1, [PARTNER], 1)
        assert place.names == ["partner.example"]
        assert f"\r\nhost: partner.example:{trap.port}\r\n".encode() in place.requests[0].lower()
        # The next attempt asks again, and is not made.
        with pytest.raises(Temporary, match="not public"):
            await attempts.call(url, names, network, trusting(authority))
        assert (names.asked, network.called, place.connections) == (2, [PARTNER], 1)


async def test_a_certificate_must_be_that_of_the_name(
    attempts: Attempts, authority: Authority, tmp_path: Path
) -> None:
    async with partner(authority, tmp_path, "somebody.example", PARTNER) as place:
        with pytest.raises(Temporary, match="no connection"):
            await attempts.call(
                "https://partner.example/", Names([PARTNER]), Network(place.port), trusting(authority)
            )
        assert place.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    attempts: Attempts, trap: Place, authority: Authority, tmp_path: Path, status: int
) -> None:
    answer = (
        f"HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:{trap.port}/\r\ncontent-length: 0\r\n\r\n"
    ).encode()
    async with partner(authority, tmp_path, "partner.example", answer=answer) as place:
        with pytest.raises(Temporary, match="redirects are not followed") as refused:
            await attempts.call(
                "https://partner.example/", Names([PARTNER]), Network(place.port), trusting(authority)
            )
        assert (refused.value.response, place.connections) == (str(status), 1)


async def test_proxies_of_the_environment_are_not_used(
    attempts: Attempts,
    trap: Place,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
    async with partner(authority, tmp_path, "partner.example") as place:
        network = Network(place.port)
        called = attempts.call("https://partner.example/", Names([PARTNER]), network, trusting(authority))
        assert await called == "200"


async def test_an_answer_without_end_is_not_read(
    attempts: Attempts, authority: Authority, tmp_path: Path
) -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n" + b"x" * 50_000_000
    async with partner(authority, tmp_path, "partner.example", answer=endless) as place:
        network = Network(place.port)
        called = attempts.call("https://partner.example/", Names([PARTNER]), network, trusting(authority))
        assert await called == "200"


@pytest.mark.parametrize(
    "url",
    [
        "http://partner.example/",
        "https://user:word@partner.example/",
        "https://partner.example:25/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b:1::a9fe:a9fe]/",
    ],
)
async def test_what_is_wrong_by_its_form_is_not_registered(laurel: Laurel, url: str) -> None:
    staff = await laurel.caller(await laurel.new_key(CallerKind.STAFF, scopes=["webhooks.*"]))
    request = pb.RegisterWebhookRequest(request_id=uuid4().hex, url=url, event_types=["*"])
    refused = await refusal(staff.webhooks.RegisterWebhook(request))
    assert (refused.code, list(refused.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["url"])
