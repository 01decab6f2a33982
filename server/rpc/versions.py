"""Consistency tokens: which version of a member a reply told of, signed so that nobody makes up their own.

A token belongs to one member. Whoever sends it back with a read says how old the answer may be at most.
"""

import base64
import binascii
import hashlib
import hmac
from uuid import UUID

from server.domain.errors import FailedPrecondition, InvalidArgument, invalid
from server.operations.points import Seen

VERSION_BYTES = 6
MAC_BYTES = 8
# Of member, version and MAC: a multiple of three bytes, so base64 pads nothing.
LENGTH = (16 + VERSION_BYTES + MAC_BYTES) * 4 // 3


class Versions:
    """Makes and reads consistency tokens under a key derived from ``key``."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"consistency token", hashlib.sha256)

    def token(self, program_id: UUID, member_id: UUID, version: int) -> str:
        """The token of a member at a version."""
        seen = member_id.bytes + version.to_bytes(VERSION_BYTES, "big")
        return base64.urlsafe_b64encode(seen + self._mac(program_id, seen)).decode()

    def read(self, program_id: UUID, token: str) -> Seen | None:
        """What the caller has seen, None if there is no token.

        Raises InvalidArgument (CONSISTENCY_TOKEN_INVALID) for what is no token of the program.
        """
        if not token:
            return None
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True) if len(token) == LENGTH else b""
        except (binascii.Error, ValueError):
            raise not_of_this_member() from None
        seen, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(program_id, seen)):
            raise not_of_this_member()
        return Seen(UUID(bytes=seen[:16]), int.from_bytes(seen[16:], "big"))

    def _mac(self, program_id: UUID, seen: bytes) -> bytes:
        return hmac.digest(self._key, program_id.bytes + seen, hashlib.sha256)[:MAC_BYTES]


def check_seen(seen: Seen, asked: UUID, answered: UUID, version: int) -> None:
    """Hold what the caller has seen against the answer: of the member asked for, or of who lives on.

    Raises InvalidArgument (CONSISTENCY_TOKEN_INVALID), FailedPrecondition (CONSISTENCY_TOKEN_AHEAD).
    """
    if seen.member_id not in (asked, answered):
        raise not_of_this_member()
    if seen.member_id == answered and seen.version > version:
        raise FailedPrecondition(
            "CONSISTENCY_TOKEN_AHEAD", "the member is older than the token; a backup was restored since"
        )


def not_of_this_member() -> InvalidArgument:
    """The refusal of a token that no reply about the member carried."""
    return invalid(
        "consistency_token",
        "must be the consistency_token of an earlier reply about this member, or empty",
        "CONSISTENCY_TOKEN_INVALID",
    )
