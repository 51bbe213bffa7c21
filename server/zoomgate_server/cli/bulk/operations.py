"""The operations of `zoomgate connections refresh --all` and `zoomgate connections revoke`."""

from collections.abc import Iterator
from datetime import datetime

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk.executor import BulkOperation
from zoomgate_server.cli.bulk.where_filter import Condition, is_before, matches


def refresh(client: Client, since: datetime | None) -> BulkOperation:
    """Refresh the tokens of all active connections; only active connections can be refreshed.

    A connection is skipped if its token was issued at or after `since`, or if it is disconnected during the run.
    """

    def apply(connection: Connection) -> str:
        try:
            token = client.auth.refresh_token(user_email=connection.user_email).token
        except errors.NotConnected:
            return "skipped"
        return "alreadyFresh" if token.generation == connection.generation else "refreshed"

    unreadable_users: set[str] = set()
    return BulkOperation(
        participle="refreshing",
        unit="tokens",
        outcomes={
            "refreshed": "refreshed",
            "alreadyFresh": "up to date",
            "skipped": "skipped",
            "failed": "failed",
        },
        connections=lambda: client.connections(
            states=[Connection.STATE_ACTIVE], on_unreadable=unreadable_users.add
        ),
        unreadable_users=unreadable_users,
        apply=apply,
        is_due=lambda connection: since is None or is_before(connection.refresh_time, since),
    )


def revoke(client: Client, where: tuple[Condition, ...]) -> BulkOperation:
    """Disconnect the users of all connections that match every condition.

    A page may be outdated by the time its last connection is processed. If there are conditions, each connection is therefore read and
    matched again before it is deleted, so that a user who has consented again in the meantime stays connected.
    """
    unreadable_users: set[str] = set()

    def connections() -> Iterator[Connection]:
        listed = client.connections(on_unreadable=unreadable_users.add)
        return (connection for connection in listed if matches(where, connection))

    def apply(connection: Connection) -> str:
        user_email = connection.user_email
        try:
            if where and not matches(where, client.auth.get_connection(user_email=user_email).connection):
                return "skipped"
            client.auth.delete_connection(user_email=user_email)
        except errors.NotConnected:
            return "skipped"
        return "disconnected"

    return BulkOperation(
        participle="disconnecting",
        unit="users",
        outcomes={"disconnected": "disconnected", "skipped": "skipped", "failed": "failed"},
        connections=connections,
        unreadable_users=unreadable_users,
        apply=apply,
    )
