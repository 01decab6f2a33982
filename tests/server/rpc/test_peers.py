import pytest

from server.rpc.peers import network_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.7:50051", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50051", "2001:db8:1:2::"),
        ("ipv6:[2001:db8:1:2::9]:443", "2001:db8:1:2::"),
        ("ipv6:[fe80::1%25eth0]:443", "fe80::"),
        ("ipv6:[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("ipv6:[nonsense]:443", "ipv6"),
        ("unix:", "unix"),
        ("unix:/run/laurel.sock", "unix"),
        ("", ""),
    ],
)
def test_a_peer_is_known_by_its_network(peer: str, network: str) -> None:
    assert network_of(peer) == network
