"""What the issuer signs: tokens for others, and states that it gets back from browsers."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jwt

from laurel.issuer.keys import ALGORITHM, Local
from laurel.issuer.users import AUDIENCE, MEMBER_SCOPES, User

TOKEN_SECONDS = 900
STATE_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Login:
    """Who logged in, how strongly, and when, in whole seconds since 1970."""

    user: User
    acr: str
    auth_time: int


def access_token(
    local: Local, login: Login, client_id: str, scopes: Iterable[str] = (), seconds: int = TOKEN_SECONDS
) -> tuple[str, str]:
    """A JWT access token (RFC 9068), and the scope that it has."""
    user = login.user
    asked = set(scopes)
    granted = [s for s in MEMBER_SCOPES if s in asked] or list(MEMBER_SCOPES)
    scope = " ".join([*(["openid"] if "openid" in asked else []), *([] if user.role else granted)])
    claims = {
        **_common(local, login, AUDIENCE, seconds),
        "client_id": client_id,
        "scope": scope,
        "program": user.program,
        **({"roles": [user.role]} if user.role else {}),
    }
    return _sign(local, claims, "at+jwt"), scope


def id_token(local: Local, login: Login, client_id: str, nonce: str) -> str:
    """What tells the client who logged in."""
    claims = {**_common(local, login, client_id, TOKEN_SECONDS), "name": login.user.name}
    return _sign(local, {**claims, **({"nonce": nonce} if nonce else {})}, "JWT")


def seal(local: Local, purpose: str, content: Mapping[str, Any], seconds: int) -> str:
    """A state that only we can have made, good for one purpose and a while."""
    now = int(time.time())
    claims = {**content, "aud": purpose, "iss": local.url, "exp": now + seconds, "jti": uuid4().hex}
    return jwt.encode(claims, local.keys.state, STATE_ALGORITHM)


def unseal(local: Local, purpose: str, sealed: str) -> dict[str, Any] | None:
    """What was sealed for this purpose; None if it wasn't, or is too old."""
    try:
        content: dict[str, Any] = jwt.decode(
            sealed,
            local.keys.state,
            algorithms=[STATE_ALGORITHM],
            audience=purpose,
            issuer=local.url,
            options={"require": ["exp", "jti"]},
        )
    except (jwt.PyJWTError, ValueError):
        return None
    return content


def _common(local: Local, login: Login, audience: str, seconds: int) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": local.url,
        "sub": login.user.login,
        "aud": audience,
        "iat": now,
        "exp": now + seconds,
        "jti": uuid4().hex,
        "auth_time": login.auth_time,
        "acr": login.acr,
    }


def _sign(local: Local, claims: Mapping[str, Any], kind: str) -> str:
    headers = {"kid": local.keys.kid, "typ": kind}
    return jwt.encode(dict(claims), local.keys.signing, ALGORITHM, headers)
