"""`zoomgate connections`: people's connections, through the running service."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice

import click

from zoomgate import Client, errors
from zoomgate.v1.auth_service_pb2 import WatchConnectionsResponse
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk import refresh as bulk_refresh
from zoomgate_server.cli.bulk import revoke as bulk_revoke
from zoomgate_server.cli.bulk import where_filter
from zoomgate_server.cli.bulk.executor import Failure, Pace
from zoomgate_server.cli.bulk.where_filter import STATES, Condition, matches, moment, where_option
from zoomgate_server.cli.channel import (
    again,
    calls_service,
    optional_user_argument,
    user_argument,
    user_arguments,
)
from zoomgate_server.cli.option_types import Rate
from zoomgate_server.cli.output import FAILURE, Table, document, facts, how_far, note, when
from zoomgate_server.cli.progress import progress
from zoomgate_server.telemetry.logs import escape, plain

_ROWS = 500
"""Rows that are laid out together."""


@click.group()
def connections() -> None:
    """List, show, watch, refresh and end people's connections.

    Example: zoomgate connections list
    """


@connections.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only these.",
)
@where_option
@calls_service
def list_(client: Client, as_json: bool, states: tuple[str, ...], where: tuple[Condition, ...]) -> None:
    """List connections; ended ones only when asked for, by --state or by a --where of state or cause.

    Example: zoomgate connections list --state reauth_required --where 'user=*@example.com'
    """
    if not states and where_filter.includes_disconnected(where):
        states = STATES
    wanted = [Connection.State.Value(f"STATE_{state.upper()}") for state in states]
    found = (each for each in client.connections(states=wanted) if matches(where, each))
    if as_json:
        for connection in found:
            document(connection)
        return
    table, count = Table("USER", "STATE", "CONSENTED", "ACCESS UNTIL", "SCOPES"), 0
    while rows := list(islice(found, _ROWS)):
        count += len(rows)
        table.add(
            [
                (
                    connection.user_email,
                    state_words(connection),
                    how_far(connection.consent_time),
                    how_far(connection.access_expire_time),
                    str(len(connection.scopes)),
                )
                for connection in rows
            ]
        )
    note(f"{count} connection{'' if count == 1 else 's'}")
    if not count and not states and not where:
        note("connect somebody with `zoomgate connect USER`")


@connections.command()
@user_argument
@calls_service
def show(client: Client, as_json: bool, user: str) -> None:
    """Show the connection of USER, an e-mail address.

    Example: zoomgate connections show monica@example.com
    """
    print_connection(client.auth.get_connection(user_email=user).connection, as_json=as_json)


@connections.command()
@user_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_service
def delete(client: Client, as_json: bool, user: str, yes: bool) -> None:
    """End the connection of USER and revoke its tokens at Zoom.

    Example: zoomgate connections delete monica@example.com --yes
    """
    if not yes:
        click.confirm(f"End the connection of {plain(user)}?", abort=True, err=True)
    print_connection(client.auth.delete_connection(user_email=user).connection, as_json=as_json)


@connections.command()
@user_arguments
@click.option(
    "--resume-token", default="", help="Go on behind the event that had this token, without a snapshot."
)
@calls_service
def watch(client: Client, as_json: bool, users: tuple[str, ...], resume_token: str) -> None:
    """Show what happens to connections, as it happens: of each USER, or of everybody.

    First come those that exist. When the service restarts, the command goes on where it was. Ctrl-C ends it.

    The caller is an administrator, or a service for the users of its row.

    Example: zoomgate connections watch
    """
    token, waiting = resume_token, False
    try:
        for event in client.watch(users, resume_token=resume_token):
            if as_json:
                document(event)
            elif event.HasField("connection"):
                click.echo(_event_line(event))
            elif not waiting:
                waiting = True
                note("that is all so far; waiting for changes, Ctrl-C ends this")
            token = event.resume_token  # once it is printed
    except KeyboardInterrupt:
        where = ("--resume-token", token) if token else ()
        note(f"go on with: {again('connections', 'watch', *users, *where)}")


def _event_line(event: WatchConnectionsResponse) -> str:
    """Say an event in one line."""
    connection = event.connection
    moment = datetime.fromtimestamp(connection.update_time.seconds, UTC).astimezone()
    kind = WatchConnectionsResponse.Type.Name(event.type).removeprefix("TYPE_").lower()
    return f"{moment:%Y-%m-%d %H:%M:%S}  {kind.ljust(8)}  {escape(connection.user_email)}  {escape(state_words(connection))}"


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@connections.command()
@optional_user_argument
@click.option("--all", "everybody", is_flag=True, help="Everybody whose connection is active.")
@click.option(
    "--rate",
    type=Rate(0.1, 100),
    default=5,
    show_default=True,
    metavar="N",
    help="With --all: refreshes a second, at most. They come one after another.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=_moment,
    help="With --all: leave out whose token was issued at TIME (2030-01-07T09:00:00Z) or later, to go on where a run ended.",
)
@calls_service
def refresh(
    client: Client, as_json: bool, user: str | None, everybody: bool, rate: float, since: datetime | None
) -> None:
    """Refresh the token of USER at Zoom, or with --all everybody's.

    For a key that leaked, since the refresh token before is worth nothing afterwards, and for a backup that was restored, to see who has to
    consent again. No token is printed. The service refreshes a user once a minute when told to: a younger token counts as fresh.

    The caller is a service that may see access tokens (access_tokens = true in its row), with the methods ListConnections, GetConnection
    and RefreshToken of AuthService; --all is everybody in the users of its row.

    With --all each failure is a line, and the end says how many there were; the exit code is then 1. Run it again with --since.

    Example: zoomgate connections refresh --all --rate 5
    """
    if everybody == (user is not None):
        raise click.UsageError("name one USER, or give --all")
    if user is None:
        _refresh_everybody(client, rate, since, as_json=as_json)
        return
    if since is not None:
        raise click.UsageError("--since goes with --all")
    before = client.auth.get_connection(user_email=user).connection
    if client.auth.refresh_token(user_email=user).token.generation == before.generation:
        note("fresh already: it was refreshed less than a minute ago")
    print_connection(client.auth.get_connection(user_email=user).connection, as_json=as_json)


@connections.command()
@where_option
@click.option("--all", "everybody", is_flag=True, help="Everybody: for an app that is given up.")
@click.option(
    "--rate",
    type=Rate(0.1, 100),
    default=5,
    show_default=True,
    metavar="N",
    help="Connections a second, at most. They come one after another.",
)
@click.option("--dry-run", is_flag=True, help="Only list whom it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_service
def revoke(
    client: Client,
    as_json: bool,
    where: tuple[Condition, ...],
    everybody: bool,
    rate: float,
    dry_run: bool,
    yes: bool,
) -> None:
    """End many connections and revoke their tokens at Zoom: those of which every --where is true, or --all.

    The caller is an administrator, or a service for the users of its row with the methods ListConnections, GetConnection and
    DeleteConnection of AuthService. It first counts them and asks, and looks at each again before it ends it. Each failure is a line, the
    end says how many there were, and the exit code is then 1; a run that was stopped goes on when it is begun again.

    Example: zoomgate connections revoke --where 'user=*@example.com' --where refreshed-before=2030-01-07T09:00:00Z
    """
    if everybody == bool(where):
        raise click.UsageError("say whose with --where, or give --all")
    if dry_run:
        total = 0
        for connection in bulk_revoke.connected(client, where):
            total += 1
            if as_json:
                document(connection)
            else:
                click.echo(f"{escape(connection.user_email)}  {state_words(connection)}")
        note(f"{total} would be ended")
        return
    total = sum(1 for _ in bulk_revoke.connected(client, where))
    if total and not yes:
        click.confirm(f"End {total} connection{'' if total == 1 else 's'}?", abort=True, err=True)
    count = bulk_revoke.Count()

    def run() -> None:
        with progress("ending", total, "connections") as advance:
            bulk_revoke.revoke_all(
                client,
                where,
                pace=Pace(rate),
                count=count,
                failed=lambda failure: _print_failure(failure, as_json=as_json),
                advance=advance,
            )

    _say_in_the_end(run, count, lambda stopped: _say_how_many(count, stopped=stopped, as_json=as_json))


def _say_in_the_end(
    run: Callable[[], None], count: bulk_refresh.Count | bulk_revoke.Count, say: Callable[[bool], None]
) -> None:
    """Do something with many connections, and say how far it got, however it ends.

    Args:
        run: Does it.
        count: Told of each connection.
        say: Told whether it was stopped before its end.
    """
    stopped = False
    try:
        run()
    except KeyboardInterrupt:
        stopped = True
    except errors.ZoomgateError:
        say(True)
        raise
    say(stopped)
    if stopped or count.failed:
        raise SystemExit(FAILURE)


def _say_how_many(count: bulk_revoke.Count, *, stopped: bool, as_json: bool) -> None:
    if as_json:
        shown = {"ended": count.revoked, "skipped": count.skipped, "failed": count.failed, "stopped": stopped}
        click.echo(json.dumps(shown))
    note(
        f"{'stopped: ' if stopped else ''}{count.revoked} ended, {count.skipped} had ended or changed, {count.failed} failed"
    )
    if stopped or count.failed:
        note("begin it again for those that are left")


def _print_failure(failure: Failure, *, as_json: bool) -> None:
    if as_json:
        shown = {"userEmail": failure.user_email, "reason": failure.reason, "message": failure.message}
        click.echo(json.dumps(shown))
    else:
        click.echo(f"{escape(failure.user_email)}  {escape(failure.reason)}  {plain(failure.message)}")


def _refresh_everybody(client: Client, rate: float, since: datetime | None, *, as_json: bool) -> None:
    begun, count = datetime.now(UTC), bulk_refresh.Count()

    def run() -> None:
        total = sum(bulk_refresh.is_due(connection, since) for connection in bulk_refresh.active(client))
        with progress("refreshing", total, "tokens") as advance:
            bulk_refresh.refresh_all(
                client,
                since=since,
                pace=Pace(rate),
                count=count,
                failed=lambda failure: _print_failure(failure, as_json=as_json),
                advance=advance,
            )

    _say_in_the_end(
        run, count, lambda stopped: _say_how_far(count, since or begun, stopped=stopped, as_json=as_json)
    )


def _say_how_far(count: bulk_refresh.Count, since: datetime, *, stopped: bool, as_json: bool) -> None:
    if as_json:
        shown = {
            "refreshed": count.refreshed,
            "alreadyFresh": count.not_needed,
            "skipped": count.skipped,
            "failed": count.failed,
            "stopped": stopped,
        }
        click.echo(json.dumps(shown))
    note(
        f"{'stopped: ' if stopped else ''}{count.refreshed} refreshed, {count.not_needed} fresh already, {count.skipped} left out, "
        f"{count.failed} failed"
    )
    if stopped or count.failed:
        note(
            f"go on with: {again('connections', 'refresh', '--all', '--since', f'{since:%Y-%m-%dT%H:%M:%SZ}')}"
        )


def print_connection(connection: Connection, *, as_json: bool) -> None:
    """Print all that is known about a connection."""
    if as_json:
        document(connection)
        return
    facts(
        {
            "user": connection.user_email,
            "state": state_words(connection),
            "Zoom user": connection.zoom_user_id,
            "Zoom account": connection.zoom_account_id,
            "scopes": " ".join(connection.scopes),
            "first connected": when(connection.create_time),
            "consented": when(connection.consent_time),
            "refreshed": when(connection.refresh_time),
            "access until": when(connection.access_expire_time),
            "next refresh": when(connection.next_refresh_time),
            "generation": str(connection.generation),
            "last error": _last_error(connection.last_error),
        }
    )


def _last_error(error: Connection.LastError) -> str:
    """Say what went wrong and when; empty if nothing did."""
    return f"{error.message} ({how_far(error.time)})" if error.message else ""


def state_words(connection: Connection) -> str:
    """Say a state, and why it is so."""
    state = Connection.State.Name(connection.state).removeprefix("STATE_").lower().replace("_", " ")
    if not connection.cause:
        return state
    cause = Connection.Cause.Name(connection.cause).removeprefix("CAUSE_").lower().replace("_", " ")
    return f"{state} ({cause})"
