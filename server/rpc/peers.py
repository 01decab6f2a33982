"""Where a call comes from, as far as failures are counted."""

from ipaddress import IPv6Address
from urllib.parse import unquote


def network_of(peer: str) -> str:
    """The address in ``ipv4:192.0.2.1:4711``; of IPv6 the /64 that a subscriber has whole."""
    kind, _, place = unquote(peer).partition(":")
    host = place.rpartition(":")[0].strip("[]").partition("%")[0]
    if kind != "ipv6":
        return host if kind == "ipv4" else kind
    try:
        address = IPv6Address(host)
    except ValueError:
        return kind
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
