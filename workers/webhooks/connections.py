"""Connections to places that others chose: a name is resolved once, and only what is public is connected to.

This is where every connection is made, so nothing gets around it: whatever a URL looks like, and
whatever its name leads to the next time, the address that was looked at is the one that is called.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpcore
import httpx

from server.domain.webhooks import may_connect

# The addresses of a host, as numbers, at a port.
Resolve = Callable[[str, int], Awaitable[list[str]]]

RESOLVERS = 16
KEPT_OPEN = 50
KEEP_OPEN_SECONDS = 20.0
# Of a host's addresses, so many are tried.
MOST_ADDRESSES = 3


class Forbidden(Exception):  # noqa: N818 - it says what the address is
    """A name leads to an address that isn't called; nothing was connected to."""


class Resolver:
    """Asks the system, in threads of its own: a name server that hangs holds up no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")

    async def resolve(self, host: str, port: int) -> list[str]:
        """Every address of the host. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(place[0]) for *_, place in found))

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Guarded(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone; with ``loopback`` to this machine too, where a URL says so."""

    def __init__(
        self, resolve: Resolve, *, loopback: bool, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._resolve = resolve
        self._loopback = loopback
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to an address that was looked at. Raises Forbidden if any of them is not public."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("the name server took too long") from None
        except OSError:
            raise httpcore.ConnectError("its name can't be resolved") from None
        if not addresses or not all(may_connect(host, address, self._loopback) for address in addresses):
            raise Forbidden(host)
        failure: Exception = httpcore.ConnectError("no address")
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise Forbidden(path)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._network.sleep(seconds)


def pool(
    resolve: Resolve,
    *,
    loopback: bool,
    trust: ssl.SSLContext | None = None,
    network: httpcore.AsyncNetworkBackend | None = None,
) -> httpcore.AsyncConnectionPool:
    """Guarded connections, kept open for a while. ``trust``: whose certificates are good."""
    return httpcore.AsyncConnectionPool(
        ssl_context=trust or httpx.create_ssl_context(),
        max_connections=None,  # whoever sends has a bound
        max_keepalive_connections=KEPT_OPEN,
        keepalive_expiry=KEEP_OPEN_SECONDS,
        network_backend=Guarded(resolve, loopback=loopback, network=network),
    )
