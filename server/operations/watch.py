"""What is told of batches: how many commands, how long, what went wrong, and their traces.

One batch serves commands of many traces, and its SQL runs once. A sampled command has a
span ``commit`` from when it begins to wait until it is answered. The batch is a span
within the first of these, so that one trace leads from the request to the statements;
the others and the batch link to each other.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from uuid import UUID

from server.domain.books import Effects
from server.domain.commands import Outcome
from server.domain.ledger import Kind
from server.operations.programs import Programs
from server.operations.underway import GivenUp
from telemetry.metrics import SIZES, Metrics
from telemetry.traces import Trace, current

# What points are counted as. Those of a transfer are counted where they leave.
MOVEMENTS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.EARN: "earned",
        Kind.REDEEM: "redeemed",
        Kind.CAPTURE: "redeemed",
        Kind.ACTIVATE: "activated",
        Kind.EXPIRE: "expired",
        Kind.HOLD: "held",
        Kind.RELEASE: "released",
        Kind.SETTLE: "settled",
        Kind.REVERSE_EARN: "returned",
        Kind.REVERSE_REDEEM: "refunded",
        Kind.ADJUST: "adjusted",
        Kind.TRANSFER_OUT: "transferred",
        Kind.TRANSFER_IN: "transferred",
    }
)


class Commits:
    """Watches the batches of a committer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sizes = metrics.histogram(
            "laurel.committer.batch.size", "{command}", "Commands in a batch.", bounds=SIZES
        ).of()
        self._seconds = metrics.histogram(
            "laurel.committer.commit.duration", "s", "Time of a batch, its retries included."
        ).of()
        self.retries = metrics.counter(
            "laurel.committer.retries", "{attempt}", "Batches run again, by why.", ("cause",)
        )
        self.splits = metrics.counter(
            "laurel.committer.splits", "{batch}", "Batches split to find the command that fails."
        )
        self._points = metrics.counter(
            "laurel.points", "{point}", "Points committed, by program and movement.", ("program", "movement")
        )

    def queue(self, length: Callable[[], int]) -> None:
        """``length`` tells how many commands wait."""
        self._metrics.gauge(
            "laurel.committer.queue", "{command}", "Commands that wait for a batch.", lambda: {(): length()}
        )

    @contextmanager
    def batch(self, commits: Sequence[Trace | None]) -> Iterator[None]:
        """While a batch of so many commands is under way; ``commits`` as ``begun`` made them.

        One that is given up counts when it begins anew.
        """
        sampled = [commit for commit in commits if commit is not None]
        trace = _batch(sampled, len(commits)) if sampled else None
        token = current.set(trace)
        began = time.perf_counter()
        counts = True
        try:
            yield
        except GivenUp:
            counts = False
            raise
        finally:
            if counts:
                self._seconds.observe(time.perf_counter() - began)
                self._sizes.observe(len(commits))
            current.reset(token)
            if trace is not None and trace.span is not None:
                trace.span.end()

    def committed(self, decisions: Sequence[tuple[UUID, Effects]], programs: Programs) -> None:
        """These are in the books."""
        sums: dict[tuple[UUID, str], int] = {}
        for program_id, effects in decisions:
            for row, *_ in effects.movements:
                if row.kind is not Kind.TRANSFER_IN:
                    key = program_id, MOVEMENTS[row.kind]
                    sums[key] = sums.get(key, 0) + row.points
        for (program_id, movement), points in sums.items():
            snapshot = programs.known(program_id)
            self._points.add("" if snapshot is None else snapshot.program.name, movement, amount=points)


def begun(reply: "asyncio.Future[Outcome]") -> Trace | None:
    """The span of a command that begins to wait for its reply, None if its call isn't sampled."""
    trace = current.get()
    if trace is None or trace.span is None:
        return None
    commit = trace.child("commit")
    span = commit.span
    assert span is not None
    reply.add_done_callback(lambda _: span.end())
    return commit


def _batch(sampled: Sequence[Trace], size: int) -> Trace:
    first, *others = sampled
    trace = first.child("batch", {"laurel.batch.size": size})
    assert trace.span is not None
    for commit in sampled:
        assert commit.span is not None
        commit.span.set_attribute("laurel.batch.size", size)
    for commit in others:
        assert commit.span is not None
        commit.span.add_link(trace.span.get_span_context())
        trace.span.add_link(commit.span.get_span_context())
    return trace
