"""Tests for docs/metrics.md and the alert rules, which must match the exported metrics."""

import re
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from support.harness import Harness

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(zoomgate_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \| (?:sum|largest|newest) \|$", re.MULTILINE
)


async def test_documentation_lists_every_metric(zoomgate: Harness) -> None:
    """The documentation lists exactly the exported metrics, with their types and labels."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    await zoomgate.connect()
    async with aiohttp.ClientSession() as session:
        for _ in range(2):  # the first request is counted only in the response to the second
            async with session.get(f"{zoomgate.http_url}/metrics") as response:
                text = await response.text()
    exported = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):  # skip the creation times, which the Prometheus library adds
            name = f"{family.name}_total" if family.type == "counter" else family.name
            exported[name] = (
                family.type,
                {label for sample in family.samples for label in sample.labels} - {"le"},
            )
    assert exported == documented


async def test_counters_in_alert_rules_are_exported_with_zero(zoomgate: Harness) -> None:
    """Prometheus does not detect an increase if the first exported value of a counter is 1."""
    rules = (ROOT / "deploy/alerts.yml").read_text(encoding="utf-8")
    selected = re.findall(r'(zoomgate_\w+)\{(\w+)=~?"([\w|]+)"', rules)
    expected = {(name, label, value) for name, label, values in selected for value in values.split("|")}
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as response:
        text = await response.text()
    exported = {
        (sample.name, *label)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels.items()
    }
    assert expected
    assert expected <= exported
