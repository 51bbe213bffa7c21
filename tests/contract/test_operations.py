"""docs/operations.md and deploy/alerts.yml speak of what there is: events, metrics, outcomes, commands."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from zoomgate_server.cli import cli
from zoomgate_server.telemetry.metrics import REFRESH_OUTCOMES, WEBHOOK_OUTCOMES

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "server/zoomgate_server"
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
RULES = (ROOT / "deploy/alerts.yml").read_text(encoding="utf-8")
METRICS = set(
    re.findall(
        r"^\| `(zoomgate_\w+)` \|", (ROOT / "docs/metrics.md").read_text(encoding="utf-8"), re.MULTILINE
    )
)
RULE = re.compile(
    r"""
    ^\ {6}-\ alert:\ (?P<name>Zoomgate\w+)\n
    \ {8}expr:\ (?P<expr>[^\n]+(?:\n\ {10}[^\n]+)*)\n
    (?:\ {8}for:\ \d+m\n)?
    \ {8}labels:\n
    \ {10}severity:\ (?P<severity>page|ticket)\n
    \ {8}annotations:\n
    \ {10}summary:\ [A-Z][^\n:#]+\.$
    """,
    re.MULTILINE | re.VERBOSE,
)
OUTCOMES = {
    "zoomgate_refreshes_total": set(REFRESH_OUTCOMES),
    "zoomgate_webhooks_total": set(WEBHOOK_OUTCOMES),
}
LEVELS = {"warning": "warning", "error": "error", "exception": "error", "critical": "error"}


def logged() -> Iterator[tuple[str, str]]:
    """Every event at level warning and error in the source, with its level."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id.endswith("log")
            ):
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{path.name}:{node.lineno}: an event is a constant"
                yield event.value, LEVELS[node.func.attr]


def metrics_in(text: str) -> set[str]:
    """The metrics that a text names, by the names of the list."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bzoomgate_\w+", text)}


def test_every_warning_is_explained() -> None:
    """Each event at level warning or error has one row with its level, and each row is an event of the source, in order."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \| [^|]{10,} \| [^|]{5,} \|$", PAGE, re.MULTILINE)
    assert rows == sorted(set(logged()))


def test_every_alert_is_explained() -> None:
    """Each rule has a row with its severity and what it is made of, and each row is a rule."""
    rules = {rule["name"]: rule for rule in RULE.finditer(RULES)}
    assert len(rules) == RULES.count("- alert:")
    rows = re.findall(
        r"^\| `(Zoomgate\w+)` \| (\w+) \| `(\w+)`(?:, outcome `(\w+)`)? \| [^|]+ \| [^|]+ \|$",
        PAGE,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(rules)
    for name, severity, metric, outcome in rows:
        rule = rules[name]
        assert severity == rule["severity"]
        assert metrics_in(rule["expr"]) == {metric}
        assert outcome in ("", *re.findall(r'outcome="(\w+)"', rule["expr"]))


def test_alerts_are_made_of_metrics_that_exist() -> None:
    """A rule names metrics and outcomes that the service has: one that does not exist would never alarm."""
    assert metrics_in(RULES) <= METRICS
    named = re.findall(r'(zoomgate_\w+)\{outcome=~?"([\w|]+)"', RULES)
    assert len(named) == len(re.findall("outcome=", RULES))
    for metric, outcomes in named:
        assert set(outcomes.split("|")) <= OUTCOMES[metric]


def test_every_metric_has_its_place() -> None:
    """The page says of every metric whether it alarms or what it is worth a look for, and names no other."""
    assert metrics_in(PAGE) == METRICS


def commands() -> list[str]:
    """Every command of the page: those to paste, and those in its sentences."""
    blocks = re.findall(r"^```sh\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(zoomgate [^`]+)`", PAGE)
    return [line for block in blocks for line in block.splitlines()] + inline


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_parses(line: str) -> None:
    """A command of the page is one that there is, with options that it has."""
    program, *words = shlex.split(line.replace("USER", "monica@example.com"))
    assert program == "zoomgate"
    group: click.Command = cli
    context = click.Context(group, info_name=program)
    while isinstance(group, click.Group):
        name = words.pop(0)
        found = group.get_command(context, name)
        assert found is not None, name
        group, context = found, click.Context(found, info_name=name, parent=context)
    group.make_context(context.info_name, words, parent=context.parent)


def test_links_within_the_pages_lead_somewhere() -> None:
    """A link to a heading, of this page or another one, names a heading that is there."""
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", PAGE):
        text = (ROOT / "docs" / target).read_text(encoding="utf-8") if target else PAGE
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{target}#{anchor}"
