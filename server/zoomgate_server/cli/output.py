"""What commands print: plain for machines, pleasant on a terminal, and never something that a terminal obeys."""

import os
from typing import NoReturn

import click

from zoomgate_server import settings
from zoomgate_server.logs import plain

FAILURE, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE = 1, 2, 3, 4, 5
"""Exit codes."""


def fail(message: str, code: int = FAILURE) -> NoReturn:
    """End with one sentence on standard error."""
    for line in message.splitlines():
        click.echo(f"zoomgate: {plain(line)}", err=True)
    raise SystemExit(code)


def load_settings(instead: str) -> settings.Settings:
    """Read the settings for a command that needs a path of theirs, or end with what is wrong.

    Args:
        instead: What to do if the settings cannot be put right now, as the end of a sentence.
    """
    try:
        return settings.load(os.environ)
    except settings.SettingsError as error:
        fail("\n".join([*error.problems, f"The settings cannot be used: correct them, or {instead}"]))
