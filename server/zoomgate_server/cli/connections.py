"""`zoomgate connections`: people's connections, through the running service."""

from itertools import islice

import click

from zoomgate import Client
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.output import Table, document, facts, how_far, note, when
from zoomgate_server.cli.service import calls_service, user_argument
from zoomgate_server.logs import plain

_ROWS = 500
"""Rows that are laid out together."""


@click.group()
def connections() -> None:
    """List, show and end people's connections.

    Example: zoomgate connections list
    """


@connections.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["active", "reauth_required", "disconnected"]),
    help="Only these.",
)
@calls_service
def list_(client: Client, as_json: bool, states: tuple[str, ...]) -> None:
    """List connections.

    Example: zoomgate connections list --state reauth_required
    """
    found = client.connections(states=[Connection.State.Value(f"STATE_{state.upper()}") for state in states])
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
    if not count and not states:
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
            "last error": connection.last_error.message,
        }
    )


def state_words(connection: Connection) -> str:
    """Say a state, and why it is so."""
    state = Connection.State.Name(connection.state).removeprefix("STATE_").lower().replace("_", " ")
    if not connection.cause:
        return state
    cause = Connection.Cause.Name(connection.cause).removeprefix("CAUSE_").lower().replace("_", " ")
    return f"{state} ({cause})"
