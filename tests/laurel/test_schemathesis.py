"""Every operation of Laurel's REST: what the document says of it, held against what comes.

Schemathesis' seed is fixed, so that a change is to blame for what it finds; ``SCHEMATHESIS_SEED`` and
``SCHEMATHESIS_EXAMPLES`` look further.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from jsonschema import Draft202012Validator

from gateway.settings import GatewaySettings
from laurel.process.main import running
from server.domain.actor import CallerKind
from server.domain.program import Program
from server.settings import Settings
from server.store.database import Database
from tests.support.log import buried
from tests.support.programs import new_key, new_program

PROGRAM = Path(sys.executable).parent / "schemathesis"
# Without negative_data_rejection: proto3 JSON reads more than it writes, numbers for int64 and
# null for what is absent.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
# Paths that have other methods too, as those of a resource of that name: GET /members/register is
# a member called "register". No document can say that.
BESIDE_PARAMETERS = (
    "/members/register",
    *(f"/transactions/{verb}" for verb in ("accrue", "redeem", "return", "refund", "transfer", "adjust")),
)
# What a service has no business with.
OF_STAFF = (
    "AdjustmentService_ApproveAdjustment",
    "AdjustmentService_RejectAdjustment",
    "ReviewService_ApproveReviewEntry",
    "ReviewService_RejectReviewEntry",
    "DeadLetterService_",
    "ScheduleService_",
    "WebhookService_",
)
# Ids that later calls use.
NAMED = (
    "memberId",
    "transactionId",
    "holdId",
    "adjustmentId",
    "reviewId",
    "endpointId",
    "deliveryId",
    "deadLetterId",
    "householdId",
    "token",
)
# Streams that go on until their caller leaves. Schemathesis would wait for their end.
ENDLESS = ("MemberService_WatchMember",)


def configuration(service_key: str, staff_key: str) -> str:
    """What Schemathesis is to check, and with whose key it calls what."""
    return "".join(
        [
            f'headers = {{ "x-api-key" = "{service_key}" }}\n',
            "[checks]\nenabled = false\n",
            *(f"{name}.enabled = true\n" for name in CHECKS),
            *(
                f'[[operations]]\ninclude-path = "{path}"\n'
                "checks.unsupported_method.enabled = false\nchecks.allow_header_conformance.enabled = false\n"
                for path in BESIDE_PARAMETERS
            ),
            *(
                f'[[operations]]\ninclude-operation-id-regex = "^{name}"\n'
                f'headers = {{ "x-api-key" = "{staff_key}" }}\n'
                for name in OF_STAFF
            ),
        ]
    )


RULE = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 20, "per": "100.00"}}]}


@pytest.fixture(scope="module")
async def program(database: Database) -> Program:
    """Whose keys they are."""
    return await new_program(database)


@pytest.fixture(autouse=True)
async def died(database: Database, program: Program) -> None:
    """Some of its events died, for each test anew: those of the test before may be discarded by now."""
    await buried(database, "history", 2, program_id=program.program_id)


@pytest.fixture(scope="module")
async def staff_key(database: Database, program: Program) -> str:
    """Of somebody who may agree to what a service asks for."""
    scopes = ["points.*", "webhooks.*", "deadletters.*", "schedules.*"]
    return await new_key(database, program, CallerKind.STAFF, scopes=scopes)


@pytest.fixture(scope="module")
async def http(settings: Settings, database: Database, program: Program) -> AsyncIterator[httpx.AsyncClient]:
    """A process of Laurel, and a client with the key of a service."""
    key = await new_key(database, program, CallerKind.SERVICE)
    unhurried = settings.model_copy(update={"credential_limits": "", "failure_limit": "1000:1000"})
    async with (
        running(unhurried, GatewaySettings(http_port=0)) as process,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{process.rest.port}",
            headers={"x-api-key": key},
            timeout=60,
            trust_env=False,
        ) as client,
    ):
        yield client


@pytest.fixture(scope="module")
async def told(http: httpx.AsyncClient) -> dict[str, Any]:
    """The document, with every message closed: nothing may come that it doesn't tell of."""
    document: dict[str, Any] = (await http.get("/openapi.json")).json()
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and not name.startswith("google.rpc."):
            schema.setdefault("additionalProperties", False)
    return document


async def test_every_operation_answers_as_the_document_says(
    http: httpx.AsyncClient, told: dict[str, Any], staff_key: str
) -> None:
    every = dict(operations(told))
    waiting = set(every)
    names: dict[str, str] = {}
    for operation_id, parameters, body in calls(names):
        method, path, operation = every[operation_id]
        waiting.discard(operation_id)
        query = {name: value for name, value in parameters.items() if f"{{{name}}}" not in path}
        async with http.stream(
            method,
            path.format(**parameters),
            params=query,
            json=body,
            headers={
                **({"idempotency-key": uuid4().hex} if method != "GET" else {}),
                **({"x-api-key": staff_key} if operation_id.startswith(OF_STAFF) else {}),
            },
        ) as response:
            if response.status_code != 200:
                pytest.fail(f"{operation_id}: {await response.aread()!r}")
            content = operation["responses"]["200"]["content"][response.headers["content-type"]]
            check = Draft202012Validator(content["schema"] | {"components": told["components"]})
            async for line in response.aiter_lines():  # of a stream there are several
                check.validate(json.loads(line))
                take_names(json.loads(line), names)
                if operation_id in ENDLESS:
                    break
    assert list(waiting) == [], "calls() has none of these"


def operations(told: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str, dict[str, Any]]]]:
    """Method, path and content of every operation, by its id."""
    for path, item in told["paths"].items():
        for method, operation in item.items():
            yield operation["operationId"], (method.upper(), path, operation)


def calls(names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str], Any]]:
    """Operation, parameters and body of calls that succeed, one after the other.

    ``names`` holds what the calls so far have answered.
    """
    amount = {"currencyCode": "INR", "units": "500"}
    yield "RulesService_CreateEventType", {}, {"eventType": {"name": "REVIEW", "attributes": {"r": "number"}}}
    yield "RulesService_ListEventTypes", {}, None
    yield "RulesService_CreateRule", {}, {"definition": RULE}
    yield "RulesService_PublishRules", {}, {"publish": [{"name": "base", "version": "1"}]}
    yield "RulesService_ListRules", {"pageSize": "1"}, None
    yield "RulesService_GetRule", {"name": "base"}, None
    yield "RulesService_GetRuleSchema", {}, None
    plain = {"occasion": "welcome", "channel": "sms", "language_code": "de"}
    yield "NotificationService_PutTemplate", plain, {"text": "Willkommen"}
    yield "NotificationService_GetTemplate", plain, None
    yield "NotificationService_ListTemplates", {"pageSize": "3"}, None
    shown = {"occasion": "welcome", "channel": "sms", "languageCode": "de"}
    yield "NotificationService_PreviewTemplate", {}, {"template": shown, "facts": {"tier": "gold"}}
    yield "NotificationService_DeleteTemplate", plain, None
    email = f"{uuid4().hex}@example.com"
    member = {"email": email, "birthDate": {"year": 1990, "month": 2, "day": 3}, "tags": ["a"]}
    yield "MemberService_RegisterMember", {}, {"member": member | {"attributes": {"a": "b"}}}
    one = {"member_id": names["memberId"]}
    mine = {"memberId": names["memberId"]}
    yield "MemberService_GetMember", one, None
    yield "MemberService_WatchMember", one, None
    yield "MemberService_FindMember", {}, {"identifier": {"email": email}}
    yield "MemberService_ListMembers", {"status": "MEMBER_STATUS_ACTIVE"}, None
    yield "MemberService_UpdateMember", one, {"givenName": "Asha"}
    yield "MemberService_RecordConsent", one, {"consent": {"purpose": "marketing", "granted": True}}
    yield "MemberService_ListConsents", one, None
    since = {"fromTime": "2026-11-01T00:00:00Z", "kinds": "consent"}
    yield "MemberService_ListTimeline", one | since, None
    yield "NotificationService_ListMessages", one, None
    yield "NotificationService_MarkRead", one, {"messageIds": [str(uuid4())]}
    bought = {"orderReference": "1", "amount": amount, "occurTime": "2026-11-20T10:00:00.5Z"}
    yield "RulesService_DryRun", {}, {"purchase": mine | bought | {"requestId": "1"}}
    yield "PointsService_Accrue", {}, mine | bought
    yield "PointsService_GetTransaction", {"transaction_id": names["transactionId"]}, None
    yield "PointsService_Explain", {"transaction_id": names["transactionId"]}, None
    month = {"fromTime": "2026-11-01T00:00:00Z", "toTime": "2026-12-01T00:00:00Z"}
    yield "PointsService_GetStatement", one | month, None
    yield "PointsService_FindTransactions", {"orderReference": "1"}, None
    yield "PointsService_SubmitEvent", {}, mine | {"eventType": "REVIEW", "attributes": {"r": 5}}
    yield "PointsService_Redeem", {}, mine | {"points": "40"}
    spent = {"transactionId": names["last transactionId"]}
    entry = {"accrue": mine | bought | {"orderReference": "2", "requestId": uuid4().hex}}
    yield "JournalService_BatchAccrue", {}, {"entries": [entry]}
    yield "JournalService_UploadJournal", {}, entry
    yield "JournalService_Exchange", {}, entry
    late = bought | {"occurTime": "2020-01-02T10:00:00Z"}
    for number, decide in (("3", "Approve"), ("4", "Reject")):
        entry = {"accrue": mine | late | {"orderReference": number, "requestId": uuid4().hex}}
        yield "JournalService_BatchAccrue", {}, {"entries": [entry]}
        review = {"review_id": names["last reviewId"]}
        yield "ReviewService_GetReviewEntry", review, None
        yield f"ReviewService_{decide}ReviewEntry", review, {"reason": "seen the receipt"}
    yield "ReviewService_ListReviewEntries", one, None
    yield "PointsService_GetBalance", one, None
    yield "PointsService_GetBalance", one | {"asOfTime": "2026-11-20T10:00:00Z"}, None
    yield "PointsService_RefundRedemption", {}, spent
    yield "PointsService_ReturnPurchase", {}, {"order": {"orderReference": "1"}}
    large = mine | {"points": "20000", "reason": "a prize", "expireTime": "2126-01-01T00:00:00Z"}
    yield "PointsService_AdjustPoints", {}, large
    adjustment = {"adjustment_id": names["last adjustmentId"]}
    yield "AdjustmentService_GetAdjustment", adjustment, None
    yield "AdjustmentService_ApproveAdjustment", adjustment, {}
    yield "PointsService_AdjustPoints", {}, large
    yield (
        "AdjustmentService_RejectAdjustment",
        {"adjustment_id": names["last adjustmentId"]},
        {"reason": "no"},
    )
    yield "AdjustmentService_ListAdjustments", {"status": "ADJUSTMENT_STATUS_REJECTED"}, None
    yield "HoldService_PlaceHold", {}, mine | {"points": "5"}
    hold = {"hold_id": names["last holdId"]}
    yield "HoldService_GetHold", hold, None
    yield "HoldService_ListHolds", one, None
    yield "HoldService_CaptureHold", hold, {"points": "2", "keepRest": True}
    yield "HoldService_VoidHold", hold, {}
    endpoint = {"url": "https://partner.example/hooks", "eventTypes": ["points.*"]}
    yield "ScheduleService_ListSchedules", {}, None
    yield "WebhookService_RegisterWebhook", {}, endpoint
    named = {"endpoint_id": names["endpointId"]}
    yield "WebhookService_ListWebhooks", {"pageSize": "1"}, None
    yield "WebhookService_GetWebhook", named, None
    yield "WebhookService_RotateWebhookSecret", named, {"overlap": "3600s"}
    yield "WebhookService_DisableWebhook", named, {"reason": "no answer"}
    yield "WebhookService_EnableWebhook", named, {}
    yield "WebhookService_TestWebhook", named, {}
    delivery = {"delivery_id": names["deliveryId"]}
    yield "WebhookService_ListWebhookDeliveries", named, None
    yield "WebhookService_GetWebhookDelivery", delivery, None
    yield "WebhookService_RedeliverWebhook", delivery, {}
    yield "WebhookService_RemoveWebhook", named, None
    days = {
        f"{end}.{part}": value
        for end in ("fromDate", "toDate")
        for part, value in (("year", "2026"), ("month", "11"), ("day", "20"))
    }
    yield "ReportService_ListDailyFigures", days, None
    yield "DeadLetterService_ListDeadLetters", {"status": "DEAD_LETTER_STATUS_DEAD"}, None
    dead, given_up = ({"dead_letter_id": names[name]} for name in ("deadLetterId", "last deadLetterId"))
    yield "DeadLetterService_GetDeadLetter", dead, None
    yield "DeadLetterService_ReplayDeadLetter", dead, {}
    yield "DeadLetterService_DiscardDeadLetter", given_up, {}
    other = {"member": {"email": f"{uuid4().hex}@example.com"}}
    yield "MemberService_RegisterMember", {}, other
    another = names["last memberId"]
    yield "PointsService_TransferPoints", {}, mine | {"toMemberId": another, "points": "9"}
    yield "HouseholdService_CreateHousehold", {}, mine | {"contributes": True}
    home, head = {"household_id": names["householdId"]}, {"memberId": names["memberId"]}
    yield "HouseholdService_GetHousehold", home | {"includeFormer": True}, None
    yield "HouseholdService_GetMemberHousehold", one, None
    yield "HouseholdService_ListHouseholds", {"pageSize": "1"}, None
    yield "HouseholdService_InviteToHousehold", home, head | {"maySpend": True}
    yield "HouseholdService_JoinHousehold", {}, {"memberId": another, "token": names["token"]}
    seat = home | {"seated_id": another}
    yield "HouseholdService_UpdateSeat", seat, {"maySpend": False, "contributes": True}
    yield "HouseholdService_ContributePoints", one, {"points": "7"}
    yield "PointsService_Redeem", {}, mine | {"points": "2", "fromHousehold": True}
    yield "HouseholdService_EndSeat", seat, {"reason": "moved out"}
    yield "HouseholdService_DissolveHousehold", home, {}
    yield "MemberService_MergeMembers", one, {"mergedMemberId": another, "reason": "two cards"}
    yield "PointsService_ListHistory", one | {"pointType": "points"}, None
    yield "MemberService_SuspendMember", one, {"reason": "a test"}
    yield "MemberService_ReactivateMember", one, {}
    yield "MemberService_CloseMember", one, {}


def take_names(answer: Any, names: dict[str, str]) -> None:
    """Remember the ids in an answer: under their names the first of each, as ``last ...`` the latest."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name in NAMED and value:
                names.setdefault(name, value)
                names[f"last {name}"] = value
            take_names(value, names)
    elif isinstance(answer, list):
        for one in answer:
            take_names(one, names)


@pytest.mark.long
async def test_schemathesis_finds_nothing(
    http: httpx.AsyncClient, told: dict[str, Any], staff_key: str, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(with_names(told, await known(http, staff_key))))
    (tmp_path / "schemathesis.toml").write_text(configuration(http.headers["x-api-key"], staff_key))
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM), "--config-file", "schemathesis.toml", "run", "openapi.json",
        "--url", str(http.base_url),
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", "2"),
        "--seed", os.environ.get("SCHEMATHESIS_SEED", "1"),
        "--generation-database", "none", "--warnings", "off",
        *(f"--exclude-operation-id={name}" for name in ENDLESS),
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert f"Tested: {len(list(operations(told))) - len(ENDLESS)}\n" in said.decode()


async def known(http: httpx.AsyncClient, staff_key: str) -> dict[str, list[Any]]:
    """What is there, so that operations get past looking for it."""

    names: dict[str, str] = {}

    async def make(path: str, body: dict[str, Any], **headers: str) -> None:
        answer = await http.post(path, json={"requestId": uuid4().hex} | body, headers=headers)
        assert answer.status_code == 200, answer.text
        take_names(answer.json(), names)

    endpoint = {"url": "https://partner.example/hooks", "eventTypes": ["points.*"]}
    await make("/members/register", {"member": {"email": f"{uuid4().hex}@example.com"}})
    await make("/webhooks", endpoint, **{"x-api-key": staff_key})
    return {
        **{name: [value] for name, value in endpoint.items()},
        "endpoint_id": [names["endpointId"]],
        "member_id": [names["memberId"]],
        "memberId": [names["memberId"]],
        "requestId": [uuid4().hex for _ in range(3)],
        "pageToken": [""],
    }


def with_names(told: Mapping[str, Any], names: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The document with ``names`` as the only values of what requests so call; answers may hold any."""
    schemas = told["components"]["schemas"]
    requests = {name: named(schema, names) for name, schema in schemas.items() if name.endswith("Request")}
    paths = {
        path: {
            method: operation | {"parameters": [named(one, names) for one in operation["parameters"]]}
            for method, operation in item.items()
        }
        for path, item in told["paths"].items()
    }
    components = told["components"] | {"schemas": schemas | requests}
    return {**told, "paths": paths, "components": components}


def named(asked: dict[str, Any], names: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A parameter, or the schema of a request, whose values are those of ``names``."""
    if asked.get("name") in names:
        return asked | {"schema": {"enum": names[asked["name"]]}}
    if "properties" not in asked:
        return asked
    known = {name: {"enum": names[name]} for name in asked["properties"] if name in names}
    return asked | {"properties": asked["properties"] | known}
