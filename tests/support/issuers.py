"""An issuer of tokens: a real HTTP server on loopback that signs, counts, rotates and goes away."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "laurel"
SYSTEM = "shop-login"
DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same key for the same number: making one takes a while."""
    del number
    return rsa.generate_private_key(65537, bits)


def published(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    """A private key's public half as a JWKS has it."""
    algorithm = {rsa.RSAPrivateKey: "RS256", ed25519.Ed25519PrivateKey: "EdDSA"}.get(_kind(key), "ES256")
    public: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)  # type: ignore[call-arg]
    return {**public, "kid": kid, "use": "sig", **more}


def _kind(key: Any) -> Any:
    kinds = (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey)
    return next(kind for kind in kinds if isinstance(key, kind))


class Loopback:
    """The issuer. ``answers`` overrides what a path answers: status, headers, body."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"key-1": rsa_key()}
        self.kid = "key-1"
        self.fetches: dict[str, int] = {DISCOVERY: 0, JWKS: 0}
        self.answers: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        """What stands in `iss`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def jwks_fetches(self) -> int:
        """How often the keys were asked for."""
        return self.fetches[JWKS]

    def start(self) -> None:
        """Be there (again), at the same address."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Go away."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def rotate(self, kid: str, key: Any = None) -> None:
        """Sign with a new key; the old ones are gone."""
        self.keys, self.kid = {kid: key or rsa_key(len(kid) + hash(kid) % 1000)}, kid

    def claims(self, subject: str, **changes: Any) -> dict[str, Any]:
        """Claims of a good access token; None takes one away."""
        now = int(time.time())
        usual = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + 600,
            "jti": uuid4().hex,
            "client_id": "app",
            "scope": "openid points.read points.redeem members.read members.write",
            "acr": "1",
            "auth_time": now,
        }
        return {name: value for name, value in {**usual, **changes}.items() if value is not None}

    def token(self, subject: str, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A signed access token; ``header`` and ``changes`` of the claims override the usual."""
        headers = {"alg": "RS256", "kid": self.kid, "typ": "at+jwt", **(header or {})}
        return signed(headers, self.claims(subject, **changes), self.keys[self.kid])

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.fetches[path] = self.fetches.get(path, 0) + 1
        documents = {
            DISCOVERY: {"issuer": self.url, "jwks_uri": self.url + JWKS},
            JWKS: {"keys": [published(kid, key) for kid, key in self.keys.items()]},
        }
        usual = (200, {}, json.dumps(documents.get(path, {})).encode())
        status, headers, body = self.answers.get(path, usual)
        request.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def loopback() -> Iterator[Loopback]:
    """An issuer for as long as the block lasts."""
    issuer = Loopback()
    try:
        yield issuer
    finally:
        issuer.stop()


def entry(issuer: Loopback, program: str, **changes: Any) -> dict[str, Any]:
    """The issuer as the configuration names it: members by external id, staff by role."""
    return {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "program": program,
        "members": {"external_id_system": SYSTEM},
        "staff": {
            "roles_claim": ["realm_access", "roles"],
            "roles": {"support": ["members.*", "points.read"]},
        },
        "step_up": {"acr_values": ["2"], "max_age_seconds": 300},
        **changes,
    }


def configuration(path: Path, *entries: Mapping[str, Any]) -> Path:
    """A file for LAUREL_OIDC_FILE."""
    path.write_text(yaml.safe_dump({"issuers": list(entries)}))
    return path


def signed(header: Mapping[str, Any], claims: Mapping[str, Any], key: Any) -> str:
    """A token with any header and claims: a library would not sign some of them."""
    body = unsigned(header, claims).rpartition(".")[0]
    signature = jwt.get_algorithm_by_name(str(header["alg"])).sign(body.encode(), key)
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def public_pem(key: Any) -> bytes:
    """A private key's public half, as everybody can have it."""
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem
