"""Watches: streams of connection changes for callers."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import TypeVar

from zoomgate_server.connections.lifecycle.decisions import TOMBSTONE_SECONDS
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.errors import CallerNotAllowed, ResumeTokenExpired, ServerOverloaded, ShuttingDown
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed, Subscription, VisibleState, visible_state

MAX_WATCHES = 20_000
"""The maximum number of active watches per process."""

PAGE_SIZE = 50
"""The maximum number of encrypted connections or changes that a watch holds at a time while it reads from the store."""

MAX_READ = 256
"""The maximum number of connections that a watch remembers in order not to send the same state twice."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of watches, in seconds.

    Attributes:
        idle: The maximum time without an event. After this time, a `SYNCED` event is sent to renew the caller's resume token.
        retry_interval: The pause before retrying a failed store operation.
    """

    idle: float = 60.0
    retry_interval: float = 1.0


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
    """An event of a watch, and the position from which to resume after this event.

    Attributes:
        record: The connection, without secrets; None for `SYNCED`.
        unreadable_count: For `SYNCED`, the number of connections that are missing because they cannot be decrypted.
    """

    type: EventType
    record: ConnectionRecord | None
    position: Position
    unreadable_count: int = 0


class Watchers:
    """Service that runs the watches of all callers."""

    def __init__(
        self,
        *,
        feed: ChangeFeed,
        metrics: Metrics,
        max_watches: int = MAX_WATCHES,
        timing: Timing = Timing(),
    ) -> None:
        self._feed = feed
        self._metrics = metrics
        self._max_watches = max_watches
        self._timing = timing
        self._running = 0

    async def watch(
        self,
        *,
        names: Collection[str],
        is_visible: Callable[[str], bool],
        permit: Callable[[str], bool],
        position: Position | None,
        heartbeat: bool = False,
    ) -> AsyncIterator[Event]:
        """Yield events about connections until the caller cancels.

        Args:
            names: The users to watch; empty for all users that the caller may see.
            is_visible: Returns whether the caller was allowed to see a user when the watch started.
            permit: Called before each event. Returns whether the caller may still see a user; raises if the caller may no longer call.
            position: The position to resume from; None to start with the existing connections.
            heartbeat: Whether to also send `SYNCED` after every poll of the change feed.

        Raises:
            ResumeTokenExpired: Some of the changes since the position may no longer be available.
            ServerOverloaded: Too many watches are active.
            StoreError: The store failed before the first event. Later failures are retried.
            CallerNotAllowed, CallerUnauthenticated: The caller may not watch these users, or may no longer do so.
            ShuttingDown: The process is shutting down. The watch can be resumed from the position of the last event.
        """
        if self._running >= self._max_watches:
            raise ServerOverloaded(
                "Too many active watches; retry later", metadata={"limit": "watches"}, retry_after=5.0
            )
        self._running += 1
        self._metrics.watches.set(self._running)
        try:
            await self._feed.wait_until_started()
            if self._feed.closing:
                raise ShuttingDown
            if position is not None:
                self._check_age(position)
            with self._feed.subscribe(names, is_visible, heartbeat=heartbeat) as subscription:
                watch = _Watch(self._feed, subscription, permit, position, self._timing)
                async for event in watch.events():
                    self._metrics.watch_events.labels(event.type).inc()
                    yield event
        finally:
            self._running -= 1
            self._metrics.watches.set(self._running)

    def _check_age(self, position: Position) -> None:
        """Reject a position if later tombstones may have been deleted, or if the store's clock was set back."""
        timing, age = self._feed.timing, self._feed.store_time - position.watermark
        if not -timing.max_visibility_delay <= age <= TOMBSTONE_SECONDS - timing.resume_overlap:
            raise ResumeTokenExpired(
                "The resume token has expired; watch again without one, and treat users missing from the initial events as disconnected"
            )


class _Watch:
    """A single watch. Its memory use does not depend on the speed of the caller."""

    def __init__(
        self,
        feed: ChangeFeed,
        subscription: Subscription,
        permit: Callable[[str], bool],
        position: Position | None,
        timing: Timing,
    ) -> None:
        self._feed = feed
        self._subscription = subscription
        self._permit = permit
        self._timing = timing
        self._has_sent = False
        self._read: dict[str, VisibleState] = {}
        self._reading_from = inf  # no change that is still to be sent by a running catch-up is older
        self._after: str | None = ""
        if position is not None:
            self._after = position.after
            subscription.unread_from = feed.safe_watermark(position.watermark) - feed.timing.resume_overlap

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the process is shutting down."""
        if self._after is not None:
            async for event in self._snapshot(self._after):
                yield event
            self._after = None
        subscription, sync_due = self._subscription, True
        while True:
            async for event in self._catch_up():
                yield event
            while (record := subscription.take()) is not None:
                is_repeated = self._read.pop(record.user_email, None) == visible_state(record)
                if self._is_permitted(record.user_email) and not is_repeated:
                    yield self._event(_type_of(record), record)
            if subscription.unread_from < inf:
                continue
            if sync_due or subscription.heartbeat_due or self._feed.closing:
                subscription.heartbeat_due = False
                self._permit("")
                unreadable = sum(map(subscription.matches_user, self._feed.unreadable_users))
                yield replace(self._event(EventType.SYNCED, None), unreadable_count=unreadable)
            self._check_open()
            sync_due = not await subscription.wait(self._timing.idle)
            if sync_due:
                self._read.clear()

    async def _snapshot(self, after: str) -> AsyncIterator[Event]:
        """Yield the existing connections whose email addresses sort after `after`."""
        async for read in self._existing(after):
            record = await self._latest(read)
            if record is not None and record.state is not State.DISCONNECTED:
                self._after = record.user_email
                yield self._event(EventType.INITIAL, record)

    async def _existing(self, after: str) -> AsyncIterator[ConnectionRecord]:
        """Yield the connections whose email addresses sort after `after`."""
        subscription = self._subscription
        for name in sorted(name for name in subscription.user_emails or () if name > after):
            record = await self._retry(functools.partial(self._feed.read, name))
            if record is not None:
                yield record
        full = subscription.user_emails is None
        while full:
            self._check_open()
            page = await self._retry(functools.partial(self._feed.page, after, PAGE_SIZE))
            for row in page:
                after = row.user_email or ""
                if subscription.matches_user(after) and (record := self._feed.open(row)) is not None:
                    yield record
            full = len(page) == PAGE_SIZE

    async def _catch_up(self) -> AsyncIterator[Event]:
        """Yield the changes that must be read from the store, because the watch was resumed or its queue was full."""
        subscription, timing = self._subscription, self._feed.timing
        while (since := subscription.unread_from) < inf:
            subscription.unread_from, self._reading_from = inf, since
            known_until = since + timing.resume_overlap - timing.overlap
            try:
                async for changes, _, next_time in self._feed.changes_since(since, PAGE_SIZE):
                    for change in changes:
                        record, user_email = None, change.user_email
                        if user_email is not None and subscription.matches_user(user_email):
                            record = await self._retry(functools.partial(self._feed.read, user_email, change))
                        self._reading_from = change.changed_at
                        if record is not None and (record := await self._latest(record)) is not None:
                            yield self._event(_type_of(record, known_until), record)
                    self._check_open()
                    if subscription.unread_from >= next_time:
                        subscription.unread_from = inf  # the next page contains these changes
            except StoreError as error:
                subscription.unread_from = min(subscription.unread_from, self._reading_from)
                await self._pause(error)
            self._reading_from = inf

    async def _latest(self, record: ConnectionRecord) -> ConnectionRecord | None:
        """Return the record to send for one that this watch has read; None if the caller may not see it or has received it.

        A record in the queue takes precedence, because the feed may have read it later.
        """
        self._check_open()
        user_email = record.user_email
        async with self._feed.publishing:
            record = self._subscription.queue.pop(user_email, record)
        if not self._is_permitted(user_email) or self._read.get(user_email) == visible_state(record):
            return None
        is_recent = record.update_time >= self._feed.store_time - self._feed.timing.overlap
        if is_recent and len(self._read) < MAX_READ:  # the same state may be published or read once more
            self._read[user_email] = visible_state(record)
        return record

    def _event(self, kind: EventType, record: ConnectionRecord | None) -> Event:
        """Return an event with the latest position after which a resumed watch reads all changes that were not sent yet."""
        feed, subscription = self._feed, self._subscription
        unread_from = min(self._reading_from, subscription.unread_from)
        watermark = min(feed.watermark, unread_from + feed.timing.resume_overlap)
        if subscription.queue:
            watermark = min(watermark, subscription.watermark)
        self._has_sent = True
        return Event(kind, record, Position(watermark, self._after))

    def _is_permitted(self, user_email: str) -> bool:
        """Return whether the caller may still see a user. End the watch if the caller requested this user."""
        if self._permit(user_email):
            return True
        if self._subscription.user_emails is not None:
            raise CallerNotAllowed(internal=f"the caller may no longer act for {user_email}")
        return False

    async def _retry(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Run a store operation. After the first event, retry it indefinitely, so that outages do not end the watch."""
        while True:
            try:
                return await operation()
            except StoreError as error:
                await self._pause(error)

    async def _pause(self, failure: StoreError) -> None:
        """Wait before retrying a store operation. Raise the failure if no event has been sent yet."""
        if not self._has_sent:
            raise failure
        self._check_open()
        await asyncio.sleep(self._timing.retry_interval)

    def _check_open(self) -> None:
        if self._feed.closing:
            raise ShuttingDown


def _type_of(record: ConnectionRecord, known_until: float = inf) -> EventType:
    """Return the event type of a connection for a caller that knows all connections created before `known_until`."""
    if record.state is State.DISCONNECTED:
        return EventType.DELETED
    created = record.create_time == record.update_time or record.create_time >= known_until
    return EventType.CREATED if created else EventType.UPDATED
