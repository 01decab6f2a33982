"""What the issuer signs with: a file of the data folder, readable by its owner only."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from laurel.failures import Failure
from laurel.stack.folder import read_json, write_json

ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True)
class Keys:
    """The key pair of tokens, and the secret that states and cookies are signed with."""

    kid: str
    signing: ec.EllipticCurvePrivateKey = field(repr=False)
    state: bytes = field(repr=False)

    @property
    def published(self) -> dict[str, Any]:
        """The public half, as a JWKS has it."""
        public: dict[str, Any] = jwt.get_algorithm_by_name(ALGORITHM).to_jwk(
            self.signing.public_key(), as_dict=True
        )
        return {**public, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


@dataclass(frozen=True, slots=True)
class Local:
    """An issuer as its file describes it: where it answers, and what it signs with."""

    url: str
    keys: Keys


def prepare(path: Path, url: str) -> Local:
    """Write the file for an issuer at ``url``. Keys that are there are kept."""
    content = read_json(path)
    if not {"kid", "signing_key", "state_key"} <= content.keys():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "kid": secrets.token_hex(8),
            "signing_key": pem.decode(),
            "state_key": secrets.token_hex(32),
        }
    write_json(path, {**content, "url": url})
    return load(path)


def load(path: Path) -> Local:
    """Read the file. Raises Failure."""
    content = read_json(path)
    try:
        key = serialization.load_pem_private_key(content["signing_key"].encode(), None)
        state = bytes.fromhex(content["state_key"])
        kid, url = str(content["kid"]), str(content["url"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise Failure(f"{path} is not of an issuer; start `laurel up`, which makes it") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Failure(f"{path} holds a key of another kind; remove it and start `laurel up` again")
    return Local(url, Keys(kid, key, state))
