"""The documentation lists every metric there is, and nothing else."""

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


async def test_the_page_has_every_metric(zoomgate: Harness) -> None:
    """What a running service shows has a row each with its kind and its labels, and each row is shown."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    await zoomgate.connect()
    async with aiohttp.ClientSession() as session:
        for _ in range(2):  # the second has seen the first
            async with session.get(f"{zoomgate.http_url}/metrics") as answer:
                text = await answer.text()
    shown = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):  # the library's: when counting began
            name = f"{family.name}_total" if family.type == "counter" else family.name
            shown[name] = (
                family.type,
                {label for sample in family.samples for label in sample.labels} - {"le"},
            )
    assert shown == documented


async def test_counters_that_alarm_are_shown_before_they_count(zoomgate: Harness) -> None:
    """What a rule takes the increase of is there with 0: to Prometheus a counter that comes up with 1 has not grown."""
    rules = (ROOT / "deploy/alerts.yml").read_text(encoding="utf-8")
    selected = re.findall(r'(zoomgate_\w+)\{(\w+)=~?"([\w|]+)"', rules)
    wanted = {(name, label, value) for name, label, values in selected for value in values.split("|")}
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as answer:
        text = await answer.text()
    shown = {
        (sample.name, *labelled)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for labelled in sample.labels.items()
    }
    assert wanted
    assert wanted <= shown
