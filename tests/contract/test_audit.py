"""docs/audit.md lists the actions that there are, and shows lines as the service writes them."""

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
ALWAYS = ["time", "action", "outcome", "principal", "role", "on_behalf_of", "user", "method", "request_id"]
MAKERS = {"for_call", "unattended", "record", "try_record", "AuditEvent"}


def told() -> set[str]:
    """Every action that the source tells."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            texts = []
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", "")) in MAKERS
            ):
                texts = [*node.args[:2], *(word.value for word in node.keywords if word.arg == "action")]
            elif isinstance(node, ast.Assign) and "action" in ast.unparse(node.targets[0]):
                texts = [node.value, *getattr(node.value, "elts", [])]
            found |= {
                text.value for text in texts if isinstance(text, ast.Constant) and "." in str(text.value)
            }
    return found


def test_the_list_of_actions_is_what_the_source_tells() -> None:
    """An action that is told is in the list, and each of the list is told somewhere."""
    assert told() == set(ACTIONS)


def test_every_action_is_documented() -> None:
    """The page has a row for each action with its meaning, in the order of the list, and no other."""
    assert list(ACTIONS.items()) == ROWS


def test_every_action_has_an_example() -> None:
    """The page shows one line of each action, in the same order, with the fields that every line has."""
    assert [example["action"] for example in EXAMPLES] == list(ACTIONS)
    assert all(list(example)[: len(ALWAYS)] == ALWAYS for example in EXAMPLES)


@pytest.mark.parametrize("line", re.findall(r"^(zoomgate audit .+)$", PAGE, re.MULTILINE))
def test_every_command_parses(line: str) -> None:
    """A command of the page is one that there is, with options that it has."""
    words = shlex.split(line.partition("<")[0])[1:]
    group: click.Command = cli
    context = click.Context(group, info_name="zoomgate")
    while isinstance(group, click.Group):
        found = group.get_command(context, words[0])
        assert found is not None
        group, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    group.make_context(context.info_name, words, parent=context.parent)
