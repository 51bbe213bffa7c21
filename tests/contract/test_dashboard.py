"""Tests for deploy/grafana/zoomgate.json, which must match docs/metrics.md and deploy/alerts.yml."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/zoomgate.json").read_text(encoding="utf-8"))
RULES = (ROOT / "deploy/alerts.yml").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(zoomgate_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
METRICS = {
    name: (kind, set(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in ROW.findall((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ADDED_BY_PROMETHEUS = {"instance", "job", "le"}


def metrics_in(text: str) -> set[str]:
    """Return the metrics that a text mentions, without the suffixes of histogram series."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bzoomgate_\w+", text)}


def test_dashboard_shows_exactly_the_documented_metrics() -> None:
    assert set().union(*map(metrics_in, QUERIES)) == set(METRICS)


def test_panel_of_an_alert_shows_its_metrics() -> None:
    """Every alert is named in the description of a panel that shows the metrics of the alert."""
    named: dict[str, list[set[str]]] = {}
    for panel in PANELS:
        shown = set().union(*(metrics_in(target["expr"]) for target in panel["targets"]))
        for alert in re.findall(r"Zoomgate\w+", panel["description"]):
            named.setdefault(alert, []).append(shown)
    alerts = dict(re.findall(r"- alert: (\w+)\n +expr: ((?:.+\n)(?: {10}.+\n)*)", RULES))
    assert len(alerts) == RULES.count("- alert:")
    assert set(named) == set(alerts)
    for alert, expression in alerts.items():
        assert any(metrics_in(expression) <= shown for shown in named[alert]), alert


def test_queries_use_the_labels_and_types_of_their_metrics() -> None:
    """Every query selects jobs and instances. Counters are queried over a period, and gauges as they are."""
    for query in QUERIES:
        (metric,) = metrics_in(query)
        kind, labels = METRICS[metric]
        assert '{job=~"$job",instance=~"$instance"' in query, query
        assert bool(re.search(r"\[\$__(rate_interval|range)\]", query)) == (kind != "gauge"), query
        used = {
            label for group in re.findall(r"by \(([^)]+)\)", query) for label in re.split(r", ?", group)
        } | set(re.findall(r"[{,](\w+)[=!]~?\"", query))
        assert used <= labels | ADDED_BY_PROMETHEUS, query
        assert query.count("(") == query.count(")"), query


def test_stat_covers_the_whole_selected_time() -> None:
    """A rate interval would show the last minutes only."""
    stats = [target["expr"] for panel in PANELS if panel["type"] == "stat" for target in panel["targets"]]
    assert not [query for query in stats if "$__rate_interval" in query]


def test_panel_explains_its_metrics() -> None:
    assert not [panel["title"] for panel in PANELS if not re.sub(r"Alerts?.*", "", panel["description"])]


def test_new_versions_are_annotated() -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]
    assert metrics_in(annotation["expr"]) == {"zoomgate_build_info"}
    assert "version" in METRICS["zoomgate_build_info"][1]


def test_legends_use_labels_of_their_queries() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            grouped = " ".join(re.findall(r"by \(([^)]+)\)", target["expr"]))
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in re.split(r", ?| ", grouped), target


def test_dashboard_can_be_imported() -> None:
    """Panels have unique IDs and do not overlap, and all use the data source that the user selects."""
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("zoomgate", "Zoomgate")
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "Grafana assigns the ID"
    variables: dict[str, Any] = {
        variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]
    }
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert all(x < 24 for x, _ in covered)
        assert not cells & covered, panel["title"]
        cells |= covered
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])])
