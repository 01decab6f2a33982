"""WatchMember as clients hear it: over gRPC, as server-sent events and over a WebSocket, all read alike."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from loyalty.v1 import member_pb2 as pb
from loyalty.v1 import member_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

PATIENCE_SECONDS = 60.0
# What a server that is not there, or not any more, comes to.
BROKEN = (OSError, httpx.HTTPError, WebSocketException)


class Stream(Protocol):
    """An open stream. What breaks off without a word raises one of BROKEN."""

    async def read(self) -> tuple[str, dict[str, Any]]:
        """Event id and content of the next message, as JSON; ``error`` in it if that is the last."""


class Events:
    """Server-sent events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def read(self) -> tuple[str, dict[str, Any]]:
        """The next event."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                fields[name] = value
            elif not line and "data" in fields:
                content = json.loads(fields["data"])
                return fields.get("id", ""), {"error": content} if fields.get("event") == "error" else content
        raise ConnectionError("the stream broke off")


class Frames:
    """A WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def read(self) -> tuple[str, dict[str, Any]]:
        """The next frame."""
        frame = json.loads(await self._socket.recv())
        if "error" not in frame:
            return frame["result"]["eventId"], frame["result"]
        with pytest.raises(ConnectionClosed) as closed:
            await self._socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4503
        return "", frame


class Calls:
    """A stream of gRPC."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self) -> tuple[str, dict[str, Any]]:
        """The next message."""
        try:
            update = await self._call.read()
        except grpc.aio.AioRpcError as error:
            return "", {"error": {"code": error.code().value[0]}}
        assert isinstance(update, pb.WatchMemberResponse), "a stream ends with an error"
        return update.event_id, MessageToDict(update)


@asynccontextmanager
async def events(place: str, key: str, member_id: str, last: str) -> AsyncIterator[Stream]:
    """Server-sent events from host and port."""
    headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
    if last:
        headers["last-event-id"] = last
    url = f"http://{place}/members/{member_id}:watch"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        response.raise_for_status()
        assert response.headers["content-type"] == "text/event-stream"
        yield Events(response)


@asynccontextmanager
async def frames(place: str, key: str, member_id: str, last: str) -> AsyncIterator[Stream]:
    """Frames from host and port."""
    query = f"?last_event_id={last}" if last else ""
    headers = {"authorization": f"Bearer {key}"}
    url = f"ws://{place}/members/{member_id}:watch{query}"
    async with connect(url, proxy=None, additional_headers=headers) as socket:
        yield Frames(socket)


@asynccontextmanager
async def calls(place: str, key: str, member_id: str, last: str) -> AsyncIterator[Stream]:
    """Messages from host and port, where gRPC is spoken."""
    async with grpc.aio.insecure_channel(place) as channel:
        call = member_pb2_grpc.MemberServiceStub(channel).WatchMember(
            pb.WatchMemberRequest(member_id=member_id, last_event_id=last),
            metadata=(("authorization", f"Bearer {key}"),),
        )
        try:
            yield Calls(call)
        finally:
            call.cancel()
