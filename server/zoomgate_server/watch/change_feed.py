"""The change feed: one reader per process polls the store for changed connections, and publishes their records to all subscriptions.

Reading
    Every record has a time `changed_at`, taken from the store's clock just before the record is written. Reading all records changed since
    the previous poll would miss changes for three reasons:

    * Late writes. A write can wait for a slot, a lock or a majority, so a change can become visible up to `max_visibility_delay` after its
      `changed_at`. Polls therefore overlap, and ignore revisions that earlier polls have returned.
    * Failed polls. A failed poll changes no times, so the next poll reads from the same time.
    * Clock jumps. The store's clock can be set back, or a server with a slower clock can become primary. A poll therefore reads from the
      current store time if that is earlier. A jump is detected only after the poll, so the next poll is a full poll from an earlier time.

Publishing
    A separate task reads the connections with the changed email addresses once and adds them to the queues of the subscriptions, so that a
    slow store does not delay polls. They are read by address, because an address can move from one Zoom user's record to another's. A queue
    contains the latest record of each address. A queue that is full is cleared, and its watch reads the store from the oldest cleared
    change.

Resuming
    The watermark is the store time up to which all changes have been published. A client that resumes, possibly with a different process,
    receives all changes since `resume_overlap` before the watermark of its last event.

Unreadable records
    A record whose key is missing is read again when the key ring or the record changes. Until then, and for up to
    `unpublished_retention`, the watermark stays early enough for a client that resumes to receive the change. The same applies to a record
    in a newer format, which a process of the newer release can read. A corrupt record is ignored.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import inf

from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import RecordFault, RecordUnreadable
from zoomgate_server.storage.record_store import Change, Order, Query, Record, StoreError
from zoomgate_server.telemetry import logs

PAGE_SIZE = 5_000
"""The number of changes per page of a poll."""

CONCURRENT_READS = 8
"""The maximum number of concurrent reads for publishing, and likewise for all watches together."""

MAX_QUEUED = 256
"""The maximum number of records in the queue of a subscription."""

MAX_CACHED = 1_000
"""The number of recently read records that all watches share."""

_ALL_USERS = ""
"""The key of subscriptions that are not limited to named users."""

VisibleState = tuple[str, int, float, State]
"""See `visible_state`."""

_EXISTING_STATES = (State.ACTIVE, State.REAUTH_REQUIRED)
_log = logs.get("zoomgate.connections")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the change feed, in seconds.

    Attributes:
        poll_interval: The pause between two polls.
        overlap: Overlap with the previous poll, because writes may become visible late and clocks may differ.
        max_visibility_delay: The maximum time between a change's `changed_at` and its visibility in the store. The write timeouts of the
            stores, 5 to 15 seconds, are well below this limit. Only a suspended process can exceed the limit.
        full_poll_interval: The interval between full polls, which overlap with the previous full poll by `max_visibility_delay`.
        resume_overlap: Overlap when a client resumes: `max_visibility_delay`, plus `full_poll_interval`, and a margin.
        clock_jump: The minimum backward jump of the store's clock. Smaller differences are attributed to network latency.
        unpublished_retention: The age up to which a change whose record cannot be decrypted holds the watermark back.
        start_timeout: How long a new watch waits for the first poll.
    """

    poll_interval: float = 1.0
    overlap: float = 10.0
    max_visibility_delay: float = 60.0
    full_poll_interval: float = 10.0
    resume_overlap: float = 90.0
    clock_jump: float = 1.0
    unpublished_retention: float = 24 * 3600.0
    start_timeout: float = 10.0


@dataclass(slots=True, eq=False)
class Subscription:
    """The published records that a watch has not sent yet.

    Attributes:
        user_emails: The users of the subscription; None if only `matches_user` determines the users.
        matches_user: Returns whether the subscription includes a user.
        max_queued: The maximum number of records in the queue.
        queue: The latest record of each user, ordered by the first record of the user.
        watermark: The watermark of the feed when the first record in the queue was added.
        unread_from: The store time from which the watch must read the changes from the store; infinity if it need not.
        heartbeat: Whether the watch is notified of every poll.
        heartbeat_due: Whether a poll has ended since the last notification, and all its changes are published.
    """

    user_emails: frozenset[str] | None
    matches_user: Callable[[str], bool]
    max_queued: int
    queue: dict[str, ConnectionRecord] = field(default_factory=dict)
    watermark: float = 0.0
    unread_from: float = inf
    heartbeat: bool = False
    heartbeat_due: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, record: ConnectionRecord, watermark: float) -> None:
        """Add a record to the queue. A full queue is cleared, and the watch must read its records from the store."""
        if not self.queue:
            self.watermark = watermark
        self.queue[record.user_email] = record
        if len(self.queue) > self.max_queued:
            # the `changed_at` of a record is never earlier than its `update_time`
            oldest = min(queued.update_time for queued in self.queue.values())
            self.unread_from = min(self.unread_from, oldest)
            self.queue.clear()
        self.wake()

    def take(self) -> ConnectionRecord | None:
        """Remove and return the first record in the queue; None if there is none or the watch must read the store first."""
        return self.queue.pop(next(iter(self.queue))) if self.queue and self.unread_from == inf else None

    def wake(self) -> None:
        """Wake the watch if it is waiting."""
        self._changed.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a record or the shutdown of the process; return False on timeout."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


class ChangeFeed:
    """Reader of the store's changes for all subscriptions of this process. Every read raises `StoreError` if the store fails.

    Args:
        on_change: Called for every change in the result of every poll. Because polls overlap, the same change is passed several times.

    Attributes:
        timing: The timing of the feed.
        closing: Whether the process is shutting down.
        store_time: The store time of the latest poll.
        unreadable_users: Users whose connections could not be decrypted when they were last read.
        watermark: The store time from which a client that has received all published records can resume.
        publishing: Held while records are read and published. A watch acquires the lock before it sends a record that it has read itself,
            so that a possibly older state, which is still being read, is in the queue by then.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        clock: Clock,
        on_change: Callable[[Change], None],
        timing: Timing = Timing(),
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._on_change = on_change
        self._max_queued = max_queued
        self._started = asyncio.Event()
        self._must_publish = asyncio.Event()
        self._subscriptions: dict[str, set[Subscription]] = {}
        # the changes that a poll may return again, by Zoom user, and the published states of their email addresses
        self._seen: dict[str, Change] = {}
        self._published: dict[str, VisibleState] = {}
        # the changes to publish; the changes whose records cannot be decrypted, and the keys with which all of these were tried
        self._pending: dict[str, Change] = {}
        self._undecrypted: dict[str, Change] = {}
        self.unreadable_users: set[str] = set()
        self._key_ids = connections.key_ids
        self._cache: dict[str, ConnectionRecord] = {}
        self._reads = asyncio.Semaphore(CONCURRENT_READS)
        self._polled_at = clock.monotonic()
        self._full_poll_due = -inf
        self._clock_jumps: deque[tuple[float, float]] = deque(maxlen=16)
        self.timing = timing
        self.closing = False
        self.store_time = self._full_poll_time = self.watermark = connections.now()
        self.publishing = asyncio.Lock()

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """All subscriptions. A subscription to several named users occurs once per user."""
        return chain.from_iterable(self._subscriptions.values())

    async def run(self) -> None:
        """Poll for changes until canceled."""
        while True:
            try:
                await self.poll()
            except StoreError as error:
                _log.warning("change_feed.store_failed", problem=str(error))
            await asyncio.sleep(self.timing.poll_interval)

    async def run_publisher(self) -> None:
        """Publish the changes that polls find until canceled."""
        while True:
            await self._must_publish.wait()
            self._must_publish.clear()
            try:
                await self.publish()
            except StoreError as error:  # retried after the next poll
                _log.warning("change_feed.store_failed", problem=str(error))

    async def wait_until_started(self) -> None:
        """Wait until the first poll has succeeded or the process is shutting down."""
        try:
            async with asyncio.timeout(self.timing.start_timeout):
                await self._started.wait()
        except TimeoutError:
            raise StoreError("the changes could not be read") from None

    def close(self) -> None:
        """Notify all subscriptions that the process is shutting down."""
        self.closing = True
        self._started.set()
        for subscription in self.subscriptions:
            subscription.wake()

    async def poll(self) -> None:
        """Read the changes since the previous poll once, and mark them for publishing. If the store fails, no change is lost."""
        started, now = self._clock.monotonic(), self._connections.now()
        is_full = started >= self._full_poll_due
        since = min(self.store_time, now) - self.timing.overlap
        if is_full:
            since = min(self._full_poll_time, now) - self.timing.max_visibility_delay
        seen: dict[str, Change] = {}
        times: list[float] = []
        async for changes, store_time, _ in self.changes_since(since):
            times.append(store_time)
            for change in changes:
                subject, user_email = change.key.subject, change.user_email
                self._on_change(change)
                if (
                    user_email is not None
                    and self._seen.get(subject) != change
                    and (user_email in self._undecrypted or any(self._including(user_email)))
                ):
                    self._pending[user_email] = change
                self._seen[subject] = seen[subject] = change
        if is_full:  # later polls return no other connections, unless these change again
            self._full_poll_due, self._full_poll_time = started + self.timing.full_poll_interval, times[0]
            self._seen = seen
            user_emails = {change.user_email for change in seen.values()}
            self._published = {user: state for user, state in self._published.items() if user in user_emails}
        # regardless of clock jumps, no change since the previous poll is older than `earliest`
        elapsed = started - self._polled_at
        earliest = times[0] - elapsed
        if self._started.is_set() and earliest < self.store_time - self.timing.clock_jump:
            # this poll may have read from too late a time, so force a full poll from an earlier time
            self._full_poll_due, self._full_poll_time = -inf, min(self._full_poll_time, earliest)
            self._clock_jumps.append((earliest, self.store_time + elapsed))
        self.store_time, self._polled_at = times[0], started
        if not self._connections.key_ids <= self._key_ids:
            self._key_ids = self._connections.key_ids
            self._pending = self._undecrypted | self._pending
            self._undecrypted = {}
        unpublished = chain(self._pending.values(), self._undecrypted.values())
        self.watermark = self._limit(self.store_time, unpublished)
        self._started.set()
        if self._pending:
            self._must_publish.set()
        else:
            self._send_heartbeats()

    async def publish(self) -> None:
        """Read the records with pending changes, and add them to the queues. If the store fails, no change is lost."""
        pending = list(self._pending.items())
        for start in range(0, len(pending), CONCURRENT_READS):
            batch = pending[start : start + CONCURRENT_READS]
            async with self.publishing:
                for user_email, _ in batch:  # added again if the record still cannot be decrypted
                    self._undecrypted.pop(user_email, None)
                records = await asyncio.gather(
                    *(self._load(user_email) for user_email, _ in batch), return_exceptions=True
                )
                for (user_email, change), record in zip(batch, records, strict=True):
                    if isinstance(record, BaseException):
                        raise record
                    if self._pending[user_email] == change:  # not changed again during the read
                        del self._pending[user_email]
                    if record is not None:
                        self._add_to_queues(record)
        if not self._pending:
            self._send_heartbeats()

    async def changes_since(
        self, since: float, page: int = PAGE_SIZE
    ) -> AsyncIterator[tuple[list[Change], float, float]]:
        """Yield all changes since a time, oldest first, in pages.

        Each page has the store time at the start of its read, and the time from which the next page is read, or infinity.
        """
        limit, previous = page, frozenset[Change]()
        while True:
            changes, now = await self._connections.changes(since, limit)
            last = inf if len(changes) < limit else changes[-1].changed_at
            yield [change for change in changes if change not in previous], now, last
            if len(changes) < limit:
                return
            # otherwise a page whose changes all have the same time would be read again forever
            limit = page if last > since else 2 * limit
            previous, since = frozenset(changes), last

    @contextlib.contextmanager
    def subscribe(
        self, user_emails: Collection[str], is_visible: Callable[[str], bool], *, heartbeat: bool = False
    ) -> Iterator[Subscription]:
        """Subscribe to the changes of users from now on; if `user_emails` is empty, to all users for whom `is_visible` returns True."""
        names = frozenset(user_emails) or None
        matches_user = names.__contains__ if names else is_visible
        subscription = Subscription(names, matches_user, self._max_queued, heartbeat=heartbeat)
        keys = names or (_ALL_USERS,)
        for key in keys:
            self._subscriptions.setdefault(key, set()).add(subscription)
        try:
            yield subscription
        finally:
            for key in keys:
                self._subscriptions[key].discard(subscription)
                if not self._subscriptions[key]:
                    del self._subscriptions[key]

    def safe_watermark(self, watermark: float) -> float:
        """Return the store time up to which a client with this watermark is guaranteed to have received all changes.

        The result is earlier than the watermark if the store's clock was set back and has therefore passed the watermark twice.
        """
        for start, end in self._clock_jumps:
            if start < watermark <= end:
                watermark = start
        return watermark

    async def page(self, after: str, limit: int) -> Sequence[Record]:
        """Return a page of encrypted existing connections, ordered by email address."""
        async with self._reads:
            query = Query(order=Order.EMAIL, states=_EXISTING_STATES, after=after, limit=limit)
            return await self._connections.page(query)

    def open(self, record: Record) -> ConnectionRecord | None:
        """Decrypt a connection and return it without secrets. If it cannot be decrypted, log the error and return None."""
        user_email = record.user_email
        try:
            opened = without_secrets(self._connections.open(record))
        except RecordFault as fault:
            _log.warning("connection.unreadable", error=type(fault).__name__, **fault.metadata)
            if user_email is not None:
                self.unreadable_users.add(user_email)
            if user_email is not None and not isinstance(fault, RecordUnreadable):
                self._undecrypted[user_email] = change = Change(
                    record.key, record.rev, record.state, record.changed_at, user_email
                )
                self._key_ids &= self._connections.key_ids
                self._published.pop(user_email, None)  # not every watch has received this state
                self.watermark = self._limit(self.watermark, [change])
            return None
        self.unreadable_users.discard(opened.user_email)
        return opened

    async def read(self, user_email: str, change: Change | None = None) -> ConnectionRecord | None:
        """Return a connection without secrets; None if it does not exist or cannot be decrypted.

        Args:
            change: The latest change of the connection, if known. All watches share the record of this change.
        """
        async with self._reads:
            record = self._cache.get(user_email)
            if change is not None and record is not None and _is_of(record, change):
                return record
            return await self._load(user_email)

    def _add_to_queues(self, record: ConnectionRecord) -> None:
        """Add a record to the matching queues, unless only internal fields have changed since it was last published."""
        state = visible_state(record)
        if self._published.get(record.user_email) != state:
            self._published[record.user_email] = state
            for subscription in self._including(record.user_email):
                subscription.add(record, self.watermark)

    def _send_heartbeats(self) -> None:
        """Notify the subscriptions that all changes of the latest poll are published."""
        for subscription in self.subscriptions:
            if subscription.heartbeat:
                subscription.heartbeat_due = True
                subscription.wake()

    def _including(self, user_email: str) -> Iterator[Subscription]:
        """Yield the subscriptions that include a user."""
        yield from self._subscriptions.get(user_email, ())
        for subscription in self._subscriptions.get(_ALL_USERS, ()):
            if subscription.matches_user(user_email):
                yield subscription

    async def _load(self, user_email: str) -> ConnectionRecord | None:
        """Read a connection and cache the record."""
        sealed, _ = await self._connections.find_encrypted(user_email)
        self._cache.pop(user_email, None)
        if sealed is None:
            self.unreadable_users.discard(user_email)
        if sealed is None or (record := self.open(sealed)) is None:
            return None
        self._cache[user_email] = record
        if len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        return record

    def _limit(self, watermark: float, unpublished: Iterable[Change]) -> float:
        """Return a watermark at which a client can resume without missing the given changes."""
        oldest = self.store_time - self.timing.unpublished_retention
        times = (change.changed_at for change in unpublished if change.changed_at > oldest)
        return min(watermark, min(times, default=inf) + self.timing.resume_overlap)


def visible_state(record: ConnectionRecord) -> VisibleState:
    """Return a value that changes whenever a visible field of the connection with an email address changes."""
    return record.zoom_user_id, record.generation, record.update_time, record.state


def without_secrets(record: ConnectionRecord) -> ConnectionRecord:
    """Return a connection without secrets."""
    tokens = None if record.tokens is None else replace(record.tokens, access_token="", refresh_token="")
    return replace(record, tokens=tokens, alternate_pairs=(), superseded_pairs=(), pairs_to_revoke=())


def _is_of(record: ConnectionRecord, change: Change) -> bool:
    return (record.zoom_user_id, record.rev) == (change.key.subject, change.rev)
