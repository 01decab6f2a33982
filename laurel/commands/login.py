"""`laurel login`: a token of the local stack's issuer, for curl and for tries."""

import time

import click

from laurel.client import data_folder
from laurel.failures import Failure
from laurel.issuer import keys
from laurel.issuer.tokens import Login, access_token
from laurel.issuer.users import STRONG, WEAK, users

CLIENT = "laurel-command"
SECONDS = 3600


@click.command()
@click.option("--user", "name", default="asha", show_default=True, help="Who logs in; see --list.")
@click.option("--step-up", is_flag=True, help="With a second factor, as for redeeming much.")
@click.option("--list", "listing", is_flag=True, help="List who can log in.")
def login(name: str, step_up: bool, listing: bool) -> None:
    """Print an access token of one of the demo's people. It is good for an hour.

    Whoever can read the data folder of the local stack may sign its tokens, so nobody is
    asked for a password. Applications log in through the browser: docs/people.md.

    \b
    TOKEN=$(laurel login --user asha)
    TOKEN=$(laurel login --user asha --step-up)
    """
    known = users()
    if listing:
        for user in known.values():
            click.echo(f"{user.login:<10}{user.name}, {user.what}")
        return
    if name not in known:
        raise Failure(f"nobody of the demo is called {name}; there are {', '.join(known)}")
    path = data_folder() / "issuer.json"
    if not path.exists():
        raise Failure(f"there is no {path}: the local stack has no issuer of its own, or never ran here")
    acr = STRONG if step_up else WEAK
    token, _ = access_token(
        keys.load(path), Login(known[name], acr, int(time.time())), CLIENT, seconds=SECONDS
    )
    click.echo(token)
