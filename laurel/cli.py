"""The `laurel` command: a literal map from names to the modules that do the work."""

import importlib
from typing import Any

import click

# name -> module:attribute. Imported when asked for, so that each command starts fast.
COMMANDS = {
    "up": "laurel.commands.up:up",
    "serve": "laurel.commands.serve:serve",
    "worker": "laurel.commands.worker:worker",
    "gateway": "laurel.commands.gateway:gateway",
    "migrate": "laurel.commands.migrate:migrate",
    "schedules": "laurel.commands.schedules:schedules",
    "doctor": "laurel.commands.doctor:doctor",
    "programs": "laurel.commands.programs:programs",
    "keys": "laurel.commands.keys:keys",
    "login": "laurel.commands.login:login",
    "members": "laurel.commands.members:members",
    "points": "laurel.commands.points:points",
    "holds": "laurel.commands.holds:holds",
    "households": "laurel.commands.households:households",
    "reviews": "laurel.commands.reviews:reviews",
    "rules": "laurel.commands.rules:rules",
    "webhooks": "laurel.commands.webhooks:webhooks",
    "templates": "laurel.commands.templates:templates",
    "run": "laurel.commands.run:run",
    "report": "laurel.commands.report:report",
    "projections": "laurel.commands.projections:projections",
    "export": "laurel.commands.export:export",
    "import": "laurel.commands.imports:imports",
    "replay": "laurel.commands.replay:replay",
    "verify": "laurel.commands.verify:verify",
    "subscriptions": "laurel.commands.subscriptions:subscriptions",
    "dead-letters": "laurel.commands.dead_letters:dead_letters",
    "checkpoint": "laurel.commands.checkpoint:checkpoint",
}


class Laurel(click.Group):
    """Finds commands in ``COMMANDS`` and turns failures into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the map."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what operators can cause ends as exit code 1 and a line."""
        from laurel.failures import KNOWN, Failure, explain

        try:
            return super().invoke(ctx)
        except click.exceptions.NoSuchCommand as error:
            if error.possibilities or error.ctx is None or not isinstance(error.ctx.command, click.Group):
                raise
            there = ", ".join(error.ctx.command.list_commands(error.ctx))
            raise click.UsageError(f"{error.message} There is {there}.", error.ctx) from None
        except BrokenPipeError:
            raise  # Whoever read what is printed is gone, as `head` is; click ends quietly.
        except KNOWN as error:
            raise Failure(explain(error)) from None


@click.group(cls=Laurel, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="laurel", prog_name="laurel")
def laurel() -> None:
    """Laurel, an open loyalty platform: run it, look into it, mend it.

    \b
    laurel up                                   start the local stack
    laurel members register --email a@b.example register a member
    laurel points accrue a@b.example 500 INR    record a purchase
    laurel doctor                               find out what is wrong

    Commands talk to the stack that `laurel up` runs in the current folder, or to the
    server and key that LAUREL_ADDRESS and LAUREL_API_KEY name.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
    """


def main() -> None:
    """The entry point of the `laurel` command."""
    laurel()
