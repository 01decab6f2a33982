"""Options that commands of the public API have in common."""

import re
import sys
from datetime import timedelta

import click

from laurel.failures import Failure

SPAN = re.compile(r"(\d{1,5})([hdwy])")
HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
request_option = click.option(
    "--request-id", "given_request_id", help="Repeat a request by its id; a fresh one, if left out."
)
store_option = click.option("--store", default="", help="The store.")
household_option = click.option(
    "--household", "from_household", is_flag=True, help="Of the pool of the member's household."
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask before.")
channel_option = click.option("--channel", default="", help="Where, such as pos or web.")


def span(_ctx: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    """What an option such as ``90d`` means, None if it is left out. Raises click.BadParameter."""
    if value is None:
        return None
    found = SPAN.fullmatch(value)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter("write a number and h, d, w or y, such as 90d")
    return timedelta(hours=int(found[1]) * HOURS[found[2]])


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes; an option ``--yes`` spares it. Raises Failure."""
    if not sys.stdin.isatty():
        raise Failure("nothing changed: there is nobody to ask; give --yes")
    click.confirm(question, abort=True, err=True)
