"""Repository of connections, which encrypts and decrypts the records of a store."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from zoomgate_server.clock import Clock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import Change, Kind, Query, Record, RecordKey, RecordStore
from zoomgate_server.storage.scan import pages_of
from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.connections")


class ConnectionRepository:
    """Repository of the connections of one Zoom app.

    Every method raises `StoreError` if the store fails, and `RecordFault` if a record cannot be decrypted.

    Args:
        app: OAuth origin and client ID.
        on_read: Called before each read of a connection by `find`, `find_encrypted` and `read`.
    """

    def __init__(
        self, *, app: str, store: RecordStore, envelope: Envelope, clock: Clock, on_read: Callable[[], None]
    ) -> None:
        self._app = app
        self._store = store
        self._envelope = envelope
        self._clock = clock
        self._on_read = on_read
        self._ahead = clock.wall() - clock.monotonic()

    @property
    def key_ids(self) -> frozenset[str]:
        """IDs of the keys with which records can be decrypted."""
        return self._envelope.key_ids

    def now(self) -> float:
        """Return the estimated store time in seconds since 1970: the time of the latest read, advanced by the monotonic clock."""
        return self._clock.monotonic() + self._ahead

    async def find(self, user_email: str) -> tuple[ConnectionRecord | None, float]:
        """Read the connection with an email address and the store's time."""
        record, now = await self.find_encrypted(user_email)
        return (None if record is None else self.open(record)), now

    async def find_encrypted(self, user_email: str) -> tuple[Record | None, float]:
        """Read the encrypted connection with an email address and the store's time. Use `open` to decrypt the record."""
        self._on_read()
        return self._timed(await self._store.find(self._app, user_email))

    async def read(self, zoom_user_id: str) -> tuple[ConnectionRecord | None, float]:
        """Read the connection of a Zoom user and the store's time."""
        record, now = await self.read_encrypted(zoom_user_id)
        return (None if record is None else self.open(record)), now

    async def read_encrypted(self, zoom_user_id: str) -> tuple[Record | None, float]:
        """Read the encrypted connection of a Zoom user and the store's time. Use `open` to decrypt the record."""
        self._on_read()
        return self._timed(await self._store.get(RecordKey(self._app, Kind.USER, zoom_user_id)))

    async def write(self, connection: ConnectionRecord) -> int | None:
        """Write a connection if the stored revision is still `connection.rev`, which is 0 for a new record.

        Returns:
            The new revision, or None on conflict.

        Raises:
            UserEmailTaken: A different Zoom user's connection has this email address.
        """
        sealed = connection_record.encode(self._envelope, connection)
        if connection.update_time != connection.read_update_time:
            # `update_time` may precede a call to Zoom, and readers of the change feed may already have read past that time
            sealed = replace(sealed, changed_at=max(sealed.changed_at, self.now()))
        return await self._store.put(sealed, connection.rev)

    async def page(self, query: Query) -> Sequence[Record]:
        """Return encrypted connections in the order of the query. Use `open` to decrypt each record."""
        return await self._store.page(self._app, Kind.USER, query)

    def pages(self, query: Query) -> AsyncIterator[Sequence[Record]]:
        """Yield the encrypted connections that match a query, page by page."""
        return pages_of(self._store, self._app, Kind.USER, query)

    def open(self, record: Record) -> ConnectionRecord:
        """Decrypt a connection."""
        return connection_record.decode(self._envelope, record)

    def open_readable(self, record: Record) -> ConnectionRecord | None:
        """Decrypt a record. If the record cannot be decrypted, log the error and return None."""
        try:
            return self.open(record)
        except RecordFault as error:
            _log.warning("connection.unreadable", error=type(error).__name__, **error.metadata)
            return None

    async def count(self, state: State, after: str, limit: int) -> tuple[int, str | None]:
        """Count up to `limit` connections in a state. See `RecordStore.count_in_state`."""
        return await self._store.count_in_state(self._app, Kind.USER, state, after=after, limit=limit)

    async def changes(self, since: float, limit: int | None = None) -> tuple[list[Change], float]:
        """Return the connections that changed since a time on the store's clock. See `RecordStore.changes`."""
        changes, now = await self._store.changes(self._app, Kind.USER, since, limit=limit)
        self._ahead = now - self._clock.monotonic()
        return list(changes), now

    def _timed(self, read: tuple[Record | None, float]) -> tuple[Record | None, float]:
        """Return what was read, and keep the store's time for `now`."""
        self._ahead = read[1] - self._clock.monotonic()
        return read
