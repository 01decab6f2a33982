"""The certificate that the server shows, and the authority it asks clients' certificates of.

Files are read again when they change: whoever connects from then on meets the new
certificate, connections that stand keep theirs. Files that don't fit, as between the
writing of one and the other, change nothing until they do.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

LOOK_AGAIN_SECONDS = 5.0

log = structlog.get_logger()


class TlsError(Exception):
    """Certificates can't be used; the message names file and setting."""


@dataclass(frozen=True, slots=True)
class Material:
    """PEM that fits together. ``client_ca`` is None where clients need no certificate."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Files:
    """Where certificate chain, private key and, if wanted, the clients' authority are."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def named(cls, certificate: str, key: str, client_ca: str) -> "Files | None":
        """Those of LAUREL_TLS_*; None without TLS. Raises TlsError if one is missing."""
        if not (certificate or key or client_ca):
            return None
        if not (certificate and key):
            raise TlsError("TLS needs both LAUREL_TLS_CERTIFICATE_FILE and LAUREL_TLS_KEY_FILE")
        return cls(Path(certificate), Path(key), Path(client_ca) if client_ca else None)

    def read(self) -> Material:
        """What they hold. Raises TlsError."""
        certificate = _read(self.certificate, "LAUREL_TLS_CERTIFICATE_FILE")
        key = _read(self.key, "LAUREL_TLS_KEY_FILE")
        leaf = _certificates(self.certificate, certificate)[0]
        try:
            own = load_pem_private_key(key, None).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise TlsError(f"{self.key} holds no private key in PEM, or one behind a password") from None
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if own.public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
            raise TlsError(
                f"the key in {self.key} is not that of the first certificate in {self.certificate}"
            )
        client_ca = None
        if self.client_ca is not None:
            client_ca = _read(self.client_ca, "LAUREL_TLS_CLIENT_CA_FILE")
            _certificates(self.client_ca, client_ca)
        return Material(certificate, key, client_ca, leaf.not_valid_after_utc)

    def context(self) -> ssl.SSLContext:
        """What Python's own TLS needs of them. Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unknown"
            raise TlsError(f"{self.certificate} and {self.key} can't be used: {reason}") from None
        return context

    def marks(self) -> tuple[tuple[int, ...], ...]:
        """What differs once a file was written anew or replaced."""
        return tuple(_mark(path) for path in (self.certificate, self.key, self.client_ca) if path)


class Certificates:
    """The certificate in use, for gRPC and for HTTP. Raises TlsError unless the files can be used."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._marks = files.marks()
        self._material = files.read()
        self._context = files.context()
        # New connections are handed on from this one to whichever is the newest.
        self._entrance = files.context()
        self._entrance.sni_callback = self._hand_on
        if self._material.expires_at <= datetime.now(UTC):
            log.warning("certificate_expired", expires_at=self._material.expires_at.isoformat())

    @property
    def expires_at(self) -> datetime:
        """When the certificate in use expires."""
        return self._material.expires_at

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of gRPC; TLS 1.2 or newer is what gRPC itself asks for."""
        given = self._material

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Called for each new connection, in a thread of gRPC's.
            nonlocal given
            if self._material is given:
                return None
            given = self._material
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            fetch,  # type: ignore[arg-type] # None says that nothing changed; the stubs know no such thing
            require_client_authentication=given.client_ca is not None,
        )

    def context(self) -> ssl.SSLContext:
        """For a listener of asyncio's."""
        return self._entrance

    def refresh(self) -> None:
        """Use what the files hold now, if that changed and fits together."""
        marks = self._files.marks()
        if marks == self._marks:
            return
        self._marks = marks
        try:
            material, context = self._files.read(), self._files.context()
        except TlsError as error:
            log.error("certificate_not_renewed", problem=str(error))
            return
        if material != self._material:
            self._material, self._context = material, context
            log.info("certificate_renewed", expires_at=material.expires_at.isoformat())

    async def follow(self) -> None:
        """Look at the files now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self.refresh()

    def _hand_on(self, connection: ssl.SSLObject, _name: str | None, _entrance: ssl.SSLContext) -> None:
        connection.context = self._context


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} of {setting} can't be read: {error.strerror}") from None


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{path} holds no certificates in PEM") from None


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)
