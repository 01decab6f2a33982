"""The shim alone, in front of a server that runs elsewhere."""

import asyncio
import os
import ssl
from contextlib import AsyncExitStack

import structlog

from gateway.channel import ChannelBackend
from gateway.settings import GatewaySettings
from laurel import channels
from laurel.failures import Failure
from laurel.process.rest import Rest, health_at
from server.rpc.errors import DOMAIN
from server.serving import StartError, until_asked
from server.tls import Certificates, TlsError
from telemetry.listener import Listener
from telemetry.setup import Telemetry, TelemetryError

log = structlog.get_logger()
SERVICE = "laurel-gateway"
# The server refuses with details what is larger than its limit; the channel must let that through.
HARD_SIZE_FACTOR = 4


async def serve_alone(address: str, http: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. One JSON line on standard output tells of the port.

    Raises StartError.
    """
    async with AsyncExitStack() as opened:
        telemetry = await _open_telemetry(opened)
        tls, backend = _open_channel(opened, address, http)
        serving = Serving()
        ops = Listener(telemetry, {"serving": serving.told, "server": backend.reachable})
        ops_port = await _open_ops(opened, ops, http)
        rest = Rest(http, backend, telemetry, tls=tls, health=health_at(http.ops_host, ops_port))
        await rest.start()
        opened.push_async_callback(rest.stop)
        serving.state = ""
        places = {"http_host": http.http_host, "http_port": rest.port, "ops_port": ops_port}
        await until_asked({**places, "address": address})
        serving.state = "stopping"
        log.info("stopping", grace_seconds=http.grace_seconds, drain_seconds=http.drain_seconds)
        # Balancers look at readiness now and then: until they have, requests come.
        await asyncio.sleep(http.grace_seconds)


class Serving:
    """Whether requests are taken, as a check of readiness."""

    def __init__(self) -> None:
        self.state = "starting"

    async def told(self) -> str:
        """What keeps them out, "" if nothing does."""
        return self.state


async def _open_telemetry(opened: AsyncExitStack) -> Telemetry:
    try:
        telemetry = await Telemetry.start(SERVICE)
    except TelemetryError as error:
        raise StartError(str(error)) from None
    opened.push_async_callback(telemetry.close)
    return telemetry


def _open_channel(
    opened: AsyncExitStack, address: str, http: GatewaySettings
) -> tuple[ssl.SSLContext | None, ChannelBackend]:
    """What clients are shown, and the way to the server."""
    try:
        files, credentials = channels.own_files(), channels.credentials(beside=False)
        certificates = Certificates(files) if files else None
    except (TlsError, Failure) as error:
        raise StartError(str(error)) from None
    backend = ChannelBackend(
        address,
        max_message_bytes=HARD_SIZE_FACTOR * http.max_message_bytes,
        patience=http.max_deadline_seconds,
        domain=DOMAIN,
        credentials=credentials,
        server_name=channels.server_name(),
    )
    opened.push_async_callback(backend.close)
    if certificates is None:
        return None, backend
    opened.callback(asyncio.create_task(certificates.follow()).cancel)
    return certificates.context(), backend


async def _open_ops(opened: AsyncExitStack, ops: Listener, http: GatewaySettings) -> int | None:
    """Listen where it is wished, or, if nobody wished and a server has the usual port, on a free one."""
    if http.ops_port is None:
        return None
    try:
        try:
            await ops.open(http.ops_host, http.ops_port)
        except OSError:
            if os.environ.get("LAUREL_OPS_PORT"):
                raise
            await ops.open(http.ops_host, 0)
    except OSError as error:
        raise StartError(
            f"can't listen on {http.ops_host}:{http.ops_port} for /readyz and /metrics ({error.strerror}); "
            "LAUREL_OPS_PORT names another port, 0 for a free one, empty for none"
        ) from None
    opened.push_async_callback(ops.close)
    return ops.port
