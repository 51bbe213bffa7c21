"""The change feed: one reader per process polls the store for changed connections, and all subscriptions share the results.

Reading changes
    Every record has a time `changed_at`, taken from the store's clock just before the record is written. A poll reads all records with
    `changed_at >= since`. If `since` were the time of the previous poll, changes would be missed for three reasons:

    * Late writes. A write can wait for a slot, a lock or a majority, so a change can become visible up to `MAX_VISIBILITY_DELAY` after its
      `changed_at`. Every poll therefore reads from `OVERLAP_SECONDS` before the time of the previous poll. In addition, every
      `FULL_POLL_INTERVAL` a full poll reads from `MAX_VISIBILITY_DELAY` before the time of the previous full poll.
    * Failed polls. A failed poll changes no state, so the next poll reads from the same time.
    * Clock jumps. The store's clock can be set back, or a server with a slower clock can become primary. A poll therefore reads from the
      current store time or the time of the previous poll, whichever is earlier. A jump is detected only after the poll, which may
      therefore have read from too late a time. The next poll is then a full poll that reads from an earlier time.

The log
    Because polls overlap, most changes are read several times. The log removes the duplicates: it contains one entry per connection, for
    the latest known revision. A revision that is already in the log is ignored. Entries are numbered in the order in which this
    process first read them.

Subscriptions
    A subscription stores only the number of the last entry delivered to it, so a slow subscriber needs no more memory. If entries after
    that number have been trimmed from the log, the subscriber reads the missed changes from the store instead.

Resuming
    Entry numbers are valid in one process only. A client that resumes, possibly with a different process, passes a watermark instead: the
    store time up to which the client has received all changes. The client then receives all changes since `RESUME_OVERLAP_SECONDS` before
    the watermark. The overlap covers late writes (`MAX_VISIBILITY_DELAY`) and the interval until the next full poll
    (`FULL_POLL_INTERVAL`).
"""

import asyncio
import contextlib
import contextvars
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import Change, Query, Record, StoreError
from zoomgate_server.telemetry import logs

POLL_INTERVAL = 1.0
"""The pause between two polls for changes by other processes."""

REQUESTED_POLL_DELAY = 0.1
"""The minimum pause before a poll that a caller waits for."""

OVERLAP_SECONDS = 10.0
"""Overlap in seconds with the previous poll, because writes may become visible late and clocks may differ."""

MAX_VISIBILITY_DELAY = 60.0
"""The maximum time between a change's `changed_at` and its visibility in the store. The write timeouts of the
stores, 5 to 15 seconds, are well below this limit. Only a suspended process can exceed the limit."""

FULL_POLL_INTERVAL = 10.0
"""The interval between full polls, which overlap with the previous full poll by `MAX_VISIBILITY_DELAY`."""

ROLLBACK_SECONDS = 1.0
"""The minimum backward jump of the store's clock that is treated as a rollback. Smaller differences are attributed to network latency."""

RESUME_OVERLAP_SECONDS = 90.0
"""Overlap when a client resumes from a watermark: `MAX_VISIBILITY_DELAY`, plus `FULL_POLL_INTERVAL`, and a margin."""

START_SECONDS = 300.0
"""Time span of past changes that the first poll reads, so that clients resuming soon after a restart receive them from the log."""

LOG_ENTRIES = 10_000
"""The maximum number of connections in the log. Changes that a later poll may return again are retained beyond this limit."""

PAGE_SIZE = 5_000
"""The number of changes per page read from the store."""

MAX_CONCURRENT_READS = 8
"""The maximum number of concurrent record reads for subscribers."""

_log = logs.get("zoomgate.connections")


@dataclass(slots=True, eq=False)
class Snapshot:
    """The state of a connection at some time, without secrets and internal fields.

    Attributes:
        record: The connection; None if it does not exist or cannot be decrypted.
        since: The number of the entry with which the connection got this state.
        created_since: The number of the entry with which the connection got its `create_time`.
        read_at: Logical time (`ChangeFeed` tick) of the read that first returned this state.
    """

    record: ConnectionRecord | None
    since: int
    created_since: int
    read_at: int


@dataclass(slots=True, eq=False)
class Entry:
    """The latest change of a connection.

    Attributes:
        change: The change as read from the store.
        number: The position in the log.
        previous_poll_at: The store time of the last poll before the change was found. Changes already visible at that time have smaller
            numbers.
        found_at: The store time of the poll that found the change.
        is_latest: False once the connection has changed again.
        earlier_snapshot: The snapshot of an earlier entry, if loaded.
        previous_entry: The previous entry, if its snapshot was still being loaded when this entry was added.
        snapshot: The state of the connection, once it has been loaded.
        loading: The task that loads the snapshot.
    """

    change: Change
    number: int
    previous_poll_at: float
    found_at: float
    is_latest: bool = True
    earlier_snapshot: Snapshot | None = None
    previous_entry: "Entry | None" = field(default=None, repr=False)
    snapshot: Snapshot | None = None
    loading: asyncio.Task[Snapshot] | None = field(default=None, repr=False)

    @property
    def subject(self) -> str:
        """The email address of the connection's user."""
        return self.change.key.subject


class Subscription:
    """A subscription to the changes of some connections, created by `ChangeFeed.subscribe`.

    The size of a subscription does not depend on the speed of the subscriber.

    Attributes:
        matches_user: Returns whether the subscription includes a user.
        user_emails: The users of the subscription; None if only `matches_user` determines the users.
        number: The number of the last delivered entry. Meaningful only while the subscription is behind.
        high_watermark: The store time up to which all visible changes have been delivered.
        behind: Whether undelivered entries exist.
        joined: The number of the latest entry when the subscription was created.
        low_watermark: Entries up to `joined` are delivered only if they changed at or after this time.
        delivered_from: Entries after this number are delivered from the log.
        reads_from: Logical time before all of the subscriber's own store reads.
    """

    __slots__ = (
        "_woken",
        "behind",
        "delivered_from",
        "high_watermark",
        "joined",
        "low_watermark",
        "matches_user",
        "number",
        "reads_from",
        "user_emails",
    )

    def __init__(self, wants: Callable[[str], bool], names: frozenset[str] | None) -> None:
        self.matches_user = wants
        self.user_emails = names
        self.number = self.joined = self.delivered_from = self.reads_from = 0
        self.high_watermark = 0.0
        self.low_watermark = float("-inf")
        self.behind = False
        self._woken = asyncio.Event()

    def wants_entry(self, entry: Entry) -> bool:
        """Return whether an entry must be delivered."""
        if entry.number <= self.joined and entry.change.changed_at < self.low_watermark:
            return False
        return entry.is_latest and self.matches_user(entry.subject)

    def has_delivered(self, snapshot: Snapshot, before: int) -> bool:
        """Return whether the subscriber has received the state in a snapshot, given that it has received all entries up to `before`.

        A snapshot is loaded after its entry is added, and may already contain a later change. A subscription created between these
        two times has not received that change.
        """
        if snapshot.since > before:
            return False
        return snapshot.since > self.delivered_from or snapshot.read_at < self.reads_from

    def wake(self) -> None:
        """Wake the subscriber if it is waiting."""
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change or the shutdown of the process; return False on timeout."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class ChangeFeed:
    """Reader of the store's changes for all subscriptions of this process.

    Args:
        on_change: Called for every change in the result of every poll. Because polls overlap, the same change is passed several times.

    Attributes:
        closing: Whether the process is shutting down. Nothing is delivered after that.
        high_watermark: The store time of the latest poll.
    """

    def __init__(
        self, *, connections: ConnectionRepository, clock: Clock, on_change: Callable[[Change], None]
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._on_change = on_change
        self._log: dict[str, Entry] = {}
        self._order: list[Entry] = []
        self._number = 0
        self._tick = 0
        self._trimmed = 0
        self._covers = float("inf")
        self._polled_at = self._full_poll_at = float("-inf")
        self._full_poll_watermark = 0.0
        self._repeated: deque[tuple[float, float]] = deque(maxlen=16)
        self._has_polled = False
        self._poll_requested = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._polled_for: list[asyncio.Future[None]] = []
        self._by_name: dict[str, set[Subscription]] = {}
        self._unnamed: set[Subscription] = set()
        self._reads = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self.closing = False
        self.high_watermark = connections.now()

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """All subscriptions. A subscription to several named users occurs once per user."""
        yield from self._unnamed
        for subscriptions in self._by_name.values():
            yield from subscriptions

    @property
    def entry_count(self) -> int:
        """The number of connections in the log."""
        return len(self._log)

    async def run(self) -> None:
        """Poll for changes until canceled."""
        while True:
            try:
                await self.poll()
            except StoreError:
                _log.warning("change_feed.store_failed")
                await asyncio.sleep(POLL_INTERVAL)
                continue
            await asyncio.sleep(min(REQUESTED_POLL_DELAY, POLL_INTERVAL))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL - REQUESTED_POLL_DELAY):
                    await self._poll_requested.wait()

    async def wait_until_started(self) -> None:
        """Wait until the first poll has succeeded or the process is shutting down.

        Raises:
            StoreError: The store failed.
        """
        if not self._has_polled:
            await self.catch_up()

    async def catch_up(self) -> None:
        """Wait until all changes now visible in the store are in the log, or the process is shutting down.

        Raises:
            StoreError: The store failed.
        """
        if not self.closing:
            polled = asyncio.get_running_loop().create_future()
            self._waiting.append(polled)
            self._poll_requested.set()
            await polled

    def close(self) -> None:
        """Notify all subscriptions that the process is shutting down."""
        self.closing = True
        _complete([*self._waiting, *self._polled_for])
        for subscription in self.subscriptions:
            subscription.wake()

    async def poll(self) -> None:
        """Poll for changes once.

        Raises:
            StoreError: The store failed. No change is lost, because the next poll reads from the same time.
        """
        self._polled_for, self._waiting = self._waiting, []
        self._poll_requested.clear()
        try:
            await self._poll()
        except Exception:  # includes unexpected errors, so that no caller waits forever for this poll
            for polled in self._polled_for:
                if not polled.done():
                    polled.set_exception(StoreError("the changes could not be read"))
            raise
        _complete(self._polled_for)

    async def _poll(self) -> None:
        now, before = self._connections.now(), self.high_watermark
        first, is_full = (
            not self._has_polled,
            self._clock.monotonic() - self._full_poll_at >= FULL_POLL_INTERVAL,
        )
        if first:
            since, before = min(before, now) - START_SECONDS, float("-inf")
        elif is_full:
            since = min(self._full_poll_watermark, now) - MAX_VISIBILITY_DELAY
        else:
            since = min(before, now) - OVERLAP_SECONDS
        watermark: float | None = None
        polled_at = self._clock.monotonic()
        async for changes, store_now in self.changes_since(since):
            if watermark is None:
                watermark = store_now
            for change in changes:
                self._on_change(change)
                self._record(change, before, watermark)
        if watermark is None:
            raise AssertionError("changes_since yields at least one page")
        if first:
            self._covers = since
        if first or is_full:
            self._full_poll_at, self._full_poll_watermark = polled_at, watermark
        if watermark < before:  # the clock was set back, so a selection of entries by time may be incomplete
            self._covers = max(self._covers, before)
        # regardless of clock jumps, no change since the previous poll is older than `earliest`
        elapsed = polled_at - self._polled_at
        earliest = watermark - elapsed
        if earliest < before - ROLLBACK_SECONDS:
            # this poll may have read from too late a time, so force a full poll from an earlier time
            self._full_poll_at, self._full_poll_watermark = (
                float("-inf"),
                min(self._full_poll_watermark, earliest),
            )
            self._repeated.append((earliest, before + elapsed))
        self.high_watermark, self._polled_at, self._has_polled = watermark, polled_at, True
        self._trim(watermark - RESUME_OVERLAP_SECONDS)

    async def changes_since(
        self, since: float, page: int = PAGE_SIZE
    ) -> AsyncIterator[tuple[list[Change], float]]:
        """Yield all changes since a time, oldest first, in pages, each with the store time at the start of its read.

        Raises:
            StoreError: The store failed.
        """
        limit, yielded = page, dict[str, int]()
        while True:
            changes, now = await self._connections.changes(since, limit)
            yield [change for change in changes if yielded.get(change.key.subject) != change.rev], now
            if len(changes) < limit:
                return
            last = changes[-1].changed_at
            limit = (
                page if last > since else 2 * limit
            )  # otherwise a page whose changes all have the same time would be read again forever
            yielded = {change.key.subject: change.rev for change in changes if change.changed_at == last}
            since = last

    @contextlib.contextmanager
    def subscribe(self, wants: Callable[[str], bool], names: Collection[str]) -> Iterator[Subscription]:
        """Subscribe to the changes of some connections from now on.

        Args:
            wants: Returns whether the subscription includes a user.
            names: The email addresses of the same users; empty if only `wants` determines the users.
        """
        subscription = Subscription(wants, frozenset(names) or None)
        subscription.joined = self._number
        self.skip(subscription)
        for name in subscription.user_emails or ():
            self._by_name.setdefault(name, set()).add(subscription)
        if subscription.user_emails is None:
            self._unnamed.add(subscription)
        try:
            yield subscription
        finally:
            self._unnamed.discard(subscription)
            for name in subscription.user_emails or ():
                self._by_name[name].discard(subscription)
                if not self._by_name[name]:
                    del self._by_name[name]

    def safe_watermark(self, watermark: float) -> float:
        """Return the store time up to which a client with this watermark is guaranteed to have received all changes.

        The result is earlier than the watermark if the store's clock was set back and has therefore passed the watermark twice.
        """
        return min([watermark, *(start for start, end in self._repeated if start < watermark <= end)])

    def resume(self, subscription: Subscription, since: float) -> bool:
        """Deliver all changes since a store time to a subscription; return False if the log does not contain all of them."""
        if since <= self._covers:
            return False
        subscription.low_watermark = since
        place = bisect_left(self._order, since, key=lambda entry: entry.found_at)
        if place < len(self._order):
            subscription.behind, subscription.number = True, self._order[place].number - 1
            subscription.delivered_from = subscription.number
            subscription.wake()
        return True

    def take(self, subscription: Subscription, limit: int) -> list[Entry] | None:
        """Return the next undelivered entries, oldest first; None if some of them have been trimmed from the log.

        If the list is empty, all changes up to the subscription's `number` and `high_watermark` have been delivered.
        """
        if not subscription.behind:
            subscription.number, subscription.high_watermark = self._number, self.high_watermark
            return []
        if subscription.number < self._trimmed:
            self.skip(subscription)
            return None
        names, entries = subscription.user_emails, list[Entry]()
        if names is not None and len(names) < self._number - subscription.number:
            known = (self._log.get(name) for name in names)
            candidates: Iterator[Entry] = iter(
                sorted(
                    (entry for entry in known if entry and entry.number > subscription.number), key=_number_of
                )
            )
        else:
            start = bisect_right(self._order, subscription.number, key=_number_of)
            candidates = (self._order[place] for place in range(start, len(self._order)))
        for entry in candidates:
            if len(entries) == limit:
                return entries
            if subscription.wants_entry(entry):
                entries.append(entry)
        subscription.behind = False
        if not entries:
            subscription.number, subscription.high_watermark = self._number, self.high_watermark
        return entries

    def skip(self, subscription: Subscription) -> None:
        """Skip all changes up to now in a subscription, because the subscriber reads these changes from the store."""
        subscription.behind, subscription.number = False, self._number
        subscription.high_watermark = self.high_watermark
        subscription.delivered_from, subscription.reads_from = self._number, self._next_tick()

    async def snapshot(self, entry: Entry) -> Snapshot:
        """Return the current state of a changed connection, read once for all subscriptions.

        Raises:
            StoreError: The store failed.
        """
        if entry.snapshot is not None:
            return entry.snapshot
        if entry.loading is None:
            entry.loading = asyncio.get_running_loop().create_task(
                self._load(entry), context=contextvars.Context()
            )
            entry.loading.add_done_callback(lambda task: _store_snapshot(entry, task))
        return await asyncio.shield(entry.loading)

    async def read(self, user_email: str) -> ConnectionRecord | None:
        """Return a connection without secrets and internal fields; None if it does not exist or cannot be decrypted.

        Raises:
            StoreError: The store failed.
        """
        async with self._reads:
            record = await self._connections.read_readable(user_email)
        return None if record is None else without_internal_fields(record)

    async def page(self, query: Query) -> Sequence[Record]:
        """Return a page of encrypted connections, ordered by email address.

        Raises:
            StoreError: The store failed.
        """
        async with self._reads:
            return await self._connections.page(query)

    async def open(self, record: Record) -> ConnectionRecord | None:
        """Decrypt a connection and return it without secrets and internal fields; None if it cannot be decrypted."""
        opened = self._connections.open_readable(record)
        return None if opened is None else without_internal_fields(opened)

    async def _load(self, entry: Entry) -> Snapshot:
        earlier = (
            entry.earlier_snapshot
            if entry.previous_entry is None
            else await self.snapshot(entry.previous_entry)
        )
        record = await self.read(entry.subject)
        if earlier is not None and earlier.record == record:
            return earlier
        created_since = _created_since(record, earlier, entry.number)
        return Snapshot(record, entry.number, created_since, self._next_tick())

    def _next_tick(self) -> int:
        """Increment the logical clock, which orders reads and subscriptions, and return the new value."""
        self._tick += 1
        return self._tick

    def _record(self, change: Change, previous_poll_at: float, found_at: float) -> None:
        """Add a change to the log unless the log contains it, and wake the matching subscriptions."""
        subject = change.key.subject
        known = self._log.get(subject)
        if known is not None and known.change.rev == change.rev:
            return
        self._number += 1
        entry = Entry(change, self._number, previous_poll_at, found_at)
        if known is not None:
            known.is_latest = False
            entry.earlier_snapshot = known.snapshot or known.earlier_snapshot
            entry.previous_entry = known if known.loading else known.previous_entry
        self._log[subject] = entry
        self._order.append(entry)
        for subscription in self._by_name.get(subject, ()):
            self._wake(subscription, entry)
        for subscription in self._unnamed:
            if not subscription.behind and subscription.matches_user(subject):
                self._wake(subscription, entry)

    def _wake(self, subscription: Subscription, entry: Entry) -> None:
        if not subscription.behind:
            subscription.behind, subscription.number = True, entry.number - 1
        subscription.wake()

    def _trim(self, since: float) -> None:
        """Delete the oldest entries beyond `LOG_ENTRIES`, except changes at or after `since`, which a later poll may return again."""
        for entry in self._order:
            if len(self._log) <= LOG_ENTRIES:
                break
            if self._log.get(entry.subject) is not entry or entry.change.changed_at >= since:
                continue
            del self._log[entry.subject]
            self._trimmed = max(
                self._trimmed, entry.number
            )  # an entry retained by an earlier trim may have a smaller number
            self._covers = max(self._covers, entry.found_at)
        if len(self._order) > 2 * len(self._log) + PAGE_SIZE:
            self._order = [entry for entry in self._order if self._log.get(entry.subject) is entry]


def without_internal_fields(record: ConnectionRecord) -> ConnectionRecord:
    """Return a connection without secrets and internal fields. Connections that differ only in these fields become equal."""
    tokens = record.tokens
    return replace(
        record,
        rev=0,
        read_update_time=None,
        grant="",
        epoch=0,
        lease=None,
        pending_attempts=(),
        commit_id="",
        previous_commit_ids=(),
        recent_refresh_times=(),
        tokens=None if tokens is None else replace(tokens, access_token="", refresh_token=""),
        alternate_pairs=(),
        owner=None,
        initiated_by="",
        pair_to_revoke=None,
        revoke_until=None,
        due_at=None,
        expire_at=None,
    )


def _complete(waiting: list[asyncio.Future[None]]) -> None:
    for polled in waiting:
        if not polled.done():
            polled.set_result(None)


def _created_since(record: ConnectionRecord | None, earlier: Snapshot | None, number: int) -> int:
    if record is None or earlier is None or earlier.record is None:
        return number
    return earlier.created_since if earlier.record.create_time == record.create_time else number


def _number_of(entry: Entry) -> int:
    return entry.number


def _store_snapshot(entry: Entry, task: asyncio.Task[Snapshot]) -> None:
    entry.loading = None
    if (
        not task.cancelled() and task.exception() is None
    ):  # a failure is raised in the waiting callers, which retry
        entry.snapshot, entry.previous_entry = task.result(), None
