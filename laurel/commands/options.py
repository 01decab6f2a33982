"""Options that commands of the public API have in common."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
request_option = click.option(
    "--request-id", "given_request_id", help="Repeat a request by its id; a fresh one, if left out."
)
store_option = click.option("--store", default="", help="The store.")
channel_option = click.option("--channel", default="", help="Where, such as pos or web.")
