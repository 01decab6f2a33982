"""`laurel rules`: what earns, how much, when; from files, with a look before the leap."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from loyalty.v1 import rules_pb2

from laurel import rule_files
from laurel.client import Client, connect, program_option
from laurel.commands.options import confirm
from laurel.failures import Failure, explain, no_message
from laurel.output import console, moment, show_json, show_table
from laurel.rule_changes import InForce, Plan, as_yaml, described, plan, summary
from server.domain.rules.json_schema import JSON_SCHEMA
from server.rpc.definitions import definition_of

PAGE = 500
ROLE = "service"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def rules() -> None:
    """Rules: what earns points, and what points are worth.

    docs/rules.md shows how to write them.
    """


@rules.command()
@file_argument
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--prune", is_flag=True, help="Retire the rules in force that the file doesn't name.")
@click.option("--yes", is_flag=True, help="Don't ask before changing anything.")
@program_option
def apply(*, file: Path, dry_run: bool, prune: bool, yes: bool, program: str) -> None:
    """Show what the rules of FILE change, then put them in force. All at once.

    A rule equal to the one in force is left alone, so applying a file twice changes
    nothing the second time.

    \b
    laurel rules apply rules.yaml --dry-run
    laurel rules apply rules.yaml
    """
    wanted = rule_files.read(file)
    with connect(ROLE, program) as client:
        found = _in_force(client)
        change = plan(wanted, found, prune)
        for line in described(change, found):
            console().print(line)
        click.echo(summary(change))
        if change.empty or dry_run:
            return
        if not yes:
            confirm("Put this in force?")
        revision = _carry_out(client, change, found)
    click.echo(f"Revision {revision} is in force.")


def _carry_out(client: Client, change: Plan, found: InForce) -> int:
    """Register, store, publish; the revision then in force."""
    for event_type in change.event_types:
        request = rules_pb2.CreateEventTypeRequest(event_type=rules_pb2.EventType(**event_type))
        client.call(client.rules.CreateEventType, request)
    revision = found.revision
    if change.event_types:
        # Registering raised the revision; make sure that nothing else did.
        now = _in_force(client)
        if now.rules != found.rules:
            raise Failure("somebody else published meanwhile; nothing was put in force, run this again")
        revision = now.revision
    versions = [_store(client, name, definition) for name, definition in change.store.items()]
    if not versions and not change.retire:
        return revision
    publication = rules_pb2.PublishRulesRequest(
        publish=versions, retire=change.retire, expected_revision=revision
    )
    return client.call(client.rules.PublishRules, publication).revision


def _store(client: Client, name: str, definition: Mapping[str, Any]) -> rules_pb2.RuleVersion:
    request = rules_pb2.CreateRuleRequest(definition=_struct(definition))
    try:
        rule = client.call(client.rules.CreateRule, request).rule
    except grpc.RpcError as error:
        raise Failure(f"rule {name}, nothing was put in force: {explain(error)}") from None
    return rules_pb2.RuleVersion(name=rule.name, version=rule.version)


@rules.command("list")
@program_option
@json_option
def list_(*, program: str, as_json: bool) -> None:
    """List the rules, and which version of each is in force."""
    with connect(ROLE, program) as client:
        found, revision = _all(client, active_only=False)
        active = {rule.name: rule.version for rule in _all(client, active_only=True)[0]}
    if as_json:
        show_json(
            {
                "revision": revision,
                "rules": [{**_as_dict(rule), "in_force": active.get(rule.name, 0)} for rule in found],
            }
        )
        return
    show_table(
        ("NAME", "LATEST", "IN FORCE>", "TYPE", "PRIORITY>", "MADE", "BY"),
        [_row(rule, active.get(rule.name)) for rule in found],
    )
    click.echo(f"Revision {revision} is in force.")


def _row(rule: rules_pb2.Rule, in_force: int | None) -> tuple[object, ...]:
    definition = definition_of(rule.definition)
    return (
        rule.name,
        rule.version,
        in_force or "no",
        str(definition.get("type", "earn")),
        str(definition.get("priority", 0)),
        moment(rule.create_time),
        rule.actor,
    )


@rules.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="The latest, if left out.")
@program_option
@json_option
def show(*, name: str, version: int | None, program: str, as_json: bool) -> None:
    """Show a version of the rule NAME as YAML."""
    with connect(ROLE, program) as client:
        request = rules_pb2.GetRuleRequest(name=name, version=version or 0)
        rule = client.call(client.rules.GetRule, request).rule
    if as_json:
        show_json(_as_dict(rule))
        return
    state = "in force" if rule.active else "not in force"
    click.echo(f"# version {rule.version}, {state}, made {moment(rule.create_time)} by {rule.actor}")
    click.echo(as_yaml(definition_of(rule.definition)), nl=False)


@rules.command("dry-run")
@click.argument("file", type=click.File())
@click.option(
    "--rules",
    "drafts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Try these rules in place of those of the same name.",
)
@click.option("--only", is_flag=True, help="Leave out the rules in force.")
@program_option
@json_option
def dry_run(*, file: Any, drafts: Path | None, only: bool, program: str, as_json: bool) -> None:
    """Show what a purchase or event would bring. Nothing is written.

    FILE is JSON ("-" for standard input): {"purchase": {...}} as in AccrueRequest, or
    {"submission": {...}} as in SubmitEventRequest. occur_time may lie ahead.

    \b
    echo '{"purchase": {"identifier": {"email": "asha@example.com"},
      "amount": {"currency_code": "INR", "units": "500"}}}' | laurel rules dry-run -
    """
    try:
        request = json_format.Parse(file.read(), rules_pb2.DryRunRequest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise Failure(f"{file.name}: is no dry run: {no_message(error)}") from None
    if drafts is not None:
        request.drafts.extend(_struct(definition) for definition in rule_files.read(drafts).rules.values())
    request.drafts_only = request.drafts_only or only
    with connect(ROLE, program) as client:
        reply = client.call(client.rules.DryRun, request)
    if as_json:
        show_json(reply)
        return
    show_table(
        ("RULE", "VERSION>", "OUTCOME", "POINTS>", "WALLET", "WHY"),
        [
            (r.rule, r.version or "draft", r.outcome, str(r.points), r.point_type, "; ".join(r.notes))
            for r in reply.rules
        ],
    )
    awards = ", ".join(f"{award.points} {award.point_type}" for award in reply.awards)
    click.echo(f"Together {awards or 'nothing'}, by revision {reply.revision}; nothing was written.")


@rules.command()
def schema() -> None:
    """Print the JSON Schema of a rule, for editors."""
    click.echo(json.dumps(JSON_SCHEMA, indent=2))


@rules.command("event-types")
@program_option
@json_option
def event_types(*, program: str, as_json: bool) -> None:
    """List the types of event that rules may name besides PURCHASE."""
    with connect(ROLE, program) as client:
        reply = client.call(client.rules.ListEventTypes, rules_pb2.ListEventTypesRequest())
    if as_json:
        show_json(reply)
        return
    show_table(
        ("NAME", "ATTRIBUTES", "MEANING"),
        [
            (
                known.name,
                ", ".join(f"{n} {k}" for n, k in sorted(known.attributes.items())),
                known.description,
            )
            for known in reply.event_types
        ],
    )


def _in_force(client: Client) -> InForce:
    active, revision = _all(client, active_only=True)
    known = client.call(client.rules.ListEventTypes, rules_pb2.ListEventTypesRequest())
    return InForce(
        rules={rule.name: (rule.version, definition_of(rule.definition)) for rule in active},
        event_types={event_type.name: dict(event_type.attributes) for event_type in known.event_types},
        revision=revision,
    )


def _all(client: Client, active_only: bool) -> tuple[list[rules_pb2.Rule], int]:
    """Every rule, page by page, and the revision of the first page."""
    found: list[rules_pb2.Rule] = []
    token, revision = "", None
    while True:
        request = rules_pb2.ListRulesRequest(page_size=PAGE, page_token=token, active_only=active_only)
        page = client.call(client.rules.ListRules, request)
        revision = page.revision if revision is None else revision
        found.extend(page.rules)
        token = page.next_page_token
        if not token:
            return found, revision


def _struct(definition: Mapping[str, Any]) -> Struct:
    return json_format.ParseDict(dict(definition), Struct())


def _as_dict(rule: rules_pb2.Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "version": rule.version,
        "active": rule.active,
        "definition": definition_of(rule.definition),
        "create_time": moment(rule.create_time),
        "actor": rule.actor,
    }
