"""Purchases in journals, batched or streamed to a server, against raw SQL that writes the same rows.

What is sent was made before the time counts, so that the client costs as little as can be.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import uvloop
from google.type.money_pb2 import Money
from loyalty.v1 import journal_pb2 as pb
from loyalty.v1 import journal_pb2_grpc, points_pb2

from bench import shop
from bench.batches import Rates, Raw
from bench.load import Target
from gateway.channel import feed
from server.ending import ended

IN_A_BATCH = 500
# Calls or streams at once: one is read while another commits.
AT_ONCE = 4
# More than any server here records; whoever uses them up ends before the time is over.
MOST_PURCHASES_PER_SECOND = 10_000

Entries = Iterator[pb.JournalEntry]
Send = Callable[[Any, Target, Entries, float], Awaitable[int]]


def compare(
    target: Target, url: str, members: Sequence[str], send: Send, seconds: float, rounds: int
) -> Rates:
    """Both in turns; the server records for ``seconds`` a round. SystemExit if an entry is refused."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(compared(target, url, members, send, seconds, rounds))


async def compared(
    target: Target, url: str, members: Sequence[str], send: Send, seconds: float, rounds: int
) -> Rates:
    """The same on a loop that runs."""
    connection = await asyncpg.connect(url)
    rates = Rates([], [])
    wanted = itertools.cycle(members)
    try:
        async with grpc.aio.insecure_channel(target.address) as channel:
            journals = journal_pb2_grpc.JournalServiceStub(channel)
            await _sent(send, journals, target, _purchases(wanted, 0.5), 0.5)
            raw = await Raw.over(connection)
            for _ in range(rounds):
                entries = _purchases(wanted, seconds)
                rates.committed.append(await _sent(send, journals, target, entries, seconds))
                rates.raw.append(await raw.write())
    finally:
        await connection.close()
    return rates


async def _sent(send: Send, journals: Any, target: Target, entries: Entries, seconds: float) -> float:
    """Purchases a second."""
    started = time.monotonic()
    sending = (send(journals, target, entries, started + seconds) for _ in range(AT_ONCE))
    done = sum(await asyncio.gather(*sending))
    return done / (time.monotonic() - started)


async def batched(journals: Any, target: Target, entries: Entries, end: float) -> int:
    """One BatchAccrue after the other; how many purchases were recorded."""
    done = 0
    while time.monotonic() < end and (some := list(itertools.islice(entries, IN_A_BATCH))):
        reply = await journals.BatchAccrue(pb.BatchAccrueRequest(entries=some), metadata=_metadata(target))
        for result in reply.results:
            _check(result)
        done += len(reply.results)
    return done


async def streamed(journals: Any, target: Target, entries: Entries, end: float) -> int:
    """One Exchange; how many purchases were recorded."""

    async def requests() -> AsyncIterator[bytes]:
        for entry in entries:
            if time.monotonic() >= end:
                return
            yield pb.ExchangeRequest(entry=entry).SerializeToString()

    call = journals.Exchange(metadata=_metadata(target))
    feeding = asyncio.create_task(feed(call, requests()))
    done = 0
    try:
        async for reply in call:
            _check(reply.result)
            done += 1
    finally:
        await ended([feeding])
    return done


def _check(result: pb.JournalResult) -> None:
    if not result.HasField("accrue"):
        raise SystemExit(f"an entry was refused: {result}")


def _purchases(members: Iterator[str], seconds: float) -> Entries:
    """Enough for so long, all different."""
    return iter([_purchase(next(members)) for _ in range(int(seconds * MOST_PURCHASES_PER_SECOND))])


def _purchase(member_id: str) -> pb.JournalEntry:
    once = uuid4().hex
    return pb.JournalEntry(
        accrue=points_pb2.AccrueRequest(
            request_id=once,
            member_id=member_id,
            order_reference=once,
            store=shop.STORE,
            channel=shop.CHANNEL,
            amount=Money(currency_code="INR", units=500),
        )
    )


def _metadata(target: Target) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {target.key}"),)
