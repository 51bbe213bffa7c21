"""Command `zoomgate import`, which imports tokens from another system."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomgate_server.cli.options import combined, json_option, rate_option

if TYPE_CHECKING:
    from zoomgate_server.importing.formats import Source


@click.group("import")
def import_() -> None:
    """Import tokens from another system, so that users do not have to consent again.

    The command writes to the configured store; the service may run at the same time. For each row, Zoom is queried for the user
    that the tokens belong to, and a row with a different user's tokens is rejected. A refresh token can be used only once; it is
    used only if the access token has expired.

    To resume an interrupted import, run the same command again. Exit codes: 1 if rows are rejected, incomplete or require
    consent, 5 if Zoom does not respond. There is no export; docs/importing.md explains the reasons and the alternatives.

    Example: zoomgate import velo-users ZoomUsers.csv --dry-run
    """


_options = combined(
    click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only validate FILE. Nothing is sent, stored or written, and no settings are needed.",
    ),
    click.option(
        "--replace",
        is_flag=True,
        help="Replace existing connections that are older than the imported row.",
    ),
    rate_option(5000, 20, "Maximum number of rows per second. Each row requires one or two calls to Zoom."),
    click.option(
        "--results",
        metavar="PATH",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File for the result of each row, created with mode 0600. Default: FILE.results.jsonl.",
    ),
    json_option(),
)
"""The parameters of all formats."""


@import_.command("velo-users")
@_options
@click.option(
    "--user-column",
    default="userEmail",
    show_default=True,
    metavar="NAME",
    help="Name of the column that contains the user's email address.",
)
def velo_users(file: Path, user_column: str, **options: Any) -> None:
    """Import FILE, an export of the collection ZoomUsers of Wix Velo's Zoom package, as CSV or JSON.

    Example: zoomgate import velo-users ZoomUsers.csv --user-column userEmail
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - keeps help fast

    _import(formats.velo_users(file, user_column), **options)


@import_.command("nango")
@_options
@click.option(
    "--user-field",
    default="end_user.email",
    show_default=True,
    metavar="NAME",
    help="Name of the field that contains the user's email address, such as connection_id.",
)
def nango(file: Path, user_field: str, **options: Any) -> None:
    """Import FILE, connections with credentials as returned by Nango's API, in a JSON array or as a sequence of objects.

    Stop Nango first. Otherwise, Nango refreshes the tokens, which invalidates the refresh tokens in FILE.

    Example: zoomgate import nango connections.json --user-field connection_id
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - keeps help fast

    _import(formats.nango(file, user_field), **options)


@import_.command("jsonl")
@_options
def jsonl(file: Path, **options: Any) -> None:
    """Import FILE, one JSON object per line.

    Required fields are user_email and refresh_token. Optional fields are access_token, expires_at, updated_at and scope.

    Example: zoomgate import jsonl tokens.jsonl
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - keeps help fast

    _import(formats.json_lines(file), **options)


def _import(
    source: "Source", *, dry_run: bool, replace: bool, rate: float, results: Path | None, as_json: bool
) -> None:
    from zoomgate_server.cli import import_runner  # noqa: PLC0415 - keeps help fast
    from zoomgate_server.importing.importer import Timing  # noqa: PLC0415 - keeps help fast

    if dry_run:
        import_runner.validate_file(source, as_json=as_json)
    else:
        timing = click.get_current_context().ensure_object(Timing)
        import_runner.import_file(source, results, rate=rate, replace=replace, as_json=as_json, timing=timing)
