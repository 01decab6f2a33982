"""Mail servers and senders, as settings say them."""

from email.headerregistry import Address
from email.utils import parseaddr
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

PORTS = {"smtp": 25, "smtps": 465}


class Server(NamedTuple):
    """A mail server, as its URL says. ``starttls``: nothing is said in the clear."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: bool
    starttls: bool

    def __repr__(self) -> str:
        return f"Server({self.host}:{self.port})"


def read_server(url: str) -> Server:
    """What a URL such as ``smtp://user:password@host:587`` says. Raises ValueError, without the URL.

    ``smtps`` is TLS from the beginning. With ``smtp`` STARTTLS is insisted on, unless the server is on
    this machine or the URL ends in ``?starttls=no``.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        port = 0
    if not port or not parts.hostname:
        raise ValueError("is no URL such as smtp://user:password@host:587") from None
    said = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if not said.keys() <= {"starttls"} or said.get("starttls", ["no"]) != ["no"]:
        raise ValueError("may end in ?starttls=no, and nothing else")
    return Server(
        parts.hostname,
        port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "smtps",
        starttls=parts.scheme == "smtp" and not said and not _is_here(parts.hostname),
    )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_sender(text: str) -> Address:
    """Who mails are from, such as ``Laurel <laurel@example.com>``. Raises ValueError."""
    name, address = parseaddr(text)
    try:
        return Address(name, addr_spec=address)
    except IndexError:
        raise ValueError("is no address such as Laurel <laurel@example.com>") from None
