"""The demo programs: terms and keys go into the database, rules through the server's own door.

Everything is made where it is missing and left alone where it is: a rule that an
operator changed or retired, a key that was revoked, stay as they are.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, points_pb2, rules_pb2

from laurel import channels
from laurel.client import ROLES, Client
from laurel.stack.folder import read_json, write_json
from server.domain.actor import CallerKind
from server.domain.notifications import terms as notification_terms
from server.domain.program import Clawback, LedgerTerms, Program, Tier
from server.domain.rules.read_terms import read_lot_terms
from server.domain.rules.reading import Reader
from server.ids import new_id
from server.operations import credentials
from server.rpc.access import declared_scopes
from server.store import programs as program_store
from server.store import templates as template_store
from server.store.database import Database

FILE = Path(__file__).with_name("demo.yaml")
# In whole units of the program's currency.
WELCOME_PURCHASE = 10_000
# What the stack's keys may do beyond what is usual: here nobody is a second person to anybody.
ALSO = {"staff": ("points.approve", "points.review", "deadletters.*", "webhooks.*")}
Say = Callable[[str], None]


def programs() -> list[dict[str, Any]]:
    """What demo.yaml describes."""
    content: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["programs"]
    return content


async def seed_programs(database_url: str, keys_file: Path, say: Say) -> None:
    """Make the programs and, in ``keys_file``, a key for each kind of caller."""
    database = await Database.open(database_url, connections=2)
    try:
        keys = read_json(keys_file)
        for description in programs():
            program = await _program(database, description, say)
            held = keys.setdefault(program.name, {})
            for role in ROLES:
                if not await _is_known(database, program, held.get(role, ""), say):
                    held[role] = await _new_key(database, program, role)
                    write_json(keys_file, keys)
    finally:
        await database.close()


def seed_rules(address: str, keys: Mapping[str, Mapping[str, str]], say: Say) -> None:
    """Make the event types and rules that are missing, and put the new rules in force."""
    for description in programs():
        with channels.connect(address) as channel:
            client = Client(channel, keys[description["name"]]["service"])
            added = _add_event_types(client, description.get("event_types", []))
            added += _add_rules(client, description["rules"])
        if added:
            say(f"  program {description['name']}: added {', '.join(added)}")


def seed_people(address: str, keys: Mapping[str, Mapping[str, str]], system: str, say: Say) -> dict[str, str]:
    """Make members of those of the people who aren't staff, with some points to spend.

    Returns their member ids by the names they log in with.
    """
    found: dict[str, str] = {}
    for description in programs():
        people = [person for person in description.get("people", ()) if "role" not in person]
        if not people:
            continue
        added = []
        with channels.connect(address) as channel:
            client = Client(channel, keys[description["name"]]["service"])
            for person in people:
                login, external_id = person["login"], member_pb2.ExternalId(system=system, id=person["login"])
                known = _member_id(client, external_id)
                if not known:
                    added.append(login)
                found[login] = known or _add_member(client, person, external_id, description["currency"])
        if added:
            say(f"  program {description['name']}: added people {', '.join(added)}")
    return found


def _member_id(client: Client, external_id: member_pb2.ExternalId) -> str:
    """Whose the external id is, "" if it is nobody's."""
    identifier = member_pb2.Identifier(external_id=external_id)
    try:
        reply = client.call(client.members.FindMember, member_pb2.FindMemberRequest(identifier=identifier))
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND:
            return ""
        raise
    return reply.member.member_id


def _add_member(
    client: Client, person: Mapping[str, str], external_id: member_pb2.ExternalId, currency: str
) -> str:
    given, _, family = person["name"].partition(" ")
    once = f"demo-{person['login']}"
    register = member_pb2.RegisterMemberRequest(
        request_id=once,
        member=member_pb2.Member(given_name=given, family_name=family, external_ids=[external_id]),
    )
    member_id = client.call(client.members.RegisterMember, register).member.member_id
    purchase = points_pb2.AccrueRequest(
        request_id=f"{once}-welcome",
        member_id=member_id,
        order_reference=f"WELCOME-{person['login']}",
        amount=Money(currency_code=currency, units=WELCOME_PURCHASE),
    )
    client.call(client.points.Accrue, purchase)
    return member_id


def _add_event_types(client: Client, wanted: list[dict[str, Any]]) -> list[str]:
    reply = client.call(client.rules.ListEventTypes, rules_pb2.ListEventTypesRequest())
    known = {event_type.name for event_type in reply.event_types}
    missing = [event_type for event_type in wanted if event_type["name"] not in known]
    for event_type in missing:
        request = rules_pb2.CreateEventTypeRequest(event_type=rules_pb2.EventType(**event_type))
        client.call(client.rules.CreateEventType, request)
    return [event_type["name"] for event_type in missing]


def _add_rules(client: Client, wanted: list[dict[str, Any]]) -> list[str]:
    known: set[str] = set()
    token = ""
    while True:
        page = client.call(
            client.rules.ListRules, rules_pb2.ListRulesRequest(page_size=500, page_token=token)
        )
        known |= {rule.name for rule in page.rules}
        token = page.next_page_token
        if not token:
            break
    versions = []
    for definition in wanted:
        if definition["rule"] not in known:
            struct = Struct()
            struct.update(definition)
            reply = client.call(client.rules.CreateRule, rules_pb2.CreateRuleRequest(definition=struct))
            versions.append(rules_pb2.RuleVersion(name=reply.rule.name, version=reply.rule.version))
    if versions:
        client.call(client.rules.PublishRules, rules_pb2.PublishRulesRequest(publish=versions))
    return [version.name for version in versions]


async def _program(database: Database, description: Mapping[str, Any], say: Say) -> Program:
    name = description["name"]
    async with database.connection() as connection:
        found = await program_store.find(connection, name)
        if found is not None:
            return found
        program = Program(
            program_id=new_id(),
            name=name,
            currency=description["currency"],
            time_zone=description["time_zone"],
            point_types=tuple(description["point_types"]),
            tiers=tuple(Tier(tier, points) for tier, points in description["tiers"].items()),
            rates={currency: Decimal(rate) for currency, rate in description.get("rates", {}).items()},
            past_limit_days=description.get("past_limit_days", 30),
            step_up_redeem_points=description.get("step_up_redeem_points", 0),
            ledger=_ledger(description.get("ledger", {})),
        )
        if await program_store.create(connection, program):
            told = notification_terms.load(description.get("notifications", {}))
            await template_store.set_terms(connection, program.program_id, told)
            say(f"  program {name} made")
        # Another stack on the same database may have been faster.
        return await program_store.find(connection, name) or program


def _ledger(said: Mapping[str, Any]) -> LedgerTerms:
    """How points live. Raises InvalidArgument for a mistake in the file."""
    reader = Reader()
    lots = {
        name: read_lot_terms(reader, terms, name, None) for name, terms in said.get("wallets", {}).items()
    }
    reader.check()
    return LedgerTerms(lots, Clawback(said.get("clawback", Clawback.ALLOW_DEBT)))


async def _is_known(database: Database, program: Program, key: str, say: Say) -> bool:
    """Whether the database knows the key; one that was revoked counts, its revocation was meant."""
    parts = key.split("_")
    for credential in await credentials.listed(database, program.program_id):
        if len(parts) == 3 and credential.credential_id.hex == parts[1]:
            if credential.revoked_at is not None:
                say(f"  the key {credential.name} is revoked; `laurel keys create` makes another")
            return True
    return False


async def _new_key(database: Database, program: Program, role: str) -> str:
    """A key under the first free name: other stacks on the same database keep theirs."""
    taken = {c.name for c in await credentials.listed(database, program.program_id) if c.revoked_at is None}
    names = [f"local-{role}", *(f"local-{role}-{number}" for number in range(2, len(taken) + 3))]
    _, key = await credentials.create(
        database,
        program.program_id,
        CallerKind(role),
        next(name for name in names if name not in taken),
        declared_scopes=declared_scopes(),
        now=datetime.now(UTC),
        scopes=(*credentials.DEFAULT_SCOPES[CallerKind(role)], *ALSO.get(role, ())),
    )
    return key
