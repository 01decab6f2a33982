"""What is told of every call: its count, its time, its trace, and sometimes a line in the log.

This surrounds the gate, so a refusal at the door is counted like any other answer, and
each RPC is counted once, whichever way it came. It costs a few microseconds a call.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import structlog
from google.rpc import code_pb2
from loyalty.v1 import journal_pb2
from opentelemetry.trace import StatusCode

from server.domain.errors import Refused
from server.rpc.gate import Failed, Incoming, Method, Stream
from server.rpc.handlers import Methods, Send
from server.settings import AccessLog
from telemetry.metrics import Metrics
from telemetry.traces import Trace, Tracing, current

OK = "OK"
CANCELLED = "CANCELLED"
# Codes that say something of us rather than of the caller.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
INTERNAL_REASON = "INTERNAL"
# How streams end that nobody ends: in order.
ORDERLY = frozenset({"STREAM_IDLE", "SERVER_UNAVAILABLE"})

log = structlog.get_logger()


class Calls:
    """Watches the calls of a server. A call is slow from ``slow_seconds`` on."""

    def __init__(
        self,
        metrics: Metrics,
        tracing: Tracing,
        access_log: AccessLog = AccessLog.FAULTS,
        slow_seconds: float = 1.0,
    ) -> None:
        self.tracing = tracing
        self.durations = metrics.histogram(
            "rpc.server.call.duration",
            "s",
            "Time from a request's bytes to its reply's, without gRPC's own part.",
            ("rpc_method", "rpc_response_status_code"),
        )
        self.refusals = metrics.counter(
            "laurel.rpc.refusals",
            "{call}",
            "Calls that ended otherwise than OK, by the reason of their ErrorInfo.",
            ("rpc_method", "rpc_response_status_code", "reason"),
        )
        self.streams = metrics.counter(
            "laurel.rpc.streams",
            "{stream}",
            "Streams that ended, by their status. Their time says nothing of ours and is not measured.",
            ("rpc_method", "rpc_response_status_code"),
        )
        self.under_way = 0
        metrics.gauge(
            "rpc.server.active_requests",
            "{call}",
            "Calls under way.",
            lambda: {(): self.under_way},
        )
        self._access_log = access_log
        self._slow_seconds = slow_seconds
        self._worth_telling = 0.0 if access_log is AccessLog.ALL else slow_seconds

    def methods(self, service: str, methods: Methods) -> Methods:
        """The methods of a service, watched."""
        return Methods(
            {name: self._watched(f"{service}/{name}", method) for name, method in methods.unary.items()},
            {name: self._followed(f"{service}/{name}", stream) for name, stream in methods.streams.items()},
        )

    def _watched(self, name: str, method: Method) -> Method:
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        succeeded = self.durations.of(name, OK)
        begin, clock = self.tracing.begin, time.perf_counter

        async def answer(raw: bytes, incoming: Incoming) -> bytes:
            began = clock()
            known = Known(incoming)
            trace = begin(name, known, attributes)
            token = current.set(trace)
            self.under_way += 1
            code, reason = OK, ""
            try:
                return await method(raw, known)
            except Failed as failed:
                code, reason = code_pb2.Code.Name(failed.status.code), _reason(failed)
                raise
            except asyncio.CancelledError:
                code = reason = CANCELLED
                raise
            finally:
                self.under_way -= 1
                seconds = clock() - began
                if code == OK:
                    succeeded.observe(seconds)
                else:
                    self.durations.of(name, code).observe(seconds)
                    self.refusals.add(name, code, reason)
                if trace.span is not None or code != OK or seconds >= self._worth_telling:
                    self._tell(name, code, reason, seconds, trace, seconds >= self._slow_seconds)
                current.reset(token)

        return answer

    def _followed(self, name: str, stream: Stream) -> Stream:
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}

        async def talk(raws: AsyncIterator[bytes], send: Send, incoming: Incoming) -> None:
            began = time.perf_counter()
            known = Known(incoming)
            trace = self.tracing.begin(name, known, attributes)
            token = current.set(trace)
            self.under_way += 1
            code, reason = OK, ""
            try:
                await stream(raws, send, known)
            except Failed as failed:
                code, reason = code_pb2.Code.Name(failed.status.code), _reason(failed)
                self.refusals.add(name, code, reason)
                raise
            except asyncio.CancelledError:
                code = reason = CANCELLED
                raise
            finally:
                self.under_way -= 1
                self.streams.add(name, code)
                # However long it took, that was the caller's wish.
                self._tell(name, code, reason, time.perf_counter() - began, trace, slow=False)
                current.reset(token)

        return talk

    def _tell(self, name: str, code: str, reason: str, seconds: float, trace: Trace, slow: bool) -> None:
        fault = code in FAULTS and reason not in ORDERLY
        if trace.span is not None:
            trace.span.set_attribute("rpc.response.status_code", code)
            if code != OK:
                trace.span.set_attribute("laurel.reason", reason)
            if fault:
                trace.span.set_attribute("error.type", code)
                trace.span.set_status(StatusCode.ERROR)
            trace.span.end()
        told = {
            AccessLog.NONE: False,
            AccessLog.FAULTS: fault or slow,
            AccessLog.SAMPLED: fault or slow or trace.span is not None,
            AccessLog.ALL: True,
        }
        if told[self._access_log]:
            write = log.warning if fault else log.info
            write("call", method=name, code=code, reason=reason, seconds=round(seconds, 6))


class EntriesTold:
    """Counts what became of the entries of journals."""

    def __init__(self, metrics: Metrics) -> None:
        self._entries = metrics.counter(
            "laurel.journal.entries",
            "{entry}",
            "Entries of journals, by what they ended with.",
            ("rpc_response_status_code",),
        )

    def tell(self, result: journal_pb2.JournalResult) -> None:
        """This is what became of one."""
        self._entries.add(code_pb2.Code.Name(result.error.code) if result.HasField("error") else OK)


class Known:
    """An incoming call whose metadata are read once: gRPC makes them anew each time, in 3 microseconds."""

    __slots__ = ("_incoming", "_metadata")

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._metadata: Iterable[tuple[str, str | bytes]] | None = None

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Names in lower case, and values."""
        if self._metadata is None:
            self._metadata = self._incoming.invocation_metadata() or ()
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it set none."""
        return self._incoming.time_remaining()

    def peer(self) -> str:
        """Where the call comes from."""
        return self._incoming.peer()

    async def send_initial_metadata(self, metadata: tuple[()]) -> None:
        """The caller of a stream was let in."""
        await self._incoming.send_initial_metadata(metadata)

    def traceparent(self) -> str:
        """The W3C header, "" if there is none."""
        for name, value in self.invocation_metadata():
            if name == "traceparent":
                return value if isinstance(value, str) else ""
        return ""


def _reason(failed: Failed) -> str:
    cause = failed.__cause__
    return cause.reason if isinstance(cause, Refused) else INTERNAL_REASON
