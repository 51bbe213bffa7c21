"""Retention: deletion of expired records, and disconnection of users who have needed a new consent for too long.

Candidates are selected by the store's columns and confirmed against the encrypted part of the record. A record is deleted only if the
record has not been written since it was read, so that a concurrent consent is preserved.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from zoomgate_server.audit.event import ZOOMGATE, AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import (
    Kind,
    Order,
    Query,
    Record,
    RecordKey,
    RecordStore,
    StoreError,
)
from zoomgate_server.storage.scan import pages_of
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskSet

REAUTH_REQUIRED, DISCONNECTED = "reauth_required", "disconnected"
EXPIRING = (Kind.STATE, Kind.EXCHANGE, Kind.REQUEST, Kind.WEBHOOK)
"""Kinds of records that are deleted once they have expired. MongoDB also deletes expired records by itself, but later."""

KINDS = (REAUTH_REQUIRED, DISCONNECTED, *EXPIRING)

DAY_SECONDS = 24 * 3600.0
PAGE_SIZE = 200
"""Number of records per page of a scan."""

POLL_INTERVAL = 60.0
"""Seconds between scans, randomized by 50 % in either direction."""

MAX_PER_PASS = 1000
"""Maximum number of records deleted in one pass. The next pass deletes the remaining records."""

_log = logs.get("zoomgate.retention")


@dataclass(frozen=True, slots=True)
class Overdue:
    """A record that is due for deletion or disconnection.

    Attributes:
        kind: One of `KINDS`. A connection of the kind `reauth_required` is disconnected; all other records are deleted.
        since: When the record expired, in seconds since 1970 on the store's clock; for a connection to disconnect, when the connection
            became `REAUTH_REQUIRED`.
        connection: The decrypted connection, or None for records of other kinds.
    """

    kind: str
    record: Record
    since: float
    connection: ConnectionRecord | None = None

    @property
    def user_email(self) -> str:
        """The email address of the connection's user; empty for connections without an address and for other records."""
        return "" if self.connection is None else self.connection.user_email


class RetentionPolicy:
    """Deletion of the overdue records of one Zoom app. Every method raises `StoreError` if the store fails.

    Args:
        app: OAuth origin and client ID.
        reauth_days: Days after which a `REAUTH_REQUIRED` connection is disconnected; 0 for never.
        on_pruned: Called with the kind of each pruned record.
        rng: Randomizes the times of scans.

    Attributes:
        tasks: The running operations.
        unreadable: Number of selected connections that were skipped because they cannot be decrypted.
    """

    def __init__(
        self,
        *,
        app: str,
        store: RecordStore,
        envelope: Envelope,
        clock: Clock,
        reauth_days: int,
        audit: AuditSink,
        on_pruned: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        self.unreadable = 0
        self._app = app
        self._store = store
        self._envelope = envelope
        self._clock = clock
        self._reauth_seconds = reauth_days * DAY_SECONDS
        self._audit = audit
        self._on_pruned = on_pruned
        self._rng = rng
        self.tasks = TaskSet()

    async def run(self) -> None:
        """Prune periodically until canceled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL * self._rng.uniform(0.5, 1.5))
            try:
                await self._prune_all(self.find_expired())
                await self._prune_all(self.find_overdue_reauth())
            except StoreError as error:
                _log.warning("retention.store_failed", problem=str(error))

    async def find_overdue_reauth(self) -> AsyncIterator[Overdue]:
        """Yield the connections that have needed a new consent for too long."""
        if not self._reauth_seconds:
            return
        before = await self._now() - self._reauth_seconds
        query = Query(order=Order.CHANGED, states=[State.REAUTH_REQUIRED], before=before, limit=PAGE_SIZE)
        async for record in self._scan(Kind.USER, query):
            connection = self._open(record)
            if connection is not None and connection.update_time <= before:
                yield Overdue(REAUTH_REQUIRED, record, connection.update_time, connection)

    async def find_expired(self) -> AsyncIterator[Overdue]:
        """Yield the expired records, including tombstones."""
        now = await self._now()
        for kind in EXPIRING:
            async for record in self._scan(kind, Query(order=Order.EXPIRE, before=now, limit=PAGE_SIZE)):
                yield Overdue(kind.value, record, record.expire_at or 0.0)
        tombstones = Query(order=Order.EXPIRE, states=[State.DISCONNECTED], before=now, limit=PAGE_SIZE)
        async for record in self._scan(Kind.USER, tombstones):
            connection = self._open(record)
            if connection is not None and connection.state is State.DISCONNECTED:
                yield Overdue(DISCONNECTED, record, record.expire_at or 0.0, connection)

    async def prune(self, overdue: Overdue) -> bool:
        """Prune one record, unless the record was written after it was found. Return whether the record was pruned.

        If the call is canceled, the operation continues, so that every change has an audit event.
        """
        return await self.tasks.shield(self._delete(overdue))

    async def _delete(self, overdue: Overdue) -> bool:
        record, replacement = overdue.record, None
        if overdue.kind == REAUTH_REQUIRED and overdue.connection is not None:
            tombstone = decisions.end(overdue.connection, Cause.REVOKED, await self._now())
            replacement = connection_record.encode(self._envelope, tombstone)
        try:
            done = (
                await self._store.delete(record.key, record.rev)
                if replacement is None
                else await self._store.put(replacement, record.rev) is not None
            )
        except StoreError:
            done = await self._is_done(overdue, replacement)
            if not done:
                raise
        if done:
            self._on_pruned(overdue.kind)
            self._audit_outcome(overdue, "ok")
        return done

    async def _is_done(self, overdue: Overdue, replacement: Record | None) -> bool:
        """Return whether an unconfirmed change was stored. It needs an audit event, since later scans no longer find the record."""
        try:
            stored, _ = await self._store.get(overdue.record.key)
        except StoreError:
            self._audit_outcome(overdue, "STORE_UNAVAILABLE")
            raise
        expected = None if replacement is None else replacement.value
        return (None if stored is None else stored.value) == expected

    def _audit_outcome(self, overdue: Overdue, outcome: str) -> None:
        """Audit a connection that was pruned or may have been pruned, unless it has no email address and is thus invisible to callers."""
        if overdue.connection is None or not overdue.user_email:
            return
        action = "connection.expired" if overdue.kind == REAUTH_REQUIRED else "connection.pruned"
        generation = overdue.connection.generation
        self._audit(AuditEvent(action, outcome, overdue.user_email, ZOOMGATE, generation))

    async def _prune_all(self, candidates: AsyncIterator[Overdue]) -> None:
        count = 0
        async for overdue in candidates:
            await self.prune(overdue)
            count += 1
            if count == MAX_PER_PASS:
                return

    async def _scan(self, kind: Kind, query: Query) -> AsyncIterator[Record]:
        async for page in pages_of(self._store, self._app, kind, query):
            for record in page:
                yield record

    def _open(self, record: Record) -> ConnectionRecord | None:
        try:
            return connection_record.decode(self._envelope, record)
        except RecordFault:
            self.unreadable += 1
            return None

    async def _now(self) -> float:
        _, now = await self._store.get(RecordKey(self._app, Kind.USER, ""))
        return now
