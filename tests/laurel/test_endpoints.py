"""The paths that the contracts promise, over REST, through the same gate as gRPC."""

from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from loyalty.v1 import points_pb2, points_pb2_grpc

from gateway.settings import GatewaySettings
from laurel.process.main import Process, running
from laurel.process.rest import health_at
from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal

EVENT_TYPE = {"name": "REVIEW_SUBMITTED", "attributes": {"stars": "number"}}


@pytest.fixture(scope="module")
async def process(settings: Settings) -> AsyncIterator[Process]:
    async with running(settings, GatewaySettings(http_port=0)) as running_process:
        yield running_process


@pytest.fixture(scope="module")
async def key(database: Database) -> str:
    return await new_key(database, await new_program(database), CallerKind.SERVICE)


@pytest.fixture(scope="module")
async def http(process: Process, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{process.rest.port}",
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=60,
    ) as client:
        yield client


def once() -> dict[str, str]:
    """A header that makes a write happen once."""
    return {"idempotency-key": uuid4().hex}


def reason(response: httpx.Response) -> str:
    """The reason in a refusal."""
    return str(response.json()["details"][0]["reason"])


async def register(http: httpx.AsyncClient, **member: Any) -> dict[str, Any]:
    body = {"member": {"email": f"{uuid4().hex}@example.com", **member}}
    response = await http.post("/members/register", json=body, headers=once())
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()["member"]
    return told


async def rule(http: httpx.AsyncClient) -> None:
    """20 points for every 100 rupees, 50 for a review, unless they are there already."""
    if (await http.get("/rules/base")).status_code == 200:
        return
    response = await http.post("/eventTypes", json={"eventType": EVENT_TYPE})
    assert response.status_code == 200, response.text
    base = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 20, "per": "100"}}]}
    review = {
        "rule": "review",
        "when": {"event": "REVIEW_SUBMITTED"},
        "then": [{"fixed": {"points": 50}}],
    }
    drafted = [await http.post("/rules", json={"definition": r}) for r in (base, review)]
    assert [response.status_code for response in drafted] == [200, 200], drafted[-1].text
    drafts = [response.json()["rule"] for response in drafted]
    publish = [{"name": draft["name"], "version": draft["version"]} for draft in drafts]
    response = await http.post("/rules:publish", json={"publish": publish})
    assert response.status_code == 200, response.text


async def test_a_member_earns_spends_and_looks_back(http: httpx.AsyncClient) -> None:
    await rule(http)
    member_id = (await register(http))["memberId"]
    purchase = {
        "memberId": member_id,
        "orderReference": uuid4().hex,
        "amount": {"currencyCode": "INR", "units": 1000},
    }
    retry = once()
    bought = await http.post("/transactions/accrue", json=purchase, headers=retry)
    assert bought.status_code == 200, bought.text
    assert bought.json()["points"] == "200"
    again = await http.post("/transactions/accrue", json=purchase, headers=retry)
    assert again.json() == bought.json()
    review = {"member_id": member_id, "event_type": "REVIEW_SUBMITTED", "reference": uuid4().hex}
    told = await http.post("/events", json={**review, "attributes": {"stars": 5}}, headers=once())
    assert told.json()["balance"] == "250"
    spent = await http.post(
        "/transactions/redeem", json={"memberId": member_id, "points": "30"}, headers=once()
    )
    assert spent.json()["balance"] == "220"
    balance = (await http.get(f"/api/points/{member_id}")).json()
    assert balance["wallets"][0]["balance"] == "220"
    profile = (await http.get(f"/members/{member_id}")).json()["member"]
    assert (profile["tier"], profile["wallets"][0]["balance"]) == ("bronze", "220")

    first = (await http.get(f"/members/{member_id}/history?page_size=2")).json()
    assert [row["points"] for row in first["transactions"]] == ["30", "50"]
    rest = (
        await http.get(
            f"/members/{member_id}/history", params={"pageSize": 2, "pageToken": first["nextPageToken"]}
        )
    ).json()
    assert [row["points"] for row in rest["transactions"]] == ["200"]
    earned = bought.json()["awards"][0]["transactionId"]
    assert (await http.get(f"/transactions/{earned}")).json()["transaction"]["kind"].endswith("EARN")
    assert (await http.get(f"/transactions/{earned}:explain")).json()["rules"][0]["rule"] == "base"


async def test_a_profile_changes_only_as_it_was_read(http: httpx.AsyncClient) -> None:
    member = await register(http, givenName="Asha")
    path = f"/members/{member['memberId']}"
    read = await http.get(path)
    tag = read.headers["etag"]
    assert (await http.get(path, headers={"if-none-match": tag})).status_code == 304
    changed = await http.patch(path, json={"givenName": "Asha B"}, headers={**once(), "if-match": tag})
    assert changed.status_code == 200, changed.text
    told = changed.json()["member"]
    assert (told["givenName"], told["email"]) == ("Asha B", member["email"])
    stale = await http.patch(path, json={"givenName": "No"}, headers={**once(), "if-match": tag})
    assert (stale.status_code, reason(stale)) == (412, "ETAG_MISMATCH")
    assert (await http.get(path)).json()["member"]["givenName"] == "Asha B"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/members/00000000-0000-7000-8000-000000000000", None, 404),
        ("GET", "/members/not-an-id", None, 400),
        ("GET", "/transactions/00000000-0000-7000-8000-000000000000", None, 404),
        ("POST", "/transactions/redeem", {"points": "x"}, 400),
        ("POST", "/transactions/redeem", {"points": "0", "memberId": ""}, 400),
        ("POST", "/events", {"nope": 1}, 400),
        ("POST", "/members/00000000-0000-7000-8000-000000000001/consents", {"memberId": "other"}, 400),
        ("DELETE", "/members/register", None, 405),
        ("GET", "/nothing", None, 404),
    ],
)
async def test_refusals(http: httpx.AsyncClient, method: str, path: str, body: Any, status: int) -> None:
    response = await http.request(method, path, json=body, headers=once())
    assert response.status_code == status, response.text
    assert response.json()["details"][0]["domain"] == "loyalty.laurel"


async def test_a_refusal_is_the_one_that_grpc_gives(
    http: httpx.AsyncClient, process: Process, key: str
) -> None:
    member_id = (await register(http))["memberId"]
    facts = {"requestId": uuid4().hex, "memberId": member_id, "points": "1000"}
    over_rest = await http.post("/transactions/redeem", json=facts)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.server.port}") as channel:
        stub = points_pb2_grpc.PointsServiceStub(channel)
        request = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=1000)
        over_grpc = await refusal(stub.Redeem(request, metadata=[("authorization", f"Bearer {key}")]))
    assert over_rest.status_code == 400
    info = over_rest.json()["details"][0]
    assert (info["reason"], info["metadata"]) == (over_grpc.reason, over_grpc.metadata)
    assert over_rest.json()["message"] == over_grpc.message


async def test_a_refusal_for_want_of_a_request_id_names_the_header(http: httpx.AsyncClient) -> None:
    body = {"memberId": str(uuid4()), "points": "1"}
    told = (await http.post("/transactions/redeem", json=body)).json()
    assert told["message"] == "request_id: is required; the header Idempotency-Key fills it, too"
    [violation] = told["details"][1]["fieldViolations"]
    assert violation["description"].endswith("the header Idempotency-Key fills it, too")
    # Who sends it knows of it.
    long = await http.post("/transactions/redeem", json=body, headers={"idempotency-key": "k" * 65})
    assert long.json()["message"] == "request_id: must be 1 to 64 visible ASCII characters"


async def test_the_front_names_what_this_is_and_where_everything_else_stands(
    http: httpx.AsyncClient, process: Process
) -> None:
    front = (await http.get("/")).json()
    assert (front["name"], front["version"]) == ("Laurel", version("laurel"))
    health = front["health"]
    assert health == f"http://127.0.0.1:{process.server.ops_port}/readyz"
    assert (await http.get(health)).json()["checks"]["serving"] == "ok"
    assert {(await http.get(front[name])).status_code for name in ("docs", "openapi")} == {200}
    # What only begins like it is the contracts'.
    assert reason(await http.get(f"http://127.0.0.1:{process.rest.port}//docs")) == "ROUTE_UNKNOWN"
    assert health_at("0.0.0.0", 9464) == health_at("10.0.0.1", 9464) == health_at("127.0.0.1", None) == ""


async def test_the_document_and_its_page_stand_beside_the_contracts(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert "/members/{memberId}" in str(document["paths"].keys()).replace("member_id", "memberId")
    assert (await http.get("/docs")).headers["content-type"].startswith("text/html")
