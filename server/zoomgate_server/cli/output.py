"""What commands print: plain for machines, pleasant on a terminal, and never something that a terminal obeys."""

from typing import NoReturn

import click

from zoomgate_server.logs import plain

FAILURE, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE = 1, 2, 3, 4, 5
"""Exit codes."""


def fail(message: str, code: int = FAILURE) -> NoReturn:
    """End with one sentence on standard error."""
    for line in message.splitlines():
        click.echo(f"zoomgate: {plain(line)}", err=True)
    raise SystemExit(code)
