"""Tests for docs/operations.md and deploy/alerts.yml, which must match the log events, metrics, outcomes and commands."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from zoomgate_server.cli import cli
from zoomgate_server.connections.refresh import refresher
from zoomgate_server.webhooks import receiver

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
    "zoomgate_refreshes_total": set(refresher.OUTCOMES),
    "zoomgate_webhooks_total": set(receiver.OUTCOMES),
}
LEVELS = {"warning": "warning", "error": "error", "exception": "error", "critical": "error"}


def alerting_events() -> Iterator[tuple[str, str]]:
    """Yield every log event in the source whose level is warning or error, with its level."""
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
                assert isinstance(event, ast.Constant), (
                    f"{path.name}:{node.lineno}: the event must be a constant"
                )
                yield event.value, LEVELS[node.func.attr]


def test_every_alert_has_a_symptom() -> None:
    """docs/troubleshooting.md names each alert once, in the table of alerts."""
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    table = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"`(Zoomgate\w+)`", table)) == sorted(re.findall(r"alert: (\w+)", RULES))


def metrics_in(text: str) -> set[str]:
    """Return the metrics that a text mentions, without the suffixes of histogram series."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bzoomgate_\w+", text)}


def test_every_warning_and_error_event_is_documented() -> None:
    """The rows are exactly the events in the source, with their levels and in alphabetical order."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \| [^|]{10,} \| [^|]{5,} \|$", PAGE, re.MULTILINE)
    assert rows == sorted(set(alerting_events()))


def test_every_alert_is_documented() -> None:
    """The rows are exactly the alert rules, with their severities, metrics and outcomes."""
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


def test_alerts_use_existing_metrics_and_outcomes() -> None:
    """An alert on a metric that does not exist would never fire."""
    assert metrics_in(RULES) <= METRICS
    named = re.findall(r'(zoomgate_\w+)\{outcome=~?"([\w|]+)"', RULES)
    assert len(named) == len(re.findall("outcome=", RULES))
    for metric, outcomes in named:
        assert set(outcomes.split("|")) <= OUTCOMES[metric]


def test_every_metric_is_mentioned() -> None:
    """docs/operations.md mentions every metric, and no metric that does not exist."""
    assert metrics_in(PAGE) == METRICS


def documented_commands() -> list[str]:
    """Return the commands in docs/operations.md, in code blocks and in the text."""
    blocks = re.findall(r"^```sh\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(zoomgate [^`]+)`", PAGE)
    return [line for block in blocks for line in block.splitlines()] + inline


@pytest.mark.parametrize("line", sorted(set(documented_commands())))
def test_documented_command_is_valid(line: str) -> None:
    """The command and its options exist."""
    program, *words = shlex.split(line.replace("USER", "monica@example.com"))
    assert program == "zoomgate"
    group: click.Command = cli
    context = click.Context(group, info_name=program)
    while isinstance(group, click.Group):
        name = words.pop(0)
        command = group.get_command(context, name)
        assert command is not None, name
        group, context = command, click.Context(command, info_name=name, parent=context)
    group.make_context(context.info_name, words, parent=context.parent)
