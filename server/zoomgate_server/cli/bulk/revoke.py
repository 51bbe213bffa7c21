"""Ending many connections, for `zoomgate connections revoke`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk.executor import Failure, Pace, for_each
from zoomgate_server.cli.bulk.where_filter import Condition, matches


@dataclass(slots=True)
class Count:
    """How far it got.

    Attributes:
        ended: Connections that were ended.
        skipped: Connections that somebody else ended meanwhile, or of which a condition is not true any more.
        failed: Connections that were not ended.
    """

    revoked: int = 0
    skipped: int = 0
    failed: int = 0


def connected(client: Client, where: tuple[Condition, ...]) -> Iterator[Connection]:
    """Go through the connections that have not ended and of which every condition is true, page by page."""
    return (connection for connection in client.connections() if matches(where, connection))


def revoke_all(
    client: Client,
    where: tuple[Condition, ...],
    *,
    pace: Pace,
    count: Count,
    failed: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """End all connections of which every condition is true, one after another.

    A page of them is read long before the last of it has its turn, so each is looked at again: whoever has consented anew stays.

    Args:
        client: Of the service.
        where: The conditions.
        pace: How fast.
        count: Told of each connection.
        failed: Told of each that was not ended.
        advance: Told of each.

    Raises:
        ZoomgateError: None can be ended now: the service is not there, or this caller may not do it.
    """

    def end(connection: Connection) -> None:
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

    def not_ended(failure: Failure) -> None:
        count.failed += 1
        failed(failure)

    for_each(connected(client, where), end, pace=pace, failed=not_ended, advance=advance)
