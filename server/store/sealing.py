"""What is kept secret at rest: personal data, sealed per member and found by blind index; webhooks' secrets.

Every member has a data key of its own, wrapped by the master key; destroying it erases
the member. Both layers are AES-256-GCM, and each binds program, member and purpose as
associated data, so that a ciphertext moved to another row can't be opened there. A secret of a
webhook is sealed by the master key itself, bound to its endpoint.
"""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.domain.members import Identifier
from server.secrets import Secrets
from server.store.keys import RequestKey

NONCE_BYTES = 12
FORMAT = b"\x01"
# So much of a profile's length shows: which of these steps it falls in.
PADDING_BYTES = 256

_KEY_PURPOSE = b"laurel member key"
_PROFILE_PURPOSE = b"laurel member profile"
_IDENTIFIER_PURPOSE = b"laurel identifier"
_REQUEST_PURPOSE = b"laurel request"
_WEBHOOK_PURPOSE = b"laurel webhook secret"
_INVITATION_PURPOSE = b"laurel invitation"


class BrokenSealError(Exception):
    """What should open does not: a wrong key, or a row that was altered or moved."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key or secret, readable under the named master key only."""

    master_key_id: str
    wrapped: bytes = field(repr=False)


class Sealer:
    """Seals and opens profiles, and computes blind indexes."""

    def __init__(self, secrets: Secrets) -> None:
        self._current = secrets.master.current
        self._masters = {key_id: AESGCM(key) for key_id, key in secrets.master.keys.items()}
        self._blind_key = secrets.blind_index

    def new_key(self, program_id: UUID, member_id: UUID) -> WrappedKey:
        """A fresh data key for a new member, wrapped by the master key in use."""
        wrapped = _encrypt(
            self._masters[self._current],
            AESGCM.generate_key(256),
            _bound(_KEY_PURPOSE, program_id, member_id),
        )
        return WrappedKey(self._current, wrapped)

    def seal(self, key: WrappedKey, program_id: UUID, member_id: UUID, content: Mapping[str, Any]) -> bytes:
        """The content as padded JSON, encrypted for this member."""
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        padded = text + b" " * (-len(text) % PADDING_BYTES)
        return _encrypt(
            self._data_key(key, program_id, member_id),
            padded,
            _bound(_PROFILE_PURPOSE, program_id, member_id),
        )

    def open(self, key: WrappedKey, program_id: UUID, member_id: UUID, sealed: bytes) -> dict[str, Any]:
        """What was sealed for this member. Raises BrokenSealError."""
        text = _decrypt(
            self._data_key(key, program_id, member_id),
            sealed,
            _bound(_PROFILE_PURPOSE, program_id, member_id),
            member_id,
        )
        content: dict[str, Any] = json.loads(text)
        return content

    def seal_secret(self, program_id: UUID, endpoint_id: UUID, secret: bytes) -> WrappedKey:
        """What a webhook is signed with, sealed for its endpoint by the master key in use."""
        bound = _bound(_WEBHOOK_PURPOSE, program_id, endpoint_id)
        return WrappedKey(self._current, _encrypt(self._masters[self._current], secret, bound))

    def open_secret(self, key: WrappedKey, program_id: UUID, endpoint_id: UUID) -> bytes:
        """What was sealed for this endpoint. Raises BrokenSealError."""
        bound = _bound(_WEBHOOK_PURPOSE, program_id, endpoint_id)
        return _decrypt(self._master(key, endpoint_id), key.wrapped, bound, endpoint_id)

    def blind(self, program_id: UUID, identifier: Identifier) -> bytes:
        """What an identifier is looked up by: useless without the key, and in another program."""
        message = b"\0".join(
            (_IDENTIFIER_PURPOSE, program_id.bytes, identifier.kind.encode(), identifier.value.encode())
        )
        return digest(self._blind_key, message, sha256)

    def request_hash(self, command: Mapping[str, Any]) -> bytes:
        """What a request is recognised by. Keyed, since the plain hash of an email is soon guessed."""
        text = json.dumps(command, sort_keys=True, separators=(",", ":"), default=str)
        return digest(self._blind_key, _REQUEST_PURPOSE + b"\0" + text.encode(), sha256)

    def invitation_token(self, key: RequestKey) -> str:
        """256 bits that nobody can guess, and the same for the same request: a retry gets them again."""
        said = (str(key.program_id), key.source_system, key.request_id)
        message = b"\0".join((_INVITATION_PURPOSE, json.dumps(said).encode()))
        return base64.urlsafe_b64encode(digest(self._blind_key, message, sha256)).rstrip(b"=").decode()

    def _data_key(self, key: WrappedKey, program_id: UUID, member_id: UUID) -> AESGCM:
        master = self._master(key, member_id)
        return AESGCM(_decrypt(master, key.wrapped, _bound(_KEY_PURPOSE, program_id, member_id), member_id))

    def _master(self, key: WrappedKey, owner_id: UUID) -> AESGCM:
        master = self._masters.get(key.master_key_id)
        if master is None:
            raise BrokenSealError(f"of {owner_id}: no master key of id {key.master_key_id}")
        return master


def _bound(purpose: bytes, program_id: UUID, owner_id: UUID) -> bytes:
    return b"\0".join((purpose, program_id.bytes, owner_id.bytes))


def _encrypt(cipher: AESGCM, content: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + cipher.encrypt(nonce, content, bound)


def _decrypt(cipher: AESGCM, sealed: bytes, bound: bytes, owner_id: UUID) -> bytes:
    if sealed[:1] != FORMAT:
        raise BrokenSealError(f"of {owner_id}: sealed in a format that this version doesn't know")
    try:
        return cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], bound)
    except (InvalidTag, ValueError):
        raise BrokenSealError(f"of {owner_id}: what is stored does not open") from None
