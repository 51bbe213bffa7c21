"""Command `zoomgate import`, which imports tokens from another system through the running service."""

import asyncio
import contextlib
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoomgate import AsyncClient
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.importing import formats
from zoomgate_server.cli.importing.formats import Source
from zoomgate_server.cli.importing.importer import Importer, Timing
from zoomgate_server.cli.importing.results import Results, ResultsFileError, RowStatus
from zoomgate_server.cli.importing.scan import Scan, scanned
from zoomgate_server.cli.importing.text import ImportFileError
from zoomgate_server.cli.options import combined, rate_option
from zoomgate_server.cli.output import FAILURE, UNREACHABLE, USAGE, counted, fail, note, print_result
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.cli.progress import progress
from zoomgate_server.rate_limiter import RateLimiter

_NOT_DONE = (RowStatus.REJECTED, RowStatus.REAUTH_REQUIRED, RowStatus.INCOMPLETE)

_LINK = "send each the link that `zoomgate connect USER` prints"

_CONSENT = {
    # the page of a Wix site completes only authorizations that it has started itself
    "velo-users": "let each use a button on the site that calls authorizeUser",
    "nango": _LINK,
    "jsonl": _LINK,
}

_CLEANUP = {
    "velo-users": "the collection ZoomUsers and the secret velo-zoom-integration-client-secret in Wix",
    "nango": "the connections in Nango, which would otherwise continue to refresh them",
    "jsonl": "the tokens in the system that they were exported from",
}


@click.group("import")
def import_() -> None:
    """Import tokens from another system, so that users do not have to consent again.

    The caller must be an administrator or have permission to receive refresh tokens. For each row, the service asks Zoom for the
    user that the tokens belong to, and rejects a row with a different user's tokens. A refresh token can be used only once; it
    is used only if the access token has expired.

    To resume an interrupted import, run the same command again. Exit codes: 1 if rows are rejected, incomplete or require
    consent, 2 if FILE is invalid, 4 if the caller is not allowed to import, 5 if the service or Zoom does not respond. There is
    no export; docs/importing.md explains the reasons and the alternatives.

    Example: zoomgate import velo-users ZoomUsers.csv --dry-run
    """


_options = combined(
    click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only validate FILE. Nothing is sent, stored or written, and no service is needed.",
    ),
    click.option(
        "--replace",
        is_flag=True,
        help="Replace existing connections that are older than the imported row. Rows that an earlier run skipped are imported again.",
    ),
    rate_option(5000, 20, "Maximum number of rows per second. Each row requires one or two calls to Zoom."),
    click.option(
        "--results",
        metavar="PATH",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File for the result of each row, created with mode 0600. Default: FILE.results.jsonl.",
    ),
)
"""The parameters of all formats."""


@import_.command("velo-users", short_help="Import the collection ZoomUsers of Wix Velo.")
@_options
@click.option(
    "--user-column",
    default="userEmail",
    show_default=True,
    metavar="NAME",
    help="Name of the column that contains the user's email address.",
)
@calls_service
async def velo_users(client: AsyncClient, file: Path, user_column: str, **options: Any) -> None:
    """Import FILE, an export of the collection ZoomUsers of Wix Velo's Zoom package, as CSV or JSON.

    Example: zoomgate import velo-users ZoomUsers.csv --user-column userEmail
    """
    await _import(client, formats.velo_users(file, user_column), **options)


@import_.command("nango", short_help="Import connections from Nango.")
@_options
@click.option(
    "--user-field",
    default="end_user.email",
    show_default=True,
    metavar="NAME",
    help="Name of the field that contains the user's email address, such as connection_id.",
)
@calls_service
async def nango(client: AsyncClient, file: Path, user_field: str, **options: Any) -> None:
    """Import FILE, connections with credentials as returned by Nango's API, in a JSON array or as a sequence of objects.

    Stop Nango first. Otherwise, Nango refreshes the tokens, which invalidates the refresh tokens in FILE.

    Example: zoomgate import nango connections.json --user-field connection_id
    """
    await _import(client, formats.nango(file, user_field), **options)


@import_.command("jsonl")
@_options
@calls_service
async def jsonl(client: AsyncClient, file: Path, **options: Any) -> None:
    """Import FILE, one JSON object per line.

    Required fields are user_email and refresh_token. Optional fields are access_token, expires_at, updated_at and scope.

    Example: zoomgate import jsonl tokens.jsonl
    """
    await _import(client, formats.json_lines(file), **options)


async def _import(
    client: AsyncClient,
    source: Source,
    *,
    dry_run: bool,
    replace: bool,
    rate: float,
    results: Path | None,
    as_json: bool,
) -> None:
    """Import a file, and print a summary of the results; by default, the results file is in the same directory as the export."""
    path = results or source.path.with_name(f"{source.path.name}.results.jsonl")
    run_as_owner(path)
    with contextlib.suppress(OSError):  # the file does not exist, or `Results` reports the error
        if path.samefile(source.path):
            fail(f"--results: {path} is the export itself; choose a different file", USAGE)
    with _errors_reported(source), scanned(source, time.time()) as scan:
        _print_warnings(source, scan)
        if dry_run:
            _print_summary(scan, as_json=as_json)
            return
        header = {
            "format": source.name,
            "user": source.user_field,
            "sha256": scan.digest,
            "rows": scan.rows,
        }
        timing = click.get_current_context().ensure_object(Timing)
        importer = Importer(client, RateLimiter(rate), replace=replace, timing=timing)
        with contextlib.closing(Results.open(path, header, retry_skipped=replace)) as written:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, importer.stop)
            remaining = scan.rows - written.last_row + len(written.to_retry)
            with progress("importing", remaining, "rows") as advance:
                await importer.run(source, scan, written, advance)
    _report(source, path, scan.rows, written, importer, as_json=as_json)


@contextlib.contextmanager
def _errors_reported(source: Source) -> Iterator[None]:
    """Exit with an error message if the file or the results file cannot be used."""
    try:
        yield
    except ImportFileError as error:
        fail(f"{source.path}: {error}", USAGE)
    except ResultsFileError as error:
        fail(str(error), error.exit_code)
    except sqlite3.Error as error:
        fail(
            f"the temporary directory cannot be used ({error}); free some disk space, or set SQLITE_TMPDIR to a different directory"
        )


def _print_warnings(source: Source, scan: Scan) -> None:
    if stat.S_IMODE(source.path.stat().st_mode) & 0o077:
        note(f"other users of the local machine can read the tokens in {source.path}; run `chmod 600` on it")
    if scan.invalid_times:
        note(
            f"invalid times in {counted(scan.invalid_times, 'row')} are ignored: the access tokens of such rows are treated as expired,"
            " and, if a user has several of them, the last one is imported; use times such as 2030-01-07T10:00:00Z"
        )


def _print_summary(scan: Scan, *, as_json: bool) -> None:
    """Print a summary of a file that was only validated, and set the exit code."""
    print_result(
        f"{counted(scan.rows, 'row')}: {scan.usable} to import, {scan.superseded} superseded by newer rows of the same user,"
        f" {scan.rejected} rejected. {counted(scan.valid_access_tokens, 'valid access token')}; for the other rows,"
        " the refresh token will be used. Nothing was sent, stored or written.",
        {
            "rows": scan.rows,
            "usable": scan.usable,
            "superseded": scan.superseded,
            "rejected": scan.rejected,
            "validAccessTokens": scan.valid_access_tokens,
            "misreadTimes": scan.invalid_times,
        },
        as_json=as_json,
    )
    for row in scan.invalid_rows:
        note(": ".join(filter(None, (f"row {row.number}, line {row.line}", row.user_email, row.reason))))
    if scan.rejected > len(scan.invalid_rows):
        note(f"and {scan.rejected - len(scan.invalid_rows)} more")
    if scan.rejected:
        raise SystemExit(FAILURE)


def _report(
    source: Source, path: Path, rows: int, results: Results, importer: Importer, *, as_json: bool
) -> None:
    """Print a summary of the results and the next steps, and set the exit code."""
    counts, remaining = results.counts, rows - results.last_row
    by_status = {status.value: counts[status] for status in RowStatus}
    listed = ", ".join(f"{count} {name}" for name, count in by_status.items() if count) or "none processed"
    print_result(
        f"{counted(rows, 'row')}: {listed}{f', {remaining} remaining' if remaining else ''}. The result of each row is in {path}.",
        {"rows": rows, **by_status, "left": remaining, "results": str(path)},
        as_json=as_json,
    )
    if importer.problem:
        note(f"zoomgate: {importer.problem}")
    if counts[RowStatus.REAUTH_REQUIRED]:
        note(f"{counted(counts[RowStatus.REAUTH_REQUIRED], 'user')} must consent; {_CONSENT[source.name]}")
    if counts[RowStatus.REJECTED]:
        note(
            f"{counted(counts[RowStatus.REJECTED], 'row')} rejected; see {path} for the reasons, and import the corrected file with"
            " a different results file (--results)"
        )
    if remaining or results.to_retry:
        note("run the same command again to continue; no refresh token is used twice")
    else:
        note(f"when all users are connected, delete {source.path}, {path}, and {_CLEANUP[source.name]}")
    if importer.no_response:
        raise SystemExit(UNREACHABLE)
    if remaining or results.to_retry or any(counts[status] for status in _NOT_DONE):
        raise SystemExit(FAILURE)
