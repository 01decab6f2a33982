"""`laurel worker`: one worker process, for where PostgreSQL and Redis run elsewhere."""

import sys

import click


@click.command()
def worker() -> None:
    """Run one worker process, set up by the environment alone.

    \b
    LAUREL_DATABASE_URL   PostgreSQL 15 or newer          required
    LAUREL_REDIS_URL      Redis 6.2 or newer              required
    LAUREL_SECRETS_FILE   keys of the ledger and of data  required

    Workers follow the event log and do what comes of it. Run as many as you like: they share the
    work, and one takes over when another dies. Run `laurel migrate` first. SIGTERM lets work under
    way finish.
    """
    from workers.__main__ import main

    sys.exit(main())
