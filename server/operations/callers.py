"""Everybody who may call: holders of API keys, and people with tokens of an issuer."""

from server.domain.actor import Actor
from server.operations.credentials import PREFIX, Credentials
from server.operations.tokens import Tokens

KEY_START = f"{PREFIX}_"


class Callers:
    """Verifies a credential by whom it can be of: keys have a prefix that no token has."""

    def __init__(self, credentials: Credentials, tokens: Tokens) -> None:
        self._credentials = credentials
        self._tokens = tokens

    async def verify(self, key: str) -> Actor:
        """Whose it is; see Credentials and Tokens for what they raise."""
        return await self._verifier_of(key).verify(key)

    def knows(self, key: str) -> bool:
        """Whether it was found good lately."""
        return self._verifier_of(key).knows(key)

    def _verifier_of(self, key: str) -> Credentials | Tokens:
        is_token = not key.startswith(KEY_START) and key.count(".") == 2
        return self._tokens if is_token else self._credentials
