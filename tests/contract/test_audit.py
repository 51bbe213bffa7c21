"""Comparison of docs/audit.md with the actions and lines of the audit trail."""

import ast
import json
import re
import shlex
from pathlib import Path

import click
import pytest

from zoomgate_server.audit.trail import ACTIONS
from zoomgate_server.cli import cli

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "server/zoomgate_server"
PAGE = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (.+) \|$", PAGE, re.MULTILINE)
EXAMPLES = [json.loads(line) for line in re.findall(r"^\{.+\}$", PAGE, re.MULTILINE)]
COMMON_FIELDS = [
    "time",
    "action",
    "outcome",
    "principal",
    "role",
    "on_behalf_of",
    "user",
    "method",
    "request_id",
]
EVENT_FUNCTIONS = {"record", "AuditEvent"}


def actions_in_source() -> set[str]:
    """Return all actions that occur in the source code."""
    actions = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            texts = []
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", "")) in EVENT_FUNCTIONS
            ):
                texts = [
                    *node.args[:2],
                    *(keyword.value for keyword in node.keywords if keyword.arg == "action"),
                ]
            elif isinstance(node, ast.Assign) and "action" in ast.unparse(node.targets[0]):
                texts = list(ast.walk(node.value))
            actions |= {
                text.value for text in texts if isinstance(text, ast.Constant) and "." in str(text.value)
            }
    return actions


def test_actions_match_the_source() -> None:
    """Every action in the source is listed, and every listed action occurs in the source."""
    assert actions_in_source() == set(ACTIONS)


def test_every_action_is_documented() -> None:
    """The page has exactly one row per action, with its meaning, in the order of `ACTIONS`."""
    assert list(ACTIONS.items()) == ROWS


def test_every_action_has_an_example() -> None:
    """The page contains one example line per action, in the same order and with the common fields."""
    assert [example["action"] for example in EXAMPLES] == list(ACTIONS)
    assert all(list(example)[: len(COMMON_FIELDS)] == COMMON_FIELDS for example in EXAMPLES)


@pytest.mark.parametrize("line", re.findall(r"^(zoomgate audit .+)$", PAGE, re.MULTILINE))
def test_documented_command_exists(line: str) -> None:
    """Each command on the page exists with the options used."""
    words = shlex.split(line.partition("<")[0])[1:]
    group: click.Command = cli
    context = click.Context(group, info_name="zoomgate")
    while isinstance(group, click.Group):
        command = group.get_command(context, words[0])
        assert command is not None
        group, context = command, click.Context(command, info_name=words.pop(0), parent=context)
    group.make_context(context.info_name, words, parent=context.parent)
