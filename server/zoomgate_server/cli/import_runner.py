"""Import of token files into the configured store, for `zoomgate import`."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoomgate_server.app.stores import StartCancelled, open_store
from zoomgate_server.app.zoom_clients import open_clients
from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import FINGERPRINT_SECRET
from zoomgate_server.cli import event_loop
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import FAILURE, UNREACHABLE, USAGE, fail, load_settings, note, print_result
from zoomgate_server.cli.progress import progress
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.revocation import Revoker
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.importing.errors import ImportFileError, ResultsFileError
from zoomgate_server.importing.formats import Source
from zoomgate_server.importing.importer import Importer, Timing
from zoomgate_server.importing.results import Results, RowStatus
from zoomgate_server.importing.run import run
from zoomgate_server.importing.scan import DuplicateIndex, Scan, scan
from zoomgate_server.importing.stop import StopSignal
from zoomgate_server.rate_limiter import RateLimiter
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.metrics import Metrics

_MAX_LISTED = 10
"""Maximum number of invalid rows that a dry run lists."""

_NOT_DONE = (RowStatus.REJECTED, RowStatus.REAUTH_REQUIRED, RowStatus.INCOMPLETE)

_CLEANUP = {
    "velo-users": "the collection ZoomUsers and the secret velo-zoom-integration-client-secret in Wix",
    "nango": "the connections in Nango, which would otherwise continue to refresh them",
    "jsonl": "the tokens in the system that they were exported from",
}


def validate_file(source: Source, *, as_json: bool) -> None:
    """Validate a file without importing it, and print a summary."""
    with _errors_reported(source), _scanned(source) as (summary, _):
        counts = summary.counts
    print_result(
        f"{summary.rows} row(s): {counts['usable']} to import, {counts['superseded']} superseded by newer rows of the same user,"
        f" {counts['rejected']} rejected. {summary.valid_access_tokens} access token(s) are still valid; for the other rows,"
        " the refresh token will be used. Nothing was sent, stored or written.",
        {
            "rows": summary.rows,
            "usable": counts["usable"],
            "superseded": counts["superseded"],
            "rejected": counts["rejected"],
            "validAccessTokens": summary.valid_access_tokens,
            "misreadTimes": summary.invalid_times,
        },
        as_json=as_json,
    )
    for row in summary.invalid_rows:
        note(f"line {row.line}: {row.user_email or 'unknown user'}: {row.reason}")
    if counts["rejected"] > len(summary.invalid_rows):
        note(f"and {counts['rejected'] - len(summary.invalid_rows)} more")
    if counts["rejected"]:
        raise SystemExit(FAILURE)


def import_file(
    source: Source, results_path: Path | None, *, rate: float, replace: bool, as_json: bool, timing: Timing
) -> None:
    """Import a file, and print a summary of the results; by default, the results file is in the same directory as the export."""
    loaded = load_settings("run this command on the machine and with the settings of the service")
    if not loaded.client_id or not loaded.client_secret:
        fail(
            "ZOOMGATE_CLIENT_ID and ZOOMGATE_CLIENT_SECRET are required; set them to the credentials of the app that the users authorized"
        )
    _reject_root(loaded.data_dir)
    results_path = results_path or source.path.with_name(f"{source.path.name}.results.jsonl")
    with contextlib.suppress(OSError):  # the file does not exist, or `Results` reports the error
        if results_path.samefile(source.path):
            fail(f"--results: {results_path} is the export itself; choose a different file", USAGE)
    with _errors_reported(source), _scanned(source) as (summary, duplicates):
        header = {
            "format": source.name,
            "user": source.user_field,
            "app": loaded.app,
            "sha256": summary.digest,
            "rows": summary.rows,
        }
        with _lock(source.path), contextlib.closing(_open_results(results_path, header)) as results:
            remaining = summary.rows - results.last_row + len(results.incomplete)
            importing = _import(
                loaded, source, duplicates, results, remaining, rate=rate, replace=replace, timing=timing
            )
            stop = event_loop.run(importing)
    _report(source, results_path, summary.rows, results, stop, as_json=as_json)


@contextlib.contextmanager
def _scanned(source: Source) -> Iterator[tuple[Scan, DuplicateIndex]]:
    """Scan a file, print warnings, and yield the summary."""
    if stat.S_IMODE(source.path.stat().st_mode) & 0o077:
        note(f"other users of the local machine can read the tokens in {source.path}; run `chmod 600` on it")
    with contextlib.closing(DuplicateIndex()) as duplicates:
        summary = scan(source, duplicates, time.time(), _MAX_LISTED)
        if summary.invalid_times:
            note(
                f"{summary.invalid_times} row(s) contain an invalid time, which is ignored: their access tokens are treated as expired,"
                " and, if a user has several such rows, the last one is imported; use times such as 2030-01-07T10:00:00Z"
            )
        yield summary, duplicates


def _open_results(path: Path, header: dict[str, Any]) -> Results:
    """Open the results file; exit if the path cannot be used."""
    try:
        return Results.open(path, header)
    except ResultsFileError as error:
        fail(str(error), USAGE)


@contextlib.contextmanager
def _errors_reported(source: Source) -> Iterator[None]:
    """Exit with an error message if the validation or the import of a file fails."""
    try:
        yield
    except ImportFileError as error:
        fail(f"{source.path}: {error}", USAGE)
    except sqlite3.Error as error:
        fail(
            f"the temporary directory cannot be used ({error}); free some disk space, or set SQLITE_TMPDIR to a different directory"
        )
    except StartCancelled:
        fail("stopped before the store could be reached; nothing was imported")
    except (ResultsFileError, StartError, StoreError) as error:
        fail(str(error))
    except ZoomgateError as error:
        fail(error.message)


@contextlib.contextmanager
def _lock(export: Path) -> Iterator[None]:
    """Lock a file against concurrent imports, since Zoom would accept each refresh token from only one import."""
    with export.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fail(f"another import of {export} is running; wait until it has finished", USAGE)
        except OSError:  # some network file systems do not support locks
            pass
        yield


async def _import(
    loaded: Settings,
    source: Source,
    duplicates: DuplicateIndex,
    results: Results,
    remaining: int,
    *,
    rate: float,
    replace: bool,
    timing: Timing,
) -> StopSignal:
    stop, limiter = StopSignal(), RateLimiter(rate)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.request)
    async with AsyncExitStack() as stack:
        importer = await _create_importer(loaded, stack, limiter, stop, replace=replace, timing=timing)
        await importer.recover()
        with progress("importing", remaining, "rows") as advance:
            await run(source, importer, duplicates, results, limiter, stop, advance)
    return stop


async def _create_importer(
    loaded: Settings,
    stack: AsyncExitStack,
    limiter: RateLimiter,
    stop: StopSignal,
    *,
    replace: bool,
    timing: Timing,
) -> Importer:
    """Create the importer and its dependencies. A missing store is created, as at the first start of the service."""
    clock, metrics = SystemClock(), Metrics(version("zoomgate-server"), [])
    app = loaded.app
    store, key_ring = await open_store(loaded, stack, stop.requested, clock)
    ring = ReloadingKeyRing(loaded.keys, key_ring, clock)
    envelope = Envelope(app=app, keys=ring)
    await key_check.verify(store, envelope)
    fingerprints = await shared_secret.obtain(store, envelope, FINGERPRINT_SECRET)
    audit_log = stack.enter_context(AuditLog(loaded, key=fingerprints))

    def audit(event: AuditEvent) -> None:
        if not audit_log.try_record(event):
            stop.request(
                f"{loaded.audit} cannot be written and lacks the most recently imported users; free some disk space"
            )

    connections = ConnectionRepository(
        app=app, store=store, envelope=envelope, clock=clock, on_read=metrics.store_reads.inc
    )
    zoom, oauth = open_clients(loaded, clock, stack)
    folder = loaded.data_dir / "journal"

    def stop_without_journal() -> None:
        # otherwise, the tokens of further rows would exist only in the memory of this process
        stop.request(
            f"{folder} cannot be written; free some disk space, since tokens that Zoom issues must be journaled immediately"
        )

    journal = TokenJournal(
        folder, app=app, key_ring=ring, metrics=metrics, on_write_failed=stop_without_journal
    )
    stack.push_async_callback(journal.close)
    if not await journal.prepare():
        raise StartError(
            f"{loaded.data_dir} is not writable; tokens that Zoom issues must be journaled there before they are stored"
        )
    revoker = Revoker(oauth)
    stack.push_async_callback(revoker.tasks.drain, timing.revocation_timeout)
    account_linker = AccountLinker(
        connections=connections,
        journal=journal,
        drop_token=lambda _user_email: None,  # an import caches no tokens
        seen_generation=lambda _user_email: 0,
        oauth=oauth,
        zoom=zoom,
        revoke_unused=revoker.revoke_unused,
        audit=audit,
    )
    return Importer(
        connections=connections,
        account_linker=account_linker,
        oauth=oauth,
        journal=journal,
        secret=await shared_secret.obtain(store, envelope, "import"),
        limiter=limiter,
        stop=stop,
        replace=replace,
        timing=timing,
    )


def _reject_root(data_dir: Path) -> None:
    """Exit if root imports into a data directory of a different user, since the service could not open files created by root."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:
        return  # the directory does not exist, or opening the store reports the error
    if os.geteuid() == 0 and owner != 0:
        fail(
            f"{data_dir} belongs to user {owner}, and the service cannot start if it contains files of root; run this command as that user"
        )


def _report(
    source: Source, results_path: Path, rows: int, results: Results, stop: StopSignal, *, as_json: bool
) -> None:
    """Print a summary of the results and the next steps, and set the exit code."""
    counts, remaining = results.counts, rows - results.last_row
    by_status = {status.value: counts[status] for status in RowStatus}
    listed = ", ".join(f"{count} {name}" for name, count in by_status.items() if count) or "none processed"
    print_result(
        f"{rows} row(s): {listed}{f', {remaining} remaining' if remaining else ''}. The result of each row is in {results_path}.",
        {"rows": rows, **by_status, "left": remaining, "results": str(results_path)},
        as_json=as_json,
    )
    if stop.problem:
        note(f"zoomgate: {stop.problem}")
    if counts[RowStatus.REAUTH_REQUIRED]:
        note(
            f"{counts[RowStatus.REAUTH_REQUIRED]} user(s) must consent; send each of them the link that `zoomgate connect USER` prints"
        )
    if counts[RowStatus.REJECTED]:
        note(
            f"{counts[RowStatus.REJECTED]} row(s) were rejected; see {results_path} for the reasons, and import the corrected file with"
            " a different results file (--results)"
        )
    if remaining or results.incomplete:
        note("run the same command again to continue; no refresh token is used twice")
    else:
        note(
            f"when all users are connected, delete {source.path}, {results_path}, and {_CLEANUP[source.name]}"
        )
    if stop.no_response:
        raise SystemExit(UNREACHABLE)
    if remaining or any(counts[status] for status in _NOT_DONE):
        raise SystemExit(FAILURE)
