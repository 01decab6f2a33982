"""What deploy/ tells Grafana and Prometheus to look at is there to be looked at."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.watch import Watched
from telemetry.metrics import Histogram, Metrics
from tests.support.servers import Laurel
from workers.deliveries import Deliveries
from workers.watch import Watch

FOLDER = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((FOLDER / "grafana").glob("*.json"))
RULES = sorted(FOLDER.glob("alerts*.yml"))

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SELECTED = re.compile(r"([a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|without) \(([^)]*)\)")
# Of PromQL; a word that is neither one of these nor a label must be a metric.
WORDS = frozenset(
    [
        "time",
        "sum",
        "by",
        "rate",
        "histogram_quantile",
        "count",
        "vector",
        "or",
        "max",
        "min_over_time",
        "label_values",
    ]
)
HISTOGRAM_PART = re.compile(r"(?<!_connection)_(bucket|sum|count)$")
# What Prometheus itself adds.
ADDED = frozenset({"instance", "job", "le"})


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield path.name, panel


def expressions() -> list[tuple[str, str]]:
    """Each with where it stands."""
    found = [
        (f"{name}: {panel['title']}", target["expr"])
        for name, panel in panels()
        for target in panel.get("targets", ())
    ]
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            found += [(f"{path.name}: {rule['alert']}", rule["expr"]) for rule in group["rules"]]
    return found


@pytest.fixture(scope="module")
async def exposed(laurel: Laurel) -> dict[str, frozenset[str]]:
    """What a process with gRPC and REST exposes: names as Prometheus stores them, with their labels."""
    telemetry = laurel.server.telemetry
    assert telemetry is not None
    if not any(instrument.about.name.startswith("http.") for instrument in telemetry.metrics):
        Watched(nothing, telemetry.metrics, telemetry.tracing)
    Watch(telemetry.metrics)  # what workers tell
    Deliveries(laurel.database, {}, metrics=telemetry.metrics)
    async with httpx.AsyncClient() as http:
        page = (await http.get(f"http://127.0.0.1:{laurel.server.ops_port}/metrics")).text
    names = {family.name for family in text_string_to_metric_families(page)}
    return dict(stored(telemetry.metrics, names)) | {"up": frozenset()}


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """No application."""


def stored(metrics: Metrics, names: set[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for instrument in metrics:
        family, labels = instrument.about.family, frozenset(instrument.about.labels)
        assert family in names
        if isinstance(instrument, Histogram):
            yield from ((f"{family}_{part}", labels) for part in ("bucket", "sum", "count"))
        else:
            yield (f"{family}_total" if instrument.about.kind == "counter" else family), labels


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_and_label_asked_for_is_exposed(
    exposed: dict[str, frozenset[str]], where: str, expression: str
) -> None:
    check(exposed, where, expression)


def check(exposed: dict[str, frozenset[str]], where: str, expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    names = set(NAME.findall(re.sub(r"\{[^}]*\}|\b(?:by|without) \([^)]*\)", "", bare))) - WORDS
    assert names, where
    assert names <= exposed.keys(), where
    for name, selectors in SELECTED.findall(bare):
        asked = set(re.findall(r"(\w+)\s*[=!]", selectors))
        assert asked <= exposed[name] | ADDED, where
    known = frozenset().union(*(exposed[name] for name in names)) | ADDED
    for labels in GROUPED.findall(bare):
        assert {label.strip() for label in labels.split(",")} <= known, where


def test_the_check_would_notice_what_is_not_exposed(exposed: dict[str, frozenset[str]]) -> None:
    for wrong in (
        "sum(rate(laurel_no_such_total[5m]))",
        "sum by (member_id) (laurel_redis_up)",
        'laurel_redis_up{member_id="1"}',
    ):
        with pytest.raises(AssertionError):
            check(exposed, "", wrong)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_can_be_imported_anywhere(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)\}?", path.read_text())) - {"__rate_interval", "__all"} == variables
    assert dashboard["uid"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0


def test_legends_name_labels_that_are_there(exposed: dict[str, frozenset[str]]) -> None:
    for where, panel in panels():
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"\b{label}\b", target["expr"]) or label == "instance", (where, target)


def test_the_configuration_of_prometheus_is_whole() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert all((FOLDER / name).exists() for name in configuration["rule_files"])
    [scrape] = configuration["scrape_configs"]
    assert scrape["job_name"] == "laurel"
    assert "metrics_path" not in scrape, "/metrics is what Prometheus asks for anyway"
    [static] = scrape["static_configs"]
    assert "127.0.0.1:9464" in static["targets"]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_each_alert_says_what_is_wrong_and_how_bad(path: Path) -> None:
    names = []
    for group in yaml.safe_load(path.read_text())["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\d+[smh]", rule["for"])
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert set(rule["annotations"]) == {"summary", "description"}
            names.append(rule["alert"])
    assert len(set(names)) == len(names) > 0


def test_the_readme_has_every_metric(exposed: dict[str, frozenset[str]]) -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE))
    assert listed == {HISTOGRAM_PART.sub("", name) for name in exposed} - {"up"}
