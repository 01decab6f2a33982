"""RPCs behind the gate, for whatever brings their bytes; over gRPC, by handlers without serializers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from server.rpc.access import Declaration, declarations
from server.rpc.errors import challenge, status_of, unknown_method
from server.rpc.gate import Failed, Gate, Handler, Incoming, Method, Stream

DETAILS_KEY = "grpc-status-details-bin"
CHALLENGE_KEY = "www-authenticate"
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, bytes]
Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Methods:
    """RPCs by their names, or by their gRPC paths."""

    unary: dict[str, Method] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)

    def add(self, service: str, methods: "Methods") -> None:
        """Take in those of a service by their gRPC paths: ``/loyalty.v1.PointsService/Accrue``."""
        self.unary.update({f"/{service}/{name}": method for name, method in methods.unary.items()})
        self.streams.update({f"/{service}/{name}": stream for name, stream in methods.streams.items()})


def methods(service: ServiceDescriptor, servicer: object, gate: Gate) -> Methods:
    """Each RPC of a service behind the gate, by its name.

    ``servicer`` has one ``async def Name(self, request, call)`` for each RPC; where the client
    streams, the request is an iterator of messages and of refusals of those that can't be
    read, and where the server does, it is an asynchronous generator. Raises
    AccessNotDeclared for a contract that leaves access open, TypeError for an RPC that
    the servicer lacks.
    """
    declared = declarations(service)
    made = Methods()
    for rpc in service.methods:
        handler = _handler(servicer, rpc)
        if rpc.client_streaming:
            made.streams[rpc.name] = _stream(gate, declared[rpc.name], rpc, handler)
        elif rpc.server_streaming:
            made.streams[rpc.name] = _watch(gate, declared[rpc.name], rpc, handler)
        else:
            made.unary[rpc.name] = _method(gate, declared[rpc.name], rpc, handler)
    return made


def guarded(service: ServiceDescriptor, methods: Methods) -> grpc.GenericRpcHandler:
    """The gRPC handler of a service whose methods are behind the gate."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(_over_grpc(method))
        for name, method in methods.unary.items()
    }
    # On the wire a stream of one reply is one reply.
    handlers |= {
        name: grpc.stream_stream_rpc_method_handler(_stream_over_grpc(stream))
        for name, stream in methods.streams.items()
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _handler(servicer: object, rpc: MethodDescriptor) -> Handler:
    handler = getattr(servicer, rpc.name, None)
    if handler is None:
        raise TypeError(f"{type(servicer).__name__} has no handler for {rpc.full_name}")
    found: Handler = handler
    return found


def _method(gate: Gate, declaration: Declaration, rpc: MethodDescriptor, handler: Handler) -> Method:
    decode = GetMessageClass(rpc.input_type).FromString

    async def answer(raw: bytes, incoming: Incoming) -> bytes:
        gate.enter()
        try:
            return await gate.answer(declaration, decode, handler, raw, incoming)
        except Exception as error:
            raise Failed(status_of(error)) from error
        finally:
            gate.leave()

    return answer


def _stream(gate: Gate, declaration: Declaration, rpc: MethodDescriptor, handler: Any) -> Stream:
    decode = GetMessageClass(rpc.input_type).FromString

    async def talk(raws: AsyncIterator[bytes], send: Send, incoming: Incoming) -> None:
        gate.enter()
        try:
            async with gate.stream(declaration, decode, raws, incoming) as (inbox, call):
                if not rpc.server_streaming:
                    await send((await handler(inbox, call)).SerializeToString())
                    return
                async with aclosing(handler(inbox, call)) as replies:
                    async for reply in replies:
                        await send(reply.SerializeToString())
        except Failed:
            raise
        except Exception as error:
            raise Failed(status_of(error)) from error
        finally:
            gate.leave()

    return talk


def _watch(gate: Gate, declaration: Declaration, rpc: MethodDescriptor, handler: Any) -> Stream:
    decode = GetMessageClass(rpc.input_type).FromString

    async def tell(raws: AsyncIterator[bytes], send: Send, incoming: Incoming) -> None:
        gate.enter()
        try:
            async with gate.watch(declaration, decode, handler, raws, incoming) as replies:
                async for reply in replies:
                    await send(reply.SerializeToString())
        except Exception as error:
            raise Failed(status_of(error)) from error
        finally:
            gate.leave()

    return tell


def _over_grpc(method: Method) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(raw: bytes, context: Context) -> bytes:
        try:
            return await method(raw, context)
        except Failed as failed:
            status = failed.status
        await _abort(context, status)

    return answer


def _stream_over_grpc(stream: Stream) -> Callable[[object, Context], Awaitable[None]]:
    async def talk(_requests: object, context: Context) -> None:
        try:
            await stream(_received(context), context.write, context)
        except Failed as failed:
            status = failed.status
        else:
            return
        await _abort(context, status)

    return talk


async def _received(context: Context) -> AsyncIterator[bytes]:
    while isinstance(raw := await context.read(), bytes):
        yield raw


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers what no other handler knows; add it after all others."""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        """A handler that refuses without reading the request."""
        name = str(details.method).removeprefix("/").replace("/", ".")

        async def refuse(_requests: object, context: Context) -> None:
            await _abort(context, unknown_method(name))

        return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: Context, status: status_pb2.Status) -> NoReturn:
    code = STATUS_CODES.get(status.code, grpc.StatusCode.INTERNAL)
    trailing: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)
    if asked := challenge(status):
        trailing += ((CHALLENGE_KEY, asked),)
    await context.abort(code, status.message, trailing)
