"""Journals over gRPC: one result for each entry, in order, and twice changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some
from loyalty.v1 import journal_pb2 as pb
from loyalty.v1 import journal_pb2_grpc, member_pb2, points_pb2, rules_pb2

from server.domain.actor import CallerKind
from server.operations import credentials
from server.rpc.entries import MOST_WAITING
from server.rpc.journal import KINDS, MOST_IN_A_BATCH
from server.settings import Settings
from server.store import locks
from server.store.database import Database
from telemetry import prometheus
from tests.server.test_drain import until_nobody_listens
from tests.support.refusals import Refusal, refusal
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually

# A point a rupee.
BASE = {"rule": "base", "type": "earn", "then": [{"earn": {"points": 1, "per": "1.00", "currency": "INR"}}]}
NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


@dataclass
class Journal:
    """The service as the holder of one key reaches it."""

    laurel: Laurel
    stub: Any
    metadata: tuple[tuple[str, str], ...]

    async def batch(self, *entries: pb.JournalEntry) -> list[pb.JournalResult]:
        """The results of a batch."""
        request = pb.BatchAccrueRequest(entries=entries)
        return list((await self.stub.BatchAccrue(request, metadata=self.metadata, timeout=60)).results)

    async def upload(self, entries: Iterable[pb.JournalEntry]) -> pb.UploadJournalResponse:
        """What is told of an upload."""
        requests = (pb.UploadJournalRequest(entry=entry) for entry in entries)
        reply: pb.UploadJournalResponse = await self.stub.UploadJournal(requests, metadata=self.metadata)
        return reply

    async def exchanged(self, entries: Iterable[pb.JournalEntry]) -> list[pb.ExchangeResponse]:
        """The results of a stream."""
        requests = (pb.ExchangeRequest(entry=entry) for entry in entries)
        return [reply async for reply in self.stub.Exchange(requests, metadata=self.metadata)]

    def talk(self) -> Any:
        """A stream that is open."""
        return self.stub.Exchange(metadata=self.metadata)

    async def balance(self, member_id: str) -> int:
        """Of the main wallet."""
        request = points_pb2.GetBalanceRequest(member_id=member_id)
        return (await self.laurel.service.points.GetBalance(request)).wallets[0].balance


@asynccontextmanager
async def journal_of(laurel: Laurel, key: str = "") -> AsyncIterator[Journal]:
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        metadata = (("authorization", f"Bearer {key or laurel.terminal.key}"),)
        yield Journal(laurel, journal_pb2_grpc.JournalServiceStub(channel), metadata)


async def publish(laurel: Laurel) -> None:
    request = rules_pb2.CreateRuleRequest()
    json_format.ParseDict(BASE, request.definition)
    rule = (await laurel.service.rules.CreateRule(request)).rule
    version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel)
    return laurel


@pytest.fixture
async def journal(shop: Laurel) -> AsyncIterator[Journal]:
    async with journal_of(shop) as opened:
        yield opened


def accrual(member: str | member_pb2.Identifier, rupees: int = 100, **changes: Any) -> pb.JournalEntry:
    named: dict[str, Any] = {"member_id": member} if isinstance(member, str) else {"identifier": member}
    said = {
        "request_id": uuid4().hex,
        "order_reference": uuid4().hex,
        "amount": Money(currency_code="INR", units=rupees),
    }
    return pb.JournalEntry(accrue=points_pb2.AccrueRequest(**{**said, **named, **changes}))


def redemption(member_id: str, points: int, **changes: Any) -> pb.JournalEntry:
    said = {"request_id": uuid4().hex, "member_id": member_id, "points": points}
    return pb.JournalEntry(redeem=points_pb2.RedeemRequest(**{**said, **changes}))


def reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def outcomes(results: Sequence[pb.JournalResult]) -> list[str]:
    return [reason(r.error) if r.HasField("error") else str(r.WhichOneof("result")) for r in results]


def said(reply: pb.ExchangeResponse) -> Any:
    """What the entry's own call would have been answered."""
    return getattr(reply.result, str(reply.result.WhichOneof("result")))


async def ended(call: Any) -> Refusal:
    """How a stream ends; what it still says before is skipped."""

    async def heard() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    return await refusal(heard())


def test_each_kind_of_entry_has_a_call_that_it_stands_for_and_a_result() -> None:
    entries = {field.name: field for field in pb.JournalEntry.DESCRIPTOR.oneofs_by_name["entry"].fields}
    results = {field.name: field for field in pb.JournalResult.DESCRIPTOR.oneofs_by_name["result"].fields}
    assert set(entries) == set(KINDS) == set(results) - {"error", "review"}
    for kind, called in KINDS.items():
        types = (entries[kind].message_type, results[kind].message_type)
        assert types == (called.input_type, called.output_type)


async def test_a_batch_has_one_result_for_each_entry_and_twice_changes_nothing(journal: Journal) -> None:
    asha, ravi = await journal.laurel.register(), await journal.laurel.register()
    entries = [
        accrual(asha, 500),
        redemption(asha, 30),
        redemption(ravi, 1),
        accrual(NOBODY),
        accrual(ravi, amount=None),
        pb.JournalEntry(),
        accrual(ravi, 7),
    ]
    first = await journal.batch(*entries)
    assert [result.index for result in first] == list(range(7))
    assert [r.request_id for r in first] == [e.accrue.request_id or e.redeem.request_id for e in entries]
    assert outcomes(first) == [
        "accrue",
        "redeem",
        "INSUFFICIENT_POINTS",
        "MEMBER_NOT_FOUND",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "accrue",
    ]
    assert (first[0].accrue.points, first[1].redeem.balance) == (500, 470)
    # Ravi has points by now, and a refusal is not remembered: only what was accepted is as it was.
    again = await journal.batch(*entries)
    assert outcomes(again)[2] == "redeem"
    assert [again[place] for place in (0, 1, 3, 4, 5, 6)] == [first[place] for place in (0, 1, 3, 4, 5, 6)]
    assert (await journal.balance(asha), await journal.balance(ravi)) == (470, 6)
    assert await journal.batch(*entries) == again


async def test_a_result_has_the_details_that_a_call_of_its_own_would_end_with(journal: Journal) -> None:
    member_id = await journal.laurel.register()
    asked = redemption(member_id, 12)
    [result] = await journal.batch(asked)
    alone = await refusal(journal.laurel.terminal.points.Redeem(asked.redeem))
    info = error_details_pb2.ErrorInfo()
    assert result.error.details[0].Unpack(info)
    assert (alone.code.value[0], alone.message) == (result.error.code, result.error.message)
    assert (alone.reason, alone.metadata) == (info.reason, dict(info.metadata))


async def test_entries_and_calls_of_their_own_are_the_same_requests(journal: Journal) -> None:
    member_id = await journal.laurel.register()
    entry = accrual(member_id)
    alone = await journal.laurel.terminal.points.Accrue(entry.accrue)
    [result] = await journal.batch(entry)
    assert result.accrue == alone
    other = pb.JournalEntry(accrue=entry.accrue)
    other.accrue.amount.units += 1
    assert outcomes(await journal.batch(other)) == ["REQUEST_ID_REUSED"]


async def test_entries_of_a_member_take_effect_in_order_however_it_is_named(journal: Journal) -> None:
    card = uuid4().hex[:12]
    member_id = await journal.laurel.register(card_numbers=[card])
    by_card = member_pb2.Identifier(card_number=card)
    entries = []
    for _ in range(120):
        # Looking up a card takes a while; who is named by id would overtake.
        entries += [accrual(by_card, 10), redemption(member_id, 10)]
    results = await journal.batch(*entries)
    assert set(outcomes(results)) == {"accrue", "redeem"}
    assert [r.redeem.version or r.accrue.version for r in results] == list(
        range(results[0].accrue.version, results[0].accrue.version + 240)
    )


@given(cuts=some.lists(some.integers(0, 60), max_size=4), source=some.randoms(use_true_random=False))
@hypothesis_settings(max_examples=12)
async def test_a_journal_cut_anywhere_and_sent_again_is_one_journal(
    shop: Laurel, cuts: list[int], source: Random
) -> None:
    members = [await shop.register() for _ in range(3)]
    balances = dict.fromkeys(members, 0)
    entries = []
    for _ in range(60):
        member_id, points = source.choice(members), source.randint(1, 50)
        if points <= balances[member_id]:
            balances[member_id] -= points
            entries.append(redemption(member_id, points))
        else:
            balances[member_id] += points
            entries.append(accrual(member_id, points))
    async with journal_of(shop) as journal:
        for cut in cuts:
            call = journal.talk()
            for entry in entries[:cut]:
                await call.write(pb.ExchangeRequest(entry=entry))
            for _ in range(source.randint(0, cut)):
                await call.read()
            call.cancel()
        replies = await journal.exchanged(entries)
        assert {reply.result.WhichOneof("result") for reply in replies} == {"accrue", "redeem"}
        assert [reply.replayed for reply in await journal.exchanged(entries)] == [True] * 60
        for member_id in members:
            # Each entry of a member made its next version.
            versions = [r.version for r in map(said, replies) if r.member_id == member_id]
            assert versions == sorted(versions)
            assert len(versions) == len(set(versions))
            assert await journal.balance(member_id) == balances[member_id]


@pytest.mark.parametrize("count", [0, MOST_IN_A_BATCH + 1])
async def test_a_batch_has_its_limits(journal: Journal, count: int) -> None:
    refused = await refusal(journal.batch(*(pb.JournalEntry() for _ in range(count))))
    assert refused.violations == {"entries": "must be 1 to 1,000"}


async def test_an_upload_counts_and_says_what_was_known(journal: Journal) -> None:
    member_id = await journal.laurel.register()
    entries = [accrual(member_id, 2) for _ in range(600)] + [accrual(NOBODY)]
    first = await journal.upload(entries)
    assert (first.entries, first.accepted, first.replayed, first.refused) == (601, 600, 0, 1)
    assert [result.index for result in first.results] == list(range(601))
    assert outcomes(first.results)[-2:] == ["accrue", "MEMBER_NOT_FOUND"]
    again = await journal.upload(entries)
    assert (again.entries, again.accepted, again.replayed, again.refused) == (601, 600, 600, 1)
    assert again.results == first.results
    assert await journal.balance(member_id) == 1200


async def test_each_result_of_an_exchange_comes_before_the_next_entry_is_sent(journal: Journal) -> None:
    member_id = await journal.laurel.register()
    call = journal.talk()
    entry = accrual(member_id, 5)
    for replayed in (False, True):
        await call.write(pb.ExchangeRequest(entry=entry))
        reply = await call.read()
        assert (reply.result.index, reply.replayed) == (int(replayed), replayed)
        assert reply.result.accrue.balance == 5
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_what_cannot_be_read_is_refused_by_itself(journal: Journal, settings: Settings) -> None:
    member_id = await journal.laurel.register()
    async with grpc.aio.insecure_channel(journal.laurel.address) as channel:
        call = channel.stream_stream("/loyalty.v1.JournalService/Exchange")(metadata=journal.metadata)
        for raw in (
            b"\xff" * 9,
            pb.ExchangeRequest(entry=accrual(member_id)).SerializeToString(),
            bytes(settings.max_message_bytes + 1),
            b"",
        ):
            await call.write(raw)
        await call.done_writing()
        replies = [pb.ExchangeResponse.FromString(raw) async for raw in call]
    assert [reply.result.index for reply in replies] == [0, 1, 2, 3]
    assert outcomes([reply.result for reply in replies]) == [
        "UNDECODABLE_MESSAGE",
        "accrue",
        "MESSAGE_TOO_LARGE",
        "INVALID_FIELD",
    ]


async def test_each_entry_needs_what_its_own_call_needs(shop: Laurel) -> None:
    member_id = await shop.register()
    entries = [accrual(member_id), accrual(member_id, store="delhi"), redemption(member_id, 1)]
    earning = await shop.new_key(CallerKind.TERMINAL, scopes=["points.accrue"], store_id="pune")
    async with journal_of(shop, earning) as journal:
        results = await journal.batch(*entries)
    assert outcomes(results) == ["accrue", "STORE_NOT_ALLOWED", "SCOPE_MISSING"]
    for key, why in (
        (shop.staff.key, "CALLER_NOT_ADMITTED"),
        (await shop.new_key(CallerKind.TERMINAL, scopes=["points.redeem"]), "SCOPE_MISSING"),
        ("nobody", "CREDENTIAL_INVALID"),
    ):
        async with journal_of(shop, key) as journal:
            assert (await refusal(journal.batch(*entries))).reason == why
            assert (await refusal(journal.upload(entries))).reason == why
            assert (await ended(journal.talk())).reason == why


async def test_a_revoked_key_brings_no_more_in(shop: Laurel) -> None:
    member_id = await shop.register()
    key = await shop.new_key(CallerKind.TERMINAL, name="stolen")
    async with journal_of(shop, key) as journal:
        call = journal.talk()
        await call.write(pb.ExchangeRequest(entry=accrual(member_id)))
        assert (await call.read()).result.HasField("accrue")
        await credentials.revoke(shop.database, shop.program.program_id, "stolen", datetime.now(UTC))
        count = 1

        async def go_on() -> None:
            nonlocal count
            while True:
                await call.write(pb.ExchangeRequest(entry=accrual(member_id)))
                assert (await call.read()).result.HasField("accrue")
                count += 1

        async with asyncio.timeout(20):
            refused = await refusal(go_on())
    assert (refused.code, refused.metadata["answered"]) == (grpc.StatusCode.UNAUTHENTICATED, str(count))


async def test_a_client_that_reads_nothing_is_not_read_from(shop: Laurel, journal: Journal) -> None:
    """While nothing can be committed, no more is taken in than may wait."""
    member_id = await shop.register()
    entries = [accrual(member_id, 1) for _ in range(3 * MOST_WAITING)]
    async with shop.database.transaction() as connection:
        await locks.take(connection, [locks.member_lock(UUID(member_id))])
        uploading = asyncio.ensure_future(journal.upload(entries))
        await eventually(lambda: queued(shop, MOST_WAITING // 4))
        for _ in range(50):
            await shop.terminal.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
        assert not await queued(shop, MOST_WAITING + 1)
    assert (await uploading).accepted == len(entries)


async def queued(laurel: Laurel, count: int) -> bool:
    """Whether so many commands are in the committer's queue."""
    telemetry = laurel.server.telemetry
    assert telemetry is not None
    [line] = [
        line
        for line in prometheus.text(telemetry.metrics).decode().splitlines()
        if line.startswith("laurel_committer_queue ")
    ]
    return float(line.split()[1]) >= count


async def test_an_idle_stream_is_ended(settings: Settings, database: Database) -> None:
    impatient = settings.model_copy(update={"stream_idle_seconds": 0.2})
    async with started(impatient, database) as laurel, journal_of(laurel) as journal:
        member_id = await laurel.register()
        call = journal.talk()
        await call.write(pb.ExchangeRequest(entry=accrual(member_id)))
        refused = await ended(call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE")
    assert refused.metadata == {"limit_seconds": "0.2", "answered": "1"}


async def test_a_credential_has_so_many_streams(settings: Settings, database: Database) -> None:
    narrow = settings.model_copy(update={"streams_per_caller": 1})
    async with started(narrow, database) as laurel, journal_of(laurel) as journal:
        member_id = await laurel.register()
        first = journal.talk()
        await first.write(pb.ExchangeRequest(entry=accrual(member_id)))
        await first.read()
        refused = await ended(journal.talk())
        assert (refused.reason, refused.metadata) == ("TOO_MANY_STREAMS", {"limit": "1"})
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert len(await journal.exchanged([accrual(member_id)])) == 1


async def test_a_stream_waits_for_a_limit_where_a_batch_is_refused(
    settings: Settings, database: Database
) -> None:
    limited = settings.model_copy(update={"member_limits": "write=40:10"})
    async with started(limited, database) as laurel, journal_of(laurel) as journal:
        await publish(laurel)
        member_id, other = await laurel.register(), await laurel.register()
        entries = [accrual(member_id, 1) for _ in range(40)] + [accrual(other, 1)]
        results = await journal.batch(*entries)
        done = outcomes(results).index("RATE_LIMITED")
        # From there on nothing was begun, so that sending the rest again keeps the order.
        assert outcomes(results)[done:] == ["RATE_LIMITED"] * (len(entries) - done)
        assert await journal.balance(other) == 0
        assert await journal.balance(member_id) == done
        reply = await journal.upload(entries)
        assert (reply.accepted, reply.replayed) == (41, done)


async def test_a_stopping_server_answers_what_it_has_read(settings: Settings, database: Database) -> None:
    async with started(settings, database) as laurel, journal_of(laurel) as journal:
        member_id = await laurel.register()
        call = journal.talk()
        async with database.transaction() as connection:
            await locks.take(connection, [locks.member_lock(UUID(member_id))])
            for _ in range(3):
                await call.write(pb.ExchangeRequest(entry=accrual(member_id)))
            # The first holds up the committer's batch, the others its queue.
            await eventually(lambda: queued(laurel, 2))
            stopping = asyncio.create_task(laurel.server.stop())
            await until_nobody_listens(laurel.server.port)
        replies = [await call.read() for _ in range(3)]
        assert outcomes([reply.result for reply in replies]) == ["accrue"] * 3
        refused = await ended(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_UNAVAILABLE")
        assert refused.metadata == {"answered": "3"}
        await stopping
