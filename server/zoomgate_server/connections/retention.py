"""Takes away what nobody needs any more: connections that have waited for a new consent for too long, and records whose time is over.

What is removed is found by the columns of the store and believed only if the sealed part agrees; it is removed only if nobody wrote it
since it was read, so that a consent which comes at the same moment stays.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore, StoreError
from zoomgate_server.telemetry import logs

REAUTH_REQUIRED, DISCONNECTED = "reauth_required", "disconnected"
EXPIRING = (Kind.STATE, Kind.REQUEST, Kind.WEBHOOK)
"""Kinds of records that are worth nothing once they have expired. MongoDB deletes them by itself, later."""

DAY_SECONDS = 24 * 3600.0
PAGE_SIZE = 200
"""Records that are read at a time."""

EXPIRED_POLL_INTERVAL = 60.0
"""Between two looks for what has expired; half as much to one and a half, by chance."""

REAUTH_POLL_INTERVAL = 3600.0
"""Between two looks for connections that wait for a consent: all that do so are looked at."""

MAX_PER_PASS = 1000
"""Records that one look takes away; the next one goes on."""

_log = logs.get("zoomgate.retention")


@dataclass(frozen=True, slots=True)
class Overdue:
    """A record whose time is over.

    Attributes:
        kind: `reauth_required` for a connection that is to be ended; `disconnected`, `state`, `request` and `webhook` for what is to be
            deleted.
        record: As it is stored.
        since: When its time was over, in seconds since 1970 by the store's clock; of a connection that is to be ended, when it began to
            wait for a consent.
        connection: The connection that it holds, if it is one.
    """

    kind: str
    record: Record
    since: float
    connection: ConnectionRecord | None = None

    @property
    def user_email(self) -> str:
        """Whose connection it is; empty if it is none."""
        return "" if self.connection is None else self.connection.user_email


class RetentionPolicy:
    """Finds and takes away what is overdue of one Zoom app.

    Args:
        app: OAuth origin and client id.
        store: Where the records are.
        vault: Opens and seals them.
        clock: Time.
        reauth_days: After how many days a connection that waits for a consent is ended; 0 for never.
        audit: Hears of every connection that is ended or deleted.
        on_pruned: Hears the kind of everything that is taken away.
        chance: Spreads looks over time.

    Attributes:
        unreadable: Connections that were found and stay, since they cannot be opened.
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
        chance: random.Random,
    ) -> None:
        self.unreadable = 0
        self._app = app
        self._store = store
        self._envelope = envelope
        self._clock = clock
        self._reauth_seconds = reauth_days * DAY_SECONDS
        self._audit = audit
        self._on_pruned = on_pruned
        self._chance = chance
        self._taking: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Look now and then; runs until cancelled."""
        next_reauth = self._clock.monotonic()
        while True:
            await asyncio.sleep(EXPIRED_POLL_INTERVAL * self._chance.uniform(0.5, 1.5))
            try:
                await self._prune_all(self.find_expired())
                if self._clock.monotonic() >= next_reauth:
                    await self._prune_all(self.find_waiting())
                    next_reauth = self._clock.monotonic() + REAUTH_POLL_INTERVAL
            except StoreError:
                _log.warning("retention.store_failed")

    async def find_waiting(self) -> AsyncIterator[Overdue]:
        """Find the connections that have waited for a consent for too long.

        Raises:
            StoreError: The store failed.
        """
        if not self._reauth_seconds:
            return
        before = await self._now() - self._reauth_seconds
        async for record in self._pages(Kind.USER, states=[State.REAUTH_REQUIRED.value]):
            if record.changed_at > before:
                continue
            connection = self._open(record)
            if connection is not None and connection.update_time <= before:
                yield Overdue(REAUTH_REQUIRED, record, connection.update_time, connection)

    async def find_expired(self) -> AsyncIterator[Overdue]:
        """Find the records that have expired, ended connections among them.

        Raises:
            StoreError: The store failed.
        """
        now = await self._now()
        for kind in EXPIRING:
            async for record in self._pages(kind, expire_before=now):
                yield Overdue(kind.value, record, record.expire_at or 0.0)
        async for record in self._pages(Kind.USER, states=[State.DISCONNECTED.value], expire_before=now):
            connection = self._open(record)
            if connection is not None and connection.state is State.DISCONNECTED:
                yield Overdue(DISCONNECTED, record, record.expire_at or 0.0, connection)

    async def prune(self, overdue: Overdue) -> bool:
        """Take one away unless somebody wrote it since it was found. False if somebody did.

        Whoever is cancelled meanwhile leaves to `drain` what was begun: nothing goes without its line in the audit trail.

        A connection that waits for a consent becomes an ended one. Zoom is not asked to revoke anything: it has refused every refresh
        token in the record, and the access token has expired long ago.

        Raises:
            StoreError: The store failed.
        """
        self._taking = asyncio.create_task(self._delete(overdue))
        return await asyncio.shield(self._taking)

    async def drain(self) -> None:
        """Wait until what was begun is done and told."""
        if self._taking is not None:
            await asyncio.wait({self._taking})

    async def _delete(self, overdue: Overdue) -> bool:
        record, left = overdue.record, None
        if overdue.kind == REAUTH_REQUIRED and overdue.connection is not None:
            ended = make_tombstone(overdue.connection, await self._now(), revoke=False)
            left = connection_record.encode(self._envelope, ended)
        try:
            done = (
                await self._store.delete(record.key, record.rev)
                if left is None
                else await self._store.put(left, record.rev) is not None
            )
        except StoreError:
            done = await self._is_done(overdue, left)
            if not done:
                raise
        if done:
            self._on_pruned(overdue.kind)
            self._audit_outcome(overdue, "ok")
        return done

    async def _is_done(self, overdue: Overdue, left: Record | None) -> bool:
        """Tell whether the store has done what it did not confirm: it would not be found again, and have no line."""
        try:
            found, _ = await self._store.get(overdue.record.key)
        except StoreError:
            self._audit_outcome(overdue, "STORE_UNAVAILABLE")
            raise
        return found is None if left is None else found is not None and found.value == left.value

    def _audit_outcome(self, overdue: Overdue, outcome: str) -> None:
        """Tell the audit trail of a connection that was taken away, or may have been."""
        if overdue.connection is None:
            return
        name, user = "zoomgate", overdue.user_email
        if overdue.kind == REAUTH_REQUIRED:
            event = AuditEvent.unattended("connection.expired", outcome, user, principal=name)
        else:
            event = AuditEvent.unattended("connection.pruned", outcome, user, principal=name)
        self._audit(event._replace(generation=overdue.connection.generation))

    async def _prune_all(self, found: AsyncIterator[Overdue]) -> None:
        count = 0
        async for overdue in found:
            await self.prune(overdue)
            count += 1
            if count == MAX_PER_PASS:
                return

    async def _pages(
        self, kind: Kind, *, states: list[str] | None = None, expire_before: float | None = None
    ) -> AsyncIterator[Record]:
        after = ""
        while True:
            page = await self._store.page(
                self._app,
                kind,
                states=states or (),
                expire_before=expire_before,
                after=after,
                limit=PAGE_SIZE,
            )
            for record in page:
                yield record
            if len(page) < PAGE_SIZE:
                return
            after = page[-1].key.subject

    def _open(self, record: Record) -> ConnectionRecord | None:
        try:
            return connection_record.decode(self._envelope, record)
        except RecordFault:
            self.unreadable += 1
            return None

    async def _now(self) -> float:
        _, now = await self._store.get(RecordKey(self._app, Kind.USER, ""))
        return now
