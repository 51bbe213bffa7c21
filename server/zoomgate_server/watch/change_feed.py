"""What happens to connections, as every process learns it: one reader of the store's changes, and whoever follows it.

What can be missed by asking for `changed_at >= since`, and why nothing is:

* A change is in the store a while after its time was taken. The store's clock is read up to `LATE_SECONDS` before (a write waits for a
  slot, for a lock, for a majority; `ConnectionStore.write` takes the time just before it), so each look reaches back `OVERLAP_SECONDS`, and
  every `DEEP_SECONDS` one reaches back `LATE_SECONDS` behind the one of its kind before it. Whoever comes back with a time reaches back
  `RETURN_SECONDS` behind that, which covers both.
* A look that fails moves nothing: the next one begins where the last that succeeded ended.
* The clock of a store is set back, or another server with a slower one takes over: a look begins at the earlier of both times, and where
  that cannot be known yet, the look after the one that noticed it does.

So most changes are seen several times. The log keeps one entry per connection, for the latest revision that was seen, numbered in the order
in which the process saw them: a revision that is in the log is no news. Followers hold a number alone. One that comes back so late that its
entries are gone asks the store.
"""

import asyncio
import contextlib
import contextvars
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import Change, Record, StoreError
from zoomgate_server.telemetry import logs

POLL_INTERVAL = 1.0
"""Pause between two looks at what other processes changed."""

ASKED_SECONDS = 0.1
"""Pause before a look that somebody waits for."""

OVERLAP_SECONDS = 10.0
"""How far back each look reaches: clocks and writes of others may lag."""

LATE_SECONDS = 60.0
"""How much later than its time a change is in the store at most. A process that was stopped in between may be later still; the bounds of
the stores, 5 to 15 seconds for one write, are well below."""

DEEP_SECONDS = 10.0
"""Pause between two looks that reach back that far."""

ROLLBACK_SECONDS = 1.0
"""By how much a clock counts as set back; what is less is the way to the store and back."""

RETURN_SECONDS = 90.0
"""How far back somebody reaches who comes back with a time: what was late may have been looked for `DEEP_SECONDS` later still."""

START_SECONDS = 300.0
"""How far back the first look reaches: whoever comes back after a restart is served from the log then."""

LOG_ENTRIES = 10_000
"""Connections in the log. What changed within the reach of a look stays even if it is more."""

PAGE_SIZE = 5_000
"""Changes that are read at a time."""

LOADS = 8
"""Records that are read for followers at a time."""

_log = logs.get("zoomgate.connections")


@dataclass(slots=True, eq=False)
class Snapshot:
    """A connection as followers are shown it, without secrets.

    Attributes:
        record: The connection; None if there is none, or it cannot be opened.
        since: Number of the entry with which it became what it is.
        created_since: Number of the entry with which it got its `create_time`.
        read_at: When the store had shown it first, by `ChangeFeed`'s count of such moments.
    """

    record: ConnectionRecord | None
    since: int
    created_since: int
    read_at: int


@dataclass(slots=True, eq=False)
class Entry:
    """The latest change of one connection.

    Attributes:
        change: What the store told.
        number: Its place in the log.
        before: The store's clock at the look before the one that found it: everything that could be seen then has a smaller number.
        seen: The store's clock at the look that found it.
        newest: False once the connection has changed again.
        earlier: What it was at an entry before, if somebody looked.
        previous: The entry before, if that was being read when this one came.
        content: What it is, once somebody has looked.
        loading: Reads it.
    """

    change: Change
    number: int
    before: float
    seen: float
    newest: bool = True
    earlier: Snapshot | None = None
    previous: "Entry | None" = field(default=None, repr=False)
    content: Snapshot | None = None
    loading: asyncio.Task[Snapshot] | None = field(default=None, repr=False)

    @property
    def subject(self) -> str:
        """Whose connection it is."""
        return self.change.key.subject


class Subscription:
    """Somebody who waits for changes of some connections. Made by `ChangeFeed.follow`.

    However slow it is, it holds no more than this.

    Attributes:
        wants: Tells whose changes it waits for.
        names: The same as a set, or None if they are not known by name.
        number: It has been given everything up to here; only meaningful while it is behind.
        mark: The store's clock up to which it has been given everything.
        behind: Whether something waits for it.
        joined: Number of the latest entry when it joined.
        floor: Of entries up to that it wants those that changed at this time or later.
        given_from: It is given what it wants of the entries behind this number.
        reads_from: What it reads from the store itself is read later than this, by `ChangeFeed`'s count of moments.
    """

    __slots__ = (
        "_woken",
        "behind",
        "floor",
        "given_from",
        "joined",
        "mark",
        "names",
        "number",
        "reads_from",
        "wants",
    )

    def __init__(self, wants: Callable[[str], bool], names: frozenset[str] | None) -> None:
        self.wants = wants
        self.names = names
        self.number = self.joined = self.given_from = self.reads_from = 0
        self.mark = 0.0
        self.floor = float("-inf")
        self.behind = False
        self._woken = asyncio.Event()

    def wants_entry(self, entry: Entry) -> bool:
        """Tell whether it is to be given an entry."""
        if entry.number <= self.joined and entry.change.changed_at < self.floor:
            return False
        return entry.newest and self.wants(entry.subject)

    def has_delivered(self, content: Snapshot, before: int) -> bool:
        """Tell whether it has had a content, having been given everything up to a number.

        What is read for an entry may be later already: then it is not known to one that came between the entry and the reading.
        """
        if content.since > before:
            return False
        return content.since > self.given_from or content.read_at < self.reads_from

    def wake(self) -> None:
        """End its waiting."""
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until something changes or the feed closes, for at most so many seconds; False if nothing did."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class ChangeFeed:
    """Reads the store's changes once a second for everybody in this process.

    Args:
        connections: Where the records are.
        clock: Time.
        on_change: Hears of every change at every look that finds it: whoever was slow gets it again.

    Attributes:
        closing: True once the process drains: nothing new is told then.
        mark: The store's clock at the latest look.
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
        self._moment = 0
        self._forgotten = 0
        self._covers = float("inf")
        self._looked_at = self._deep_at = float("-inf")
        self._deep_mark = 0.0
        self._repeated: deque[tuple[float, float]] = deque(maxlen=16)
        self._begun = False
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._looked_for: list[asyncio.Future[None]] = []
        self._by_name: dict[str, set[Subscription]] = {}
        self._wide: set[Subscription] = set()
        self._loads = asyncio.Semaphore(LOADS)
        self.closing = False
        self.mark = connections.now()

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Everybody who follows; somebody with several names comes several times."""
        yield from self._wide
        for followers in self._by_name.values():
            yield from followers

    @property
    def kept(self) -> int:
        """How many connections are in the log."""
        return len(self._log)

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            try:
                await self.poll()
            except StoreError:
                _log.warning("change_feed.store_failed")
                await asyncio.sleep(POLL_INTERVAL)
                continue
            await asyncio.sleep(min(ASKED_SECONDS, POLL_INTERVAL))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL - ASKED_SECONDS):
                    await self._asked.wait()

    async def started(self) -> None:
        """Wait until the store was looked at once, or the process drains.

        Raises:
            StoreError: The store failed.
        """
        if not self._begun:
            await self.catch_up()

    async def catch_up(self) -> None:
        """Wait until everything is in the log that is in the store now, or the process drains.

        Raises:
            StoreError: The store failed.
        """
        if not self.closing:
            looked = asyncio.get_running_loop().create_future()
            self._waiting.append(looked)
            self._asked.set()
            await looked

    def close(self) -> None:
        """Tell all followers that the process drains."""
        self.closing = True
        _end([*self._waiting, *self._looked_for])
        for follower in self.subscriptions:
            follower.wake()

    async def poll(self) -> None:
        """Look once for changes.

        Raises:
            StoreError: The store failed; nothing is lost, the next look begins at the same time.
        """
        self._looked_for, self._waiting = self._waiting, []
        self._asked.clear()
        try:
            await self._poll()
        except Exception:  # a defect too: nobody may wait for ever for a look that is over
            for looked in self._looked_for:
                if not looked.done():
                    looked.set_exception(StoreError("the store did not tell what changed"))
            raise
        _end(self._looked_for)

    async def _poll(self) -> None:
        now, before = self._connections.now(), self.mark
        first, deep = not self._begun, self._clock.monotonic() - self._deep_at >= DEEP_SECONDS
        if first:
            reach, before = min(before, now) - START_SECONDS, float("-inf")
        elif deep:
            reach = min(self._deep_mark, now) - LATE_SECONDS
        else:
            reach = min(before, now) - OVERLAP_SECONDS
        mark: float | None = None
        looked_at = self._clock.monotonic()
        async for changes, store_now in self.changes_since(reach):
            if mark is None:
                mark = store_now
            for change in changes:
                self._on_change(change)
                self._note(change, before, mark)
        if mark is None:
            raise AssertionError("there is always a page")
        if first:
            self._covers = reach
        if first or deep:
            self._deep_at, self._deep_mark = looked_at, mark
        if mark < before:  # the clock was set back: what the log knows by its times may be incomplete
            self._covers = max(self._covers, before)
        # whatever the clock did: changes since the look before are not older than this
        passed = looked_at - self._looked_at
        earliest = mark - passed
        if earliest < before - ROLLBACK_SECONDS:
            # so this look may have begun behind them, and the next one must not
            self._deep_at, self._deep_mark = float("-inf"), min(self._deep_mark, earliest)
            self._repeated.append((earliest, before + passed))
        self.mark, self._looked_at, self._begun = mark, looked_at, True
        self._trim(mark - RETURN_SECONDS)

    async def changes_since(
        self, since: float, page: int = PAGE_SIZE
    ) -> AsyncIterator[tuple[list[Change], float]]:
        """Read everything that changed since a time, oldest first and `page` at a time, each with the store's clock before.

        Raises:
            StoreError: The store failed.
        """
        limit, told = page, dict[str, int]()
        while True:
            changes, now = await self._connections.changes(since, limit)
            yield [change for change in changes if told.get(change.key.subject) != change.rev], now
            if len(changes) < limit:
                return
            last = changes[-1].changed_at
            limit = page if last > since else 2 * limit  # else all of them are of one moment
            told = {change.key.subject: change.rev for change in changes if change.changed_at == last}
            since = last

    @contextlib.contextmanager
    def subscribe(self, wants: Callable[[str], bool], names: Collection[str]) -> Iterator[Subscription]:
        """Follow the changes of some connections from now on.

        Args:
            wants: Tells whose.
            names: The same by name, or empty if they are not known by name.
        """
        follower = Subscription(wants, frozenset(names) or None)
        follower.joined = self._number
        self.skip(follower)
        for name in follower.names or ():
            self._by_name.setdefault(name, set()).add(follower)
        if follower.names is None:
            self._wide.add(follower)
        try:
            yield follower
        finally:
            self._wide.discard(follower)
            for name in follower.names or ():
                self._by_name[name].discard(follower)
                if not self._by_name[name]:
                    del self._by_name[name]

    def safe_watermark(self, mark: float) -> float:
        """Say up to when somebody was told everything who was told everything up to a time.

        That is earlier if the clock went through that time twice, as far as this process knows.
        """
        return min([mark, *(begin for begin, end in self._repeated if begin < mark <= end)])

    def resume(self, follower: Subscription, since: float) -> bool:
        """Let somebody who follows be given everything since a time; False if the log does not reach back that far."""
        if since <= self._covers:
            return False
        follower.floor = since
        place = bisect_left(self._order, since, key=lambda entry: entry.seen)
        if place < len(self._order):
            follower.behind, follower.number = True, self._order[place].number - 1
            follower.given_from = follower.number
            follower.wake()
        return True

    def take(self, follower: Subscription, limit: int) -> list[Entry] | None:
        """Give the next entries that somebody waits for, oldest first; None if the log has forgotten some of them.

        The follower has then been given everything up to its `number`, and up to its `mark`.
        """
        if not follower.behind:
            follower.number, follower.mark = self._number, self.mark
            return []
        if follower.number < self._forgotten:
            self.skip(follower)
            return None
        names, found = follower.names, list[Entry]()
        if names is not None and len(names) < self._number - follower.number:
            known = (self._log.get(name) for name in names)
            waiting: Iterator[Entry] = iter(
                sorted((entry for entry in known if entry and entry.number > follower.number), key=_number_of)
            )
        else:
            start = bisect_right(self._order, follower.number, key=_number_of)
            waiting = (self._order[place] for place in range(start, len(self._order)))
        for entry in waiting:
            if len(found) == limit:
                return found
            if follower.wants_entry(entry):
                found.append(entry)
        follower.behind = False
        if not found:
            follower.number, follower.mark = self._number, self.mark
        return found

    def skip(self, follower: Subscription) -> None:
        """Let somebody go on with what changes from now on, since it asks the store for the rest."""
        follower.behind, follower.number, follower.mark = False, self._number, self.mark
        follower.given_from, follower.reads_from = self._number, self._now()

    async def content(self, entry: Entry) -> Snapshot:
        """Give a changed connection as it is now. It is read once, however many want it.

        Raises:
            StoreError: The store failed.
        """
        if entry.content is not None:
            return entry.content
        if entry.loading is None:
            entry.loading = asyncio.get_running_loop().create_task(
                self._load(entry), context=contextvars.Context()
            )
            entry.loading.add_done_callback(lambda task: _loaded(entry, task))
        return await asyncio.shield(entry.loading)

    async def read(self, user_email: str) -> ConnectionRecord | None:
        """Read a connection for one who follows, without secrets; None if there is none, or it cannot be opened.

        Raises:
            StoreError: The store failed.
        """
        async with self._loads:
            record = await self._connections.read_readable(user_email)
        return None if record is None else is_visible(record)

    async def page(self, states: Collection[str], after: str, limit: int) -> list[Record]:
        """Read sealed connections in the order of their addresses.

        Raises:
            StoreError: The store failed.
        """
        async with self._loads:
            return await self._connections.page(states=states, after=after, limit=limit)

    async def opened(self, record: Record) -> ConnectionRecord | None:
        """Open one of a page, without secrets; None if it cannot be opened."""
        opened = self._connections.open_readable(record)
        return None if opened is None else is_visible(opened)

    async def _load(self, entry: Entry) -> Snapshot:
        earlier = entry.earlier if entry.previous is None else await self.content(entry.previous)
        record = await self.read(entry.subject)
        if earlier is not None and earlier.record == record:
            return earlier
        created_since = _created_since(record, earlier, entry.number)
        return Snapshot(record, entry.number, created_since, self._now())

    def _now(self) -> int:
        """Count a moment: none is the same as another."""
        self._moment += 1
        return self._moment

    def _note(self, change: Change, before: float, seen: float) -> None:
        """Put a change into the log unless it is there already, and wake whoever waits for it."""
        subject = change.key.subject
        known = self._log.get(subject)
        if known is not None and known.change.rev == change.rev:
            return
        self._number += 1
        entry = Entry(change, self._number, before, seen)
        if known is not None:
            known.newest = False
            entry.earlier = known.content or known.earlier
            entry.previous = known if known.loading else known.previous
        self._log[subject] = entry
        self._order.append(entry)
        for follower in self._by_name.get(subject, ()):
            self._wake(follower, entry)
        for follower in self._wide:
            if not follower.behind and follower.wants(subject):
                self._wake(follower, entry)

    def _wake(self, follower: Subscription, entry: Entry) -> None:
        if not follower.behind:
            follower.behind, follower.number = True, entry.number - 1
        follower.wake()

    def _trim(self, reach: float) -> None:
        """Forget the oldest entries that are more than the log keeps, except what a look may find again."""
        for entry in self._order:
            if len(self._log) <= LOG_ENTRIES:
                break
            if self._log.get(entry.subject) is not entry or entry.change.changed_at >= reach:
                continue
            del self._log[entry.subject]
            self._forgotten = max(self._forgotten, entry.number)  # one that stayed till now may be older
            self._covers = max(self._covers, entry.seen)
        if len(self._order) > 2 * len(self._log) + PAGE_SIZE:
            self._order = [entry for entry in self._order if self._log.get(entry.subject) is entry]


def is_visible(record: ConnectionRecord) -> ConnectionRecord:
    """Give a connection as it is shown: two that differ in nothing visible are equal then, and no secret is in it."""
    tokens = record.tokens
    return replace(
        record,
        rev=0,
        read_update_time=None,
        grant="",
        epoch=0,
        lease=None,
        pending=(),
        commit_id="",
        previous_commit_ids=(),
        recent_refreshes=(),
        tokens=None if tokens is None else replace(tokens, access_token="", refresh_token=""),
        alternate_pairs=(),
        owner=None,
        initiated_by="",
        revoking=None,
        revoke_until=None,
        due_at=None,
        expire_at=None,
    )


def _end(waiting: list[asyncio.Future[None]]) -> None:
    for looked in waiting:
        if not looked.done():
            looked.set_result(None)


def _created_since(record: ConnectionRecord | None, earlier: Snapshot | None, number: int) -> int:
    if record is None or earlier is None or earlier.record is None:
        return number
    return earlier.created_since if earlier.record.create_time == record.create_time else number


def _number_of(entry: Entry) -> int:
    return entry.number


def _loaded(entry: Entry, task: asyncio.Task[Snapshot]) -> None:
    entry.loading = None
    if not task.cancelled() and task.exception() is None:  # else whoever waited has it, and reads again
        entry.content, entry.previous = task.result(), None
