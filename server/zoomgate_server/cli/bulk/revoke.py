"""Disconnection of many users, for `zoomgate connections revoke`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk.executor import Failure, RateLimiter, for_each
from zoomgate_server.cli.bulk.where_filter import Condition, matches


@dataclass(slots=True)
class Count:
    """Counts of processed connections.

    Attributes:
        revoked: Connections that were disconnected.
        skipped: Connections that another caller disconnected during the run, or that no longer match every condition.
        failed: Connections that could not be disconnected.
    """

    revoked: int = 0
    skipped: int = 0
    failed: int = 0


def list_connected(client: Client, where: tuple[Condition, ...]) -> Iterator[Connection]:
    """Yield the connections that are not disconnected and match every condition, loaded page by page."""
    return (connection for connection in client.connections() if matches(where, connection))


def revoke_all(
    client: Client,
    where: tuple[Condition, ...],
    *,
    pace: RateLimiter,
    count: Count,
    on_failure: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Disconnect the users of all matching connections, one after another.

    A page may be outdated by the time its last connection is processed. If there are conditions, each connection is therefore read and
    matched again before it is deleted, so that a user who has consented again in the meantime stays connected.

    Args:
        count: Updated for each connection.
        advance: Called with 1 for every connection.

    Raises:
        ZoomgateError: No user can be disconnected: the service is unreachable, or the caller is not allowed.
    """

    def disconnect(connection: Connection) -> None:
        user_email = connection.user_email
        try:
            if where and not matches(where, client.auth.get_connection(user_email=user_email).connection):
                count.skipped += 1
                return
            client.auth.delete_connection(user_email=user_email)
        except errors.NotConnected:
            count.skipped += 1
        else:
            count.revoked += 1

    def record_failure(failure: Failure) -> None:
        count.failed += 1
        on_failure(failure)

    for_each(list_connected(client, where), disconnect, pace=pace, on_failure=record_failure, advance=advance)
