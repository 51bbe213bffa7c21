"""Telling callers of connections as they change."""

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
    store_unavailable,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import (
    LATE_SECONDS,
    OVERLAP_SECONDS,
    RETURN_SECONDS,
    ChangeFeed,
    Entry,
    Subscription,
)

MAX_WATCHES = 20_000
"""Watches that one process serves at a time."""

IDLE_SECONDS = 60.0
"""How long a watch is silent at most: then it says that nothing was left out, so that the caller's resume token stays young."""

BATCH = 64
"""Entries of the log that a watch holds at a time."""

SNAPSHOT_PAGE = 50
"""Sealed connections that a watch holds at a time."""

CHANGES_PAGE = 200
"""Changes that a watch holds at a time while it reads from the store what the log has forgotten."""

MAX_READ = 1000
"""Connections of which a watch remembers that they were told from the store; more may come twice."""

PAUSE_SECONDS = 1.0
"""Pause before a store that failed is asked again."""

_SHOWN = (State.ACTIVE.value, State.REAUTH_REQUIRED.value)
_T = TypeVar("_T")


class EventType(StrEnum):
    """What happened; the contract says what each means."""

    INITIAL = "INITIAL"
    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    SYNCED = "SYNCED"


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody was told.

    Attributes:
        mark: Time of the store's clock: everything that could be seen in the store then was told.
        after: The address up to which the snapshot was told, or None once it is complete.
    """

    mark: float
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What is told.

    Attributes:
        type: What happened.
        record: The connection, without secrets; None for `CAUGHT_UP`.
        position: Where to go on behind this event.
    """

    type: EventType
    record: ConnectionRecord | None
    position: Position


class Watchers:
    """Serves those who watch connections.

    Args:
        feed: Knows what changes.
        metrics: Counts watches and events.
    """

    def __init__(self, *, feed: ChangeFeed, metrics: Metrics) -> None:
        self._feed = feed
        self._metrics = metrics
        self._running = 0

    async def watch(
        self,
        *,
        names: Collection[str],
        sees: Callable[[str], bool],
        permit: Callable[[str], bool],
        position: Position | None,
    ) -> AsyncIterator[Event]:
        """Tell of connections until the caller leaves.

        Args:
            names: Whose; empty for everybody whom the caller sees.
            sees: Tells whom the caller saw when the watch began.
            permit: Decides anew whether the caller may be told of a user; raises if it may no longer call at all.
            position: Where to go on; None to begin with what exists.

        Raises:
            ResumeTokenExpired: Not everything since the position is known any more.
            ServerOverloaded: Too many watch.
            StoreUnavailable: The store failed before anything was told; later failures are waited out.
            CallerNotAllowed, CallerUnauthenticated: The caller may not watch, or not any more.
            ShuttingDown: The process drains; the position of the last event is good.
        """
        feed = self._feed
        if self._running >= MAX_WATCHES:
            raise ServerOverloaded(
                "Too many watch already: watch again later", metadata={"limit": "watches"}, retry_after=5.0
            )
        self._running += 1
        self._metrics.watches(self._running)
        try:
            await self._until(feed.started())
            if position is not None:
                _check_age(position, feed.mark)
            with feed.subscribe(frozenset(names).__contains__ if names else sees, names) as follower:
                if position is not None:
                    await self._until(feed.catch_up())
                    position = replace(position, mark=feed.safe_watermark(position.mark))
                async for event in _Watch(feed, follower, permit, position).events():
                    self._metrics.watch_event(event.type)
                    yield event
        finally:
            self._running -= 1
            self._metrics.watches(self._running)

    async def _until(self, look: Awaitable[None]) -> None:
        """Wait for a look at the store, before anything is told.

        Raises:
            StoreUnavailable: The store failed.
            ShuttingDown: The process drains.
        """
        try:
            await look
        except StoreError:
            raise store_unavailable() from None
        if self._feed.closing:
            raise _shutting_down()


class _Watch:
    """One watch; what it holds does not grow, however slowly its events are read.

    Args:
        feed: Knows what changes.
        follower: Follows it for this watch.
        permit: Decides anew.
        position: Where to go on, or None.
    """

    def __init__(
        self,
        feed: ChangeFeed,
        follower: Subscription,
        permit: Callable[[str], bool],
        position: Position | None,
    ) -> None:
        self._feed = feed
        self._follower = follower
        self._permit = permit
        self._told = False
        self._read: dict[str, ConnectionRecord] = {}
        self._lost = position is not None and not feed.resume(follower, position.mark - RETURN_SECONDS)
        self._position = position or Position(follower.mark, "")

    async def events(self) -> AsyncIterator[Event]:
        """Give events until the process drains."""
        if self._position.after is not None:
            async for event in self._snapshot(self._position.after):
                yield event
            self._position = Position(self._position.mark)
        due = True
        while True:
            if self._lost:
                async for event in self._catch_up():
                    yield event
                self._lost, due = False, True
            follower = self._follower
            before = follower.number
            entries = self._feed.take(follower, BATCH)
            if entries is None:
                self._lost = True
                continue
            for entry in entries:
                told = await self._event_of(entry, before)
                before = entry.number
                if told is not None:
                    yield told
            if entries:
                follower.number = before  # what woke it meanwhile comes behind
                continue
            self._position = Position(follower.mark)
            if due or self._feed.closing:
                self._permit("")
                yield self._event(EventType.SYNCED, None)
            self._check_open()
            due = not follower.behind and not await follower.wait(IDLE_SECONDS)
            if due:
                self._read.clear()

    async def _snapshot(self, after: str) -> AsyncIterator[Event]:
        """Tell what exists behind an address."""
        mark = self._position.mark
        async for subject, read in self._existing(after):
            if self._follower.wants(subject):
                record = await self._retry(read)
                if (
                    self._is_permitted(subject)
                    and record is not None
                    and record.state is not State.DISCONNECTED
                ):
                    self._position = Position(mark, subject)
                    self._record_read(record)
                    yield self._event(EventType.INITIAL, record)
            self._check_open()

    async def _existing(
        self, after: str
    ) -> AsyncIterator[tuple[str, Callable[[], Awaitable[ConnectionRecord | None]]]]:
        """Name the connections behind an address in the order of their addresses, each with what reads it."""
        names = self._follower.names
        if names is not None:
            for name in sorted(name for name in names if name > after):
                yield name, lambda name=name: self._feed.read(name)  # type: ignore[misc]
            return
        while True:
            page = deque(
                await self._retry(lambda after=after: self._feed.page(_SHOWN, after, SNAPSHOT_PAGE))  # type: ignore[misc]
            )
            whole = len(page) == SNAPSHOT_PAGE
            while page:
                record = page.popleft()
                after = record.key.subject
                yield after, lambda record=record: self._feed.opened(record)  # type: ignore[misc]
            if not whole:
                return

    async def _catch_up(self) -> AsyncIterator[Event]:
        """Tell from the store what changed since the position: the log does not know it any more."""
        told = self._position.mark
        while True:
            end: float | None = None
            try:
                async for changes, now in self._feed.changes_since(
                    self._position.mark - RETURN_SECONDS, CHANGES_PAGE
                ):
                    end = now if end is None else end
                    for change in changes:
                        subject = change.key.subject
                        mark = min(change.changed_at + RETURN_SECONDS, end)  # what is left changed no earlier
                        if self._follower.wants(subject):
                            record = await self._retry(
                                lambda subject=subject: self._feed.read(subject)  # type: ignore[misc]
                            )
                            self._position = Position(max(self._position.mark, mark))
                            if self._is_permitted(subject) and record is not None:
                                self._record_read(record)
                                yield self._event(_type_of(record, told), record)
                        self._position = Position(max(self._position.mark, mark))
                        self._check_open()
            except StoreError:
                await self._pause()
            else:
                return

    async def _event_of(self, entry: Entry, before: int) -> Event | None:
        """Make an entry of the log an event, or None if the caller may not know it, or does since an entry up to `before`."""
        content = await self._retry(lambda: self._feed.content(entry))
        if not self._is_permitted(entry.subject):  # now, however long the store took
            return None
        if entry.number > self._follower.joined:
            self._position = Position(entry.before)
        if content.record is None or self._follower.has_delivered(content, before):
            return None
        read = self._read.pop(entry.subject, None)
        if read == content.record:
            return None
        known = content.created_since <= before or (
            read is not None and read.create_time == content.record.create_time
        )
        return self._event(
            _type_of(content.record, float("inf") if known else self._position.mark), content.record
        )

    def _record_read(self, record: ConnectionRecord) -> None:
        """Remember of what was read from the store that the log may bring it once more; of as many as may be."""
        if record.update_time >= self._follower.mark - OVERLAP_SECONDS and len(self._read) < MAX_READ:
            self._read[record.user_email] = record

    def _event(self, kind: EventType, record: ConnectionRecord | None) -> Event:
        self._told = True
        return Event(kind, record, self._position)

    def _is_permitted(self, subject: str) -> bool:
        """Decide anew whether the caller may be told of a user.

        Raises:
            CallerNotAllowed: It named that user and may not be told any more.
            CallerNotAllowed, CallerUnauthenticated: It may not call any more.
        """
        if self._permit(subject):
            return True
        if self._follower.names is not None:
            raise CallerNotAllowed("The caller does not have permission for this call")
        return False

    async def _retry(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the store, again and again once the caller was told something: it need not come back for a store that fails."""
        while True:
            try:
                return await work()
            except StoreError:
                await self._pause()

    async def _pause(self) -> None:
        """Wait before the store is asked again.

        Raises:
            StoreUnavailable: The caller was told nothing yet.
        """
        if not self._told:
            raise store_unavailable() from None
        self._check_open()
        await asyncio.sleep(PAUSE_SECONDS)

    def _check_open(self) -> None:
        if self._feed.closing:
            raise _shutting_down()


def _type_of(record: ConnectionRecord, mark: float) -> EventType:
    """Say what happened to a connection of which somebody was told at a time of the store's clock."""
    if record.state is State.DISCONNECTED:
        return EventType.DELETED
    return EventType.CREATED if record.create_time >= mark - OVERLAP_SECONDS else EventType.UPDATED


def _check_age(position: Position, now: float) -> None:
    """Refuse a position of which not everything is known: ended connections are gone, or the store's clock was set back."""
    if not -LATE_SECONDS <= now - position.mark <= TOMBSTONE_SECONDS - RETURN_SECONDS:
        raise ResumeTokenExpired(
            "The resume token is older than what is remembered: watch again without one, and take whoever does not come for disconnected"
        )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "This server is shutting down: watch again with the last resume token", retry_after=1.0
    )
