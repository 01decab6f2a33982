"""The issuer as an ASGI application: OpenID Connect, authorization code with PKCE, step-up.

Several processes may serve it: what it must remember comes back signed from browsers, and
that a code is used once is kept in Redis.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis.asyncio
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from laurel.issuer import pages
from laurel.issuer.keys import ALGORITHM, Local
from laurel.issuer.tokens import TOKEN_SECONDS, Login, access_token, id_token, seal, unseal
from laurel.issuer.users import MEMBER_SCOPES, STRONG, WEAK, User, users
from server.issuers import is_loopback

CLIENT = "laurel-local"
COOKIE = "laurel_issuer"
MAX_FORM = 16 * 1024
MAX_QUERY = 4 * 1024
REQUEST_SECONDS = 1800
CODE_SECONDS = 60
SESSION_SECONDS = 8 * 3600
FIELDS = ("redirect_uri", "scope", "state", "nonce", "code_challenge", "acr_values", "max_age")

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": pages.POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Public clients on other ports of this machine fetch tokens and keys; no cookie is involved.
OPEN = {"access-control-allow-origin": "*", "x-content-type-options": "nosniff"}


class Wrong(Exception):  # noqa: N818 - reads as the sentence it is
    """The request can't be answered to the application: its reason is for whoever sits there."""


class TokenRefused(Exception):  # noqa: N818 - reads as the sentence it is
    """No token: an error code of OAuth, and why."""

    def __init__(self, error: str, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.error = error
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request, checked. ``max_age`` in seconds, None for any."""

    fields: Mapping[str, str]
    prompt: str
    hint: str

    @property
    def strong(self) -> bool:
        """Whether a second factor is wanted."""
        return STRONG in self.fields["acr_values"].split()

    def met_by(self, login: Login) -> bool:
        """Whether the login is recent enough; its strength is another matter."""
        age = self.fields["max_age"]
        return not age or time.time() - login.auth_time <= int(age)


class IssuerApp:
    """The endpoints of one issuer."""

    def __init__(self, local: Local, store: redis.asyncio.Redis) -> None:
        self._local = local
        self._redis = store
        self._users = users()
        self._path = urlsplit(local.url).path.rstrip("/")

    def app(self) -> Starlette:
        """The application, to be mounted at the path of the issuer's URL."""
        return Starlette(
            routes=[
                Route("/", self._guarded(self._welcome)),
                Route("/.well-known/openid-configuration", self._guarded(self._discovery)),
                Route("/keys", self._guarded(self._keys)),
                Route("/authorize", self._guarded(self._authorize)),
                Route("/login", self._guarded(self._login), methods=["POST"]),
                Route("/confirm", self._guarded(self._confirm), methods=["POST"]),
                Route("/token", self._guarded(self._token), methods=["POST"]),
            ]
        )

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            # A name that an attacker makes resolve to this machine is not one of its names.
            if not is_loopback(_host(request)):
                return HTMLResponse(pages.refused("This issuer is for this machine only."), 403, HEADERS)
            try:
                return await answer(request)
            except Wrong as wrong:
                return HTMLResponse(pages.refused(str(wrong)), 400, HEADERS)

        return guarded

    async def _welcome(self, _request: Request) -> Response:
        discovery = f"{self._local.url}/.well-known/openid-configuration"
        return HTMLResponse(pages.welcome(self._users.values(), discovery), 200, HEADERS)

    async def _discovery(self, _request: Request) -> Response:
        url = self._local.url
        document = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/keys",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "scopes_supported": ["openid", *MEMBER_SCOPES],
            "acr_values_supported": [WEAK, STRONG],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse(document, headers=OPEN)

    async def _keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self._local.keys.published]}, headers=OPEN)

    async def _authorize(self, request: Request) -> Response:
        if len(request.url.query) > MAX_QUERY:
            raise Wrong("The request is too long.")
        given = _once(parse_qsl(request.url.query, keep_blank_values=True))
        if given.get("client_id") != CLIENT:
            raise Wrong(f"The application must call itself {CLIENT}.")
        back = given.get("redirect_uri", "")
        if not _leads_back(back):
            raise Wrong("The application must be on this machine: its redirect_uri isn't.")
        asked = Asked(
            {name: given.get(name, "") for name in FIELDS},
            given.get("prompt", ""),
            given.get("login_hint", ""),
        )
        if error := _mistake(given):
            return self._back(asked.fields, error=error)
        login = self._session(request)
        if login is not None and asked.prompt != "login" and asked.met_by(login):
            if login.acr == STRONG or not asked.strong:
                return self._with_code(asked.fields, login)
            if asked.prompt != "none":
                return self._ask_second(asked.fields, login.user)
        if asked.prompt == "none":
            return self._back(asked.fields, error="login_required")
        sealed = seal(self._local, "request", asked.fields, REQUEST_SECONDS)
        page = pages.choose(self._users.values(), f"{self._path}/login", sealed, asked.hint)
        return HTMLResponse(page, 200, HEADERS)

    async def _login(self, request: Request) -> Response:
        given = await _own_form(request)
        fields = unseal(self._local, "request", given.get("request", ""))
        user = self._users.get(given.get("user", ""))
        if fields is None or user is None:
            raise Wrong("This login has been waiting for too long. Start again from the application.")
        if STRONG in fields["acr_values"].split():
            return self._ask_second(fields, user)
        return self._with_code(fields, Login(user, WEAK, int(time.time())))

    async def _confirm(self, request: Request) -> Response:
        given = await _own_form(request)
        sealed = given.get("step", "")
        fields = unseal(self._local, "step", sealed)
        user = self._users.get(fields["user"]) if fields else None
        if fields is None or user is None:
            raise Wrong("This login has been waiting for too long. Start again from the application.")
        if not hmac.compare_digest(given.get("code", "").encode(), self._second_factor(fields).encode()):
            return self._ask_second(fields, user, wrong=True)
        return self._with_code(fields, Login(user, STRONG, int(time.time())))

    async def _token(self, request: Request) -> Response:
        try:
            given = await _form(request)
            if given.get("grant_type") != "authorization_code":
                raise TokenRefused("unsupported_grant_type", "only authorization_code is")
            if given.get("client_id") != CLIENT:
                raise TokenRefused("invalid_client", f"the client is {CLIENT}")
            return await self._exchanged(given)
        except Wrong as wrong:
            return _refusal(TokenRefused("invalid_request", str(wrong)))
        except TokenRefused as refused:
            return _refusal(refused)

    async def _exchanged(self, given: Mapping[str, str]) -> Response:
        """Tokens for a code. Raises TokenRefused."""
        code = unseal(self._local, "code", given.get("code", ""))
        user = self._users.get(code["sub"]) if code else None
        if (
            code is None
            or user is None
            or given.get("redirect_uri") != code["redirect_uri"]
            or _challenge(given.get("code_verifier", "")) != code["code_challenge"]
        ):
            raise TokenRefused("invalid_grant", "the code is not, or no longer, good for this")
        try:
            fresh = await self._redis.set(f"laurel:issuer:{code['jti']}", 1, nx=True, ex=2 * CODE_SECONDS)
        except RedisError:
            raise TokenRefused("temporarily_unavailable", "Redis is away", 503) from None
        if not fresh:
            raise TokenRefused("invalid_grant", "the code was used already")
        login = Login(user, code["acr"], code["auth_time"])
        scopes = code["scope"].split()
        token, scope = access_token(self._local, login, CLIENT, scopes)
        reply = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "scope": scope}
        if "openid" in scopes:
            reply["id_token"] = id_token(self._local, login, CLIENT, code["nonce"])
        return JSONResponse(reply, headers={**OPEN, "cache-control": "no-store"})

    def _session(self, request: Request) -> Login | None:
        """Who logged in with this browser before."""
        content = unseal(self._local, "session", request.cookies.get(COOKIE, ""))
        user = self._users.get(content["sub"]) if content else None
        return Login(user, content["acr"], content["auth_time"]) if content and user else None

    def _with_code(self, fields: Mapping[str, Any], login: Login) -> Response:
        """Back to the application with a code, and the browser remembers who it is."""
        who = {"sub": login.user.login, "acr": login.acr, "auth_time": login.auth_time}
        kept = {name: fields[name] for name in ("redirect_uri", "scope", "nonce", "code_challenge")}
        response = self._back(fields, code=seal(self._local, "code", {**kept, **who}, CODE_SECONDS))
        response.set_cookie(
            COOKIE,
            seal(self._local, "session", who, SESSION_SECONDS),
            max_age=SESSION_SECONDS,
            path=self._path or "/",
            httponly=True,
            samesite="lax",
        )
        return response

    def _ask_second(self, fields: Mapping[str, Any], user: User, *, wrong: bool = False) -> Response:
        kept = {**{name: fields[name] for name in FIELDS}, "user": user.login}
        sealed = seal(self._local, "step", kept, REQUEST_SECONDS)
        code = self._second_factor(unseal(self._local, "step", sealed) or {})
        page = pages.second_factor(user, f"{self._path}/confirm", sealed, code, wrong)
        return HTMLResponse(page, 200, HEADERS)

    def _second_factor(self, step: Mapping[str, Any]) -> str:
        """The six digits that belong to a step."""
        mac = hmac.digest(self._local.keys.state, f"second factor {step['jti']}".encode(), "sha256")
        return f"{int.from_bytes(mac[:8]) % 10**6:06}"

    def _back(self, fields: Mapping[str, Any], **answer: str) -> RedirectResponse:
        """To the application, with its state and our name (RFC 9207)."""
        parameters = {**answer, **({"state": fields["state"]} if fields["state"] else {})}
        query = urlencode({**parameters, "iss": self._local.url})
        back = fields["redirect_uri"]
        return RedirectResponse(f"{back}{'&' if '?' in back else '?'}{query}", 303, HEADERS)


async def _own_form(request: Request) -> dict[str, str]:
    """The same, sent from a page of ours. Raises Wrong."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Wrong("The form was sent from elsewhere.")
    return await _form(request)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises Wrong."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise Wrong("The form is too large.")
    try:
        return _once(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise Wrong("The form can't be read.") from None


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Wrong("A parameter was sent twice.")
    return found


def _mistake(given: Mapping[str, str]) -> str:
    """The error code of an authorization request, "" if it is in order."""
    if given.get("response_type") != "code":
        return "unsupported_response_type"
    age = given.get("max_age", "")
    challenge = given.get("code_challenge", "")
    if given.get("code_challenge_method") != "S256" or not 43 <= len(challenge) <= 128:
        return "invalid_request"
    if age and not (age.isascii() and age.isdigit() and len(age) < 10):
        return "invalid_request"
    return "" if given.get("prompt", "") in ("", "login", "none") else "invalid_request"


def _leads_back(uri: str) -> bool:
    """Whether the address is of this machine: nobody else gets a code."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return False
    plain = uri.isascii() and uri.isprintable() and "\\" not in uri and not parts.fragment
    named = parts.username is None and is_loopback(parts.hostname or "")
    return plain and named and parts.scheme == "http" and "#" not in uri


def _challenge(verifier: str) -> str:
    """What a PKCE verifier was announced as; a verifier of the wrong form fits nothing."""
    if not 43 <= len(verifier) <= 128 or not verifier.isascii():
        return "?"
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _refusal(refused: "TokenRefused") -> Response:
    body = {"error": refused.error, "error_description": str(refused)}
    return JSONResponse(body, refused.status, {**OPEN, "cache-control": "no-store"})


def _host(request: Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
