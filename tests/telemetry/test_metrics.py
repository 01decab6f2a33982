import pytest
from prometheus_client.parser import text_string_to_metric_families

from telemetry import prometheus
from telemetry.metrics import MOST_SERIES, OTHER, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """What Prometheus reads, as `name{label=value}`."""
    read = {}
    for family in text_string_to_metric_families(prometheus.text(metrics).decode()):
        for name, labels, value, *_ in family.samples:
            within = ",".join(f"{label}={text}" for label, text in labels.items())
            read[f"{name}{{{within}}}" if within else name] = value
    return read


def test_names_and_units_follow_from_opentelemetrys() -> None:
    metrics = Metrics()
    metrics.counter("laurel.points", "{point}", "Points.", ("program",)).add("demo", amount=5)
    metrics.gauge("laurel.queue", "{command}", "Waiting.", lambda: {(): 3})
    metrics.gauge("process.memory.usage", "By", "Memory.", lambda: {(): 7})
    metrics.gauge("process.cpu.time", "s", "CPU.", lambda: {(): 2}, kind="counter", prometheus="cpu_seconds")
    metrics.histogram("rpc.server.call.duration", "s", "Time.", ("m",), bounds=(0.1, 1)).of("x").observe(0.5)
    assert samples(metrics) == {
        "laurel_points_total{program=demo}": 5,
        "laurel_queue": 3,
        "process_memory_usage_bytes": 7,
        "cpu_seconds_total": 2,
        "rpc_server_call_duration_seconds_bucket{le=0.1,m=x}": 0,
        "rpc_server_call_duration_seconds_bucket{le=1.0,m=x}": 1,
        "rpc_server_call_duration_seconds_bucket{le=+Inf,m=x}": 1,
        "rpc_server_call_duration_seconds_count{m=x}": 1,
        "rpc_server_call_duration_seconds_sum{m=x}": 0.5,
    }


def test_a_bucket_holds_what_is_at_most_its_bound() -> None:
    metrics = Metrics()
    series = metrics.histogram("h", "1", "Values.", bounds=(1, 2)).of()
    for value in (0.5, 1, 1.5, 2, 2.5):
        series.observe(value)
    assert series.counts == [2, 2, 1]
    assert series.total == 7.5
    assert samples(metrics)["h_bucket{le=2.0}"] == 4


def test_labels_that_grow_without_end_are_counted_together() -> None:
    metrics = Metrics()
    counter = metrics.counter("c", "1", "Many.", ("who", "what"))
    histogram = metrics.histogram("h", "1", "Many.", ("who",))
    for number in range(MOST_SERIES + 50):
        counter.add(str(number), "a")
        histogram.of(str(number)).observe(1)
    counter.add("0", "a")
    assert len(counter.read()) == len(histogram.read()) == MOST_SERIES + 1
    assert counter.read()[OTHER, OTHER] == 50
    assert counter.read()["0", "a"] == 2
    assert sum(histogram.read()[OTHER,].counts) == 50


def test_two_instruments_of_one_name_are_a_mistake() -> None:
    metrics = Metrics()
    metrics.counter("c", "1", "One.")
    with pytest.raises(ValueError, match="c"):
        metrics.counter("c", "1", "Another.")


def test_help_and_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.counter("c", "1", 'A "quoted"\nline.', ("label",)).add('x"y\n\\')
    assert samples(metrics) == {'c_total{label=x"y\n\\}': 1}
