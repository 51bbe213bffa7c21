"""Command `zoomgate audit`, which searches the audit trail."""

import glob
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import click

from zoomgate_server.audit.trail import ACTIONS, FINGERPRINT_DIGITS, FINGERPRINT_SECRET, fingerprint
from zoomgate_server.cli.options import json_option, time_with_zone, user_email
from zoomgate_server.cli.output import NOT_FOUND, fail, load_settings, note, print_table
from zoomgate_server.cli.store_access import load_key_ring, open_store, run
from zoomgate_server.encryption import shared_secret
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.settings import Settings
from zoomgate_server.telemetry.logs import plain

MAX_LINE = 64 * 1024
"""Maximum number of bytes read from a line. Valid lines are shorter than a tenth of this limit."""

MAX_TOKEN = 64 * 1024

_LINE_START = b'{"time":"'
_LOG_LINE_START = b'{"source":"'
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")
_UNSUPPORTED_COMPRESSION = (".bz2", ".lz4", ".xz", ".zip", ".zst")


@click.group()
def audit() -> None:
    """Search the audit trail.

    Example: zoomgate audit show --user monica@example.com --since 24h
    """


def _time_or_duration(text: str) -> datetime:
    duration = _DURATION.fullmatch(text)
    try:
        if duration:
            return datetime.now(UTC) - timedelta(**{_UNITS[duration.group(2)]: int(duration.group(1))})
        return time_with_zone(text)
    except (click.BadParameter, OverflowError):
        raise click.BadParameter(
            f"{plain(text)!r} is not a time; use a duration (30m, 24h, 7d), or a time with a time zone such as 2030-01-07T09:00:00Z"
        ) from None


def _action(text: str) -> str:
    if not any(_matches_action(known, text) for known in ACTIONS):
        raise click.BadParameter(f"{plain(text)!r} is not one of {', '.join(ACTIONS)}")
    return text


def _fingerprint(text: str) -> str:
    if not _FINGERPRINT.fullmatch(text.lower()):
        raise click.BadParameter(
            f"not a fingerprint; use the {FINGERPRINT_DIGITS} hex digits that `zoomgate audit fingerprint` prints"
        )  # the text is not repeated, since it may be a token
    return text.lower()


@audit.command()
@click.option(
    "--user", type=user_email, metavar="EMAIL", help="Only lines about the user with this email address."
)
@click.option("--principal", metavar="NAME", help="Only lines about actions of this caller.")
@click.option(
    "--action",
    metavar="ACTION",
    type=_action,
    help="Only lines with this action, such as token.returned, or this group of actions, such as keys.",
)
@click.option(
    "--since",
    metavar="TIME",
    type=_time_or_duration,
    help="Only lines since TIME, such as 24h or 2030-01-07T09:00Z.",
)
@click.option("--until", metavar="TIME", type=_time_or_duration, help="Only lines before TIME.")
@click.option(
    "--fingerprint",
    "token_fingerprint",
    metavar="HEX",
    type=_fingerprint,
    help="Only lines about the token with this fingerprint.",
)
@json_option("Print the original JSON lines.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show(as_json: bool, files: tuple[Path, ...], **conditions: Any) -> None:
    """Show lines of the audit trail, oldest first.

    FILES are read in the specified order. By default, the configured file (ZOOMGATE_AUDIT) and the rotated files in the same directory
    (audit.jsonl.1, audit.jsonl.2.gz, audit.jsonl-20300107) are read. Corrupt lines are skipped and reported on standard error. The exit
    code is 3 if no line matches, and 1 if a file could not be read completely.

    Example: zoomgate audit show --action token.returned --since 24h
    """
    selected = _Filter(**conditions)
    errors: list[str] = []
    lines = (
        line
        for file in files or _trail_files(selected.since)
        for line in _lines(file, errors)
        if selected.matches(line.fields)
    )
    count = 0
    if as_json:
        for count, line in enumerate(lines, start=1):  # noqa: B007 - used after the loop
            click.echo(line.text)
    else:
        titles = ("TIME", "ACTION", "OUTCOME", "BY", "FOR", "USER", "MORE")
        count = print_table(titles, (_row(line.fields) for line in lines))
    if errors:
        fail("\n".join(errors))
    if not count:
        note("no matching lines in the audit trail")
        raise SystemExit(NOT_FOUND)


@audit.command("fingerprint", short_help="Print the audit fingerprint of a token.")
def fingerprint_() -> None:
    """Print the audit fingerprint of a token read from standard input.

    Requires the store and the key ring. A fingerprint is printed for any token; use `zoomgate audit show --fingerprint` to find out
    whether this service issued the token. If the store serves several Zoom apps, one fingerprint per app is printed.

    Example: zoomgate audit fingerprint < found-token.txt
    """
    # input that is not UTF-8, such as a UTF-16 file, cannot be a token
    token = sys.stdin.buffer.read(MAX_TOKEN).decode("utf-8", "replace").strip()
    if not token or len(token.split()) != 1 or not token.isprintable() or "\ufffd" in token:
        fail(
            "standard input does not contain exactly one token; pass one token, as in `zoomgate audit fingerprint < file`"
        )
    loaded = load_settings()
    fingerprints = run(_fingerprints(loaded, load_key_ring(loaded.keys), token))
    if not fingerprints:
        fail("the store has no key for fingerprints yet; start the service with this store once", NOT_FOUND)
    for each in fingerprints:
        click.echo(each)


async def _fingerprints(loaded: Settings, ring: KeyRing, token: str) -> list[str]:
    """Return the fingerprints of a token, one for each Zoom app in the store that has a key for fingerprints."""
    fingerprints = []
    async with open_store(loaded) as store:
        for app in await store.apps():
            key = await shared_secret.find(store, Envelope(app=app, keys=ring), FINGERPRINT_SECRET)
            if key is not None:
                fingerprints.append(fingerprint(key, token))
    return fingerprints


class _Line(NamedTuple):
    text: bytes
    fields: Mapping[str, Any]


class _Filter(NamedTuple):
    user: str | None
    principal: str | None
    action: str | None
    since: datetime | None
    until: datetime | None
    token_fingerprint: str | None

    def matches(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a line is shown."""
        logged = _time(fields)
        return (
            (self.user is None or fields.get("user") == self.user)
            and (self.principal is None or fields.get("principal") == self.principal)
            and (self.action is None or _matches_action(fields["action"], self.action))
            and (self.since is None or logged >= self.since)
            and (self.until is None or logged < self.until)
            and (
                self.token_fingerprint is None
                or self.token_fingerprint
                in (fields.get("access_fingerprint"), fields.get("refresh_fingerprint"))
            )
        )


def _matches_action(action: str, pattern: str) -> bool:
    return action == pattern or action.startswith(f"{pattern.rstrip('.')}.")


def _trail_files(since: datetime | None) -> Iterator[Path]:
    """Yield the files of the trail, oldest first, excluding files that were last modified before `since`."""
    path = load_settings("pass the files with `zoomgate audit show FILE`").audit
    if path is None:
        fail(
            'ZOOMGATE_AUDIT is set to log, so the trail is written to the log with "event":"audit"; pass the log files as FILES'
        )
    name = glob.escape(path.name)
    rotated = [*path.parent.glob(f"{name}.*"), *path.parent.glob(f"{name}-*")]
    known = [(file.stat().st_mtime, file) for file in {path, *rotated} if file.is_file()]
    if not known:
        fail(f"{path} does not exist; set ZOOMGATE_AUDIT or ZOOMGATE_DATA_DIR", NOT_FOUND)
    for changed, file in sorted(known, key=lambda row: (row[1] == path, *row)):
        if since is None or changed >= since.timestamp():
            yield file


def _lines(file: Path, errors: list[str]) -> Iterator[_Line]:
    """Yield the lines of a file, and report corrupt lines. If the file cannot be read completely, add an error."""
    if file.suffix in _UNSUPPORTED_COMPRESSION:
        errors.append(f"{file} has an unsupported compression format; decompress it and pass it as FILE")
        return
    try:
        with cast("BinaryIO", gzip.open(file) if file.suffix == ".gz" else file.open("rb")) as source:
            for number, text in _numbered_lines(source):
                line = _parse(text)
                if line is None:
                    if not _is_other_log_line(text):
                        note(f"zoomgate: {file}:{number} is corrupt and was skipped")
                    continue
                if line.text != text:
                    note(f"zoomgate: {file}:{number} is corrupt but contains a complete line, which is used")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            errors.append(f"{file} cannot be read ({error.strerror}); run this command as its owner")
        else:
            errors.append(f"{file} cannot be read completely ({error})")


def _numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each non-empty line with its number. Lines longer than `MAX_LINE` bytes are truncated."""
    number = 0
    while text := source.readline(MAX_LINE):
        number += 1
        rest = text
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = source.readline(MAX_LINE)
        if text.strip():
            yield number, text.rstrip(b"\n")


def _parse(text: bytes) -> _Line | None:
    """Parse a line; return None if no audit line can be parsed.

    If the disk was full, the line may start with an incomplete JSON object without a newline; this object is skipped.
    """
    for start in sorted({0, max(0, text.rfind(_LINE_START))}):
        try:
            fields = json.loads(text[start:])
            _time(fields)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(fields.get("action"), str):
            return _Line(text[start:], fields)
    return None


def _is_other_log_line(text: bytes) -> bool:
    """Return whether a line is an ordinary log line. With ZOOMGATE_AUDIT=log, log files contain audit lines and ordinary lines."""
    if not text.startswith(_LOG_LINE_START):
        return False
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return "event" in fields and "action" not in fields


def _time(fields: Mapping[str, Any]) -> datetime:
    moment = datetime.fromisoformat(fields["time"])
    if moment.tzinfo is None:
        raise ValueError("time has no time zone")
    if not MINYEAR < moment.year < MAXYEAR:
        raise ValueError("time cannot be converted to other time zones")
    return moment


def _row(fields: Mapping[str, Any]) -> tuple[str, ...]:
    details = fields.get("details")
    extra = {
        "generation": fields.get("generation"),
        "method": fields.get("method"),
        **(details if isinstance(details, dict) else {}),
        "token": fields.get("access_fingerprint"),
        "request": fields.get("request_id"),
    }
    return (
        f"{_time(fields).astimezone():%Y-%m-%d %H:%M:%S}",
        fields["action"],
        str(fields.get("outcome", "")),
        str(fields.get("principal", "")) or "(unknown)",
        str(fields.get("on_behalf_of", "")),
        str(fields.get("user", "")),
        " ".join(f"{name}={value}" for name, value in extra.items() if value not in (None, "")),
    )
