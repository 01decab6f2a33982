"""`laurel templates`: what members read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from loyalty.v1 import notifications_pb2 as pb

from laurel.client import Client, connect, program_option
from laurel.commands.identifiers import pairs
from laurel.failures import Failure
from laurel.output import as_dict, show_json, show_table
from server.domain.errors import InvalidArgument
from server.domain.notifications.occasions import OCCASIONS
from server.domain.notifications.templates import PARTS
from server.operations.template_files import read_folder

PAGE = 500
# In the list of all: a table that fits a terminal.
LONGEST_BEGINNING = 60
Named = tuple[str, str, str]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
occasion_argument = click.argument("occasion", type=click.Choice(list(OCCASIONS)), metavar="OCCASION")
channel_argument = click.argument("channel", type=click.Choice(list(PARTS)), metavar="CHANNEL")
language_option = click.option(
    "--language", default="en", show_default=True, help="BCP 47 tag, such as en or hi-IN."
)


@click.group(
    help=f"""Templates: what messages to members say.

    Each is for an occasion, a channel and a language. OCCASION is one of
    {", ".join(OCCASIONS)}; CHANNEL one of {", ".join(PARTS)}."""
)
def templates() -> None:
    """See ``help``."""


@templates.command("list")
@click.option("--written", is_flag=True, help="Only what the program wrote, without Laurel's own.")
@program_option
@json_option
def list_(*, written: bool, program: str, as_json: bool) -> None:
    """List the templates in force."""
    with connect("staff", program) as client:
        found = list(_every(client, written_only=written))
    if as_json:
        show_json([as_dict(template) for template in found])
        return
    show_table(
        ("OCCASION", "CHANNEL", "LANGUAGE", "VERSION", "BEGINS"),
        [
            (
                t.occasion,
                t.channel,
                t.language_code,
                str(t.version) if t.version else "Laurel's own",
                _shortened((t.subject or t.text).splitlines()[0]),
            )
            for t in found
        ],
    )


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_BEGINNING else f"{text[: LONGEST_BEGINNING - 1].rstrip()}…"


@templates.command()
@occasion_argument
@channel_argument
@language_option
@program_option
@json_option
def show(*, occasion: str, channel: str, language: str, program: str, as_json: bool) -> None:
    """Show the template in force for exactly this language.

    \b
    laurel templates show tier_reached email --language hi
    """
    request = pb.GetTemplateRequest(occasion=occasion, channel=channel, language_code=language)
    with connect("staff", program) as client:
        template = client.call(client.notifications.GetTemplate, request).template
    _show(template, as_json)


@templates.command()
@occasion_argument
@channel_argument
@language_option
@click.option("--fact", "facts", multiple=True, help="name=value instead of an example; repeatable.")
@program_option
@json_option
def preview(
    *, occasion: str, channel: str, language: str, facts: tuple[str, ...], program: str, as_json: bool
) -> None:
    """Show what a member would read who has this language.

    \b
    laurel templates preview points_earned email --fact points=250 --fact given_name=Asha
    """
    template = pb.Template(occasion=occasion, channel=channel, language_code=language)
    request = pb.PreviewTemplateRequest(template=template, facts=pairs(facts))
    with connect("staff", program) as client:
        reply = client.call(client.notifications.PreviewTemplate, request)
    _show(reply.rendered, as_json)


@templates.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prune", is_flag=True, help="Take out of force what the folder doesn't hold.")
@program_option
def apply(*, folder: Path, prune: bool, program: str) -> None:
    """Put the templates of a folder in force. They are LANGUAGE/OCCASION.yaml, each with its channels.

    What says the same as before stays as it is. server/templates has Laurel's own to begin with.

    \b
    laurel templates apply my-templates
    """
    try:
        wanted = list(read_folder(folder))
    except InvalidArgument as error:
        raise Failure(f"{folder}: {error.message}") from None
    if not wanted:
        raise Failure(f"{folder} has no LANGUAGE/OCCASION.yaml")
    with connect("staff", program) as client:
        before = {_key(t): t.version for t in _every(client, written_only=True)}
        for template in wanted:
            request = pb.PutTemplateRequest(
                occasion=template.key.occasion,
                channel=template.key.channel,
                language_code=template.key.language,
                subject=template.content.subject,
                text=template.content.text,
                html=template.content.html,
            )
            reply = client.call(client.notifications.PutTemplate, request)
            changed = reply.template.version != before.get(template.key)
            click.echo(f"{_path(template.key)}: {f'version {reply.template.version}' if changed else 'same'}")
        for key in sorted(before.keys() - {template.key for template in wanted}) if prune else ():
            gone = pb.DeleteTemplateRequest(occasion=key[0], channel=key[1], language_code=key[2])
            client.call(client.notifications.DeleteTemplate, gone)
            click.echo(f"{_path(key)}: out of force")


@templates.command()
@occasion_argument
@channel_argument
@language_option
@program_option
def remove(*, occasion: str, channel: str, language: str, program: str) -> None:
    """Take a program's template out of force. Laurel's own, if there is one, says it again.

    \b
    laurel templates remove welcome email --language en
    """
    request = pb.DeleteTemplateRequest(occasion=occasion, channel=channel, language_code=language)
    with connect("staff", program) as client:
        client.call(client.notifications.DeleteTemplate, request)
    click.echo(f"{_path((occasion, channel, language))}: out of force")


def _every(client: Client, *, written_only: bool) -> Iterator[pb.Template]:
    request = pb.ListTemplatesRequest(page_size=PAGE, written_only=written_only)
    while True:
        page = client.call(client.notifications.ListTemplates, request)
        yield from page.templates
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return


def _key(template: pb.Template) -> Named:
    return template.occasion, template.channel, template.language_code


def _path(key: Named) -> str:
    occasion, channel, language = key
    return f"{language}/{occasion}.yaml {channel}"


def _show(said: Any, as_json: bool) -> None:
    if as_json:
        show_json(said)
        return
    parts = [part for part in (said.subject, said.text, said.html) if part]
    click.echo("\n\n".join(parts))
