"""Page tokens: where a list continues, signed so that nobody makes up their own.

A token belongs to one method and one set of filters (the caller puts the program
among them). It can be read by whoever holds it, so a position is made of ids and
times, never of personal data.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence

from server.domain.errors import InvalidArgument, invalid

MAC_BYTES = 16
MAX_TOKEN_LENGTH = 2048


class Pages:
    """Makes and reads page tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, method: str, filters: Mapping[str, str], position: Sequence[str]) -> str:
        """The token of the page that starts after ``position``."""
        payload = json.dumps(list(position), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(method, filters, payload) + payload).rstrip(b"=").decode()

    def decode(self, method: str, filters: Mapping[str, str], token: str) -> list[str] | None:
        """The position in a token, None for the first page.

        Raises InvalidArgument (PAGE_TOKEN_INVALID) for a token of another list, of
        other filters, or of nobody.
        """
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token[:MAX_TOKEN_LENGTH] + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise _not_ours() from None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if len(token) > MAX_TOKEN_LENGTH or not hmac.compare_digest(mac, self._mac(method, filters, payload)):
            raise _not_ours()
        position: list[str] = json.loads(payload)
        return position

    def _mac(self, method: str, filters: Mapping[str, str], payload: bytes) -> bytes:
        # JSON keeps the parts apart whatever they hold.
        context = json.dumps([method, sorted(filters.items())], separators=(",", ":")).encode()
        return hmac.digest(self._key, context + b"\0" + payload, hashlib.sha256)[:MAC_BYTES]


def _not_ours() -> InvalidArgument:
    return invalid(
        "page_token",
        "must be the next_page_token of this list, used with the same filters",
        "PAGE_TOKEN_INVALID",
    )
