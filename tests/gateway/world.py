"""A contract made for the purpose, a gRPC server that serves it, and the shim in front of it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
import httpx
from google.protobuf import descriptor_pb2
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_tools import protoc

from gateway.app import Gateway
from gateway.channel import ChannelBackend
from gateway.contract import Contract
from gateway.cors import Cors
from gateway.limits import Limits
from gateway.server import HttpServer, bind

FOLDER = Path(__file__).parent
PACKAGES = Path(grpc_tools.__file__).parent
ORIGIN = "https://shop.example"
# A credential that the server is never done looking at.
STRANGER = "Bearer stranger"
TYPES = "type.googleapis.com/google.rpc."


def compiled() -> descriptor_pb2.FileDescriptorSet:
    """The descriptor set of everything.proto."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={FOLDER}",
                f"--proto_path={PACKAGES / '_proto'}",
                f"--proto_path={PACKAGES.parent}",
                "--include_imports",
                f"--descriptor_set_out={out}",
                "everything.proto",
            ]
        )
        assert code == 0
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


@dataclass
class Seen:
    """A call as it reached the server."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds: float | None


@dataclass
class Server:
    """Serves the contract: most calls answer with what they got."""

    contract: Contract
    seen: list[Seen] = field(default_factory=list)
    # Set as often as a call that waits is given up.
    given_up: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    sent: int = 0

    def type(self, name: str) -> Any:
        """The class of a message of the contract."""
        return GetMessageClass(self.contract.pool.FindMessageTypeByName(name))

    def thing(self, **fields: Any) -> Any:
        """A thing."""
        return self.type("everything.v1.Thing")(**fields)

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods."""
        service = self.contract.pool.FindServiceByName("everything.v1.Everything")
        makers = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        handlers = {
            rpc.name: makers[rpc.client_streaming, rpc.server_streaming](
                getattr(self, rpc.name, self._echo),
                request_deserializer=GetMessageClass(rpc.input_type).FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for rpc in service.methods
        }
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def note(self, method: str, request: Any, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, request, metadata, context.time_remaining()))

    async def _echo(self, request: Any, context: Any) -> Any:
        self.note("", request, context)
        return request

    async def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.note("Update", request, context)
        if request.child.text == "contended":
            await context.abort(grpc.StatusCode.ABORTED, "met another call")
        if {request.etag, request.child.etag} - {"", "1"}:
            info = error_details_pb2.ErrorInfo(reason="ETAG_MISMATCH", domain="everything")
            told = self.type("everything.v1.Failure")(code=code_pb2.ABORTED, message="changed meanwhile")
            told.details.add().Pack(info)
            await fail(told, context)
        # Not every mask can be written as JSON.
        return self.thing(child=request.child)

    async def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.note("Delete", request, context)
        return self.type("google.protobuf.Empty")()

    async def Upload(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.note("Upload", request, context)
        return self.thing(name=request.name, bytes=request.content.data, text=request.content.content_type)

    async def Download(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.type("google.api.HttpBody")(content_type="text/csv", data=request.name.encode())

    async def Pieces(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for piece in (b"a,b\n", b"1,2\n"):
            yield self.type("google.api.HttpBody")(content_type="text/csv", data=piece)

    async def Fail(self, request: Any, context: Any) -> Any:  # noqa: N802
        await fail(request, context)

    async def Wait(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.note("Wait", request, context)
        self.waiting.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.release()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.note("Watch", request, context)
        try:
            first = int(request.last_event_id or "0") + 1
            for number in range(first, request.count + 1):
                self.sent = number
                yield self.thing(int32=number, event_id=str(number), text="x" * request.size)
            self.waiting.release()
            if request.silence.ToNanoseconds():
                await asyncio.sleep(request.silence.ToNanoseconds() / 1e9)
            if request.failure.code:
                await fail(request.failure, context)
        finally:
            self.given_up.release()

    Tell = Watch

    async def Collect(self, requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802
        collected = self.thing()
        async for request in requests:
            self.note("Collect", request, context)
            collected.name = request.name
            collected.things.append(request.child)
        return collected

    async def Chat(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.note("Chat", None, context)
        if not self.seen[-1].metadata.get("authorization", "").startswith(STRANGER):
            await context.send_initial_metadata(())
        self.waiting.release()
        try:
            async for request in requests:
                if request.text == "fail":
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
                yield request
        finally:
            self.given_up.release()


async def fail(request: Any, context: Any) -> None:
    """End the call as the failure says."""
    status = status_pb2.Status(code=request.code, message=request.message)
    for detail in request.details:  # of another class, because the contract's pool is its own
        status.details.add(type_url=detail.type_url, value=detail.value)
    trailing: tuple[tuple[str, Any], ...] = (("grpc-status-details-bin", status.SerializeToString()),)
    if request.challenge:
        trailing += (("www-authenticate", request.challenge),)
    code = next(code for code in grpc.StatusCode if code.value[0] == request.code)
    await context.abort(code, request.message, trailing)


@dataclass
class World:
    """A shim and what is around it."""

    http: httpx.AsyncClient
    gateway: Gateway
    server: Server
    port: int
    grpc_port: int

    @property
    def last(self) -> Seen:
        """The last call that reached the server."""
        return self.server.seen[-1]


@asynccontextmanager
async def opened(contract: Contract, limits: Limits | None = None) -> AsyncIterator[World]:
    """A server, a shim in front of it and a client."""
    async with AsyncExitStack() as stack:
        server = Server(contract)
        behind = grpc.aio.server()
        behind.add_generic_rpc_handlers((server.handler(),))
        grpc_port = behind.add_insecure_port("127.0.0.1:0")
        await behind.start()
        stack.push_async_callback(behind.stop, None)
        backend = ChannelBackend(
            f"127.0.0.1:{grpc_port}", max_message_bytes=8 * 1024 * 1024, patience=30.0, domain="everything"
        )
        stack.push_async_callback(backend.close)
        gateway = Gateway(contract, backend, limits=limits, cors=Cors([ORIGIN]), domain="everything")
        front = HttpServer(
            gateway, bind("127.0.0.1", 0), max_message_bytes=(limits or Limits()).body, drain_seconds=1.0
        )
        await front.start()
        stack.push_async_callback(front.stop)
        http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", timeout=60.0, trust_env=False)
        await stack.enter_async_context(http)
        yield World(http, gateway, server, front.port, grpc_port)


def reason(response: httpx.Response) -> str:
    """The reason in the one ErrorInfo that every refusal of the shim has."""
    infos = [d for d in response.json()["details"] if d["@type"] == f"{TYPES}ErrorInfo"]
    assert len(infos) == 1
    assert infos[0]["domain"] == "everything"
    return str(infos[0]["reason"])
