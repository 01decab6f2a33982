"""Every change of a member raises its version, and a reply's token says which one it told of."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.message import Message
from loyalty.v1 import member_pb2, points_pb2

from server import secrets
from server.domain.actor import CallerKind
from server.rpc.access import SERVICES
from server.rpc.versions import Versions
from server.settings import Settings
from server.store.database import Database
from tests.support.clocks import opened
from tests.support.movements import movements, once
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel

# What a member is told by the clock is no part of what it has.
NO_STATE = ("event_log", "timeline_entry", "access_audit", "expiry_warning")
# Which transaction wrote rows of which member, and which raised whose version.
WATCH = f"""
    CREATE TABLE touched (xid xid8 DEFAULT pg_current_xact_id(), member_id uuid, what text, raised bigint);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO touched (member_id, what) VALUES (coalesce(NEW.member_id, OLD.member_id), TG_TABLE_NAME);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO touched (member_id, what, raised) VALUES (NEW.member_id, 'member',
            NEW.version - CASE WHEN TG_OP = 'INSERT' THEN 0 ELSE OLD.version END);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON member FOR EACH ROW EXECUTE FUNCTION note_version();
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT table_name FROM information_schema.columns
                     WHERE table_schema = 'public' AND column_name = 'member_id'
                       AND table_name NOT IN ('member', 'touched', {", ".join(f"'{n}'" for n in NO_STATE)})
        LOOP EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %I
                             FOR EACH ROW EXECUTE FUNCTION note()', name);
        END LOOP;
    END $$;"""
SILENT = """
    SELECT xid::text, member_id, array_agg(DISTINCT what) FROM touched
     GROUP BY xid, member_id HAVING coalesce(sum(raised), 0) < 1"""
TABLES = "SELECT array_agg(DISTINCT what) FROM touched"


@pytest.fixture(scope="module")
async def watched(database: Database) -> Database:
    """The database, noting what touches whom."""
    async with database.connection() as connection:
        await connection.execute(WATCH)
    return database


@pytest.fixture(scope="module")
async def shop(watched: Database, laurel: Laurel) -> Laurel:
    """A point a rupee, capped."""
    earn = [{"earn": {"points": 1, "per": "1.00"}}]
    caps = {"member": {"points": 10_000, "per": "ever"}}
    await publish(laurel, {"rule": "base", "then": earn, "caps": caps})
    return laurel


async def changes(shop: Laurel) -> AsyncIterator[tuple[Message, str]]:
    """Replies to every kind of write, and whom they are about."""
    till, service = shop.terminal, shop.service
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["points.*"]))
    joining = member_pb2.Member(email=f"{uuid4().hex}@example.com")
    joined = await till.members.RegisterMember(member_pb2.RegisterMemberRequest(**once(), member=joining))
    member_id = joined.member.member_id
    yield joined, member_id
    changed = member_pb2.UpdateMemberRequest(**once())
    changed.member.member_id, changed.member.given_name = member_id, "Asha"
    changed.update_mask.paths.append("given_name")
    yield await service.members.UpdateMember(changed), member_id
    consent = member_pb2.Consent(purpose="marketing", granted=True)
    agreed = member_pb2.RecordConsentRequest(**once(), member_id=member_id, consent=consent)
    yield await service.members.RecordConsent(agreed), member_id
    for change in ("Suspend", "Reactivate"):
        request = getattr(member_pb2, f"{change}MemberRequest")(**once(), member_id=member_id)
        yield await getattr(service.members, f"{change}Member")(request), member_id
    async for reply in movements(till, service, staff, member_id):
        yield reply, member_id
    other = await shop.register()
    for survivor, merged in ((other, member_id), (await shop.register(), other)):
        request = member_pb2.MergeMembersRequest(**once(), member_id=survivor, merged_member_id=merged)
        yield await service.members.MergeMembers(request), survivor
    closing = member_pb2.CloseMemberRequest(**once(), member_id=await shop.register())
    yield await service.members.CloseMember(closing), closing.member_id


async def balance(caller: Caller, member_id: str, token: str = "") -> points_pb2.GetBalanceResponse:
    request = points_pb2.GetBalanceRequest(member_id=member_id, consistency_token=token)
    return await caller.points.GetBalance(request)


async def test_every_write_raises_the_version_and_hands_out_its_token(shop: Laurel) -> None:
    before: dict[str, int] = {}
    versions = Versions(secrets.load(shop.settings.secrets_file).page_token)
    async for reply, member_id in changes(shop):
        token: str = reply.consistency_token  # type: ignore[attr-defined]
        seen = versions.read(shop.program.program_id, token)
        shown = await balance(shop.terminal, member_id, token)
        assert seen == (UUID(member_id), shown.version), type(reply)
        assert shown.version > before.get(member_id, 0), type(reply)
        assert shown.consistency_token == token
        before[member_id] = shown.version
    async with shop.database.connection() as connection:
        assert await connection.fetch(SILENT) == []
        tables = set(await connection.fetchval(TABLES))
    assert {"member_profile", "consent", "lot", "hold", "allocation", "returned_line", "refund"} <= tables


async def test_what_the_clock_does_raises_versions_too(
    watched: Database, settings: Settings, secrets_file: Path
) -> None:
    async with opened(watched, settings.redis_url.get_secret_value(), secrets_file) as clockwork:
        [member_id] = await clockwork.customers(1)
        await clockwork.submit(clockwork.reservation(member_id, 10, seconds=60))
        for days in (6, 11, 50):
            clockwork.now += timedelta(days=days)
            assert (await clockwork.catch_up()).seen == 1
    async with watched.connection() as connection:
        assert await connection.fetch(SILENT) == []


async def test_a_token_is_of_one_member_and_nobody_makes_one_up(shop: Laurel) -> None:
    mine, other = await shop.register(), await shop.register()
    token = (await balance(shop.terminal, mine)).consistency_token
    foreign = (await balance(shop.terminal, other)).consistency_token
    changed = ("B" if token[0] == "A" else "A") + token[1:]
    for wrong in (foreign, changed, token[:-4], token + "AAAA", "x", "ü" * 40, "*" * 40):
        told = await refusal(balance(shop.terminal, mine, wrong))
        assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONSISTENCY_TOKEN_INVALID")
    moment = points_pb2.GetBalanceRequest(member_id=mine, consistency_token=token)
    moment.as_of_time.GetCurrentTime()
    told = await refusal(shop.terminal.points.GetBalance(moment))
    assert told.reason == "CONSISTENCY_TOKEN_INVALID"


async def test_tokens_of_both_lead_to_who_lives_on_after_a_merge(shop: Laurel) -> None:
    kept, gone = await shop.register(), await shop.register()
    before = (await balance(shop.terminal, gone)).consistency_token
    request = member_pb2.MergeMembersRequest(**once(), member_id=kept, merged_member_id=gone)
    after = (await shop.service.members.MergeMembers(request)).consistency_token
    for token in (before, after):
        assert (await balance(shop.terminal, gone, token)).member_id == kept


async def test_a_member_older_than_the_token_is_not_shown(shop: Laurel) -> None:
    member_id = await shop.register()
    token = (await balance(shop.terminal, member_id)).consistency_token
    async with shop.database.connection() as connection:
        # As after a backup was restored.
        await connection.execute("ALTER TABLE member DISABLE TRIGGER note")
        await connection.execute("UPDATE member SET version = 0 WHERE member_id = $1", UUID(member_id))
        await connection.execute("ALTER TABLE member ENABLE TRIGGER note")
    told = await refusal(balance(shop.terminal, member_id, token))
    assert told.reason == "CONSISTENCY_TOKEN_AHEAD"


def test_no_reply_tells_a_version_without_its_token() -> None:
    silent = [
        reply.full_name
        for reply in replies()
        if "version" in reply.fields_by_name and "consistency_token" not in reply.fields_by_name
    ]
    assert silent == []


def replies() -> Iterator[Any]:
    """The messages with which RPCs answer, by themselves or within a journal."""
    for service in SERVICES:
        for rpc in service.methods:
            yield rpc.output_type
