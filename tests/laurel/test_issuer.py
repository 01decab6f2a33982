"""The local stack's issuer as browsers and applications meet it: over HTTP, with its real Redis."""

import asyncio
import base64
import hashlib
import html
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
import pytest
import redis.asyncio
from loyalty.v1 import points_pb2
from starlette.applications import Starlette
from starlette.routing import Mount

from laurel import demo
from laurel.issuer import stack
from laurel.issuer.app import CLIENT, IssuerApp
from laurel.issuer.keys import Local, load, prepare
from laurel.issuer.tokens import seal
from laurel.issuer.users import AUDIENCE, SYSTEM, users
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import new_program
from tests.support.refusals import refusal
from tests.support.servers import started
from tests.support.web import serving

BACK = "http://127.0.0.1:9/callback?keep=1"
VERIFIER = secrets.token_urlsafe(48)
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "client_id": CLIENT,
    "redirect_uri": BACK,
    "response_type": "code",
    "scope": "openid points.read",
    "state": "s&t=1",
    "nonce": "n-1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


@dataclass
class Browser:
    """Somebody who follows the issuer's pages; cookies are kept, redirects are not followed."""

    client: httpx.AsyncClient
    local: Local

    async def open(self, **changes: Any) -> httpx.Response:
        asked = {name: value for name, value in {**ASKED, **changes}.items() if value is not None}
        return await self.client.get(f"{self.local.url}/authorize?{urlencode(asked)}")

    async def send(self, page: httpx.Response, **fields: str) -> httpx.Response:
        """Send the form of a page."""
        action = re.search(r'action="([^"]+)"', page.text)
        hidden = re.search(r'type="hidden" name="(\w+)" value="([^"]+)"', page.text)
        assert action
        assert hidden
        host = "{0.scheme}://{0.netloc}".format(urlsplit(self.local.url))
        return await self.client.post(host + action[1], data={hidden[1]: html.unescape(hidden[2]), **fields})

    async def log_in(self, user: str = "asha", **changes: Any) -> httpx.Response:
        return await self.send(await self.open(**changes), user=user)

    async def confirm(self, page: httpx.Response) -> httpx.Response:
        code = re.search(r"<kbd>(\d{6})</kbd>", page.text)
        assert code
        return await self.send(page, code=code[1])

    async def exchange(self, code: str, /, **changes: Any) -> httpx.Response:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": CLIENT,
            "redirect_uri": BACK,
            "code_verifier": VERIFIER,
            **changes,
        }
        return await self.client.post(f"{self.local.url}/token", data=fields)


def answer(response: httpx.Response) -> dict[str, str]:
    """What the browser brings back to the application."""
    assert response.status_code == 303, response.text
    location = response.headers["location"]
    assert location.startswith(f"{BACK}&"), location
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


@asynccontextmanager
async def browsing(folder: Path, redis_url: str) -> AsyncIterator[Browser]:
    store: Any = redis.asyncio.Redis.from_url(redis_url)
    # The address is known once it is served, so the application comes after.
    outer = Starlette()
    async with serving(outer) as address, httpx.AsyncClient() as client:
        local = prepare(folder / "issuer.json", f"http://{address}/issuer")
        outer.routes.append(Mount("/issuer", IssuerApp(local, store).app()))
        yield Browser(client, local)
    await store.aclose()


@pytest.fixture
async def browser(tmp_path: Path, redis_url: str) -> AsyncIterator[Browser]:
    async with browsing(tmp_path, redis_url) as opened:
        yield opened


async def test_a_login_ends_with_tokens_that_say_who_how_and_when(browser: Browser) -> None:
    before = int(time.time())
    back = answer(await browser.log_in())
    assert (back["state"], back["iss"], back["keep"]) == ("s&t=1", browser.local.url, "1")
    reply = (await browser.exchange(back["code"])).json()
    assert (reply["token_type"], reply["scope"]) == ("Bearer", "openid points.read")

    key = browser.local.keys.signing.public_key()
    token = jwt.decode(reply["access_token"], key, ["ES256"], audience=AUDIENCE, issuer=browser.local.url)
    assert jwt.get_unverified_header(reply["access_token"])["typ"] == "at+jwt"
    assert (token["sub"], token["acr"], token["program"]) == ("asha", "1", "demo")
    assert token["auth_time"] >= before
    identity = jwt.decode(reply["id_token"], key, ["ES256"], audience=CLIENT)
    assert (identity["sub"], identity["nonce"], identity["name"]) == ("asha", "n-1", "Asha Rao")


async def test_staff_have_a_role_and_no_scopes_of_members(browser: Browser) -> None:
    back = answer(await browser.log_in("meera", scope="points.redeem"))
    reply = (await browser.exchange(back["code"])).json()
    token = jwt.decode(reply["access_token"], options={"verify_signature": False})
    assert (token["roles"], token["scope"]) == (["support"], "")
    assert "id_token" not in reply


async def test_who_is_logged_in_is_not_asked_again_until_it_is_too_long_ago_or_too_weak(
    browser: Browser,
) -> None:
    await browser.log_in()
    assert "code" in answer(await browser.open())
    assert "code" in answer(await browser.open(max_age="300", prompt="none"))
    assert "Who are you" in (await browser.open(prompt="login")).text
    assert "Who are you" in (await browser.open(max_age="0")).text
    page = await browser.open(acr_values="2", max_age="300")
    assert "second factor" in page.text
    assert "Asha Rao" in page.text
    back = answer(await browser.confirm(page))
    token = (await browser.exchange(back["code"])).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["acr"]) == ("asha", "2")
    assert "code" in answer(await browser.open(acr_values="2", max_age="300")), "now it is strong enough"


async def test_a_strong_login_from_the_start_takes_both_steps(browser: Browser) -> None:
    page = await browser.log_in("ravi", acr_values="2 1")
    assert "second factor" in page.text
    wrong = await browser.send(page, code="x")
    assert "not the code" in wrong.text
    assert "code" in answer(await browser.confirm(wrong))


async def test_prompt_none_never_shows_a_page(browser: Browser) -> None:
    assert answer(await browser.open(prompt="none"))["error"] == "login_required"
    await browser.log_in()
    assert answer(await browser.open(prompt="none", acr_values="2"))["error"] == "login_required"


async def test_a_code_is_good_once(browser: Browser) -> None:
    code = answer(await browser.log_in())["code"]
    assert (await browser.exchange(code)).status_code == 200
    again = await browser.exchange(code)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


async def test_two_processes_share_what_codes_were_used(
    browser: Browser, tmp_path: Path, redis_url: str
) -> None:
    code = answer(await browser.log_in())["code"]
    store: Any = redis.asyncio.Redis.from_url(redis_url)
    other = Starlette(routes=[Mount("/issuer", IssuerApp(load(tmp_path / "issuer.json"), store).app())])
    async with serving(other) as address:
        elsewhere = Browser(browser.client, Local(f"http://{address}/issuer", browser.local.keys))
        assert (await elsewhere.exchange(code)).status_code == 200
        assert (await browser.exchange(code)).status_code == 400
    await store.aclose()


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "x" * 43},
        {"code_verifier": ""},
        {"code_verifier": "é" * 43},
        {"redirect_uri": "http://127.0.0.1:9/other"},
        {"client_id": "another"},
        {"grant_type": "password"},
        {"code": "garbage"},
        {"code": ""},
    ],
)
async def test_a_code_is_good_for_whom_it_was_made_only(browser: Browser, changes: dict[str, str]) -> None:
    code = answer(await browser.log_in())["code"]
    refused = await browser.exchange(code, **changes)
    assert refused.status_code == 400
    assert (await browser.exchange(code)).status_code == 200, "and it isn't used up by trying"


async def test_a_state_is_good_for_its_purpose_only(browser: Browser) -> None:
    content = {"sub": "asha", "acr": "1", "auth_time": 1, "redirect_uri": BACK, "scope": "", "nonce": ""}
    for purpose in ("request", "session", "step"):
        sealed = seal(browser.local, purpose, {**content, "code_challenge": CHALLENGE}, 60)
        assert (await browser.exchange(sealed)).json()["error"] == "invalid_grant"
    page = await browser.open()
    late = seal(browser.local, "request", ASKED, -1)
    action = f"{browser.local.url}/login"
    assert (await browser.client.post(action, data={"request": late, "user": "asha"})).status_code == 400
    assert (await browser.send(page, user="mallory")).status_code == 400


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/callback",
        "http://evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://evil.example\\@127.0.0.1/",
        "http://127.0.0.1:9/#x",
        "javascript:alert(1)",
        "//evil.example",
        "http://[",
        "",
        None,
    ],
)
async def test_nobody_elsewhere_gets_a_code(browser: Browser, uri: str | None) -> None:
    refused = await browser.open(redirect_uri=uri)
    assert refused.status_code == 400
    assert "location" not in refused.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"max_age": "²"}, "invalid_request"),
        ({"prompt": "consent select_account"}, "invalid_request"),
    ],
)
async def test_a_request_that_will_not_do_is_told_to_the_application(
    browser: Browser, changes: dict[str, Any], error: str
) -> None:
    back = answer(await browser.open(**changes))
    assert (back["error"], back["state"], "code" in back) == (error, "s&t=1", False)


async def test_parameters_sent_twice_and_strangers_are_refused(browser: Browser) -> None:
    twice = f"{browser.local.url}/authorize?{urlencode(ASKED)}&client_id={CLIENT}"
    assert (await browser.client.get(twice)).status_code == 400
    assert (await browser.open(client_id="another")).status_code == 400
    assert (await browser.open(scope="x" * 5000)).status_code == 400


async def test_only_this_machine_is_served_and_only_its_own_pages_may_send_forms(browser: Browser) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8080", "[", ""):
        refused = await browser.client.get(f"{browser.local.url}/", headers={"host": host})
        assert refused.status_code in (400, 403), host
    page = await browser.open()
    hidden = re.search(r'name="request" value="([^"]+)"', page.text)
    assert hidden
    sent = await browser.client.post(
        f"{browser.local.url}/login",
        data={"request": hidden[1], "user": "asha"},
        headers={"sec-fetch-site": "cross-site"},
    )
    assert sent.status_code == 400


async def test_a_form_without_end_is_cut_off(browser: Browser) -> None:
    for path in ("login", "confirm", "token"):
        sent = await browser.client.post(f"{browser.local.url}/{path}", content=b"x=" + b"x" * 100_000)
        assert sent.status_code == 400


async def test_pages_load_nothing_and_can_not_be_framed(browser: Browser) -> None:
    for page in (
        await browser.open(login_hint='"><script>'),
        await browser.client.get(f"{browser.local.url}/"),
    ):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["cache-control"] == "no-store"
        assert "<script" not in page.text
        assert not re.search(r'(src|href)="', page.text)
        style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
        assert style
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        for user in users().values():
            assert user.name in page.text


async def test_discovery_tells_what_is_there(browser: Browser) -> None:
    url = browser.local.url
    document = (await browser.client.get(f"{url}/.well-known/openid-configuration")).json()
    assert document["issuer"] == url
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        assert (await browser.client.get(document[name])).status_code != 404
    keys = (await browser.client.get(document["jwks_uri"])).json()["keys"]
    assert [key["kid"] for key in keys] == [browser.local.keys.kid]
    assert not {"d", "k"} & set(keys[0])


async def test_without_redis_no_code_is_taken(tmp_path: Path) -> None:
    async with browsing(tmp_path, "redis://127.0.0.1:1/0") as browser:
        code = answer(await browser.log_in())["code"]
        refused = await browser.exchange(code)
        assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")


async def test_a_login_at_the_local_issuer_gets_a_member_to_their_points(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    store: Any = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value())
    outer = Starlette()
    async with serving(outer) as address:
        own = stack.prepare(tmp_path, "127.0.0.1", int(address.rpartition(":")[2]))
        trusting = settings.model_copy(update={"oidc_file": own["LAUREL_OIDC_FILE"]})
        issuer = stack.application(own[stack.VARIABLE], trusting, store)
        outer.routes.append(Mount(stack.PATH, issuer))
        program = await new_program(database, name="demo", step_up_redeem_points=500)
        async with started(trusting, database, program) as laurel, httpx.AsyncClient() as client:
            keys = {"demo": {"service": laurel.service.key}}
            found = []
            for said in (["  program demo: added people asha, ravi"], []):
                lines: list[str] = []
                seed = (demo.seed_people, laurel.address, keys, SYSTEM, lines.append)
                found.append(await asyncio.to_thread(*seed))
                assert lines == said
            assert found[0] == found[1]

            async def token(user: str, **asked: Any) -> str:
                browser = Browser(client, load(tmp_path / stack.FILE))
                page = await browser.log_in(user, prompt="login", scope="openid", **asked)
                back = answer(await browser.confirm(page) if "acr_values" in asked else page)
                found: str = (await browser.exchange(back["code"])).json()["access_token"]
                return found

            asha = await laurel.caller(await token("asha"))
            member_id = found[0]["asha"]
            shown = await asha.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
            assert shown.member_id == member_id

            much = points_pb2.RedeemRequest(request_id="r-1", member_id=member_id, points=501)
            refused = await refusal(asha.points.Redeem(much))
            assert refused.reason == "STEP_UP_REQUIRED"
            asked = {name: refused.metadata[name] for name in ("acr_values", "max_age")}
            strong = await laurel.caller(await token("asha", **asked))
            assert (await refusal(strong.points.Redeem(much))).reason == "INSUFFICIENT_POINTS"

            ravi = await laurel.caller(await token("ravi"))
            own_only = points_pb2.GetBalanceRequest(member_id=member_id)
            assert (await refusal(ravi.points.GetBalance(own_only))).reason == "OUT_OF_REACH"
            meera = await laurel.caller(await token("meera"))
            assert (await meera.points.GetBalance(own_only)).member_id == member_id
    await store.aclose()
