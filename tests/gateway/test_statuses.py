"""What went wrong behind the shim, as HTTP says it."""

import asyncio
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2

from gateway.contract import Contract
from gateway.statuses import HTTP
from tests.gateway.world import TYPES, World, opened, reason


def packed(detail: Any) -> dict[str, Any]:
    """A detail as JSON."""
    held = AnyMessage()
    held.Pack(detail)
    return dict(MessageToDict(held))


@pytest.mark.parametrize("code", sorted(HTTP.keys() - {code_pb2.OK}))
async def test_every_status_has_its_place_in_http(world: World, code: int) -> None:
    info = error_details_pb2.ErrorInfo(reason="WHY", domain="d", metadata={"a": "b"})
    response = await world.http.post(
        "/v1/fail", json={"code": code, "message": "é", "details": [packed(info)]}
    )
    assert response.status_code == HTTP[code]
    assert response.json() == {"code": code, "message": "é", "details": [packed(info)]}
    assert response.headers["content-type"] == "application/json"
    assert ("retry-after" in response.headers) == (code == code_pb2.UNAVAILABLE)
    assert ("www-authenticate" in response.headers) == (code == code_pb2.UNAUTHENTICATED)


@pytest.mark.parametrize(
    ("nanoseconds", "seconds"),
    [(0, "1"), (1, "1"), (1_000_000_000, "1"), (1_000_000_001, "2"), (9 * 10**9, "9")],
)
async def test_what_a_status_says_of_retries_is_a_header(
    world: World, nanoseconds: int, seconds: str
) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration())
    retry.retry_delay.FromNanoseconds(nanoseconds)
    for code, http in ((code_pb2.UNAVAILABLE, 503), (code_pb2.RESOURCE_EXHAUSTED, 429)):
        response = await world.http.post("/v1/fail", json={"code": code, "details": [packed(retry)]})
        assert (response.status_code, response.headers["retry-after"]) == (http, seconds)


async def test_a_challenge_is_passed_on(world: World) -> None:
    response = await world.http.post("/v1/fail", json={"code": 16})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    challenge = 'Bearer error="insufficient_user_authentication", max_age="300"'
    response = await world.http.post("/v1/fail", json={"code": 16, "challenge": challenge})
    assert response.headers["www-authenticate"] == challenge


async def test_a_detail_that_nobody_knows_keeps_its_bytes(contract: Contract, world: World) -> None:
    shim = world.gateway._errors
    detail = AnyMessage(type_url="type.example/no.such.Message", value=b"\x08\x01")
    from google.rpc.status_pb2 import Status

    from gateway.backend import Failed

    told = shim.of(Failed(Status(code=3, message="m", details=[detail])))
    assert told.status["details"] == [{"@type": "type.example/no.such.Message", "value": "CAE="}]
    detail = AnyMessage(type_url=f"{TYPES}ErrorInfo", value=b"\xff")
    told = shim.of(Failed(Status(code=3, message="m", details=[detail])))
    assert told.status["details"] == [{"@type": f"{TYPES}ErrorInfo", "value": "/w=="}]


async def test_a_server_that_is_away_is_503_until_it_is_back(contract: Contract) -> None:
    import grpc

    async with opened(contract) as world:
        assert (await world.http.get("/v1/things/t")).status_code == 200
        from gateway.channel import ChannelBackend

        away = grpc.aio.server()
        port = away.add_insecure_port("127.0.0.1:0")
        backend = ChannelBackend(
            f"127.0.0.1:{port}", max_message_bytes=1 << 20, patience=5.0, domain="everything"
        )
        await away.start()
        await away.stop(None)
        world.gateway._backend = backend
        response = await world.http.get("/v1/things/t")
        assert (response.status_code, reason(response)) == (503, "SERVER_UNAVAILABLE")
        assert response.headers["retry-after"] == "1"
        assert "127.0.0.1" not in response.text
        back = grpc.aio.server()
        back.add_generic_rpc_handlers((world.server.handler(),))
        back.add_insecure_port(f"127.0.0.1:{port}")
        await back.start()
        async with asyncio.timeout(20):
            while (await world.http.get("/v1/things/t")).status_code != 200:
                pass
        await backend.close()
        await back.stop(None)


async def test_what_a_stopping_server_had_not_begun_is_503(contract: Contract) -> None:
    import grpc

    from gateway.channel import ChannelBackend

    class Stopping(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def drop(_request: bytes, context: Any) -> None:
                await context.abort(grpc.StatusCode.CANCELLED)

            return grpc.unary_unary_rpc_method_handler(drop)

    async with opened(contract) as world:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Stopping(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        backend = ChannelBackend(
            f"127.0.0.1:{port}", max_message_bytes=1 << 20, patience=5.0, domain="everything"
        )
        world.gateway._backend = backend
        response = await world.http.get("/v1/things/t")
        assert (response.status_code, reason(response)) == (503, "SERVER_UNAVAILABLE")
        assert response.headers["retry-after"] == "1"
        await backend.close()
        await server.stop(None)
