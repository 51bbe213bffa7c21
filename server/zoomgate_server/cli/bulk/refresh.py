"""Refreshing the tokens of everybody who is connected, for `zoomgate connections refresh --all`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk.executor import Failure, Pace, for_each
from zoomgate_server.cli.bulk.where_filter import is_before


@dataclass(slots=True)
class Count:
    """How far it got.

    Attributes:
        refreshed: Tokens that were refreshed.
        fresh: Tokens that somebody had refreshed less than a minute before.
        skipped: Connections that needed nothing: refreshed since the time that was given, or ended meanwhile.
        failed: Tokens that were not refreshed.
    """

    refreshed: int = 0
    not_needed: int = 0
    skipped: int = 0
    failed: int = 0


def is_due(connection: Connection, since: datetime | None) -> bool:
    """Tell whether the token of a connection was issued before a time; with None each one is due."""
    return since is None or is_before(connection.refresh_time, since)


def active(client: Client) -> Iterator[Connection]:
    """Go through the connections that can be refreshed, page by page."""
    return client.connections(states=[Connection.STATE_ACTIVE])


def refresh_all(
    client: Client,
    *,
    since: datetime | None,
    pace: Pace,
    count: Count,
    failed: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Refresh the token of everybody who is connected, one after another. Nothing is kept but a page of connections.

    Args:
        client: Of the service.
        since: Leave out whose token was issued at this time or later.
        pace: How fast.
        count: Told of each connection.
        failed: Told of each token that was not refreshed.
        advance: Told of every connection that was due.

    Raises:
        ZoomgateError: No token can be refreshed now: the service is not there, this caller may not do it, or Zoom refuses the app.
    """

    def due() -> Iterator[Connection]:
        for connection in active(client):
            if is_due(connection, since):
                yield connection
            else:
                count.skipped += 1

    def refresh(connection: Connection) -> None:
        try:
            token = client.auth.refresh_token(user_email=connection.user_email).token
        except errors.NotConnected:
            count.skipped += 1
            return
        if token.generation == connection.generation:
            count.not_needed += 1
        else:
            count.refreshed += 1

    def not_refreshed(failure: Failure) -> None:
        count.failed += 1
        failed(failure)

    for_each(due(), refresh, pace=pace, failed=not_refreshed, advance=advance)
