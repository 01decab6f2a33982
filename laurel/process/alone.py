"""The shim alone, in front of a server that runs elsewhere."""

import asyncio

import structlog

from gateway.channel import ChannelBackend
from gateway.settings import GatewaySettings
from laurel import channels
from laurel.failures import Failure
from laurel.process.main import until_asked
from laurel.process.rest import Rest
from server.main import StartError
from server.rpc.errors import DOMAIN
from server.tls import Certificates, TlsError

log = structlog.get_logger()
# The server refuses with details what is larger than its limit; the channel must let that through.
HARD_SIZE_FACTOR = 4


async def serve_alone(address: str, http: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. One JSON line on standard output tells of the port.

    Raises StartError.
    """
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
    following = asyncio.create_task(certificates.follow()) if certificates else None
    try:
        rest = Rest(http, backend, tls=certificates.context() if certificates else None)
        await rest.start()
        try:
            await until_asked({"http_host": http.http_host, "http_port": rest.port, "address": address})
            log.info("stopping", drain_seconds=http.drain_seconds)
        finally:
            await rest.stop()
    finally:
        if following is not None:
            following.cancel()
        await backend.close()
