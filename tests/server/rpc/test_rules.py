"""Rules over gRPC: drafted, put in force, tried out; refused with the path to every mistake."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
import pytest
import redis.asyncio
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.type import money_pb2
from loyalty.v1 import member_pb2, points_pb2
from loyalty.v1 import rules_pb2 as pb

from server.domain.actor import CallerKind
from server.domain.rules.json_schema import JSON_SCHEMA
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel, started

BASE = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 20, "per": "100.00"}}]}
DOUBLE = {"rule": "double", "when": {"event": "PURCHASE"}, "then": [{"multiply": {"by": 2}}]}


def struct(definition: Mapping[str, Any]) -> Struct:
    return json_format.ParseDict(dict(definition), Struct())


async def a_service(laurel: Laurel) -> Caller:
    """A caller of a program that nobody else changes."""
    program = await new_program(laurel.database)
    return await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))


async def create(caller: Caller, definition: Mapping[str, Any]) -> pb.Rule:
    return (await caller.rules.CreateRule(pb.CreateRuleRequest(definition=struct(definition)))).rule


async def publish(
    caller: Caller, *rules: pb.Rule, retire: tuple[str, ...] = (), **more: Any
) -> pb.PublishRulesResponse:
    versions = [pb.RuleVersion(name=rule.name, version=rule.version) for rule in rules]
    return await caller.rules.PublishRules(pb.PublishRulesRequest(publish=versions, retire=retire, **more))


async def in_force(caller: Caller) -> dict[str, int]:
    reply = await caller.rules.ListRules(pb.ListRulesRequest(active_only=True))
    return {rule.name: rule.version for rule in reply.rules}


def bought(units: int, member_id: str, **more: Any) -> points_pb2.AccrueRequest:
    request = points_pb2.AccrueRequest(
        member_id=member_id, amount=money_pb2.Money(currency_code="INR", units=units), **more
    )
    return request


async def test_a_draft_is_a_version_and_changes_nothing_until_it_is_published(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    draft = await create(caller, BASE)
    assert (draft.name, draft.version, draft.active) == ("base", 1, False)
    assert json_format.MessageToDict(draft.definition) == BASE
    assert await in_force(caller) == {}
    reply = await publish(caller, draft)
    assert reply.changed
    assert await in_force(caller) == {"base": 1}
    assert (await caller.rules.GetRule(pb.GetRuleRequest(name="base"))).rule.active


async def test_the_same_rule_written_otherwise_is_no_new_version(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    await create(caller, BASE)
    otherwise = {**BASE, "type": "earn", "then": [{"earn": {"points": 20.0, "per": 100, "currency": "INR"}}]}
    assert (await create(caller, otherwise)).version == 1
    assert (await create(caller, {**BASE, "priority": 5})).version == 2
    assert (await create(caller, BASE)).version == 3


async def test_every_mistake_is_refused_with_its_path(laurel: Laurel) -> None:
    wrong = {
        "rule": "r",
        "when": {"all": [{"field": "amuont", "op": "gt", "value": 1}]},
        "then": [{"earn": {}}],
    }
    refused = await refusal(create(laurel.service, wrong))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RULE_INVALID")
    assert set(refused.violations) == {"when.all[0].field", "then[0].earn.points", "then[0].earn.per"}
    assert 'did you mean "amount"?' in refused.violations["when.all[0].field"]


async def test_parallel_drafts_of_one_rule_get_versions_without_gaps(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    made = await asyncio.gather(*(create(caller, {**BASE, "priority": n}) for n in range(1, 11)))
    assert sorted(rule.version for rule in made) == list(range(1, 11))


async def test_publishing_again_changes_nothing(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    draft = await create(caller, BASE)
    first = await publish(caller, draft, expected_revision=0)
    again = await publish(caller, draft, expected_revision=first.revision)
    late = await publish(caller, draft, expected_revision=first.revision + 7)
    assert (again.revision, again.changed) == (late.revision, late.changed) == (first.revision, False)


async def test_versions_change_and_rules_retire_in_one_step(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    first = await publish(caller, await create(caller, BASE), await create(caller, DOUBLE))
    newer = await create(caller, {**BASE, "priority": 1})
    second = await publish(caller, newer, retire=("double",))
    assert await in_force(caller) == {"base": 2}
    assert second.revision == first.revision + 1
    assert not (await publish(caller, retire=("double",))).changed


async def test_who_looked_at_an_older_revision_is_told(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    revision = (await publish(caller, await create(caller, BASE))).revision
    refused = await refusal(publish(caller, await create(caller, DOUBLE), expected_revision=revision + 1))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert refused.metadata == {"revision": str(revision)}


async def test_of_parallel_publications_on_one_revision_one_wins(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    revision = (await publish(caller, await create(caller, BASE))).revision
    drafts = [await create(caller, {**BASE, "rule": f"r{n}"}) for n in range(6)]
    replies = await asyncio.gather(
        *(publish(caller, draft, expected_revision=revision) for draft in drafts), return_exceptions=True
    )
    assert sum(isinstance(reply, pb.PublishRulesResponse) for reply in replies) == 1
    assert len(await in_force(caller)) == 2


async def test_what_is_not_there_can_be_neither_published_nor_retired_nor_shown(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    await create(caller, BASE)
    for call in (
        publish(caller, pb.Rule(name="base", version=2)),
        publish(caller, retire=("nobody",)),
        caller.rules.GetRule(pb.GetRuleRequest(name="nobody")),
        caller.rules.GetRule(pb.GetRuleRequest(name="base", version=2)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RULE_NOT_FOUND")


async def test_rules_that_do_not_go_together_are_not_put_in_force(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    group = {"stacking": {"group": "g", "mode": "best"}}
    base, double = await create(caller, {**BASE, **group}), await create(caller, {**DOUBLE, **group})
    refused = await refusal(publish(caller, base, double))
    assert refused.reason == "RULE_INVALID"
    assert await in_force(caller) == {}


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (pb.PublishRulesRequest(), "publish"),
        (pb.PublishRulesRequest(publish=[pb.RuleVersion(name="A", version=1)]), "publish[0].name"),
        (pb.PublishRulesRequest(publish=[pb.RuleVersion(name="a")]), "publish[0].version"),
        (pb.PublishRulesRequest(publish=[pb.RuleVersion(name="a", version=1)] * 2), "publish[1].name"),
        (pb.PublishRulesRequest(publish=[pb.RuleVersion(name="a", version=1)], retire=["a"]), "retire"),
        (pb.PublishRulesRequest(retire=["a"], expected_revision=-1), "expected_revision"),
    ],
)
async def test_a_malformed_publication_is_refused(
    laurel: Laurel, request_: pb.PublishRulesRequest, path: str
) -> None:
    assert path in (await refusal(laurel.service.rules.PublishRules(request_))).violations


async def test_rules_are_listed_by_name_page_by_page(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    for name in ("b", "a", "c-1", "c"):
        await create(caller, {**BASE, "rule": name})
    await create(caller, {**BASE, "rule": "a", "priority": 1})
    names, token = [], ""
    while True:
        reply = await caller.rules.ListRules(pb.ListRulesRequest(page_size=3, page_token=token))
        names += [(rule.name, rule.version) for rule in reply.rules]
        token = reply.next_page_token
        if not token:
            break
    assert names == [("a", 2), ("b", 1), ("c", 1), ("c-1", 1)]
    other = await refusal(caller.rules.ListRules(pb.ListRulesRequest(page_token="x", active_only=True)))
    assert other.reason == "PAGE_TOKEN_INVALID"


async def test_another_programs_rules_are_out_of_sight(laurel: Laurel) -> None:
    one, other = await a_service(laurel), await a_service(laurel)
    await publish(one, await create(one, BASE))
    assert await in_force(other) == {}
    assert (await refusal(other.rules.GetRule(pb.GetRuleRequest(name="base")))).reason == "RULE_NOT_FOUND"


async def test_a_terminal_may_neither_see_nor_change_rules(laurel: Laurel) -> None:
    refused = await refusal(create(laurel.terminal, BASE))
    assert refused.reason == "CALLER_NOT_ADMITTED"


async def test_publication_is_told_in_the_log_and_through_redis(laurel: Laurel, redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with client, client.pubsub() as hints:
        await hints.subscribe("laurel:rules")
        draft = await create(laurel.service, {**BASE, "rule": "told"})
        revision = (await publish(laurel.service, draft)).revision
        wanted = {"program_id": str(laurel.program.program_id), "revision": revision}
        async with asyncio.timeout(5):
            async for message in hints.listen():
                if message["type"] == "message" and json.loads(message["data"]) == wanted:
                    break
    async with laurel.database.connection() as connection:
        payload = await connection.fetchval(
            """SELECT payload FROM event_log WHERE program_id = $1 AND event_type = 'rules.published'
                ORDER BY position DESC LIMIT 1""",
            laurel.program.program_id,
        )
    told = json.loads(payload)
    assert told.pop("actor").startswith("service:")
    assert told == {"revision": revision, "published": {"told": 1}, "retired": []}


async def test_without_redis_rules_are_published_all_the_same(settings: Settings, database: Database) -> None:
    away = settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://127.0.0.1:1/0")})
    async with started(away, database) as laurel:
        assert (await publish(laurel.service, await create(laurel.service, BASE))).changed


async def test_a_dry_run_gives_200_points_for_500_rupees_at_diwali_and_writes_nothing(laurel: Laurel) -> None:
    caller = await a_service_with(laurel, BASE)
    member_id = await a_member(caller)
    request = pb.DryRunRequest(purchase=bought(500, member_id), drafts=[struct(DOUBLE)])
    reply = await caller.rules.DryRun(request)
    assert [(award.point_type, award.points, award.transaction_id) for award in reply.awards] == [
        ("points", 200, "")
    ]
    assert [(result.rule, result.version, result.outcome, result.points) for result in reply.rules] == [
        ("base", 1, "applied", 100),
        ("double", 0, "applied", 100),
    ]
    assert list(reply.rules[0].notes) == ["20 per 100.00 INR on 500.00 INR"]
    assert {line.line_id: line.points for line in reply.rules[0].lines} == {"1": 100}
    async with laurel.database.connection() as connection:
        rows = "SELECT count(*) FROM ledger_transaction WHERE member_id = $1::text::uuid"
        assert await connection.fetchval(rows, member_id) == 0
    assert await in_force(caller) == {"base": 1}


async def test_a_draft_takes_the_place_of_its_rule_or_of_all(laurel: Laurel) -> None:
    caller = await a_service_with(laurel, BASE, DOUBLE)
    purchase = bought(500, await a_member(caller))
    triple = struct({**DOUBLE, "then": [{"multiply": {"by": 3}}]})
    assert await dry(caller, purchase=purchase) == 200
    assert await dry(caller, purchase=purchase, drafts=[triple]) == 300
    assert await dry(caller, purchase=purchase, drafts=[struct(BASE)], drafts_only=True) == 100
    assert await dry(caller, purchase=purchase, drafts_only=True) == 0


async def test_a_dry_run_may_lie_ahead(laurel: Laurel) -> None:
    caller = await a_service_with(laurel, {**BASE, "active": {"from": "2199-01-01"}})
    purchase = bought(500, await a_member(caller))
    assert await dry(caller, purchase=purchase) == 0
    purchase.occur_time.FromDatetime(datetime(2199, 6, 1, tzinfo=UTC))
    assert await dry(caller, purchase=purchase) == 100


async def test_mistakes_in_drafts_name_the_draft(laurel: Laurel) -> None:
    drafts = [struct(BASE), struct({**DOUBLE, "priority": "high"}), struct(BASE)]
    purchase = bought(500, await laurel.register())
    refused = await refusal(laurel.service.rules.DryRun(pb.DryRunRequest(purchase=purchase, drafts=drafts)))
    assert set(refused.violations) == {"drafts[1].priority", "drafts[2].rule"}


async def test_a_dry_run_of_nobody_or_of_nonsense_is_refused(laurel: Laurel) -> None:
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"
    refused = await refusal(laurel.service.rules.DryRun(pb.DryRunRequest(purchase=bought(1, nobody))))
    assert refused.reason == "MEMBER_NOT_FOUND"
    refused = await refusal(laurel.service.rules.DryRun(pb.DryRunRequest()))
    assert set(refused.violations) == {"purchase.member_id", "purchase.amount"}
    lines = [points_pb2.LineItem(amount=money_pb2.Money(currency_code="INR", units=-1), quantity=-2)]
    wrong = points_pb2.AccrueRequest(member_id=nobody, lines=lines)
    refused = await refusal(laurel.service.rules.DryRun(pb.DryRunRequest(purchase=wrong)))
    assert set(refused.violations) == {"purchase.lines[0].amount", "purchase.lines[0].quantity"}


def review_type() -> pb.EventType:
    attributes = {"stars": "number", "verified": "boolean", "product": "string"}
    return pb.EventType(name="REVIEW_SUBMITTED", attributes=attributes, description="A review.")


async def test_event_types_are_registered_once_and_rules_may_name_them(laurel: Laurel) -> None:
    caller = await a_service(laurel)
    review = {
        "rule": "review",
        "when": {
            "all": [{"event": "REVIEW_SUBMITTED"}, {"field": "attributes.stars", "op": "gte", "value": 4}]
        },
        "then": [{"fixed": {"points": 50}}],
    }
    assert "when.all[0].event" in (await refusal(create(caller, review))).violations
    request = pb.CreateEventTypeRequest(event_type=review_type())
    assert (await caller.rules.CreateEventType(request)).event_type == review_type()
    assert (await caller.rules.CreateEventType(request)).event_type == review_type()
    request.event_type.attributes["stars"] = "string"
    refused = await refusal(caller.rules.CreateEventType(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EVENT_TYPE_EXISTS")
    listed = await caller.rules.ListEventTypes(pb.ListEventTypesRequest())
    assert list(listed.event_types) == [review_type()]

    await publish(caller, await create(caller, review))
    submission = points_pb2.SubmitEventRequest(
        member_id=await a_member(caller), event_type="REVIEW_SUBMITTED"
    )
    for stars, expected in ((5, 50), (3, 0)):
        submission.attributes.update({"stars": stars, "verified": True})
        assert await dry(caller, submission=submission) == expected
    submission.attributes.update({"stars": "five", "colour": "red"})
    refused = await refusal(caller.rules.DryRun(pb.DryRunRequest(submission=submission)))
    assert set(refused.violations) == {"attributes[stars]", "attributes[colour]"}
    submission.event_type = "SIGHTING"
    refused = await refusal(caller.rules.DryRun(pb.DryRunRequest(submission=submission)))
    assert (refused.reason, refused.metadata) == ("EVENT_TYPE_UNKNOWN", {"event_type": "SIGHTING"})


@pytest.mark.parametrize(
    ("event_type", "path"),
    [
        (pb.EventType(), "event_type.name"),
        (pb.EventType(name="review"), "event_type.name"),
        (pb.EventType(name="PURCHASE"), "event_type.name"),
        (pb.EventType(name="R", attributes={"a": "text"}), "event_type.attributes[a]"),
        (pb.EventType(name="R", attributes={"a b": "string"}), "event_type.attributes (a key)"),
        (pb.EventType(name="R", attributes={f"a{n}": "string" for n in range(51)}), "event_type.attributes"),
    ],
)
async def test_a_malformed_event_type_is_refused(laurel: Laurel, event_type: pb.EventType, path: str) -> None:
    request = pb.CreateEventTypeRequest(event_type=event_type)
    assert path in (await refusal(laurel.service.rules.CreateEventType(request))).violations


async def test_the_schema_is_published(laurel: Laurel) -> None:
    reply = await laurel.service.rules.GetRuleSchema(pb.GetRuleSchemaRequest())
    assert json_format.MessageToDict(reply.schema) == JSON_SCHEMA


async def a_service_with(laurel: Laurel, *definitions: Mapping[str, Any]) -> Caller:
    caller = await a_service(laurel)
    await publish(caller, *[await create(caller, definition) for definition in definitions])
    return caller


async def a_member(caller: Caller) -> str:
    request = member_pb2.RegisterMemberRequest(
        request_id=uuid4().hex, member=member_pb2.Member(email=f"{uuid4().hex}@example.com")
    )
    return (await caller.members.RegisterMember(request)).member.member_id


async def dry(caller: Caller, **parts: Any) -> int:
    reply = await caller.rules.DryRun(pb.DryRunRequest(**parts))
    return sum(award.points for award in reply.awards)
