"""`zoomgate audit`: who did what, from the audit trail."""

import asyncio
import glob
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import click

from zoomgate_server.audit.trail import ACTIONS, FINGERPRINT_DIGITS, FINGERPRINT_SECRET, fingerprint
from zoomgate_server.cli.option_types import UserEmail
from zoomgate_server.cli.output import NOT_FOUND, Table, fail, load_settings, note
from zoomgate_server.cli.store_access import open_store
from zoomgate_server.encryption import key_file, shared_secret
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.settings import Settings
from zoomgate_server.storage.record_store import StoreError, StoreOpenError
from zoomgate_server.telemetry.logs import plain

MAX_LINE = 64 * 1024
"""Bytes of a line that are looked at; no line of ours has a tenth of it."""

_LOG_BEGINNING = b'{"source":"'

MAX_TOKEN = 64 * 1024
_ROWS = 200
"""Rows that are laid out together."""

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_MARK = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_BEGINNING = b'{"time":"'
_PACKED = (".bz2", ".lz4", ".xz", ".zip", ".zst")


@click.group()
def audit() -> None:
    """Look into the audit trail.

    Example: zoomgate audit show --user monica@example.com --since 24h
    """


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    span = _SPAN.fullmatch(value)
    try:
        if span:
            return datetime.now(UTC) - timedelta(**{_UNITS[span.group(2)]: int(span.group(1))})
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise click.BadParameter(
        f"is {plain(value)!r}: write how long ago (30m, 24h, 7d), or a time with its zone such as 2030-01-07T09:00:00Z"
    )


def _mark(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or _MARK.fullmatch(value.lower()):
        return value and value.lower()
    raise click.BadParameter(
        f"is no fingerprint: write the {FINGERPRINT_DIGITS} hex digits that `zoomgate audit fingerprint` prints"
    )  # without what was given: it may be the token


@audit.command()
@click.option("--user", type=UserEmail(), help="Only about this person, an e-mail address.")
@click.option("--principal", metavar="NAME", help="Only what this caller did.")
@click.option(
    "--action",
    metavar="ACTION",
    help="Only this action, such as token.returned, or a beginning such as keys.",
)
@click.option("--since", metavar="TIME", callback=_moment, help="Not before TIME: 24h, or 2030-01-07T09:00Z.")
@click.option("--until", metavar="TIME", callback=_moment, help="Before TIME.")
@click.option(
    "--fingerprint",
    "mark",
    metavar="HEX",
    callback=_mark,
    help="Only about the token with this fingerprint.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they are.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show(
    user: str | None,
    principal: str | None,
    action: str | None,
    since: datetime | None,
    until: datetime | None,
    mark: str | None,
    as_json: bool,
    files: tuple[Path, ...],
) -> None:
    """Show what the trail tells, oldest first.

    Read is the file that the settings name (ZOOMGATE_AUDIT) with what a rotation made of it beside it (audit.jsonl.1, audit.jsonl.2.gz,
    audit.jsonl-20300107), or FILES in their order. A line that is damaged is named on standard error and left out. Exit code 3 if nothing
    is found, 1 if a file could not be read to its end.

    Example: zoomgate audit show --action token.returned --since 24h
    """
    if action is not None and not any(_is_within(known, action) for known in ACTIONS):
        raise click.BadParameter(f"{plain(action)!r} is none of {', '.join(ACTIONS)}", param_hint="--action")
    wanted = _Wanted(user, principal, action, since, until, mark)
    unread: list[str] = []
    found = (
        line for file in files or _trail(since) for line in _lines(file, unread) if wanted.has(line.fields)
    )
    table, count = Table("TIME", "ACTION", "OUTCOME", "BY", "FOR", "USER", "MORE"), 0
    while rows := list(islice(found, _ROWS)):
        count += len(rows)
        if as_json:
            click.echo(b"\n".join(line.text for line in rows))
        else:
            table.add([_row(line.fields) for line in rows])
    if unread:
        fail("\n".join(unread))
    if not count:
        note("nothing of that kind is in the trail")
        raise SystemExit(NOT_FOUND)


@audit.command("fingerprint")
def fingerprint_() -> None:
    """Read a token from standard input and print the fingerprint that the trail has for it.

    The fingerprint needs the store and the key ring. It is made whether the token is ours or not: `zoomgate audit show --fingerprint` says
    whether it was ever given to somebody. Where the store serves several Zoom apps, there is one line for each.

    Example: zoomgate audit fingerprint < found-token.txt
    """
    # what is no UTF-8, such as a file in UTF-16, is no token either
    token = sys.stdin.buffer.read(MAX_TOKEN).decode("utf-8", "replace").strip()
    if not token or len(token.split()) != 1 or not token.isprintable() or "\ufffd" in token:
        fail(
            "Standard input has no token, or several, or something else: give one, as in `zoomgate audit fingerprint < file`"
        )
    loaded = load_settings("run this where the service runs")
    try:
        marks = asyncio.run(_fingerprints(loaded, token))
    except (StoreOpenError, key_file.KeyFileError) as error:
        fail(str(error))
    except StoreError as error:
        fail(f"The store failed ({error}): run this again")
    except ZoomgateError as error:
        fail(error.message)
    if not marks:
        fail("No service of this version has run on this store yet, so there are no fingerprints", NOT_FOUND)
    for mark in marks:
        click.echo(mark)


async def _fingerprints(loaded: Settings, token: str) -> list[str]:
    """Give the fingerprint of a token for each app of the store."""
    ring = key_file.load(loaded.keys_path)
    marks = []
    async with open_store(loaded) as store:
        for app in await store.apps():
            key = await shared_secret.find(store, Envelope(app=app, keys=ring), FINGERPRINT_SECRET)
            if key is not None:
                marks.append(fingerprint(key, token))
    return marks


class _Line(NamedTuple):
    """A line of the trail, as text and as what it says."""

    text: bytes
    fields: Mapping[str, Any]


class _Wanted(NamedTuple):
    """Which lines are shown."""

    user: str | None
    principal: str | None
    action: str | None
    since: datetime | None
    until: datetime | None
    mark: str | None

    def has(self, fields: Mapping[str, Any]) -> bool:
        """Tell whether a line is wanted."""
        time = _time(fields)
        return (
            (self.user is None or fields.get("user") == self.user)
            and (self.principal is None or fields.get("principal") == self.principal)
            and (self.action is None or _is_within(fields["action"], self.action))
            and (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (
                self.mark is None
                or self.mark in (fields.get("access_fingerprint"), fields.get("refresh_fingerprint"))
            )
        )


def _is_within(action: str, wanted: str) -> bool:
    return action == wanted or action.startswith(f"{wanted.rstrip('.')}.")


def _trail(since: datetime | None) -> Iterator[Path]:
    """Give the files of the trail, the oldest first, without those that end before a time."""
    path = load_settings("name the files: zoomgate audit show FILE").audit_path
    if path is None:
        fail('ZOOMGATE_AUDIT is log: the trail is among the lines of the log, with "event":"audit"')
    name = glob.escape(path.name)
    rotated = [*path.parent.glob(f"{name}.*"), *path.parent.glob(f"{name}-*")]
    known = [(file.stat().st_mtime, file) for file in {path, *rotated} if file.is_file()]
    if not known:
        fail(f"There is no {path}: name yours in ZOOMGATE_AUDIT or ZOOMGATE_DATA_DIR", NOT_FOUND)
    for changed, file in sorted(known, key=lambda row: (row[1] == path, *row)):
        if since is None or changed >= since.timestamp():
            yield file


def _lines(file: Path, unread: list[str]) -> Iterator[_Line]:
    """Read a file line by line, and name what is damaged; what is wrong with one that cannot be read to its end goes into `unread`."""
    if file.suffix in _PACKED:
        unread.append(f"{file} is packed in a way that is not read here: unpack it, and give it as FILE")
        return
    try:
        with cast("BinaryIO", gzip.open(file) if file.suffix == ".gz" else file.open("rb")) as source:
            for number, text in _texts(source):
                line = _understood(text)
                if line is None and _is_of_the_log(text):
                    continue
                if line is None or line.text != text:
                    left = "left out" if line is None else "read from where a line begins in it"
                    note(f"zoomgate: {file}:{number} is damaged, and was {left}")
                if line is not None:
                    yield line
    except OSError as error:
        what = f"({error.strerror}): run this as its owner" if error.strerror else f"to its end ({error})"
        unread.append(f"{file} cannot be read {what}")
    except (EOFError, zlib.error) as error:
        unread.append(f"{file} cannot be read to its end ({error})")


def _texts(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not empty, with their numbers; of one that is too long, as much as is looked at."""
    number = 0
    while text := source.readline(MAX_LINE):
        number += 1
        rest = text
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = source.readline(MAX_LINE)
        if text.strip():
            yield number, text.rstrip(b"\n")


def _understood(text: bytes) -> _Line | None:
    """Read a line. Where another process had no room for the whole of its line, ours comes behind the rest of that."""
    for begin in sorted({0, max(0, text.rfind(_BEGINNING))}):
        try:
            fields = json.loads(text[begin:])
            _time(fields)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(fields.get("action"), str):
            return _Line(text[begin:], fields)
    return None


def _is_of_the_log(text: bytes) -> bool:
    """Tell whether a line is one of the log, among which the trail is with ZOOMGATE_AUDIT=log, and none of the trail's."""
    if not text.startswith(_LOG_BEGINNING):
        return False
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return "event" in fields and "action" not in fields


def _time(fields: Mapping[str, Any]) -> datetime:
    moment = datetime.fromisoformat(fields["time"])
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    if not MINYEAR < moment.year < MAXYEAR:
        raise ValueError("a time that other zones do not have")
    return moment


def _row(fields: Mapping[str, Any]) -> tuple[str, ...]:
    by = str(fields.get("principal", "")) or "(unknown)"
    more = {"generation": fields.get("generation"), "method": fields.get("method")}
    details = fields.get("details")
    more |= details if isinstance(details, dict) else {}
    more["token"] = fields.get("access_fingerprint")
    more["request"] = fields.get("request_id")
    return (
        f"{_time(fields).astimezone():%Y-%m-%d %H:%M:%S}",
        fields["action"],
        str(fields.get("outcome", "")),
        by,
        str(fields.get("on_behalf_of", "")),
        str(fields.get("user", "")),
        " ".join(f"{name}={value}" for name, value in more.items() if value not in (None, "")),
    )
