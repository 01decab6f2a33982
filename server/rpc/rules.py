"""RulesService: parse, act, render."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from loyalty.v1 import points_pb2
from loyalty.v1 import rules_pb2 as pb

from server.domain.event_types import MAX_ATTRIBUTES, MAX_DESCRIPTION
from server.domain.members import Identifier
from server.domain.rules import explain
from server.domain.rules.evaluation import RuleResult
from server.domain.rules.json_schema import JSON_SCHEMA
from server.domain.rules.reading import NAME
from server.operations.members import Members
from server.operations.rules import Change, Rules
from server.rpc import activities
from server.rpc.definitions import definition_of
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.pages import Pages
from server.store.rules import EventType, StoredRule

MAX_VERSION = 2**62
MAX_CHANGES = 10_000
MAX_DRAFTS = 100


class RulesService:
    """The RPCs of RulesService, called by the gate."""

    def __init__(self, rules: Rules, members: Members, pages: Pages, clock: Callable[[], datetime]) -> None:
        self._rules = rules
        self._members = members
        self._pages = pages
        self._clock = clock

    async def CreateRule(self, request: pb.CreateRuleRequest, call: Call) -> pb.CreateRuleResponse:
        """Store a draft."""
        stored = await self._rules.create(call.actor, definition_of(request.definition))
        return pb.CreateRuleResponse(rule=rule_message(stored))

    async def PublishRules(self, request: pb.PublishRulesRequest, call: Call) -> pb.PublishRulesResponse:
        """Put versions in force, take rules out of force."""
        change = _change(request)
        revision, changed = await self._rules.publish(call.actor, change)
        return pb.PublishRulesResponse(revision=revision, changed=changed)

    async def ListRules(self, request: pb.ListRulesRequest, call: Call) -> pb.ListRulesResponse:
        """Page through the rules."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        filters = {"program": str(call.actor.program_id), "active_only": str(request.active_only)}
        position = self._pages.decode("ListRules", filters, request.page_token)
        rules, more, revision = await self._rules.page(
            call.actor.program_id,
            active_only=request.active_only,
            after=position[0] if position else "",
            size=size,
        )
        token = self._pages.encode("ListRules", filters, [rules[-1].name]) if more else ""
        messages = [rule_message(rule) for rule in rules]
        return pb.ListRulesResponse(rules=messages, next_page_token=token, revision=revision)

    async def GetRule(self, request: pb.GetRuleRequest, call: Call) -> pb.GetRuleResponse:
        """Show a version of a rule."""
        fields = Fields()
        name = _name(fields, "name", request.name)
        version = fields.count("version", request.version, 0, MAX_VERSION)
        fields.check()
        stored = await self._rules.get(call.actor.program_id, name, version)
        return pb.GetRuleResponse(rule=rule_message(stored))

    async def DryRun(self, request: pb.DryRunRequest, call: Call) -> pb.DryRunResponse:
        """Evaluate and write nothing."""
        fields = Fields()
        which = request.WhichOneof("event")
        if which == "submission":
            happened = activities.submission(fields, "submission.", request.submission)
        else:
            happened = activities.purchase(fields, "purchase.", request.purchase, is_order=False)
        who = activities.member(fields, f"{which or 'purchase'}.", getattr(request, which or "purchase"))
        if len(request.drafts) > MAX_DRAFTS:
            fields.add("drafts", f"must be at most {MAX_DRAFTS}")
        fields.check()
        if isinstance(who, Identifier):
            who = await self._members.resolve(call.actor.program_id, who)
        call.touched.append(who)
        drafts = [definition_of(draft) for draft in request.drafts]
        # Received when it happened: a dry run may lie ahead, or further back than a purchase may.
        command = happened.to(call.actor, who, happened.occurred_at or self._clock())
        found = await self._rules.dry_run(command, drafts, request.drafts_only)
        return pb.DryRunResponse(
            awards=[
                points_pb2.Award(point_type=point_type, points=award.points)
                for point_type, award in found.evaluation.awards.items()
            ],
            rules=[result_message(result) for result in found.evaluation.results],
            revision=found.revision,
        )

    async def CreateEventType(
        self, request: pb.CreateEventTypeRequest, call: Call
    ) -> pb.CreateEventTypeResponse:
        """Register a type of event."""
        fields, message = Fields(), request.event_type
        event_type = EventType(
            fields.text("event_type.name", message.name, max_length=64),
            fields.mapping("event_type.attributes", message.attributes, max_entries=MAX_ATTRIBUTES),
            fields.text(
                "event_type.description", message.description, max_length=MAX_DESCRIPTION, required=False
            ),
        )
        fields.check()
        stored = await self._rules.create_event_type(call.actor, event_type)
        return pb.CreateEventTypeResponse(event_type=event_type_message(stored))

    async def ListEventTypes(
        self, request: pb.ListEventTypesRequest, call: Call
    ) -> pb.ListEventTypesResponse:
        """Show the registered types."""
        known = await self._rules.event_types(call.actor.program_id)
        return pb.ListEventTypesResponse(event_types=[event_type_message(known_type) for known_type in known])

    async def GetRuleSchema(self, request: pb.GetRuleSchemaRequest, call: Call) -> pb.GetRuleSchemaResponse:
        """Show the JSON Schema of a definition."""
        return pb.GetRuleSchemaResponse(schema=_struct(JSON_SCHEMA))


def _change(request: pb.PublishRulesRequest) -> Change:
    fields = Fields()
    if len(request.publish) + len(request.retire) > MAX_CHANGES:
        fields.add("publish", f"must be at most {MAX_CHANGES:,} together with retire")
        fields.check()
    if not request.publish and not request.retire:
        fields.add("publish", "is required, or retire")
    publish: dict[str, int] = {}
    for place, wanted in enumerate(request.publish):
        name = _name(fields, f"publish[{place}].name", wanted.name)
        if name in publish:
            fields.add(f"publish[{place}].name", "stands there twice")
        publish[name] = fields.count(f"publish[{place}].version", wanted.version, 1, MAX_VERSION)
    retire = {_name(fields, f"retire[{place}]", name) for place, name in enumerate(request.retire)}
    for name in sorted(retire & set(publish) - {""}):
        fields.add("retire", f"{name} is to be published too")
    expected = fields.count("expected_revision", request.expected_revision, 0, MAX_VERSION)
    fields.check()
    return Change(publish, frozenset(retire), expected)


def _name(fields: Fields, path: str, value: str) -> str:
    if NAME.fullmatch(value):
        return value
    fields.add(
        path, "must be a rule's name: 1 to 64 characters of a-z, 0-9 and -" if value else "is required"
    )
    return ""


def _struct(content: Mapping[str, Any]) -> Struct:
    return json_format.ParseDict(dict(content), Struct())


def rule_message(rule: StoredRule) -> pb.Rule:
    """A version of a rule."""
    message = pb.Rule(
        name=rule.name,
        version=rule.version,
        definition=_struct(rule.definition),
        active=rule.active,
        actor=rule.actor,
    )
    message.create_time.FromDatetime(rule.created_at)
    return message


def event_type_message(event_type: EventType) -> pb.EventType:
    """A registered type of event."""
    return pb.EventType(
        name=event_type.name, attributes=event_type.attributes, description=event_type.description
    )


def result_message(result: RuleResult) -> points_pb2.RuleResult:
    """What a rule did with an event, in figures and words."""
    return points_pb2.RuleResult(
        rule=result.rule,
        version=result.version,
        outcome=result.outcome,
        computed=result.computed,
        points=result.points,
        point_type=result.point_type,
        lines=[points_pb2.LinePoints(line_id=i, points=points) for i, points in result.lines.items()],
        notes=explain.notes(result),
    )
