"""A year of the service in virtual time: two processes, one store, mostly idle users, and the outages and restarts of a year.

The Zoom simulator accepts each refresh token once, and rejects refresh tokens that are 90 days old. `make year` simulates 10,000 users and
prints a summary.
"""

import asyncio
import io
import random
import sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass
from statistics import mean
from typing import Any

from model.loop import SeededLoop
from model.proactive_refresh_world import DAY, HOUR, MAX_IDLE_SECONDS, Clock, Process, Zoom, connect
from support.memory_store import MemoryStore
from zoomgate_server.connections.record import State
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.storage.record_store import Kind, Order, Query, Record, RecordKey, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.zoom.token_outcome import AppRejected, NotSent, Throttled, TokenOutcome

DAYS = 365
PER_MINUTE = 60
"""Limit on proactive refreshes per minute, for each process."""

PROCESSES = 2


class IndexedStore(MemoryStore):
    """An in-memory store with indexes of due dates and email addresses, as in a database, and with simulated outages."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.wall)
        self.down = False
        self._subjects: list[str] = []
        self._due: list[tuple[float, str]] = []
        self._keys: dict[str, RecordKey] = {}

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        self._check()
        return await super().get(key)

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        self._check()
        key = self._keys.get(user_email)
        return (None if key is None else self._records[key]), self._wall()

    async def put(self, record: Record, if_rev: int) -> int | None:
        self._check()
        previous = self._records.get(record.key)
        rev = await super().put(record, if_rev)
        if rev is not None:
            subject = record.key.subject
            if record.user_email is not None:
                self._keys[record.user_email] = record.key
            if previous is None:
                insort(self._subjects, subject)
            elif previous.due_at is not None:
                del self._due[bisect_left(self._due, (previous.due_at, subject))]
            if record.due_at is not None:
                insort(self._due, (record.due_at, subject))
        return rev

    async def page(self, app: str, kind: Kind, query: Query) -> list[Record]:
        self._check()
        if query.order is Order.SUBJECT:
            subjects: Any = self._subjects[bisect_right(self._subjects, query.after) :]
        else:
            assert query.order is Order.DUE
            start = bisect_right(self._due, (query.since, query.after))
            subjects = (
                subject for _, subject in self._due[start : bisect_left(self._due, (query.before, ""))]
            )
        records: list[Record] = []
        for subject in subjects:
            record = self._records[RecordKey(app, kind, subject)]
            if not query.states or record.state in query.states:
                records.append(record)
                if len(records) == query.limit:
                    break
        return records

    def _check(self) -> None:
        if self.down:
            raise StoreError("injected")


@dataclass(frozen=True, slots=True)
class Year:
    """Result of a simulated year.

    Attributes:
        users: Number of users.
        expired: Number of users whose grant expired, including those whose expiry the service has not detected.
        connected: Number of connected users at the end.
        oldest: Age of the oldest refresh token at the end, in days.
        refreshes: Number of token requests to Zoom.
        proactive: Number of refreshes for which no caller waited.
        per_day: Mean and maximum number of token requests per day.
        per_hour: Maximum number of token requests per hour.
        per_minute: Maximum number of token requests per minute.
        exchanged_twice: Number of requests with a refresh token that had been exchanged before.
    """

    users: int
    expired: int
    connected: int
    oldest: float
    refreshes: int
    proactive: int
    per_day: tuple[float, int]
    per_hour: int
    per_minute: int
    exchanged_twice: int


class _Service:
    """The processes of the service over the year, and their users."""

    def __init__(self, loop: SeededLoop, users: int, rng: random.Random, per_minute: int) -> None:
        self.loop = loop
        self.rng = rng
        self.zoom = Zoom()
        self.store = IndexedStore(Clock(loop))
        self.processes: list[Process] = []
        self.users = [f"user{number}@example.com" for number in range(users)]
        self.proactive = 0
        self._per_minute = per_minute

    async def run(self) -> None:
        """Run the service for a year."""
        await self._connect_users()
        for _ in range(PROCESSES):
            self._start_process()
        callers = self._start_callers()
        start = self.loop.time()
        for day in range(DAYS):
            await asyncio.sleep(start + day * DAY - self.loop.time())
            await self._disturb(day)
        for caller in callers:
            assert caller.cancel(), f"a caller finished: {caller.exception()!r}"
        while self.processes:
            await self._stop_process()

    async def _disturb(self, day: int) -> None:
        """Simulate the outages and restarts of a day."""
        match day:
            case 60:
                await self._fail_zoom(NotSent("down"), 12 * HOUR)
            case 100:
                await self._shut_down_for(3 * DAY)
            case 150:
                await self._fail_zoom(NotSent("down"), 2 * DAY)
            case 180:
                await self._fail_zoom(Throttled(600.0), 6 * HOUR)
            case 200:
                await self._fail_zoom(AppRejected("4702"), 5 * DAY)
            case 250:
                self.store.down = True
                await asyncio.sleep(6 * HOUR)
                self.store.down = False
            case 280:
                await self._shut_down_for(14 * DAY)
            case _ if day % 7 == 6:
                await self._rolling_restart()

    async def _connect_users(self) -> None:
        """Connect all users: most of them on one day, as an import would; the others long ago."""
        process = self._create_process()
        for user in self.users:
            if self.rng.random() < 0.3:
                await connect(process, self.zoom, user, age=self.rng.uniform(0, 85 * DAY))
            else:
                await connect(process, self.zoom, user, age=0.0)

    def _start_callers(self) -> list[asyncio.Task[None]]:
        """Start calls for a few users: some call all day long, some once per working day, some every few weeks."""
        count = len(self.users)
        called = self.rng.sample(self.users, count // 9)
        busy, daily = min(5, count // 100), min(100, count // 50)
        patterns = [self._busy] * busy + [self._daily] * daily
        tasks = [
            self.loop.create_task(pattern(user)) for pattern, user in zip(patterns, called, strict=False)
        ]
        rare = called[len(patterns) :]
        return tasks + [self.loop.create_task(self._rare(user)) for user in rare]

    async def _busy(self, user: str) -> None:
        while True:
            hour, day = self.loop.time() % DAY // HOUR, self.loop.time() // DAY % 7
            if 9 <= hour < 17 and day < 5:
                await self._call(user)
            await asyncio.sleep(1200.0)

    async def _daily(self, user: str) -> None:
        while True:
            await asyncio.sleep(DAY * self.rng.uniform(0.8, 1.2))
            if self.loop.time() // DAY % 7 < 5:
                await self._call(user)

    async def _rare(self, user: str) -> None:
        while True:
            await asyncio.sleep(DAY * self.rng.uniform(10, 80))
            await self._call(user)

    async def _call(self, user: str) -> None:
        if self.processes:
            try:
                await self.rng.choice(self.processes).use(user)
            except (ZoomgateError, StoreError):
                pass  # an expected failure; the caller tries again later

    def _create_process(self) -> Process:
        seed = self.rng.randrange(10**9)
        return Process(self.loop, self.store, self.zoom, per_minute=self._per_minute, seed=seed)

    def _start_process(self) -> None:
        process = self._create_process()
        process.start(feed=False)
        self.processes.append(process)

    async def _stop_process(self) -> None:
        process = self.processes.pop(0)
        await process.stop()
        for reason in ("in_use", "idle"):
            self.proactive += int(process.metric("zoomgate_proactive_refreshes_total", reason=reason))

    async def _rolling_restart(self) -> None:
        """Restart one process after another."""
        for _ in range(PROCESSES):
            await self._stop_process()
            await asyncio.sleep(60.0)
            self._start_process()

    async def _shut_down_for(self, seconds: float) -> None:
        """Stop the service for some time."""
        while self.processes:
            await self._stop_process()
        await asyncio.sleep(seconds)
        for _ in range(PROCESSES):
            self._start_process()

    async def _fail_zoom(self, outage: TokenOutcome, seconds: float) -> None:
        self.zoom.outage = outage
        await asyncio.sleep(seconds)
        self.zoom.outage = None

    async def result(self) -> Year:
        """Return the result of the year."""
        records = await self.store.page("app", Kind.USER, Query(limit=len(self.users)))
        times = [time for time, _ in self.zoom.requests]
        days, hours, minutes = (
            Counter(int(time // length) for time in times) for length in (DAY, HOUR, 60.0)
        )
        return Year(
            users=len(self.users),
            expired=len(
                {*self.zoom.expired, *(user for user in self.users if self.zoom.age(user) > MAX_IDLE_SECONDS)}
            ),
            connected=sum(record.state == State.ACTIVE.value for record in records),
            oldest=max(self.zoom.age(user) for user in self.users) / DAY,
            refreshes=len(times),
            proactive=self.proactive,
            per_day=(mean(days[day] for day in range(DAYS)), max(days.values())),
            per_hour=max(hours.values()),
            per_minute=max(minutes.values()),
            exchanged_twice=self.zoom.reused,
        )


def year(users: int, *, per_minute: int = PER_MINUTE) -> Year:
    """Simulate a year of the service.

    Args:
        per_minute: Limit on proactive refreshes per minute, for each process; 0 disables them.
    """
    rng = random.Random(1)  # noqa: S311 - deterministic on purpose
    loop = SeededLoop(rng)
    service = _Service(loop, users, rng, per_minute)

    async def main() -> Year:
        await service.run()
        return await service.result()

    try:
        result: Year = loop.run(main())
        assert not loop.unhandled_errors, loop.unhandled_errors
    finally:
        loop.abandon()
    return result


def main(users: int) -> int:
    """Print the result of a year. The exit code is 1 if a connection was lost or a token was exchanged twice."""
    logs.configure("error", "json", io.StringIO())  # failures are part of the simulation
    result = year(users)
    lines = (
        f"{result.users} users, {DAYS} days: {result.expired} grants expired, {result.connected} users connected at the end",
        f"{result.refreshes} refreshes, {result.proactive} of them proactive",
        f"refreshes per day: mean {result.per_day[0]:.0f}, maximum {result.per_day[1]}",
        f"maximum per hour: {result.per_hour}; maximum per minute: {result.per_minute}",
        f"oldest refresh token: {result.oldest:.1f} days; tokens exchanged twice: {result.exchanged_twice}",
    )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int((result.expired, result.exchanged_twice, result.connected) != (0, 0, result.users))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
