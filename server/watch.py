"""The figures that the parts of a server know anyway, as metrics."""

from collections.abc import Mapping

from server.operations.credentials import Credentials
from server.store.database import Database
from telemetry.metrics import Labels, Metrics


def describe(metrics: Metrics, database: Database, credentials: Credentials) -> None:
    """Add the pool of connections and the memory of keys."""

    def connections() -> Mapping[Labels, float]:
        used, idle, _ = database.count()
        return {("used",): used, ("idle",): idle}

    def keys() -> Mapping[Labels, float]:
        good, bad = credentials.count()
        return {("good",): good, ("bad",): bad}

    metrics.gauge(
        "db.client.connection.count",
        "{connection}",
        "Connections to PostgreSQL, by state.",
        connections,
        ("db_client_connection_state",),
    )
    metrics.gauge(
        "db.client.connection.max",
        "{connection}",
        "As many connections may be open.",
        lambda: {(): database.count()[2]},
    )
    metrics.gauge(
        "db.client.connection.pending_requests",
        "{request}",
        "Those who wait for a connection.",
        lambda: {(): database.waiting},
    )
    metrics.gauge("laurel.credentials.known", "{key}", "Keys remembered as good or bad.", keys, ("state",))
    metrics.gauge(
        "laurel.credentials.verified",
        "{call}",
        "Keys verified, from memory or by a look-up in the database.",
        lambda: {("memory",): credentials.hits, ("database",): credentials.lookups},
        ("source",),
        kind="counter",
    )
