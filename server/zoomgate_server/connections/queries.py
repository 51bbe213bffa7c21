"""Reads of connections for callers."""

from collections.abc import Collection
from dataclasses import dataclass

from zoomgate_server.call_context import Call
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import ConnectionNotFound, store_unavailable
from zoomgate_server.storage.record_store import StoreError


@dataclass(frozen=True, slots=True)
class ConnectionPage:
    """A page of connections.

    Attributes:
        connections: In the order of their addresses.
        after: Address behind which the next page begins, or None at the end.
    """

    connections: tuple[ConnectionRecord, ...]
    after: str | None


class ConnectionQueries:
    """Gets and lists connections."""

    def __init__(self, connections: ConnectionRepository) -> None:
        self._connections = connections

    async def get(self, call: Call, user_email: str) -> ConnectionRecord:
        """Show a connection.

        Raises:
            ConnectionNotFound: There is none.
            CallerNotAllowed: It belongs to another member.
        """
        record, _ = await self._read(user_email)
        if record is None:
            raise ConnectionNotFound("This user has no connection")
        check_owner(call, record.owner)
        return record

    async def page(self, call: Call, states: Collection[State], after: str, limit: int) -> ConnectionPage:
        """List connections in the order of their addresses, those of the caller's users alone.

        One whose record cannot be opened is left out, with a line in the log: `get` says what is wrong with it.

        Args:
            call: Who asks.
            states: Only these; empty for all but ended ones.
            after: Addresses behind this one.
            limit: 1 to 1000 records are read; fewer may be given.
        """
        wanted = states or (State.ACTIVE, State.REAUTH_REQUIRED)
        try:
            records = await self._connections.page(
                states=[state.value for state in wanted], after=after, limit=limit
            )
        except StoreError:
            raise store_unavailable() from None
        seen = (
            self._connections.open_readable(record)
            for record in records
            if call.principal.oversees(record.key.subject)
        )
        found = tuple(connection for connection in seen if connection is not None)
        return ConnectionPage(found, records[-1].key.subject if len(records) == limit else None)

    async def _read(self, user_email: str) -> tuple[ConnectionRecord | None, float]:
        try:
            return await self._connections.read(user_email)
        except StoreError:
            raise store_unavailable() from None
