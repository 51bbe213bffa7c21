"""`zoomgate import`: bring in the tokens that other software kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zoomgate_server.cli.option_types import Rate


@click.group("import")
def import_() -> None:
    """Bring in the tokens that other software kept, so that people need not consent again.

    Works on the store of the settings, beside a running service or without one. Zoom is asked of each row whose its tokens are, and a row
    that is somebody else's is refused. A refresh token, which works once, is spent only where the access token does not work any more.

    Interrupted in whatever way, an import goes on where it was when it is run again. Exit code 1: rows were refused or are undone; 5: Zoom
    does not answer. There is no export: docs/importing.md says why, and what to do instead.

    Example: zoomgate import velo-users ZoomUsers.csv --dry-run
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what all formats take."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option(
            "--results",
            metavar="PATH",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Where it is written what became of each row, with mode 0600. Default: FILE.results.jsonl.",
        ),
        click.option(
            "--rate",
            type=Rate(0.1, 5000),
            default=20,
            show_default=True,
            metavar="N",
            help="Rows a second, at most. Each asks Zoom once or twice.",
        ),
        click.option(
            "--replace", is_flag=True, help="Let a row that is newer than the person's connection replace it."
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Read and check FILE alone: nothing is sent, stored or written, and no settings are needed.",
        ),
        click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
    ):
        command = option(command)
    return command


@import_.command("velo-users")
@_options
@click.option(
    "--user-column",
    default="userEmail",
    show_default=True,
    metavar="NAME",
    help="The column with the person's e-mail address.",
)
def velo_users(user_column: str, **options: Any) -> None:
    """Import FILE, the collection ZoomUsers of Wix Velo's Zoom package, as CSV or JSON.

    Example: zoomgate import velo-users ZoomUsers.csv --user-column userEmail
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - see the module of `zoomgate`

    _import(lambda file: formats.velo_users(file, user_column), **options)


@import_.command("nango")
@_options
@click.option(
    "--user-field",
    default="end_user.email",
    show_default=True,
    metavar="NAME",
    help="The field with the person's e-mail address, such as connection_id.",
)
def nango(user_field: str, **options: Any) -> None:
    """Import FILE, connections with credentials as Nango's API gives them, in a JSON list or one after another.

    Stop Nango first: it refreshes by itself, and the refresh tokens in FILE are worth nothing afterwards.

    Example: zoomgate import nango connections.json --user-field connection_id
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - see the module of `zoomgate`

    _import(lambda file: formats.nango(file, user_field), **options)


@import_.command("jsonl")
@_options
def jsonl(**options: Any) -> None:
    """Import FILE, a JSON object a line.

    It has user_email and refresh_token and, where they are known, access_token, expires_at, updated_at and scope.

    Example: zoomgate import jsonl tokens.jsonl
    """
    from zoomgate_server.importing import formats  # noqa: PLC0415 - see the module of `zoomgate`

    _import(formats.json_lines, **options)


def _import(
    source: Callable[[Path], Any],
    *,
    file: Path,
    dry_run: bool,
    replace: bool,
    rate: float,
    results: Path | None,
    as_json: bool,
) -> None:
    from zoomgate_server.cli import import_runner  # noqa: PLC0415 - see the module of `zoomgate`

    if dry_run:
        import_runner.look(source(file), as_json=as_json)
    else:
        import_runner.import_file(source(file), results, rate=rate, replace=replace, as_json=as_json)
