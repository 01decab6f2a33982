"""What is told of the relay."""

from telemetry.metrics import Metrics


class Watch:
    """Counts what was handed to consumers and what failed."""

    def __init__(self, metrics: Metrics) -> None:
        self._events = metrics.counter(
            "laurel.subscription.events", "{event}", "Events handed to consumers.", ("consumer",)
        )
        self._failures = metrics.counter(
            "laurel.subscription.failures",
            "{failure}",
            "What went wrong: passing (tried again), dead (a dead letter), fenced (the lease was lost).",
            ("consumer", "kind"),
        )
        self._seconds = metrics.histogram(
            "laurel.subscription.batch.duration", "s", "Time of a batch, with its commit.", ("consumer",)
        )

    def handled(self, consumer: str, events: int, seconds: float) -> None:
        """So many events were taken, in one transaction."""
        self._events.add(consumer, amount=events)
        self._seconds.of(consumer).observe(seconds)

    def failed(self, consumer: str, kind: str) -> None:
        """Something went wrong."""
        self._failures.add(consumer, kind)
