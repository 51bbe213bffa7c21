"""Refresh of the tokens of all connected users, for `zoomgate connections refresh --all`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk.executor import Failure, RateLimiter, for_each
from zoomgate_server.cli.bulk.where_filter import is_before


@dataclass(slots=True)
class Count:
    """Counts of processed connections.

    Attributes:
        refreshed: Tokens that were refreshed.
        not_needed: Tokens that had already been refreshed less than a minute before.
        skipped: Connections that were refreshed at or after `since`, or disconnected during the run.
        failed: Tokens that could not be refreshed.
    """

    refreshed: int = 0
    not_needed: int = 0
    skipped: int = 0
    failed: int = 0


def is_due(connection: Connection, since: datetime | None) -> bool:
    """Return whether the token of a connection was issued before `since`; always True if `since` is None."""
    return since is None or is_before(connection.refresh_time, since)


def list_active(client: Client) -> Iterator[Connection]:
    """Yield the active connections, loaded page by page. Only active connections can be refreshed."""
    return client.connections(states=[Connection.STATE_ACTIVE])


def refresh_all(
    client: Client,
    *,
    since: datetime | None,
    pace: RateLimiter,
    count: Count,
    on_failure: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Refresh the tokens of all active connections, one after another. At most one page of connections is held in memory.

    Args:
        since: Skip connections whose token was issued at or after this time.
        count: Updated for each connection.
        advance: Called with 1 after every connection that `since` does not exclude.

    Raises:
        ZoomgateError: No token can be refreshed: the service is unreachable, the caller is not allowed, or Zoom rejects the app.
    """

    def due() -> Iterator[Connection]:
        for connection in list_active(client):
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

    def record_failure(failure: Failure) -> None:
        count.failed += 1
        on_failure(failure)

    for_each(due(), refresh, pace=pace, on_failure=record_failure, advance=advance)
