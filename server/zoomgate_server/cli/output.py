"""Output of commands: machine-readable, styled on a terminal, and without terminal control sequences from data."""

import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import click
from rich.cells import cell_len

from zoomgate_server import settings
from zoomgate_server.cli import privileges
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.logs import escape, plain

FAILURE, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE, CONSENT_REQUIRED, OUTCOME_UNKNOWN = 1, 2, 3, 4, 5, 6, 7
"""Exit codes."""

_CODE_NAMES = {
    FAILURE: "UNKNOWN",
    USAGE: "INVALID_ARGUMENT",
    NOT_FOUND: "NOT_FOUND",
    NOT_ALLOWED: "PERMISSION_DENIED",
    UNREACHABLE: "UNAVAILABLE",
    CONSENT_REQUIRED: "FAILED_PRECONDITION",
    OUTCOME_UNKNOWN: "UNKNOWN",
}
"""The gRPC status codes that have the meanings of the exit codes."""

_MAX_NAMED_USERS = 3

_WIDTH = 78
"""Maximum width of wrapped lines."""

_BATCH_SIZE = 500
"""Number of table rows that are formatted and printed together."""

_MINUTE = 60
_UNITS = (("year", 31_536_000), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def fail(message: str, code: int = FAILURE) -> NoReturn:
    """Print a message on standard error, as JSON if the command has the option --json, and exit."""
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("as_json"):
        print_json({"code": _CODE_NAMES[code], "message": message}, err=True)
    else:
        for line in message.splitlines():
            click.echo(f"zoomgate: {plain(line)}", err=True)
    raise SystemExit(code)


def note(text: str) -> None:
    """Print a message to the user of the command on standard error."""
    click.echo(plain(text), err=True)


def fail_if_unreadable(users: Collection[str]) -> None:
    """Exit with an error if connections are missing because the service cannot decrypt them."""
    if users:
        named = ", ".join(sorted(users)[:_MAX_NAMED_USERS]) + (", …" if len(users) > _MAX_NAMED_USERS else "")
        fail(unreadable_text(len(users), f": {named}"))


def unreadable_text(count: int, named: str = "") -> str:
    """Return the message about connections that are missing because the service cannot decrypt them."""
    return (
        f"{counted(count, 'connection')} {'is' if count == 1 else 'are'} missing because the service cannot decrypt"
        f" {'it' if count == 1 else 'them'}{named}; `zoomgate keys list` on the machine of the service shows missing keys"
    )


def confirm(question: str) -> None:
    """Ask a question, and abort the command unless the answer is yes."""
    with _input_required(
        "standard input contains no answer; run this command again with --yes to skip the question"
    ):
        confirmed = click.confirm(plain(question), err=True)
    if not confirmed:
        raise click.Abort


def prompt(label: str) -> str:
    """Ask for a text."""
    with _input_required(f"standard input is empty; write to it: {label}"):
        text: str = click.prompt(plain(label), err=True)
    return text


@contextlib.contextmanager
def _input_required(problem: str) -> Iterator[None]:
    """Exit with an error if standard input ends, unless the user aborts at a terminal."""
    try:
        yield
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)
        fail(problem)


def load_settings(alternative: str = "run this command on the machine of the service") -> settings.Settings:
    """Read the settings, become the owner of their files, and configure the logs.

    If the settings are invalid, exit with all problems, and an alternative to correcting them.
    """
    try:
        loaded = privileges.load_settings(os.environ)
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
        return privileges.read_settings(os.environ)
    except settings.SettingsError:
        return None


def print_json(document: Any, *, err: bool = False) -> None:
    """Print a message of the API, or a mapping, as one line of JSON on standard output or standard error."""
    if isinstance(document, Mapping):
        click.echo(json.dumps(document), err=err)
        return
    from google.protobuf import json_format  # noqa: PLC0415 - not needed by commands without the service

    click.echo(json.dumps(_with_integers(json_format.MessageToDict(document))), err=err)


def _with_integers(value: Any) -> Any:
    """Convert integral doubles to integers, since the JSON values in messages of the API have doubles only."""
    from zoomgate_server.rpc.services.json_value import MAX_EXACT  # noqa: PLC0415 - imports protobuf

    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT:
        return int(value)
    return value


def print_result(sentence: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result of a command as a sentence or as JSON."""
    if as_json:
        print_json(document)
    else:
        click.echo(sentence)


def print_done(response: Any, text: str, *, as_json: bool) -> None:
    """Print that a change is done on standard error, or the response of the service as JSON."""
    if as_json:
        print_json(response)
    else:
        note(text)


def print_message(message: Any, rows: Mapping[str, str | Sequence[str]], *, as_json: bool) -> None:
    """Print a message of the API as JSON, or as names and values, omitting empty values. Lists of words are wrapped."""
    if as_json:
        print_json(message)
        return
    shown = {name: value for name, value in rows.items() if value}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        text = escape(value) if isinstance(value, str) else wrapped(value, width + 2)
        click.echo(f"{_emphasis(name.ljust(width))}  {text}")


def wrapped(words: Iterable[str], indent: int) -> str:
    """Return words as lines, of which all but the first are indented."""
    lines = textwrap.wrap(
        escape(" ".join(words)), _WIDTH - indent, break_long_words=False, break_on_hyphens=False
    )
    return f"\n{' ' * indent}".join(lines)


def print_text(text: str) -> None:
    """Print a text of several lines."""
    for line in text.splitlines():
        click.echo(escape(line))


def enum_name(enum: Any, value: int) -> str:
    """Return the name of an enum value in lower case, without the prefix that all values of the enum share; empty if unspecified."""
    name: str = enum.Name(value) if value else ""
    return name.removeprefix(enum.Name(0).removesuffix("UNSPECIFIED")).lower()


def _emphasis(text: str) -> str:
    """Return text in bold if standard output is a terminal and NO_COLOR is not set."""
    return text if os.environ.get("NO_COLOR") or not sys.stdout.isatty() else click.style(text, bold=True)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Print a table, and return the number of rows. If there are no rows, nothing is printed.

    The rows are printed in batches, so that memory use is limited; a later batch may have wider columns.
    """
    widths, count, remaining = [len(title) for title in titles], 0, iter(rows)
    while batch := [[escape(cell) for cell in row] for row in islice(remaining, _BATCH_SIZE)]:
        widths = [max(width, *map(cell_len, cells)) for width, *cells in zip(widths, *batch, strict=True)]
        if not count:
            click.echo(_emphasis(_line(titles, widths)))
        click.echo("\n".join(_line(row, widths) for row in batch))
        count += len(batch)
    return count


def print_items(
    items: Iterable[Any],
    limit: int | None,
    titles: Sequence[str],
    row: Callable[[Any], Sequence[str]],
    noun: str,
    *,
    as_json: bool,
) -> None:
    """Print up to `limit` messages of the API as a table, followed by their number, or as one JSON document per line."""
    selected = islice(items, limit)
    if not as_json:
        note(counted(print_table(titles, map(row, selected)), noun))
    else:
        for item in selected:
            print_json(item)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def time_zone(name: str) -> tzinfo | None:
    """Return a time zone, or None if it is unknown on the local machine."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return None


def time_in_zone(timestamp: Any, name: str = "") -> str:
    """Format a Timestamp as a time in a zone, with the name of the zone. If the zone is unknown, use the local one.

    Return an empty string if the Timestamp is not set.
    """
    if not timestamp.seconds:
        return ""
    zone = time_zone(name)
    moment = datetime.fromtimestamp(timestamp.seconds, UTC)
    try:
        local = moment.astimezone(zone)
    except OverflowError:  # before the year 1 or after the year 9999 in that zone
        return f"{moment:%Y-%m-%d %H:%M} UTC"
    return f"{local:%Y-%m-%d %H:%M} {name if zone else local.tzname()}"


def time_and_distance(timestamp: Any, zone: str = "") -> str:
    """Format a Timestamp as a time in a zone, by default the local one, followed by the time relative to now.

    Return an empty string if the Timestamp is not set.
    """
    time_text = time_in_zone(timestamp, zone)
    return f"{time_text} ({relative_time(timestamp.seconds)})" if time_text else ""


def duration(seconds: int) -> str:
    """Format a number of seconds, such as `1 hour 5 minutes`; return an empty string for 0."""
    if seconds < _MINUTE:
        return counted(seconds, "second") if seconds else ""
    hours, minutes = divmod(seconds // _MINUTE, 60)
    parts = [counted(count, unit) for count, unit in ((hours, "hour"), (minutes, "minute")) if count]
    return " ".join(parts)


def counted(count: int, noun: str) -> str:
    """Return a count and a noun, in the plural unless the count is 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def relative_time(seconds: float) -> str:
    """Format a Unix time relative to now, such as `in 5 minutes` or `2 hours ago`; return an empty string for 0."""
    if not seconds:
        return ""
    difference = int(seconds - time.time())
    for unit, size in _UNITS:
        count = abs(difference) // size
        if count:
            text = counted(count, unit)
            return f"in {text}" if difference > 0 else f"{text} ago"
    return "now"
