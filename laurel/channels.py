"""Channels to a server, in plaintext or by TLS, as the environment says.

    LAUREL_CA_FILE                  PEM of the authority that signed the server's certificate,
                                    or `system` for those that this machine trusts
    LAUREL_SERVER_NAME              the name in that certificate, where the address is another
    LAUREL_CLIENT_CERTIFICATE_FILE  PEM of our own certificate, for servers that ask for one
    LAUREL_CLIENT_KEY_FILE          PEM of its key

Without LAUREL_CA_FILE it is plaintext, unless LAUREL_TLS_CERTIFICATE_FILE says that the
server of this machine speaks TLS.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from laurel.failures import Failure

if TYPE_CHECKING:
    from server.tls import Files

SYSTEM = "system"
# Back soon after an outage, without hammering what is down. The least is what an attempt may take.
RECONNECTING = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def credentials(beside: bool = True) -> grpc.ChannelCredentials | None:
    """What to connect with; None for plaintext. Raises Failure.

    ``beside``: whether the server may be that of this environment.
    """
    authority = os.environ.get("LAUREL_CA_FILE")
    if not authority and not (beside and os.environ.get("LAUREL_TLS_CERTIFICATE_FILE")):
        return None
    certificate = _content("LAUREL_CLIENT_CERTIFICATE_FILE")
    key = _content("LAUREL_CLIENT_KEY_FILE")
    if (certificate is None) != (key is None):
        raise Failure("LAUREL_CLIENT_CERTIFICATE_FILE and LAUREL_CLIENT_KEY_FILE go together")
    roots = None if authority == SYSTEM else _content("LAUREL_CA_FILE")
    return grpc.ssl_channel_credentials(roots, key, certificate)


def own_files() -> "Files | None":
    """What a process of this environment shows to its own clients; None in plaintext. Raises TlsError."""
    # Here, because most commands only call a server, and reading certificates takes long to import.
    from server.tls import Files

    name = os.environ.get
    return Files.named(
        name("LAUREL_TLS_CERTIFICATE_FILE", ""),
        name("LAUREL_TLS_KEY_FILE", ""),
        name("LAUREL_TLS_CLIENT_CA_FILE", ""),
    )


def server_name() -> str:
    """The name that the server's certificate must hold; empty if that is the address."""
    return os.environ.get("LAUREL_SERVER_NAME", "")


def connect(address: str) -> grpc.Channel:
    """A channel. Raises Failure."""
    found = credentials()
    if found is None:
        return grpc.insecure_channel(address, RECONNECTING)
    return grpc.secure_channel(address, found, _options())


def connect_async(address: str) -> grpc.aio.Channel:
    """A channel for asyncio. Raises Failure."""
    found = credentials()
    if found is None:
        return grpc.aio.insecure_channel(address, RECONNECTING)
    return grpc.aio.secure_channel(address, found, _options())


def _options() -> list[tuple[str, str | int]]:
    named = [("grpc.ssl_target_name_override", name)] if (name := server_name()) else []
    return [*named, *RECONNECTING]


def _content(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failure(f"{path} of {variable} can't be read: {error.strerror}") from None
