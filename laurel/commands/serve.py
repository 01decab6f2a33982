"""`laurel serve`: one server process, for where PostgreSQL and Redis run elsewhere."""

import sys

import click


@click.command()
def serve() -> None:
    """Run one server process, set up by the environment alone.

    \b
    LAUREL_DATABASE_URL   PostgreSQL 15 or newer          required
    LAUREL_REDIS_URL      Redis 6.2 or newer              required
    LAUREL_SECRETS_FILE   keys of the ledger and of data  required
    LAUREL_HOST           address that gRPC listens on    127.0.0.1
    LAUREL_PORT           port of gRPC                    50051
    LAUREL_HTTP_HOST      address that REST listens on    127.0.0.1
    LAUREL_HTTP_PORT      port of REST                    8080

    Run `laurel migrate` first. Several processes may share the ports. SIGTERM lets calls
    under way finish.
    """
    from laurel.process.__main__ import main

    sys.exit(main())
