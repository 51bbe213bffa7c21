"""Output of commands: machine-readable, styled on a terminal, and without terminal control sequences from data."""

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
    """Print a message on standard error and exit."""
    for line in message.splitlines():
        click.echo(f"zoomgate: {plain(line)}", err=True)
    raise SystemExit(code)


def note(text: str) -> None:
    """Print a message to the user of the command on standard error."""
    click.echo(plain(text), err=True)


def load_settings(alternative: str) -> settings.Settings:
    """Read the settings and configure the logs; exit with all problems if the settings are invalid.

    Args:
        alternative: The alternative to correcting the settings, as an imperative clause for the error message.
    """
    try:
        loaded = settings.load(os.environ)
    except settings.SettingsError as error:
        fail("\n".join([*error.problems, f"the settings are invalid; correct them, or {alternative}"]))
    log_warnings_to_stderr(loaded)
    return loaded


def log_warnings_to_stderr(loaded: settings.Settings) -> None:
    """Log warnings and errors to standard error, since standard output contains only the output of the command."""
    logs.configure("warning", loaded.log_format)


def optional_settings() -> settings.Settings | None:
    """Return the settings, or None if the settings are invalid. For commands that work without settings."""
    try:
        return settings.load(os.environ)
    except settings.SettingsError:
        return None


def print_json(message: Any) -> None:
    """Print a message of the API as one line of JSON."""
    from google.protobuf import json_format  # noqa: PLC0415 - not needed for tables

    click.echo(json_format.MessageToJson(message, indent=None))


def print_fields(rows: Mapping[str, str]) -> None:
    """Print names and values, one pair per line, omitting empty values."""
    shown = {name: value for name, value in rows.items() if value}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        click.echo(f"{emphasis(name.ljust(width))}  {escape(value)}")


def emphasis(text: str) -> str:
    """Return text in bold if standard output is a terminal and NO_COLOR is not set."""
    return text if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else click.style(text, bold=True)


class Table:
    """A table that is printed in batches without buffering; a later batch may have wider columns."""

    def __init__(self, *titles: str) -> None:
        self._titles = titles
        self._widths = [len(title) for title in titles]
        self._header_printed = False

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows; each column is as wide as the widest cell so far."""
        clean = [[escape(cell) for cell in row] for row in rows]
        for row in clean:
            for column, cell in enumerate(row):
                self._widths[column] = max(self._widths[column], _width(cell))
        if clean and not self._header_printed:
            self._header_printed = True
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


def local_time(time: Any, now: datetime | None = None) -> str:
    """Format a Timestamp as local time, followed by the time relative to now; return an empty string if the Timestamp is not set."""
    if not time.seconds:
        return ""
    moment = datetime.fromtimestamp(time.seconds, UTC)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({distance(moment, now or datetime.now(UTC))})"


def relative_time(time: Any, now: datetime | None = None) -> str:
    """Format a Timestamp relative to now, such as `in 5 minutes` or `2 hours ago`; return an empty string if not set."""
    return (
        distance(datetime.fromtimestamp(time.seconds, UTC), now or datetime.now(UTC)) if time.seconds else ""
    )


def distance(moment: datetime, now: datetime) -> str:
    """Format the difference between a time and now in the largest applicable unit, rounded down."""
    seconds = int((moment - now).total_seconds())
    for unit, size in _UNITS:
        count = abs(seconds) // size
        if count:
            text = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"in {text}" if seconds > 0 else f"{text} ago"
    return "now"
