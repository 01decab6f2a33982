"""The `laurel` command: a literal map from names to the modules that do the work."""

import importlib
from typing import Any

import click

# name -> module:attribute, imported when asked for, so that each command starts fast; and its first
# sentence, so that the list of them does too.
COMMANDS = {
    "up": ("laurel.commands.up:up", "Run the local stack in the foreground."),
    "serve": ("laurel.commands.serve:serve", "Run one server process, set up by the environment alone."),
    "worker": ("laurel.commands.worker:worker", "Run one worker process, set up by the environment alone."),
    "gateway": (
        "laurel.commands.gateway:gateway",
        "Serve REST in front of a gRPC server that runs elsewhere.",
    ),
    "migrate": ("laurel.commands.migrate:migrate", "Apply the migrations that the database lacks."),
    "schedules": (
        "laurel.commands.schedules:schedules",
        "Show what is done by the clock: last run and next one.",
    ),
    "doctor": ("laurel.commands.doctor:doctor", "Check all from Python to the server's health."),
    "programs": ("laurel.commands.programs:programs", "Programs: an operator's loyalty schemes."),
    "keys": ("laurel.commands.keys:keys", "API keys: what tills, services and staff call with."),
    "login": ("laurel.commands.login:login", "Print an access token of one of the demo's people."),
    "members": ("laurel.commands.members:members", "Members of a program."),
    "points": ("laurel.commands.points:points", "Points: earn, redeem, return, hand on, look up, explain."),
    "holds": ("laurel.commands.holds:holds", "Holds: reserve points, spend them or give them up."),
    "households": (
        "laurel.commands.households:households",
        "Households: share a pool of points, spend it together.",
    ),
    "reviews": ("laurel.commands.reviews:reviews", "Reviews: what came too late with a till's journal."),
    "rules": ("laurel.commands.rules:rules", "Rules: what earns points, and what points are worth."),
    "webhooks": (
        "laurel.commands.webhooks:webhooks",
        "Webhooks: tell partners what happens, by signed calls.",
    ),
    "templates": ("laurel.commands.templates:templates", "Templates: what messages to members say."),
    "run": ("laurel.commands.run:run", "Runs: what workers do by the clock, done now."),
    "report": ("laurel.commands.report:report", "Reports: what a program adds up to."),
    "projections": (
        "laurel.commands.projections:projections",
        "Projections: read models that follow the event log.",
    ),
    "export": ("laurel.commands.export:export", "Write ledger, members or what they hold to a file."),
    "import": ("laurel.commands.imports:imports", "Bring members and what they hold from CSV files."),
    "replay": ("laurel.commands.replay:replay", "Replay recorded sales: a trial with real data."),
    "verify": ("laurel.commands.verify:verify", "Verify the ledger."),
    "subscriptions": (
        "laurel.commands.subscriptions:subscriptions",
        "Show how far each consumer of the event log has come.",
    ),
    "dead-letters": (
        "laurel.commands.dead_letters:dead_letters",
        "What was tried in vain: events of one consumer, deliveries.",
    ),
    "checkpoint": ("laurel.commands.checkpoint:checkpoint", "Checkpoints: where all chains ended, signed."),
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
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, without importing every command for its first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

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
