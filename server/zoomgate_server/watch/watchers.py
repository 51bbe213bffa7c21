"""Watches: streams of connection changes for callers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from zoomgate_server.connections.disconnection import TOMBSTONE_SECONDS
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.errors import (
    CallerNotAllowed,
    ResumeTokenExpired,
    ServerOverloaded,
    ShuttingDown,
)
from zoomgate_server.storage.record_store import Query, StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import (
    MAX_VISIBILITY_DELAY,
    OVERLAP_SECONDS,
    RESUME_OVERLAP_SECONDS,
    ChangeFeed,
    Entry,
    Subscription,
)

MAX_WATCHES = 20_000
"""The maximum number of active watches per process."""

IDLE_SECONDS = 60.0
"""The maximum time without an event. After this time, a `SYNCED` event is sent to renew the caller's resume token."""

BATCH = 64
"""The maximum number of log entries that a watch holds at a time."""

SNAPSHOT_PAGE = 50
"""The maximum number of encrypted connections that a watch holds at a time."""

CHANGES_PAGE = 200
"""The maximum number of changes that a watch holds at a time while it reads trimmed changes from the store."""

MAX_READ = 1000
"""The maximum number of connections recorded as sent from the store. Beyond this limit, an event may be sent twice."""

PAUSE_SECONDS = 1.0
"""The pause before retrying a failed store operation."""

_EXISTING_STATES = (State.ACTIVE, State.REAUTH_REQUIRED)
_T = TypeVar("_T")


class EventType(StrEnum):
    """The type of an event, as documented for `WatchConnectionsResponse.Type`."""

    INITIAL = "INITIAL"
    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    SYNCED = "SYNCED"


@dataclass(frozen=True, slots=True)
class Position:
    """The position from which a watch can be resumed.

    Attributes:
        watermark: The store time up to which all visible changes have been sent.
        after: The last email address sent in the initial snapshot; None once the snapshot is complete.
    """

    watermark: float
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a watch.

    Attributes:
        type: The type of the event.
        record: The connection, without secrets; None for `SYNCED`.
        position: The position from which to resume after this event.
    """

    type: EventType
    record: ConnectionRecord | None
    position: Position


class Watchers:
    """Service that runs the watches of all callers."""

    def __init__(self, *, feed: ChangeFeed, metrics: Metrics) -> None:
        self._feed = feed
        self._metrics = metrics
        self._running = 0

    async def watch(
        self,
        *,
        names: Collection[str],
        is_visible: Callable[[str], bool],
        permit: Callable[[str], bool],
        position: Position | None,
    ) -> AsyncIterator[Event]:
        """Yield events about connections until the caller cancels.

        Args:
            names: The users to watch; empty for all users that the caller may see.
            is_visible: Returns whether the caller was allowed to see a user when the watch started.
            permit: Called before each event. Returns whether the caller may still see a user; raises if the caller may no longer call.
            position: The position to resume from; None to start with the existing connections.

        Raises:
            ResumeTokenExpired: Some of the changes since the position may no longer be available.
            ServerOverloaded: Too many watches are active.
            StoreError: The store failed before the first event. Later failures are retried.
            CallerNotAllowed: The caller may not watch these users, or may no longer do so.
            CallerUnauthenticated: The caller's credential is no longer valid.
            ShuttingDown: The process is shutting down. The watch can be resumed from the position of the last event.
        """
        feed = self._feed
        if self._running >= MAX_WATCHES:
            raise ServerOverloaded(
                "Too many active watches; retry later", metadata={"limit": "watches"}, retry_after=5.0
            )
        self._running += 1
        self._metrics.watches(self._running)
        try:
            await self._wait_for(feed.wait_until_started())
            if position is not None:
                _check_age(position, feed.high_watermark)
            with feed.subscribe(
                frozenset(names).__contains__ if names else is_visible, names
            ) as subscription:
                if position is not None:
                    await self._wait_for(feed.catch_up())
                    position = replace(position, watermark=feed.safe_watermark(position.watermark))
                async for event in _Watch(feed, subscription, permit, position).events():
                    self._metrics.watch_event(event.type)
                    yield event
        finally:
            self._running -= 1
            self._metrics.watches(self._running)

    async def _wait_for(self, poll: Awaitable[None]) -> None:
        """Wait for a poll of the store before the first event is sent.

        Raises:
            StoreError: The store failed.
            ShuttingDown: The process is shutting down.
        """
        await poll
        if self._feed.closing:
            raise _shutting_down()


class _Watch:
    """A single watch. Its memory use does not depend on the speed of the caller."""

    def __init__(
        self,
        feed: ChangeFeed,
        subscription: Subscription,
        permit: Callable[[str], bool],
        position: Position | None,
    ) -> None:
        self._feed = feed
        self._subscription = subscription
        self._permit = permit
        self._has_sent = False
        self._sent_from_store: dict[str, ConnectionRecord] = {}
        self._must_read_store = position is not None and not feed.resume(
            subscription, position.watermark - RESUME_OVERLAP_SECONDS
        )
        self._position = position or Position(subscription.high_watermark, "")

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the process is shutting down."""
        if self._position.after is not None:
            async for event in self._snapshot(self._position.after):
                yield event
            self._position = Position(self._position.watermark)
        sync_due = True
        while True:
            if self._must_read_store:
                async for event in self._catch_up_from_store():
                    yield event
                self._must_read_store, sync_due = False, True
            subscription = self._subscription
            before = subscription.number
            entries = self._feed.take(subscription, BATCH)
            if entries is None:
                self._must_read_store = True
                continue
            for entry in entries:
                entry_event = await self._event_of(entry, before)
                before = entry.number
                if entry_event is not None:
                    yield entry_event
            if entries:
                subscription.number = before  # entries added during the loop have larger numbers
                continue
            self._position = Position(subscription.high_watermark)
            if sync_due or self._feed.closing:
                self._permit("")
                yield self._event(EventType.SYNCED, None)
            self._check_open()
            sync_due = not subscription.behind and not await subscription.wait(IDLE_SECONDS)
            if sync_due:
                self._sent_from_store.clear()

    async def _snapshot(self, after: str) -> AsyncIterator[Event]:
        """Yield the existing connections whose email addresses sort after `after`."""
        watermark = self._position.watermark
        async for subject, read in self._existing(after):
            if self._subscription.matches_user(subject):
                record = await self._retry(read)
                if (
                    self._is_permitted(subject)
                    and record is not None
                    and record.state is not State.DISCONNECTED
                ):
                    self._position = Position(watermark, subject)
                    self._record_read(record)
                    yield self._event(EventType.INITIAL, record)
            self._check_open()

    async def _existing(
        self, after: str
    ) -> AsyncIterator[tuple[str, Callable[[], Awaitable[ConnectionRecord | None]]]]:
        """Yield the email addresses after `after` in order, each with a function that reads the connection."""
        names = self._subscription.user_emails
        if names is not None:
            for name in sorted(name for name in names if name > after):
                yield name, lambda name=name: self._feed.read(name)  # type: ignore[misc]
            return
        while True:
            query = Query(states=_EXISTING_STATES, after=after, limit=SNAPSHOT_PAGE)
            page = deque(await self._retry(lambda query=query: self._feed.page(query)))  # type: ignore[misc]
            full = len(page) == SNAPSHOT_PAGE
            while page:
                record = page.popleft()
                after = record.key.subject
                yield after, lambda record=record: self._feed.open(record)  # type: ignore[misc]
            if not full:
                return

    async def _catch_up_from_store(self) -> AsyncIterator[Event]:
        """Yield the changes since the position from the store, because the log no longer contains all of them."""
        synced_at = self._position.watermark
        while True:
            end: float | None = None
            try:
                async for changes, now in self._feed.changes_since(
                    self._position.watermark - RESUME_OVERLAP_SECONDS, CHANGES_PAGE
                ):
                    end = now if end is None else end
                    for change in changes:
                        subject = change.key.subject
                        # the remaining changes are not older than this change
                        watermark = min(change.changed_at + RESUME_OVERLAP_SECONDS, end)
                        if self._subscription.matches_user(subject):
                            record = await self._retry(
                                lambda subject=subject: self._feed.read(subject)  # type: ignore[misc]
                            )
                            self._position = Position(max(self._position.watermark, watermark))
                            if self._is_permitted(subject) and record is not None:
                                self._record_read(record)
                                yield self._event(_type_of(record, synced_at), record)
                        self._position = Position(max(self._position.watermark, watermark))
                        self._check_open()
            except StoreError as error:
                await self._pause(error)
            else:
                return

    async def _event_of(self, entry: Entry, before: int) -> Event | None:
        """Return the event of a log entry.

        Returns None if the caller may not see the connection, or has already received this state with an entry up to `before` or from the
        store.
        """
        snapshot = await self._retry(lambda: self._feed.snapshot(entry))
        if not self._is_permitted(
            entry.subject
        ):  # checked after the read, because permissions may change during a slow read
            return None
        if entry.number > self._subscription.joined:
            self._position = Position(entry.previous_poll_at)
        if snapshot.record is None or self._subscription.has_delivered(snapshot, before):
            return None
        sent = self._sent_from_store.pop(entry.subject, None)
        if sent == snapshot.record:
            return None
        is_known = snapshot.created_since <= before or (
            sent is not None and sent.create_time == snapshot.record.create_time
        )
        return self._event(
            _type_of(snapshot.record, float("inf") if is_known else self._position.watermark), snapshot.record
        )

    def _record_read(self, record: ConnectionRecord) -> None:
        """Record that a connection was sent from the store, if the log may also contain it; limited to `MAX_READ` connections."""
        if (
            record.update_time >= self._subscription.high_watermark - OVERLAP_SECONDS
            and len(self._sent_from_store) < MAX_READ
        ):
            self._sent_from_store[record.user_email] = record

    def _event(self, kind: EventType, record: ConnectionRecord | None) -> Event:
        self._has_sent = True
        return Event(kind, record, self._position)

    def _is_permitted(self, subject: str) -> bool:
        """Return whether the caller may still see a user.

        Raises:
            CallerNotAllowed: The caller may no longer call this method, or may no longer see one of the requested users.
            CallerUnauthenticated: The caller's credential is no longer valid.
        """
        if self._permit(subject):
            return True
        if self._subscription.user_emails is not None:
            raise CallerNotAllowed("The caller does not have permission for this call")
        return False

    async def _retry(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Run a store operation. After the first event, retry it indefinitely, so that outages do not end the watch."""
        while True:
            try:
                return await operation()
            except StoreError as error:
                await self._pause(error)

    async def _pause(self, failure: StoreError) -> None:
        """Wait before retrying a store operation.

        Raises:
            StoreError: No event has been sent yet.
        """
        if not self._has_sent:
            raise failure
        self._check_open()
        await asyncio.sleep(PAUSE_SECONDS)

    def _check_open(self) -> None:
        if self._feed.closing:
            raise _shutting_down()


def _type_of(record: ConnectionRecord, synced_at: float) -> EventType:
    """Return the event type of a connection for a caller that has all changes up to `synced_at`."""
    if record.state is State.DISCONNECTED:
        return EventType.DELETED
    return EventType.CREATED if record.create_time >= synced_at - OVERLAP_SECONDS else EventType.UPDATED


def _check_age(position: Position, now: float) -> None:
    """Reject a position after which changes may be missing.

    Raises:
        ResumeTokenExpired: Tombstones created after the position may have been deleted, or the store's clock was set back.
    """
    if not -MAX_VISIBILITY_DELAY <= now - position.watermark <= TOMBSTONE_SECONDS - RESUME_OVERLAP_SECONDS:
        raise ResumeTokenExpired(
            "The resume token has expired; watch again without one, and treat users missing from the initial events as disconnected"
        )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "This server is shutting down; watch again with the last resume token", retry_after=1.0
    )
