"""Command `zoomgate connections`, which manages connections through the running service."""

from datetime import UTC, datetime

import click

from zoomgate import Client
from zoomgate.v1.auth_service_pb2 import WatchConnectionsResponse
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk import executor, operations
from zoomgate_server.cli.bulk.where_filter import Condition, matches, where_option
from zoomgate_server.cli.channel import calls_service, resume_command
from zoomgate_server.cli.options import EnumChoice, rate_option, time_with_zone, user_argument, yes_option
from zoomgate_server.cli.output import (
    confirm,
    counted,
    enum_name,
    fail_if_unreadable,
    note,
    print_json,
    print_message,
    print_table,
    relative_time,
    time_and_distance,
    unreadable_text,
)
from zoomgate_server.rate_limiter import RateLimiter
from zoomgate_server.telemetry.logs import escape


@click.group()
def connections() -> None:
    """List, show, watch, refresh and revoke connections.

    Example: zoomgate connections list
    """


@connections.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=EnumChoice(Connection.State),
    help="State of the connections to list. Repeatable.",
)
@where_option
@calls_service
def list_(
    client: Client,
    as_json: bool,
    states: tuple[Connection.State.ValueType, ...],
    where: tuple[Condition, ...],
) -> None:
    """List connections. Disconnected users are listed only with --state, or with a --where filter on state or cause.

    Example: zoomgate connections list --state reauth_required --where 'user=*@example.com'
    """
    if not states and any(condition.name in ("state", "cause") for condition in where):
        states = tuple(Connection.State.values()[1:])
    unreadable_users: list[str] = []
    listed = client.connections(states=states, on_unreadable=unreadable_users.append)
    selected = (connection for connection in listed if matches(where, connection))
    if as_json:
        for connection in selected:
            print_json(connection)
        fail_if_unreadable(unreadable_users)
        return
    titles = ("USER", "STATE", "CONSENT OR IMPORT", "TOKEN EXPIRES", "SCOPES")
    count = print_table(titles, map(_row, selected))
    note(counted(count, "connection"))
    fail_if_unreadable(unreadable_users)
    if not count and not states and not where:
        note("connect a user with `zoomgate connect USER`")


def _row(connection: Connection) -> tuple[str, ...]:
    return (
        connection.user_email,
        state_text(connection),
        relative_time(connection.consent_time.seconds),
        relative_time(connection.access_expire_time.seconds),
        _scope_count(connection),
    )


def _scope_count(connection: Connection) -> str:
    """Return the number of granted scopes, and of missing ones if there are any."""
    missing = f" ({len(connection.missing_scopes)} missing)" if connection.missing_scopes else ""
    return f"{len(connection.scopes)}{missing}" if connection.scopes else _no_scopes(connection)


@connections.command()
@user_argument()
@calls_service
def show(client: Client, as_json: bool, user: str) -> None:
    """Show the connection of USER (an email address).

    Example: zoomgate connections show monica@example.com
    """
    print_connection(client.auth.get_connection(user_email=user).connection, as_json=as_json)


@connections.command()
@user_argument()
@yes_option
@calls_service
def delete(client: Client, as_json: bool, user: str, yes: bool) -> None:
    """Disconnect USER and revoke the user's tokens with Zoom.

    Example: zoomgate connections delete monica@example.com --yes
    """
    if not yes:
        confirm(f"Disconnect {user}?")
    print_connection(client.auth.delete_connection(user_email=user).connection, as_json=as_json)


@connections.command(short_help="Print changes of connections as they happen.")
@user_argument("users", metavar="[USER]...", nargs=-1)
@click.option(
    "--resume-token",
    default="",
    help="Resume after the event with this token, without printing existing connections.",
)
@calls_service
def watch(client: Client, as_json: bool, users: tuple[str, ...], resume_token: str) -> None:
    """Watch the connections of each USER, or of all users, and print changes as they happen.

    The existing connections are printed first. When the service restarts, the watch resumes without gaps. Press Ctrl+C to stop.

    The caller must be an administrator or a service. A service can watch only the users that its callers-file entry allows.

    Example: zoomgate connections watch
    """
    token, is_synced, unreadable_count = resume_token, False, 0
    try:
        for event in client.watch(users, resume_token=resume_token):
            if as_json:
                print_json(event)
            elif event.HasField("connection"):
                click.echo(_event_line(event))
            else:
                if event.unreadable_count not in (unreadable_count, 0):
                    note(unreadable_text(event.unreadable_count))
                unreadable_count = event.unreadable_count
                if not is_synced:
                    is_synced = True
                    listed = "all readable connections" if unreadable_count else "all existing connections"
                    note(f"{listed} are listed; waiting for changes (Ctrl+C to stop)")
            token = event.resume_token  # set after printing, so that resuming skips no event
    except KeyboardInterrupt:
        position = ("--resume-token", token) if token else ()
        note(f"Continue with: {resume_command('connections', 'watch', *users, *position)}")


def _event_line(event: WatchConnectionsResponse) -> str:
    connection = event.connection
    updated = datetime.fromtimestamp(connection.update_time.seconds, UTC).astimezone()
    kind = enum_name(WatchConnectionsResponse.Type, event.type)
    return f"{updated:%Y-%m-%d %H:%M:%S}  {kind.ljust(8)}  {escape(connection.user_email)}  {escape(state_text(connection))}"


@connections.command(short_help="Refresh the tokens of USER, or of all users.")
@user_argument(required=False)
@click.option("--all", "all_users", is_flag=True, help="All users with an active connection.")
@rate_option(100, 5, "With --all: maximum number of refreshes per second. Tokens are refreshed sequentially.")
@click.option(
    "--since",
    type=time_with_zone,
    metavar="TIME",
    help="With --all: skip tokens issued at or after TIME (such as 2030-01-07T09:00:00Z), to resume an interrupted run.",
)
@calls_service
def refresh(
    client: Client, as_json: bool, user: str | None, all_users: bool, rate: float, since: datetime | None
) -> None:
    """Refresh the token of USER with Zoom, or the tokens of all users with --all.

    Use this command in two cases: an encryption key leaked (a refresh invalidates the previous refresh token); a backup was restored (the
    failures show which users must consent again). No token is printed. The service refreshes a user's token at most once a minute on
    request; a more recent token is not refreshed again.

    The caller must be a service. The caller's entry in the callers file must contain access_tokens = true, and must allow the methods
    ListConnections, GetConnection and RefreshToken of AuthService. --all refreshes only the users that the entry allows.

    With --all, each failure is printed on its own line, followed by the counts. If a refresh failed, the exit code is 1; run the command
    again with --since.

    Example: zoomgate connections refresh --all --rate 5
    """
    if all_users == (user is not None):
        raise click.UsageError("specify either USER or --all")
    if user is None:
        resume_time = f"{since or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        executor.run(
            operations.refresh(client, since),
            RateLimiter(rate),
            as_json=as_json,
            next_step=f"Continue with: {resume_command('connections', 'refresh', '--all', '--since', resume_time)}",
        )
        return
    if since is not None:
        raise click.UsageError("--since requires --all")
    previous = client.auth.get_connection(user_email=user).connection
    if client.auth.refresh_token(user_email=user).token.generation == previous.generation:
        note("not refreshed; the token was refreshed less than a minute ago")
    print_connection(client.auth.get_connection(user_email=user).connection, as_json=as_json)


@connections.command(
    short_help="Disconnect the users who match filters, or all users.",
    context_settings={"allow_extra_args": True},  # for a better error than click's
)
@where_option
@click.option(
    "--all", "all_users", is_flag=True, help="Disconnect all users, for example before retiring the app."
)
@rate_option(100, 5, "Maximum number of disconnections per second. Users are disconnected sequentially.")
@click.option("--dry-run", is_flag=True, help="List the users without disconnecting them.")
@yes_option
@calls_service
def revoke(
    client: Client,
    as_json: bool,
    where: tuple[Condition, ...],
    all_users: bool,
    rate: float,
    dry_run: bool,
    yes: bool,
) -> None:
    """Disconnect the users who match every --where filter, or all users with --all, and revoke their tokens with Zoom.

    The caller must be an administrator, or a service that may call ListConnections, GetConnection and DeleteConnection of AuthService.
    A service can disconnect only the users that its callers-file entry allows. The command counts the users and asks for confirmation. The
    filters are checked again before each disconnection. Each failure is printed on its own line, followed by the counts. If a
    disconnection failed, the exit code is 1. To continue an interrupted run, run the command again.

    Example: zoomgate connections revoke --where 'user=*@example.com' --where refreshed-before=2030-01-07T09:00:00Z
    """
    if click.get_current_context().args:
        raise click.UsageError(
            "specify users with --where; to disconnect one user, run `zoomgate connections delete USER`"
        )
    if all_users == bool(where):
        raise click.UsageError("specify either --where or --all")
    operation = operations.revoke(client, where)
    if dry_run:
        count = 0
        for count, connection in enumerate(operation.connections(), start=1):  # noqa: B007 - used after the loop
            if as_json:
                print_json(connection)
            else:
                click.echo(f"{escape(connection.user_email)}  {state_text(connection)}")
        note(f"{counted(count, 'user')} would be disconnected")
        fail_if_unreadable(operation.unreadable_users)
        return
    total = None if yes else operation.count()
    if total:
        confirm(f"Disconnect {counted(total, 'user')}?")
    executor.run(
        operation,
        RateLimiter(rate),
        total=total,
        as_json=as_json,
        next_step="run the command again for the remaining users",
    )


def print_connection(connection: Connection, *, as_json: bool) -> None:
    """Print all details of a connection."""
    error = connection.last_error
    print_message(
        connection,
        {
            "user": connection.user_email,
            "state": state_text(connection),
            "Zoom user": connection.zoom_user_id,
            "Zoom account": connection.zoom_account_id,
            "Zoom email": connection.zoom_email,
            "scopes": connection.scopes or _no_scopes(connection),
            "missing scopes": connection.missing_scopes,
            "connected": time_and_distance(connection.create_time),
            "consented or imported": time_and_distance(connection.consent_time),
            "refreshed": time_and_distance(connection.refresh_time),
            "token expires": time_and_distance(connection.access_expire_time),
            "next refresh": time_and_distance(connection.next_refresh_time),
            "generation": str(connection.generation),
            "last error": f"{error.message} ({relative_time(error.time.seconds)})" if error.message else "",
        },
        as_json=as_json,
    )


def _no_scopes(connection: Connection) -> str:
    """Return the text for a connection without scopes. Zoom grants at least one; an import does not need to contain them."""
    return "unknown" if connection.state == Connection.STATE_ACTIVE else ""


def state_text(connection: Connection) -> str:
    """Format the state of a connection and its cause."""
    state = enum_name(Connection.State, connection.state).replace("_", " ")
    cause = enum_name(Connection.Cause, connection.cause).replace("_", " ")
    return f"{state} ({cause})" if connection.cause else state
