"""The doors of a server, with one way to knock: what one refuses the others must too.

gRPC; REST in the server's own process; REST by a shim of its own in front of it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import grpc
import httpx
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loyalty.v1 import journal_pb2, member_pb2, points_pb2, rules_pb2

from gateway.app import Gateway
from gateway.channel import ChannelBackend
from gateway.contract import Contract, describe
from laurel.process.inside import InsideBackend
from server.main import Server
from server.rpc.errors import DOMAIN
from tests.support.web import serving

SERVICES = {
    "MemberService": member_pb2,
    "PointsService": points_pb2,
    "JournalService": journal_pb2,
    "RulesService": rules_pb2,
}
# How each RPC used here is spelt over REST: method, path, whether a body is sent, mask apart.
ROUTES = {
    "PointsService/GetBalance": ("GET", "/api/points/{memberId}"),
    "PointsService/ListHistory": ("GET", "/members/{memberId}/history"),
    "MemberService/ListTimeline": ("GET", "/members/{memberId}/timeline"),
    "PointsService/Redeem": ("POST", "/transactions/redeem"),
    "PointsService/TransferPoints": ("POST", "/transactions/transfer"),
    "PointsService/Accrue": ("POST", "/transactions/accrue"),
    "MemberService/GetMember": ("GET", "/members/{memberId}"),
    "MemberService/UpdateMember": ("PATCH", "/members/{memberId}"),
    "MemberService/ListMembers": ("GET", "/members"),
    "MemberService/SuspendMember": ("POST", "/members/{memberId}:suspend"),
}
HTTP = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}


@dataclass(frozen=True)
class Answer:
    """What came back. ``whole`` is everything that a caller can see of a refusal."""

    code: str
    reason: str
    metadata: Mapping[str, str]
    challenge: str
    reply: Mapping[str, Any]
    whole: bytes

    @property
    def kind(self) -> tuple[str, str]:
        """Code and reason."""
        return self.code, self.reason


class Door(Protocol):
    """A way in."""

    async def knock(self, rpc: str, request: Mapping[str, Any], token: str | None, **headers: str) -> Answer:
        """Call ``Service/Method`` with a request in proto3 JSON."""


class Grpc:
    """gRPC itself."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def knock(self, rpc: str, request: Mapping[str, Any], token: str | None, **headers: str) -> Answer:
        """Call it."""
        service, _, method = rpc.partition("/")
        described = SERVICES[service].DESCRIPTOR.services_by_name[service].methods_by_name[method]
        call = self._channel.unary_unary(
            f"/loyalty.v1.{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if token is not None:
            metadata.append(("authorization", f"Bearer {token}"))
        try:
            reply = await call(
                ParseDict(request, GetMessageClass(described.input_type)()), metadata=metadata, timeout=60
            )
        except grpc.aio.AioRpcError as error:
            return _refused(error)
        return Answer("OK", "", {}, "", MessageToDict(reply), b"")


def _refused(error: grpc.aio.AioRpcError) -> Answer:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status is not None, error
    assert status.details[0].Unpack(info)
    trailing = dict(error.trailing_metadata())
    whole = repr(sorted(trailing.items())).encode()
    challenge = str(trailing.get("www-authenticate", ""))
    return Answer(error.code().name, info.reason, dict(info.metadata), challenge, {}, whole)


class Rest:
    """The shim, with ``client`` for what has no RPC."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def knock(self, rpc: str, request: Mapping[str, Any], token: str | None, **headers: str) -> Answer:
        """Call it."""
        method, path = ROUTES[rpc]
        fields = dict(request)
        sent: dict[str, Any] = {"headers": {n.replace("_", "-"): v for n, v in headers.items()}}
        if token is not None:
            sent["headers"]["authorization"] = f"Bearer {token}"
        if method == "PATCH":
            sent["headers"]["idempotency-key"] = fields.get("requestId", uuid4().hex)
            sent["params"] = {"updateMask": fields["updateMask"]} if "updateMask" in fields else {}
            fields = dict(fields["member"])
        if "{memberId}" in path:
            path = path.replace("{memberId}", fields.pop("memberId", ""))
        sent["params" if method == "GET" else "json"] = fields
        response = await self.client.request(method, path, **sent)
        body = response.json()
        shown = {n: v for n, v in response.headers.items() if n not in ("date", "content-length")}
        whole = repr((response.status_code, sorted(shown.items()))).encode() + response.content
        if response.is_success:
            return Answer("OK", "", {}, "", body, whole)
        info = body["details"][0]
        code = next(c.name for c in grpc.StatusCode if c.value[0] == body["code"])
        assert response.status_code == HTTP.get(code, response.status_code), body
        challenge = response.headers.get("www-authenticate", "")
        return Answer(code, info["reason"], info.get("metadata", {}), challenge, {}, whole)


@asynccontextmanager
async def doors(server: Server) -> AsyncIterator[dict[str, Door]]:
    """All doors of the server."""
    address = f"127.0.0.1:{server.port}"
    names = [f"loyalty.v1.{name}" for name in SERVICES]
    contract = Contract(describe(*(module.DESCRIPTOR for module in SERVICES.values())), names)
    remote = ChannelBackend(address, max_message_bytes=4 * 1024 * 1024, patience=60.0, domain=DOMAIN)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(remote.close)
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(address))
        made: dict[str, Door] = {"grpc": Grpc(channel)}
        for name, backend in (("rest", InsideBackend(server.methods)), ("shim", remote)):
            place = await opened.enter_async_context(serving(Gateway(contract, backend, domain=DOMAIN)))
            client = httpx.AsyncClient(base_url=f"http://{place}", timeout=60.0, trust_env=False)
            made[name] = Rest(await opened.enter_async_context(client))
        yield made
