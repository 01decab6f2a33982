"""Headers, deadlines, entity tags, CORS and limits of calls that don't stream."""

import asyncio
import json
from typing import Any

import pytest
from google.rpc import code_pb2

from gateway.bodies import deeper
from gateway.limits import Limits
from tests.gateway.world import ORIGIN, World, reason


async def test_unknown_paths_and_methods(world: World) -> None:
    response = await world.http.get("/v2/nothing")
    assert (response.status_code, reason(response)) == (404, "ROUTE_UNKNOWN")
    response = await world.http.patch("/v1/things/t", json={})
    assert (response.status_code, reason(response)) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PURGE, PUT"
    response = await world.http.options("/v1/things/t")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PURGE, PUT"
    assert (await world.http.options("/v2/nothing")).status_code == 404
    assert (await world.http.options("/v1/any/x", headers={})).status_code == 200  # it has a binding for all


async def test_head_is_get_without_the_body(world: World) -> None:
    got = await world.http.get("/v1/things/t?etag=e")
    head = await world.http.head("/v1/things/t?etag=e")
    assert head.content == b""
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    refused = await world.http.head("/v1/things/t?nope=1")
    assert (refused.status_code, refused.content) == (400, b"")
    assert (await world.http.head("/v1/touch")).status_code == 405
    stream = await world.http.head("/v1/things:watch")
    assert (stream.status_code, stream.headers["allow"]) == (405, "GET, OPTIONS, POST")


async def test_no_header_overrides_the_method(world: World) -> None:
    seen = len(world.server.seen)
    for name in ("x-http-method-override", "x-http-method", "x-method-override"):
        response = await world.http.post("/v1/things/t:replace", json={}, headers={name: "DELETE"})
        assert response.status_code == 200
    assert [call.method for call in world.server.seen[seen:]] == ["", "", ""]
    assert (
        await world.http.post("/v1/things/t", headers={"x-http-method-override": "PUT"})
    ).status_code == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content-type": "application/json"}, 200),
        ({"content-type": "Application/JSON; charset=UTF-8"}, 200),
        ({"content-type": 'application/json; charset="utf-8"; x=y'}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/grpc"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
async def test_a_body_of_another_type_is_refused(world: World, headers: dict[str, str], status: int) -> None:
    response = await world.http.put("/v1/things/t", content=b"{}", headers=headers)
    assert response.status_code == status
    if status == 415:
        assert reason(response) == "MEDIA_TYPE_UNSUPPORTED"


async def test_only_known_headers_are_passed_on(world: World) -> None:
    sent = {
        "authorization": "Bearer abc",
        "x-api-key": "key",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
    }
    forged = {
        "grpc-metadata-x-member-id": "B",
        "grpc-metadata-authorization": "Bearer forged",
        "grpcgateway-authorization": "Bearer forged",
        "x-member-id": "B",
        "x-forwarded-for": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "x-forwarded-client-cert": "By=x",
        "x-client-cert": "x",
        "x-ssl-client-verify": "SUCCESS",
        "x-envoy-peer-metadata": "x",
        "cookie": "a=b",
        "grpc-encoding": "gzip",
        "te": "trailers",
    }
    await world.http.get("/v1/things/t", headers={**sent, **forged})
    own = {"user-agent", "accept-encoding", "grpc-accept-encoding"}
    assert {name: value for name, value in world.last.metadata.items() if name not in own} == sent
    assert "grpc" in world.last.metadata["user-agent"]


async def test_a_header_that_can_not_be_passed_on_is_refused(world: World) -> None:
    response = await world.http.get("/v1/things/t", headers=[(b"authorization", b"Bearer \xe9")])
    assert response.status_code == 400


@pytest.mark.parametrize("key", ["k-1", '"k-1"'])
async def test_an_idempotency_key_fills_the_request_id(world: World, key: str) -> None:
    for body in ({}, {"requestId": "k-1"}, {"request_id": "k-1"}, {"requestId": None}):
        response = await world.http.put("/v1/things/t", json=body, headers={"idempotency-key": key})
        assert response.status_code == 200
        assert world.last.request.request_id == "k-1"
    response = await world.http.put(
        "/v1/things/t", json={"requestId": "k-2"}, headers={"idempotency-key": key}
    )
    assert response.status_code == 400
    assert "request_id" in response.text
    response = await world.http.post("/v1/fail", json={"code": 5}, headers={"idempotency-key": key})
    assert response.status_code == 404  # no such field there, no effect
    for bad in ("", '"', '"a', '""', 'a\\"', '"a"b"'):
        response = await world.http.put("/v1/things/t", json={}, headers={"idempotency-key": bad})
        assert response.status_code == (200 if bad == 'a\\"' else 400), bad


async def test_an_idempotency_key_counts_where_the_body_is_one_field(world: World) -> None:
    await world.http.patch("/v1/shelves/1/things/2", json={"int32": 1}, headers={"idempotency-key": "k"})
    assert world.last.request.request_id == "k"
    assert not world.last.request.child.request_id


@pytest.mark.parametrize(
    ("headers", "most"),
    [
        ({"x-request-timeout": "5"}, 5.0),
        ({"x-request-timeout": "2.5"}, 2.5),
        ({"grpc-timeout": "1500m"}, 1.5),
        ({"grpc-timeout": "2S"}, 2.0),
        ({"grpc-timeout": "1M", "x-request-timeout": "3"}, 3.0),
        ({"x-request-timeout": "99999999"}, 60.0),
        ({"grpc-timeout": "99999999H"}, 60.0),
    ],
)
async def test_a_timeout_becomes_the_deadline(world: World, headers: dict[str, str], most: float) -> None:
    await world.http.get("/v1/things/t", headers=headers)
    assert world.last.seconds is not None
    assert most - 1.5 < world.last.seconds < most + 0.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (n, t)
        for n in ("x-request-timeout", "grpc-timeout")
        for t in ("0", "-1", "x", "1e3", "NaN", "0S", "1 S")
    ],
)
async def test_a_timeout_that_is_none_is_refused(world: World, name: str, text: str) -> None:
    assert (await world.http.get("/v1/things/t", headers={name: text})).status_code == 400


async def test_a_call_past_its_deadline_is_ended(world: World) -> None:
    response = await world.http.get("/v1/wait", headers={"x-request-timeout": "0.2"})
    assert (response.status_code, reason(response)) == (504, "DEADLINE_EXCEEDED")
    async with asyncio.timeout(10):
        await world.server.given_up.acquire()


async def test_a_client_that_leaves_has_cancelled_its_call(world: World) -> None:
    while not world.server.waiting.locked():
        await world.server.waiting.acquire()
    call = asyncio.create_task(world.http.get("/v1/wait"))
    async with asyncio.timeout(10):
        await world.server.waiting.acquire()
        call.cancel()
        await world.server.given_up.acquire()


async def test_an_etag_is_a_header(world: World) -> None:
    response = await world.http.get('/v1/things/t?etag=a"%25é')
    assert response.headers["etag"] == '"a%22%25%C3%A9"'
    tag = response.headers["etag"]
    for wanted in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = await world.http.get('/v1/things/t?etag=a"%25é', headers={"if-none-match": wanted})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in again.headers
    for wanted in ('"x"', "x", ""):
        again = await world.http.get('/v1/things/t?etag=a"%25é', headers={"if-none-match": wanted})
        assert again.status_code == 200
    assert "etag" not in (await world.http.get("/v1/things/t")).headers
    response = await world.http.put("/v1/things/t", json={"etag": tag}, headers={})
    assert response.headers["etag"] != tag


async def test_if_match_fills_the_etag(world: World) -> None:
    response = await world.http.put("/v1/things/t", json={}, headers={"if-match": '"a%22b"'})
    assert response.status_code == 200
    assert world.last.request.etag == 'a"b'
    response = await world.http.patch(
        "/v1/shelves/1/things/2", json={"int32": 1}, headers={"if-match": '"1"'}
    )
    assert response.status_code == 200
    assert world.last.request.child.etag or world.last.request.etag
    response = await world.http.put("/v1/things/t", json={"etag": "b"}, headers={"if-match": '"a"'})
    assert response.status_code == 400
    await world.http.put("/v1/things/t", json={}, headers={"if-match": "*"})
    assert world.last.request.etag == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": '"a", "b"'}, 400),
        ({"if-match": "a"}, 400),
        ({"if-match": '""'}, 400),
        ({"if-match": 'W/"a"'}, 412),
        ({"if-none-match": '"a"'}, 400),
        ({"if-none-match": "*"}, 400),
    ],
)
async def test_a_condition_that_can_not_be_held_is_refused(
    world: World, headers: dict[str, str], status: int
) -> None:
    seen = len(world.server.seen)
    assert (await world.http.put("/v1/things/t", json={}, headers=headers)).status_code == status
    assert len(world.server.seen) == seen
    upload = await world.http.post("/v1/files/a", content=b"", headers={"if-match": '"a"'})
    assert upload.status_code == 400


async def test_a_condition_that_does_not_hold_is_412(world: World) -> None:
    path, sent = "/v1/shelves/1/things/2", {"int32": 1}
    response = await world.http.patch(path, json=sent, headers={"if-match": '"2"'})
    assert response.status_code == 412
    assert response.json()["details"][0]["reason"] == "ETAG_MISMATCH"
    assert "retry-after" not in response.headers
    # In the body it is a field like others.
    assert (await world.http.patch(path, json={**sent, "etag": "2"})).status_code == 409
    assert (await world.http.patch(path, json=sent, headers={"if-match": '"1"'})).status_code == 200


async def test_calls_that_met_are_409_whatever_was_asked_of_the_etag(world: World) -> None:
    for headers in ({}, {"if-match": '"1"'}):
        response = await world.http.patch(
            "/v1/shelves/1/things/2", json={"text": "contended"}, headers=headers
        )
        assert (response.status_code, response.json()["code"]) == (409, code_pb2.ABORTED)


async def test_pages_of_known_origins_may_use_the_shim(world: World) -> None:
    response = await world.http.get("/v1/things/t", headers={"origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "etag" in response.headers["access-control-expose-headers"]
    assert response.headers["vary"] == "origin"
    refused = await world.http.get("/v1/things/t?nope=1", headers={"origin": ORIGIN})
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    stranger = await world.http.get("/v1/things/t", headers={"origin": "https://evil.example"})
    assert stranger.status_code == 200
    assert "access-control-allow-origin" not in stranger.headers


async def test_pages_may_ask_first(world: World) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "PUT",
        "access-control-request-headers": "authorization, idempotency-key",
    }
    response = await world.http.options("/v1/things/t", headers=asked)
    assert response.status_code == 204
    assert "PUT" in response.headers["access-control-allow-methods"].split(", ")
    assert "idempotency-key" in response.headers["access-control-allow-headers"].split(", ")
    asked["origin"] = "https://evil.example"
    response = await world.http.options("/v1/things/t", headers=asked)
    assert "access-control-allow-methods" not in response.headers


async def test_a_body_has_a_size(world: World) -> None:
    limit = Limits().body
    seen = len(world.server.seen)

    async def pieces() -> Any:
        for _ in range(50):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    response = await world.http.put("/v1/things/t", content=b" " * (limit + 1), headers=headers)
    assert (response.status_code, reason(response)) == (413, "MESSAGE_TOO_LARGE")
    assert response.headers["connection"] == "close"
    assert len(world.server.seen) == seen
    response = await world.http.put("/v1/things/t", content=b" " * (limit - 2) + b"{}", headers=headers)
    assert response.status_code == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"PUT /v1/things/t HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    written = 0
    async with asyncio.timeout(20):
        answered = asyncio.ensure_future(reader.readline())
        async for piece in pieces():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            written += len(piece)
            try:
                await writer.drain()
            except ConnectionError:
                break
            if answered.done():
                break
        assert b"413" in await answered
    assert written < 40 << 20
    writer.close()


@pytest.mark.parametrize("opening", ['{"child":', "[", '{"struct":{"a":[', "[[{}],"])
async def test_a_body_has_a_depth(world: World, opening: str) -> None:
    body = opening * 10_000
    response = await world.http.put(
        "/v1/things/t", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert (response.status_code, reason(response)) == (400, "BODY_NOT_JSON")


async def test_depth_is_not_counted_within_text(world: World) -> None:
    assert not deeper(b'["' + b"[" * 1000 + rb'\"[[[[[[[["]', 5)
    assert deeper(b'["\\\\"' + b"[" * 6, 5)
    assert not deeper(b"[]" * 1000, 1)
    assert deeper(b'"\\' + b"[" * 10 + b'"' + b"[" * 10, 5)
    deep: Any = "x"
    for _ in range(30):
        deep = {"child": deep if isinstance(deep, dict) else {}}
    assert (await world.http.put("/v1/things/t", json=deep)).status_code == 200
    struct: Any = 1
    for _ in range(60):
        struct = [struct]
    response = await world.http.put("/v1/things/t", content=json.dumps({"struct": {"a": struct}}))
    assert response.status_code == 400
    assert "too deep" in response.text


async def test_a_head_has_a_size(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET /v1/things/t HTTP/1.1\r\nhost: x\r\n" + b"x-filler: aaaaaaaaaaaaaaaa\r\n" * 5000)
    async with asyncio.timeout(10):
        assert b" 400 " in await reader.readline()
    writer.close()
