"""What commands print: plain for machines, pleasant on a terminal, and never something that a terminal obeys."""

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from zoomgate_server import settings
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.logs import escape, plain

FAILURE, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE, CONSENT_REQUIRED = 1, 2, 3, 4, 5, 6
"""Exit codes."""

_UNITS = (("year", 31_536_000), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def fail(message: str, code: int = FAILURE) -> NoReturn:
    """End with one sentence on standard error."""
    for line in message.splitlines():
        click.echo(f"zoomgate: {plain(line)}", err=True)
    raise SystemExit(code)


def note(text: str) -> None:
    """Say something to the person at the keyboard that is no part of the answer: on standard error."""
    click.echo(plain(text), err=True)


def load_settings(instead: str) -> settings.Settings:
    """Read the settings for a command that works on what they name, and set up the logs, or end with what is wrong.

    Args:
        instead: What to do if the settings cannot be put right now, as the end of a sentence.
    """
    try:
        loaded = settings.load(os.environ)
    except settings.SettingsError as error:
        fail("\n".join([*error.problems, f"The settings cannot be used: correct them, or {instead}"]))
    log_beside(loaded)
    return loaded


def log_beside(loaded: settings.Settings) -> None:
    """Send lines of the log that matter to standard error: on standard output is what the command was asked for, and nothing else."""
    logs.configure("warning", loaded.log_format)


def settings_if_any() -> settings.Settings | None:
    """Read the settings for a command that does without them where they cannot be used."""
    try:
        return settings.load(os.environ)
    except settings.SettingsError:
        return None


def document(message: Any) -> None:
    """Print a message of the contract as one line of JSON."""
    from google.protobuf import json_format  # noqa: PLC0415 - not needed for tables

    click.echo(json_format.MessageToJson(message, indent=None))


def facts(rows: Mapping[str, str]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    shown = {name: value for name, value in rows.items() if value}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        click.echo(f"{emphasis(name.ljust(width))}  {escape(value)}")


def emphasis(text: str) -> str:
    """Make text bold on a terminal that wants it (NO_COLOR is set to say that it does not)."""
    return text if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else click.style(text, bold=True)


class Table:
    """A table that is printed while it comes in: its columns grow, what was printed stays, and nothing is kept.

    Args:
        titles: Of the columns.
    """

    def __init__(self, *titles: str) -> None:
        self._titles = titles
        self._widths = [len(title) for title in titles]
        self._begun = False

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows, as wide as the widest of them and all before."""
        clean = [[escape(cell) for cell in row] for row in rows]
        for row in clean:
            for column, cell in enumerate(row):
                self._widths[column] = max(self._widths[column], _width(cell))
        if clean and not self._begun:
            self._begun = True
            click.echo(emphasis(self._line(self._titles)))
        if clean:
            click.echo("\n".join(self._line(row) for row in clean))

    def _line(self, cells: Sequence[str]) -> str:
        padded = (
            cell + " " * (width - _width(cell)) for cell, width in zip(cells, self._widths, strict=True)
        )
        return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def when(time: Any, now: datetime | None = None) -> str:
    """Give a Timestamp as people say it: the local time, and how far away it is; empty if it is not set."""
    if not time.seconds:
        return ""
    moment = datetime.fromtimestamp(time.seconds, UTC)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({distance(moment, now or datetime.now(UTC))})"


def how_far(time: Any, now: datetime | None = None) -> str:
    """Give a Timestamp as `in 5 minutes` or `2 hours ago`; empty if it is not set."""
    return (
        distance(datetime.fromtimestamp(time.seconds, UTC), now or datetime.now(UTC)) if time.seconds else ""
    )


def distance(moment: datetime, now: datetime) -> str:
    """Say how far a moment is from now, in its largest unit, rounded down."""
    seconds = int((moment - now).total_seconds())
    for unit, size in _UNITS:
        count = abs(seconds) // size
        if count:
            text = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"in {text}" if seconds > 0 else f"{text} ago"
    return "now"
