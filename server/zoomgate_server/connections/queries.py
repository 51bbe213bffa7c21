"""Queries of connections on behalf of callers."""

from collections.abc import Collection
from dataclasses import dataclass

from zoomgate_server.call_context import Call
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import ConnectionNotFound
from zoomgate_server.storage.record_store import Order, Query


@dataclass(frozen=True, slots=True)
class ConnectionPage:
    """A page of connections.

    Attributes:
        connections: Ordered by email address.
        after: Email address after which the next page starts, or None on the last page.
        unreadable_users: Email addresses of the connections that are missing because they cannot be decrypted.
    """

    connections: tuple[ConnectionRecord, ...]
    after: str | None
    unreadable_users: tuple[str, ...]


class ConnectionQueries:
    """Queries for one or several connections, limited to those that the caller may view."""

    def __init__(self, connections: ConnectionRepository) -> None:
        self._connections = connections

    async def get(self, call: Call, user_email: str) -> ConnectionRecord:
        """Return a connection, or raise `ConnectionNotFound`."""
        record, _ = await self._connections.find(user_email)
        if record is None:
            raise ConnectionNotFound
        check_owner(call, record.owner)
        return record

    async def page(self, call: Call, states: Collection[State], after: str, limit: int) -> ConnectionPage:
        """Return a page of the connections that the caller may view, ordered by email address.

        A connection that cannot be decrypted is logged, and only its user is returned; `get` reports the reason.

        Args:
            states: The states to include; empty for all but disconnected ones.
            after: Email address after which the page starts.
            limit: Number of records to read, 1 to 1000. The page may contain fewer connections.
        """
        included_states = states or (State.ACTIVE, State.REAUTH_REQUIRED)
        records = await self._connections.page(
            Query(order=Order.EMAIL, states=included_states, after=after, limit=limit)
        )
        connections, unreadable_users = [], []
        for record in records:
            if record.user_email is not None and call.principal.can_view(record.user_email):
                connection = self._connections.open_readable(record)
                if connection is None:
                    unreadable_users.append(record.user_email)
                else:
                    connections.append(connection)
        next_after = records[-1].user_email if len(records) == limit else None
        return ConnectionPage(tuple(connections), next_after, tuple(unreadable_users))
