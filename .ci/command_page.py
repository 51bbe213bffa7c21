"""Writes docs/commands.md from the commands themselves. `python .ci/command_page.py --check` only compares."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from zoomgate_server.cli import cli

PAGE = Path(__file__).parents[1] / "docs/commands.md"
HEAD = """# Commands

Every command as its own `--help` tells it; written by `make docs`.

![zoomgate --help](images/help.svg)

Commands that speak to the service take `--server`, `--key-file`, `--ca-file` and `--json`. Answers go to standard output, everything said
to the person at the keyboard to standard error. `--json` prints the contract's JSON, one document a line, and stays as it is within a
version of the contract. `-` stands for standard input where a FILE or the data of a request is taken. With `NO_COLOR` set nothing is
emphasised. Exit codes:

| code | meaning |
|---|---|
| 0 | success |
| 1 | failure, or the answer is no: an expired token, a status of 400 and above from Zoom |
| 2 | wrong usage, or the service or Zoom found a field wrong |
| 3 | not found |
| 4 | the key is missing or unknown, or its caller may not do that |
| 5 | the service or Zoom cannot be reached, or took too long |
| 6 | the person has to consent: `zoomgate connect USER` |
"""


def sections(command: click.Command, context: click.Context, name: str) -> Iterator[str]:
    """Give a section for a command, and for each below it."""
    yield f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from sections(found, _context(found, child, context), f"{name} {child}")


def page() -> str:
    """Give the page."""
    return "\n".join([HEAD, *sections(cli, _context(cli, "zoomgate"), "zoomgate")])


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """Give the context in which a command tells its help, with its own settings."""
    return click.Context(
        command,
        parent=parent,
        info_name=name,
        **command.context_settings | {"max_content_width": 100, "terminal_width": 100},
    )


if __name__ == "__main__":
    os.environ.pop("ZOOMGATE_SERVER", None)
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PAGE.read_text() == page() else "docs/commands.md is stale: run `make docs`")
    PAGE.write_text(page())
