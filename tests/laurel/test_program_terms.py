"""How points live in a program, set from the command line and obeyed by a running server."""

import json
import re
from typing import Any

import pytest
from google.protobuf import json_format
from google.type import money_pb2
from loyalty.v1 import member_pb2, rules_pb2
from loyalty.v1 import points_pb2 as pb

from server.domain.actor import CallerKind
from server.domain.notifications.quiet_hours import NONE
from server.domain.program import Program
from server.store import templates
from tests.laurel.test_cli import cli
from tests.support.programs import new_key, new_program
from tests.support.servers import Caller, Laurel

BASE = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 1, "per": "1.00"}}]}


@pytest.fixture
async def program(laurel: Laurel) -> Program:
    return await new_program(laurel.database, point_types=("points", "stars"))


async def till_of(laurel: Laurel, program: Program) -> Caller:
    """A till of a program that has a rule in force."""
    caller = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    request = rules_pb2.CreateRuleRequest()
    json_format.ParseDict(BASE, request.definition)
    await caller.rules.CreateRule(request)
    version = rules_pb2.RuleVersion(name="base", version=1)
    await caller.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    return caller


async def newcomer(till: Caller) -> str:
    member = member_pb2.Member(email="asha@example.com")
    request = member_pb2.RegisterMemberRequest(request_id="asha", member=member)
    return (await till.members.RegisterMember(request)).member.member_id


async def terms(laurel: Laurel, program: Program) -> Any:
    return json.loads((await cli(laurel, "programs", "show", program.name, "--json")).stdout)["ledger"]


async def kept(laurel: Laurel, program: Program) -> Any:
    """All that the database holds of the program itself."""
    async with laurel.database.connection() as connection:
        return await connection.fetchrow("SELECT * FROM program WHERE program_id = $1", program.program_id)


async def test_a_change_changes_what_is_named_and_nothing_else(laurel: Laurel, program: Program) -> None:
    before = await terms(laurel, program)
    assert before["wallets"]["points"] == {"pending": "none", "expire": "never"}
    shown = await cli(laurel, "programs", "change", program.name, "--expiry", "points=months:12")
    assert "at the end of the month, 12 months later" in shown.stdout
    options = ("--pending", "points=days:14,until:PURCHASE", "--clawback", "refuse", "--transfer-limit", "0")
    options = (*options, "--warn-days", "3,14")
    assert (await cli(laurel, "programs", "change", program.name, *options)).returncode == 0
    after = {
        **before,
        "wallets": {
            **before["wallets"],
            "points": {"pending": {"days": 14, "until": "PURCHASE"}, "expire": {"months": 12}},
        },
        "clawback": "refuse",
        "transferLimit": 0,
        "warnDays": [14, 3],
    }
    assert await terms(laurel, program) == after
    assert (await cli(laurel, "programs", "change", program.name, "--pending", "points=none")).returncode == 0
    after["wallets"]["points"]["pending"] = "none"
    assert await terms(laurel, program) == after


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--expiry", "points=weeks:2"], "points.expire.weeks: is unknown"),
        (["--expiry", "points=months:many"], "points.expire.months: must be a whole number"),
        (["--expiry", "points=days:99999"], "points.expire.days: must be between 0 and 36500"),
        (["--expiry", "gold=days:2"], "gold: is no wallet; the program has points, stars"),
        (
            ["--pending", "points=until:NOTHING"],
            "points.pending.until: 'NOTHING' is no registered event type",
        ),
        (["--pending", "stars=days:9", "--expiry", "stars=days:8"], "stars.expire: must leave time"),
        (["--hold-seconds", "86400", "--max-hold-seconds", "60"], "must not be above"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_place_and_changes_nothing(
    laurel: Laurel, program: Program, options: list[str], said: str
) -> None:
    before = await kept(laurel, program)
    refused = await cli(laurel, "programs", "change", program.name, *options)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert await kept(laurel, program) == before


async def test_a_change_says_what(laurel: Laurel, program: Program) -> None:
    assert (await cli(laurel, "programs", "change", program.name)).returncode == 2
    assert (await cli(laurel, "programs", "change", "nowhere", "--hold-seconds", "5")).returncode == 1
    for wrong in ("0", "7,7", "366", "soon", "1,2,3,4,5,6"):
        assert (await cli(laurel, "programs", "change", program.name, "--warn-days", wrong)).returncode == 2
    assert (await cli(laurel, "programs", "change", program.name, "--warn-days", "none")).returncode == 0
    assert (await terms(laurel, program))["warnDays"] == []


async def test_a_program_is_made_with_its_terms(laurel: Laurel) -> None:
    options = ("--currency", "EUR", "--time-zone", "Europe/Paris", "--expiry", "points=rolling_days:180")
    assert (await cli(laurel, "programs", "create", "rolling", *options)).returncode == 0
    shown = json.loads((await cli(laurel, "programs", "show", "rolling", "--json")).stdout)
    assert shown["ledger"]["wallets"] == {"points": {"pending": "none", "expire": {"rolling_days": 180}}}


async def test_the_next_purchase_obeys_and_what_was_there_keeps_its_terms(
    laurel: Laurel, program: Program
) -> None:
    till = await till_of(laurel, program)
    member_id = await newcomer(till)

    async def buy(order: str) -> pb.AccrueResponse:
        amount = money_pb2.Money(currency_code="INR", units=100)
        return await till.points.Accrue(
            pb.AccrueRequest(request_id=order, member_id=member_id, order_reference=order, amount=amount)
        )

    assert (await buy("one")).balance == 100
    options = ("--pending", "points=days:14", "--expiry", "points=years:1")
    assert (await cli(laurel, "programs", "change", program.name, *options)).returncode == 0
    bought = await buy("two")
    assert (bought.points, bought.balance, bought.pending) == (100, 100, 100)

    [points, _] = (await till.points.GetBalance(pb.GetBalanceRequest(member_id=member_id))).wallets
    assert (points.balance, points.pending) == (100, 100)
    assert (points.outlook.never_expiring, list(points.outlook.expiries)) == (100, [])
    [coming] = points.outlook.activations
    assert (coming.points, coming.HasField("activate_time"), coming.event_type) == (100, True, "")
    staff = await new_key(laurel.database, program, CallerKind.STAFF)
    shown = await cli(laurel, "points", "balance", member_id, key=staff)
    assert re.search(r"points +100  can be spent  20\d\d-\d\d-\d\d 18:30:00Z", shown.stdout), shown.stdout

    shown = await cli(laurel, "points", "history", member_id, key=staff)
    assert re.search(r" earn, pending +points +\+100 +100 ", shown.stdout), shown.stdout

    lots = []
    for order in (await till.points.ListHistory(pb.ListHistoryRequest(member_id=member_id))).transactions:
        why = await till.points.Explain(pb.ExplainRequest(transaction_id=order.transaction_id))
        lots.append([lot.HasField("expire_time") for lot in why.lots])
    assert lots == [[True], [False]]


async def told(laurel: Laurel, program: Program) -> Any:
    return json.loads((await cli(laurel, "programs", "show", program.name, "--json")).stdout)["notifications"]


async def test_how_members_are_written_to_is_set_term_by_term(laurel: Laurel, program: Program) -> None:
    before = await told(laurel, program)
    assert (before["quietHours"], before["language"]) == ("21:00-08:00", "en")
    wanted = ["--language", "HI-in", "--quiet-hours", "22:30-07:00", "--large-redemption", "900"]
    wanted += ["--join-seconds", "0", "--tell", "birthday=none", "--tell", "points_earned=inbox,push"]
    assert (await cli(laurel, "programs", "change", program.name, *wanted)).returncode == 0
    after = {
        "language": "hi-IN",
        "quietHours": "22:30-07:00",
        "joinSeconds": 0,
        "largeRedemption": 900,
        "tell": {**before["tell"], "birthday": [], "points_earned": ["push", "inbox"]},
    }
    assert await told(laurel, program) == after
    shown = await cli(
        laurel, "programs", "change", program.name, "--tell", "birthday=all", "--quiet-hours", "none"
    )
    assert re.search(r"tell birthday +email, sms, push, inbox", shown.stdout)
    after["tell"]["birthday"] = before["tell"]["birthday"]
    assert await told(laurel, program) == {**after, "quietHours": ""}
    # As a worker reads it.
    async with laurel.database.connection() as connection:
        found = (await templates.terms_of(connection, [program.program_id]))[program.program_id]
    assert (found.quiet_hours, dict(found.channels)) == (NONE, {"points_earned": ("push", "inbox")})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--language", "Hindi!"], "'Hindi!' must be a BCP 47 language tag"),
        (["--quiet-hours", "21-8"], "write two times such as 21:00-08:00"),
        (["--quiet-hours", "08:00-08:00"], "write two times such as 21:00-08:00"),
        (["--quiet-hours", "21:00-08:00-09:00"], "write two times such as 21:00-08:00"),
        (["--join-seconds", "86401"], "0<=x<=86400"),
        (["--large-redemption", "0"], "1<=x"),
        (["--tell", "wedding=all"], "'wedding' is no occasion; there is welcome, points_earned"),
        (["--tell", "birthday=fax"], "write birthday=all, none or some of email,sms,push,inbox"),
        (["--tell", "birthday="], "write birthday=all"),
        (["--tell", "birthday=all", "--tell", "birthday=none"], "birthday stands there twice"),
    ],
)
async def test_terms_of_messages_that_make_no_sense_are_refused_and_change_nothing(
    laurel: Laurel, program: Program, options: list[str], said: str
) -> None:
    before = await kept(laurel, program)
    refused = await cli(laurel, "programs", "change", program.name, *options)
    assert refused.returncode == 2
    assert said in " ".join(refused.stderr.split())
    assert await kept(laurel, program) == before
