"""An authority of the test's own, and certificates signed by it."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A certificate authority; ``pem`` is what trusts it."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str = "localhost", days: float = 90, *hosts: str) -> tuple[bytes, bytes]:
        """Certificate and key for ``hosts``, as PEM; valid for so many days from now.

        For localhost and 127.0.0.1, if no hosts are given.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        places: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts or ("localhost",)]
        if not hosts:
            places.append(x509.IPAddress(ip_address("127.0.0.1")))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=100))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(places), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private


class Folder:
    """Where a server finds its certificate, as an operator puts it there."""

    def __init__(self, path: Path, authority: Authority) -> None:
        self.authority = authority
        self.certificate = path / "server.pem"
        self.key = path / "server.key"
        self.ca = path / "ca.pem"
        self.ca.write_bytes(authority.pem)
        self.renew()

    def renew(self, name: str = "localhost", days: float = 90) -> None:
        """Another certificate with another key."""
        certificate, key = self.authority.issue(name, days)
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)

    @property
    def settings(self) -> dict[str, str]:
        """What the server's settings say."""
        return {"tls_certificate_file": str(self.certificate), "tls_key_file": str(self.key)}
