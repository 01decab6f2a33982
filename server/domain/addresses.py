"""Which addresses may be called on behalf of somebody who chose the name that leads there.

Only what the public internet routes: neither this machine nor its neighbours, nor the services
that clouds put at special addresses, nor forms of IPv6 that carry such an address within.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Of IANA's registries of special addresses, what is not, or need not be, a public server.
CLOSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 reaches this machine
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' own, and a cloud's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a cloud's host, public by its number only
            "169.254.0.0/16",  # link-local, and most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols' own, and a cloud's metadata
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
# Everything else of IPv6 is closed: loopback, link-local, unique local with a cloud's metadata, multicast,
# IPv4-mapped and -compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard-only, segment routing.
GLOBAL_V6 = IPv6Network("2000::/3")
CLOSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols' own, with Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether the internet at large has it. ``address`` as numbers; anything else is not."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in CLOSED_V4)
    return _is_public_v6(parsed)


def _is_public_v6(address: IPv6Address) -> bool:
    return (
        address.scope_id is None
        and address in GLOBAL_V6
        and not any(address in network for network in CLOSED_V6)
    )


def is_loopback(address: str) -> bool:
    """Whether it is this machine, said plainly."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return parsed in IPv4Network("127.0.0.0/8") or parsed == IPv6Address("::1")
