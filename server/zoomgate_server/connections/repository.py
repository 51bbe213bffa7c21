"""Connections in a record store: the store's bytes on one side, opened records on the other."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from zoomgate_server.clock import Clock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault, RecordUnreadable
from zoomgate_server.storage.record_store import Change, Column, Kind, Record, RecordKey, RecordStore
from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.connections")


@dataclass(frozen=True, slots=True)
class Replaceable:
    """What a new consent replaces.

    Attributes:
        record: The connection, or None if there is none or it cannot be opened.
        rev: Revision to replace; 0 if there is nothing.
        generation: The newest generation that was stored, or a larger number if it cannot be told.
    """

    record: ConnectionRecord | None
    rev: int
    generation: int


class ConnectionRepository:
    """Reads and writes connections of one Zoom app.

    Every method raises `StoreError` when the store fails, and `RecordFault` when a record cannot be opened.

    Args:
        app: OAuth origin and client id.
        store: Where the records are.
        vault: Opens and seals them.
        clock: Carries the store's time from one read to the next.
        on_read: Hears of every record that is read for a call.
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

    def now(self) -> float:
        """The store's time in seconds since 1970, reckoned from the latest read; this machine's wall clock plays no part in it."""
        return self._clock.monotonic() + self._ahead

    async def read(self, user_email: str) -> tuple[ConnectionRecord | None, float]:
        """Read a user's connection and the store's clock."""
        self._on_read()
        record, now = await self._store.get(self._key(user_email))
        self._ahead = now - self._clock.monotonic()
        return (None if record is None else self.open(record)), now

    async def find(self, zoom_user_id: str) -> tuple[ConnectionRecord | None, float]:
        """Read the connection of a Zoom user, unless it has ended, and the store's clock."""
        record, now = await self._store.find(self._app, zoom_user_id)
        self._ahead = now - self._clock.monotonic()
        return (None if record is None else self.open(record)), now

    async def read_readable(self, user_email: str) -> ConnectionRecord | None:
        """Read a user's connection as it is for somebody who is told of many: None if there is none, or it cannot be opened."""
        self._on_read()
        record, _ = await self._store.get(self._key(user_email))
        return None if record is None else self.open_readable(record)

    async def read_replaceable(self, user_email: str) -> tuple[Replaceable, float]:
        """Read a user's connection for replacing it by a new consent, and the store's clock.

        A damaged record is replaceable, one whose key or version is unknown is not: somebody can read it still.
        """
        record, now = await self._store.get(self._key(user_email))
        self._ahead = now - self._clock.monotonic()
        if record is None:
            return Replaceable(None, 0, 0), now
        try:
            opened = self.open(record)
        except RecordUnreadable:
            return Replaceable(None, record.rev, int(now)), now
        return Replaceable(opened, record.rev, opened.generation), now

    async def write(self, connection: ConnectionRecord) -> int | None:
        """Write a connection if its revision is still `connection.rev` (0: if there is none).

        Returns:
            The new revision, or None on conflict.

        Raises:
            ZoomUserTaken: Another connection belongs to the same Zoom user.
        """
        sealed = connection_record.encode(self._envelope, connection)
        if connection.update_time != connection.read_update_time:
            # the clock was read a while ago, before Zoom was asked perhaps: who follows the changes must not be past that moment already
            sealed = replace(sealed, changed_at=max(sealed.changed_at, self.now()))
        return await self._store.put(sealed, connection.rev)

    async def page(
        self,
        *,
        states: Collection[str] = (),
        due_before: float | None = None,
        after: str = "",
        limit: int,
    ) -> list[Record]:
        """Read sealed connections in the order of their addresses; `open` opens them one by one."""
        return list(
            await self._store.page(
                self._app, Kind.USER, states=states, due_before=due_before, after=after, limit=limit
            )
        )

    def open(self, record: Record) -> ConnectionRecord:
        """Open a sealed connection."""
        return connection_record.decode(self._envelope, record)

    def open_readable(self, record: Record) -> ConnectionRecord | None:
        """Open one of several records; one that cannot be opened is told in the log, and holds up nobody behind it."""
        try:
            return self.open(record)
        except RecordFault as error:
            _log.warning("connection.unreadable", error=type(error).__name__, **error.metadata)
            return None

    async def count_by_state(self) -> dict[str, int]:
        """Count the connections by their state."""
        return await self._store.count(self._app, Kind.USER, Column.STATE)

    async def changes(self, since: float, limit: int | None = None) -> tuple[list[Change], float]:
        """List the connections that changed since a time of the store's clock, and read that clock; see `RecordStore.changes`."""
        found, now = await self._store.changes(self._app, Kind.USER, since, limit=limit)
        self._ahead = now - self._clock.monotonic()
        return list(found), now

    def _key(self, user_email: str) -> RecordKey:
        return RecordKey(self._app, Kind.USER, user_email)
