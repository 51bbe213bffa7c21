"""Tests for the public names: a change to a name that operators or callers depend on must be deliberate."""

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import Metric

from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.audit.trail import ACTIONS
from zoomgate_server.cli import cli
from zoomgate_server.connections.record import State
from zoomgate_server.settings import SETTINGS
from zoomgate_server.settings.sources import CLIENT_VARIABLES

ROOT = Path(__file__).parents[2]
EXPECTED = Path(__file__).parent / "golden/public_names.txt"
LOG_LEVELS = {"debug", "info", "warning", "error", "exception"}


def setting_names() -> Iterator[str]:
    """Yield the settings with their defaults, and the variables of the client."""
    for setting in SETTINGS:
        yield f"setting {setting.variable} default={setting.default!r}"
    for name in CLIENT_VARIABLES:
        yield f"client variable {name}"


def metric_names() -> Iterator[str]:
    """Yield the metrics with their types, and the label values that are exported from the start."""
    metrics = new_metrics("0")
    metrics.rpc_observer("AuthService.GetToken")
    for state in State:
        metrics.connections.labels(state)
    families: list[Metric] = list(metrics.registry.collect())
    for family in families:
        yield f"metric {family.name} {family.type}"
        for sample in family.samples:
            if sample.labels and "le" not in sample.labels and not sample.name.endswith("_created"):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                yield f"metric {family.name} {labels}"


def log_events() -> Iterator[str]:
    """Yield the log events of the server with their levels and fields."""
    for path in (ROOT / "server/zoomgate_server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOG_LEVELS
                and ast.unparse(node.func.value) == "_log"
                and isinstance(node.args[0], ast.Constant)
            ):
                fields = sorted(keyword.arg for keyword in node.keywords if keyword.arg)
                yield f"log event {node.args[0].value} {node.func.attr} {' '.join(fields)}".rstrip()


def command_names(command: click.Command, path: str) -> Iterator[str]:
    """Yield the commands with their options and arguments."""
    yield f"command {path}"
    for parameter in command.params:
        yield f"command {path} {'/'.join(parameter.opts)}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from command_names(child, f"{path} {name}")


def test_public_names_are_unchanged(request: pytest.FixtureRequest) -> None:
    """After a deliberate change, run pytest with --regenerate and describe the change in CHANGELOG.md."""
    names = [
        *setting_names(),
        *metric_names(),
        *(f"audit action {action}" for action in ACTIONS),
        *log_events(),
        *command_names(cli, "zoomgate"),
    ]
    actual = "\n".join(sorted(set(names))) + "\n"
    if request.config.getoption("--regenerate"):
        EXPECTED.write_text(actual, encoding="utf-8")
    assert actual == EXPECTED.read_text(encoding="utf-8")
