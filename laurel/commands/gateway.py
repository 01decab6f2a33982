"""`laurel gateway`: REST alone, in front of a gRPC server."""

import sys

import click

from laurel.client import address as default_address


@click.command()
@click.option("--address", metavar="HOST:PORT", help="Of the gRPC server; as for other commands by default.")
@click.option("--http-host", envvar="LAUREL_HTTP_HOST", show_envvar=True, help="Listen there.")
@click.option(
    "--http-port",
    envvar="LAUREL_HTTP_PORT",
    type=click.IntRange(0, 65535),
    show_envvar=True,
    help="Listen on this port; 0 for a free one.",
)
def gateway(address: str | None, http_host: str | None, http_port: int | None) -> None:
    """Serve REST in front of a gRPC server that runs elsewhere.

    It has no rights of its own: it passes the caller's credential on, and the server
    decides. It needs neither database nor secrets. Limits and CORS come from LAUREL_HTTP_*
    as for `laurel serve`.

    \b
    laurel gateway --address 10.0.0.5:50051 --http-host 0.0.0.0 --http-port 8080
    """
    from pydantic import ValidationError

    from gateway.settings import GatewaySettings
    from laurel.process.__main__ import complain, run
    from laurel.process.alone import serve_alone

    given = {"http_host": http_host, "http_port": http_port}
    try:
        http = GatewaySettings.model_validate(
            {
                **GatewaySettings().model_dump(),
                **{name: value for name, value in given.items() if value is not None},
            }
        )
    except ValidationError as error:
        sys.exit(complain(error))
    sys.exit(run(lambda: serve_alone(address or default_address(), http), http.log_level))
