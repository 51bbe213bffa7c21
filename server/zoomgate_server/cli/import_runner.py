"""Importing files of tokens into the store of the settings, for `zoomgate import`."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import stat
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from zoomgate_server.app.stores import StoppedWaiting, open_store
from zoomgate_server.app.zoom_clients import start_clients
from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import FINGERPRINT_SECRET
from zoomgate_server.cli import event_loop
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import FAILURE, UNREACHABLE, USAGE, fail, load_settings, note
from zoomgate_server.cli.progress import progress
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_cache import TokenCache
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.importer import Importer
from zoomgate_server.importing.pace import Pace
from zoomgate_server.importing.problems import FileProblem, ResultsProblem
from zoomgate_server.importing.results import Results, RowStatus
from zoomgate_server.importing.run import run
from zoomgate_server.importing.scan import DuplicateIndex, Scan, scan
from zoomgate_server.importing.stop import Stop, StopReason
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.metrics import Metrics

REVOKE_SECONDS = 10.0
"""How long the end waits for Zoom to confirm that tokens of other people are revoked."""

_SHOWN = 10
"""Rows with a flaw that a dry run tells."""

_NOT_DONE = (RowStatus.REFUSED, RowStatus.CONSENT, RowStatus.UNDONE)

_AFTERWARDS = {
    "velo-users": "in Wix the collection ZoomUsers and the secret velo-zoom-integration-client-secret",
    "nango": "in Nango the connections, which it would go on refreshing",
    "jsonl": "the tokens where they came from",
}


def look(source: Source, *, as_json: bool) -> None:
    """Read and check a file alone, and tell what is in it."""
    _say_who_reads(source.path)
    with _giving_way() as giving_way:
        found = _scanned(source, giving_way)
    sentence = (
        f"{found.rows} row(s): {found.counts['usable']} to import, {found.counts['superseded']} older than another row of the same"
        f" person, {found.counts['refused']} refused. {found.unspent} access token(s) are valid still; of the others the refresh token"
        " will be spent. Nothing was sent, stored or written."
    )
    fields = {
        "rows": found.rows,
        "usable": found.counts["usable"],
        "superseded": found.counts["superseded"],
        "refused": found.counts["refused"],
        "validAccessTokens": found.unspent,
        "misreadTimes": found.misread,
    }
    click.echo(json.dumps(fields) if as_json else sentence)
    _say_misread(found)
    for flaw in found.flaws:
        note(f"line {flaw.line}: {flaw.user_email or 'somebody'}: {flaw.reason}")
    if found.counts["refused"] > len(found.flaws):
        note(f"and {found.counts['refused'] - len(found.flaws)} more")
    if found.counts["refused"]:
        raise SystemExit(FAILURE)


def import_file(source: Source, place: Path | None, *, rate: float, replace: bool, as_json: bool) -> None:
    """Import a file, and tell what became of it.

    Args:
        source: The file.
        place: Where the results are to be, or None for beside the file.
        rate: Rows a second.
        replace: Whether newer rows replace connections.
        as_json: Print one JSON object.
    """
    loaded = load_settings("run this where the service runs, with its settings")
    if not loaded.client_id or not loaded.client_secrets:
        fail(
            "ZOOMGATE_CLIENT_ID and ZOOMGATE_CLIENT_SECRET are required: the app to which the people consented"
        )
    _refuse_root(loaded.data_dir)
    _say_who_reads(source.path)
    place = place or source.path.with_name(f"{source.path.name}.results.jsonl")
    with contextlib.suppress(OSError):  # there are none yet, or `Results` says what is wrong
        if place.samefile(source.path):
            fail(f"--results: {place} is the export itself: name another place", USAGE)
    with _giving_way() as giving_way:
        found = _scanned(source, giving_way)
        _say_misread(found)
        about = {
            "format": source.name,
            "user": source.user_field,
            "app": loaded.app,
            "sha256": found.digest,
            "rows": found.rows,
        }
        with _alone(source.path):
            results = _opened(place, about)
            try:
                left = found.rows - results.noted + len(results.undone)
                stop = _run(_import(loaded, source, giving_way, results, left, rate=rate, replace=replace))
            finally:
                _close(results)
    _tell(source, place, found.rows, results, stop, as_json=as_json)


@contextlib.contextmanager
def _alone(export: Path) -> Iterator[None]:
    """Keep others from importing a file meanwhile: Zoom would take each token from one of them, and refuse it to the other."""
    with export.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"Another import reads {export} just now: wait until it has ended", USAGE)
        except OSError:  # some network file systems lock nothing
            pass
        yield


def _opened(place: Path, about: dict[str, Any]) -> Results:
    try:
        return Results.open(place, about)
    except ResultsProblem as error:
        fail(str(error), USAGE)


def _close(results: Results) -> None:
    try:
        results.close()
    except ResultsProblem as error:
        fail(str(error))


async def _import(
    loaded: Settings,
    source: Source,
    giving_way: DuplicateIndex,
    results: Results,
    left: int,
    *,
    rate: float,
    replace: bool,
) -> Stop:
    """Import what has no result yet."""
    stop, asked = Stop(), asyncio.Event()

    def ask() -> None:
        asked.set()
        stop.request(StopReason.ASKED)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    pace = Pace(rate, SystemClock(), stop)
    async with AsyncExitStack() as stack:
        importer = await _importer(loaded, stack, asked, pace, stop, replace=replace)
        await importer.recover()
        with progress("importing", left, "rows") as advance:
            await run(source, importer, giving_way, results, pace, stop, advance)
    return stop


async def _importer(
    loaded: Settings, stack: AsyncExitStack, asked: asyncio.Event, pace: Pace, stop: Stop, *, replace: bool
) -> Importer:
    """Put together what brings rows in; a store that is not there yet is made, as the service makes it at its first start.

    Raises:
        StartError, StoppedWaiting, ZoomgateError, StoreError: It cannot be done.
    """
    clock, metrics, cache = SystemClock(), Metrics(version("zoomgate-server"), []), TokenCache()
    app = loaded.app
    store, key_ring = await open_store(loaded, stack, asked)
    ring = ReloadingKeyRing(loaded.keys_path, key_ring, clock)
    envelope = Envelope(app=app, keys=ring)
    await key_check.verify(store, envelope)
    fingerprints = await shared_secret.obtain(store, envelope, FINGERPRINT_SECRET)
    audited = stack.enter_context(AuditLog(loaded, key=fingerprints))

    def audit(event: AuditEvent) -> None:
        if not audited.try_record(event):
            stop.request(
                StopReason.FAULT,
                f"{loaded.audit_path} cannot be written, and has no line of who was stored last: make room",
            )

    connections = ConnectionRepository(
        app=app, store=store, envelope=envelope, clock=clock, on_read=metrics.store_read
    )
    zoom, oauth = await start_clients(loaded, clock, stack)
    folder = loaded.data_dir / "journal"
    journal = TokenJournal(folder, app=app, ring=ring, observer=_JournalWatch(folder, stop))
    stack.push_async_callback(journal.close)
    if not await journal.prepare():
        raise StartError(
            f"{loaded.data_dir} cannot be written: what Zoom issues must be on a disk before the store has it"
        )
    disconnector = Disconnector(connections=connections, cache=cache, oauth=oauth, clock=clock, audit=audit)
    stack.push_async_callback(disconnector.drain, REVOKE_SECONDS)
    account_linker = AccountLinker(
        connections=connections,
        journal=journal,
        cache=cache,
        oauth=oauth,
        zoom=zoom,
        revoke_unused=disconnector.revoke_unused,
        audit=audit,
    )
    return Importer(
        connections=connections,
        account_linker=account_linker,
        oauth=oauth,
        journal=journal,
        secret=await shared_secret.obtain(store, envelope, "import"),
        pace=pace,
        stop=stop,
        replace=replace,
    )


class _JournalWatch:
    """Ends an import whose journal cannot be written: each further row would have its new tokens in the memory of this process alone.

    Args:
        folder: Of the journal.
        stop: Told.
    """

    def __init__(self, folder: Path, stop: Stop) -> None:
        self._folder = folder
        self._stop = stop

    def journal_entries(self, count: int) -> None:
        """Nothing: nobody asks an import how many there are."""

    def journal_written(self) -> None:
        """Nothing."""

    def journal_damaged(self) -> None:
        """Nothing: the log has it."""

    def journal_failed(self) -> None:
        """Begin no other row."""
        self._stop.request(
            StopReason.FAULT,
            f"{self._folder} cannot be written: make room, for what Zoom issues has to be on a disk at once",
        )


def _run(work: Coroutine[Any, Any, Stop]) -> Stop:
    """Run an import, or end with why it could not begin."""
    try:
        return event_loop.run(work)
    except StoppedWaiting:
        fail("The store could not be reached yet: nothing was imported")
    except (StartError, StoreError) as error:
        fail(str(error))
    except ZoomgateError as error:
        fail(error.message)


def _giving_way() -> contextlib.closing[DuplicateIndex]:
    return contextlib.closing(DuplicateIndex())


def _scanned(source: Source, giving_way: DuplicateIndex) -> Scan:
    try:
        return scan(source, giving_way, time.time(), _SHOWN)
    except FileProblem as error:
        fail(f"{source.path}: {error}", USAGE)
    except sqlite3.Error as error:
        fail(
            f"The folder for temporary files cannot be used ({error}): make room, or name another one with SQLITE_TMPDIR"
        )


def _refuse_root(data_dir: Path) -> None:
    """Refuse to work as root on another user's data folder: what an import makes there, the service could not open."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:
        return  # it is not there yet, or who opens the store says what is wrong
    if os.geteuid() == 0 and owner != 0:
        fail(
            f"{data_dir} is the folder of user {owner}, and files of root in it stop the service: run this as that user"
        )


def _say_who_reads(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        note(f"others on this machine can read the tokens in {path}: chmod 600 it")


def _say_misread(found: Scan) -> None:
    if found.misread:
        note(
            f"{found.misread} row(s) have a time that cannot be read, and count as without one: of several rows of a person the last one"
            " is then taken, and no access token as valid. Write times as 2030-01-07T10:00:00Z"
        )


def _tell(source: Source, place: Path, rows: int, results: Results, stop: Stop, *, as_json: bool) -> None:
    """Tell what became of the rows, and what is to be done next."""
    counts = {verdict.value: results.counts[verdict] for verdict in RowStatus}
    left = rows - results.noted
    if as_json:
        click.echo(json.dumps({"rows": rows, **counts, "left": left, "results": str(place)}))
    else:
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none done"
        click.echo(
            f"{rows} row(s): {said}{f', {left} left' if left else ''}. What became of each is in {place}."
        )
    if stop.problem:
        note(f"zoomgate: {stop.problem}")
    if counts[RowStatus.CONSENT]:
        note(
            f"{counts[RowStatus.CONSENT]} of them have to consent: send each the link of `zoomgate connect USER`"
        )
    if counts[RowStatus.REFUSED]:
        note(
            f"{counts[RowStatus.REFUSED]} row(s) refused: {place} says why; a corrected file is imported with other results (--results)"
        )
    if left or results.undone:
        note("run the same command again: it goes on where this one ended, and spends no token twice")
    else:
        note(f"when nobody is missed, delete {source.path}, {place}, and {_AFTERWARDS[source.name]}")
    if stop.why is StopReason.SILENCE:
        raise SystemExit(UNREACHABLE)
    if left or any(results.counts[verdict] for verdict in _NOT_DONE):
        raise SystemExit(FAILURE)
