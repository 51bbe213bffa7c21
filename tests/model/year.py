"""A year of the service in virtual time: two processes, one store, people of whom most never call, and all that goes wrong in a year.

Zoom takes each refresh token once, and none that is 90 days old. `make year` runs it with 10,000 people and says what it came to.
"""

import asyncio
import io
import random
import sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from statistics import mean
from typing import Any

from model.loop import SeededLoop
from model.proactive_refresh_world import DAY, DEATH, HOUR, Clock, Process, Zoom, connect
from zoomgate_server.connections.record import State
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.zoom.token_outcome import AppRejected, NotSent, Throttled, TokenOutcome

DAYS = 365
PER_MINUTE = 60
"""Of each process."""

PROCESSES = 2


class IndexedStore(MemoryStore):
    """A store in memory that finds what is due as fast as a database does, and is down at times."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.wall)
        self.down = False
        self._subjects: list[str] = []
        self._due: list[tuple[float, str]] = []

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        self._check()
        return await super().get(key)

    async def put(self, record: Record, if_rev: int) -> int | None:
        self._check()
        before = self._records.get(record.key)
        rev = await super().put(record, if_rev)
        if rev is not None:
            subject = record.key.subject
            if before is None:
                insort(self._subjects, subject)
            elif before.due_at is not None:
                del self._due[bisect_left(self._due, (before.due_at, subject))]
            if record.due_at is not None:
                insort(self._due, (record.due_at, subject))
        return rev

    async def page(
        self,
        app: str,
        kind: Kind,
        *,
        states: Collection[str] = (),
        due_before: float | None = None,
        expire_before: float | None = None,
        after: str = "",
        limit: int,
    ) -> list[Record]:
        self._check()
        assert expire_before is None
        if due_before is None:
            subjects: Any = self._subjects[bisect_right(self._subjects, after) :]
        else:
            due = self._due[: bisect_left(self._due, (due_before, ""))]
            subjects = sorted(subject for _, subject in due if subject > after)
        found: list[Record] = []
        for subject in subjects:
            record = self._records[RecordKey(app, kind, subject)]
            if not states or record.state in states:
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def _check(self) -> None:
        if self.down:
            raise StoreError("injected")


@dataclass(frozen=True, slots=True)
class Year:
    """What a year came to.

    Attributes:
        users: How many people there were.
        died: Of how many the grant died, whether anybody noticed or not.
        connected: How many can be acted for in the end.
        oldest: The age of the oldest refresh token in the end, in days.
        refreshes: How often Zoom was asked.
        ahead: How many of those refreshes brought a token to nobody who waited.
        per_day: The mean of a day, and the most.
        per_hour: The most of an hour.
        per_minute: The most of a minute.
        doubled: How often a token was spent twice.
    """

    users: int
    died: int
    connected: int
    oldest: float
    refreshes: int
    ahead: int
    per_day: tuple[float, int]
    per_hour: int
    per_minute: int
    doubled: int


class _Service:
    """The processes, as they come and go."""

    def __init__(self, loop: SeededLoop, users: int, chance: random.Random, per_minute: int) -> None:
        self.loop = loop
        self.chance = chance
        self.zoom = Zoom()
        self.store = IndexedStore(Clock(loop))
        self.processes: list[Process] = []
        self.users = [f"user{number}@example.com" for number in range(users)]
        self.ahead = 0
        self._per_minute = per_minute

    async def live(self) -> None:
        """Let the year pass."""
        await self._fill()
        for _ in range(PROCESSES):
            self._begin()
        people = self._people()
        begin = self.loop.time()
        for day in range(DAYS):
            await asyncio.sleep(begin + day * DAY - self.loop.time())
            await self._happen(day)
        for person in people:
            assert person.cancel(), f"a person ended: {person.exception()!r}"
        while self.processes:
            await self._end()

    async def _happen(self, day: int) -> None:
        """Do what goes wrong on a day."""
        match day:
            case 60:
                await self._zoom_fails(NotSent("down"), 12 * HOUR)
            case 100:
                await self._off(3 * DAY)
            case 150:
                await self._zoom_fails(NotSent("down"), 2 * DAY)
            case 180:
                await self._zoom_fails(Throttled(600.0), 6 * HOUR)
            case 200:
                await self._zoom_fails(AppRejected("4702"), 5 * DAY)
            case 250:
                self.store.down = True
                await asyncio.sleep(6 * HOUR)
                self.store.down = False
            case 280:
                await self._off(14 * DAY)
            case _ if day % 7 == 6:
                await self._roll()

    async def _fill(self) -> None:
        """Connect everybody: most on one day, by an import; some long ago, by an earlier release."""
        process = self._new()
        for user in self.users:
            if self.chance.random() < 0.3:
                await connect(process, self.zoom, user, age=self.chance.uniform(0, 85 * DAY), due_at=None)
            else:
                await connect(process, self.zoom, user, age=0.0)

    def _people(self) -> list[asyncio.Task[None]]:
        """Let a few people call: all day long, once on working days, or every few weeks."""
        count = len(self.users)
        callers = self.chance.sample(self.users, count // 9)
        busy, daily = min(5, count // 100), min(100, count // 50)
        rhythms = [self._busy] * busy + [self._daily] * daily
        tasks = [self.loop.create_task(rhythm(user)) for rhythm, user in zip(rhythms, callers, strict=False)]
        seldom = callers[len(rhythms) :]
        return tasks + [self.loop.create_task(self._seldom(user)) for user in seldom]

    async def _busy(self, user: str) -> None:
        while True:
            hour, day = self.loop.time() % DAY // HOUR, self.loop.time() // DAY % 7
            if 9 <= hour < 17 and day < 5:
                await self._call(user)
            await asyncio.sleep(1200.0)

    async def _daily(self, user: str) -> None:
        while True:
            await asyncio.sleep(DAY * self.chance.uniform(0.8, 1.2))
            if self.loop.time() // DAY % 7 < 5:
                await self._call(user)

    async def _seldom(self, user: str) -> None:
        while True:
            await asyncio.sleep(DAY * self.chance.uniform(10, 80))
            await self._call(user)

    async def _call(self, user: str) -> None:
        if self.processes:
            try:
                await self.chance.choice(self.processes).use(user)
            except ZoomgateError:
                pass  # it says what there is to do, and that may be to come back tomorrow

    def _new(self) -> Process:
        seed = self.chance.randrange(10**9)
        return Process(self.loop, self.store, self.zoom, per_minute=self._per_minute, seed=seed)

    def _begin(self) -> None:
        process = self._new()
        process.start(feed=False)
        self.processes.append(process)

    async def _end(self) -> None:
        process = self.processes.pop(0)
        await process.stop()
        for reason in ("in_use", "idle"):
            self.ahead += int(process.metric("zoomgate_proactive_refreshes_total", reason=reason))

    async def _roll(self) -> None:
        """Replace one process after another."""
        for _ in range(PROCESSES):
            await self._end()
            await asyncio.sleep(60.0)
            self._begin()

    async def _off(self, seconds: float) -> None:
        """Turn the service off for some time."""
        while self.processes:
            await self._end()
        await asyncio.sleep(seconds)
        for _ in range(PROCESSES):
            self._begin()

    async def _zoom_fails(self, outage: TokenOutcome, seconds: float) -> None:
        self.zoom.outage = outage
        await asyncio.sleep(seconds)
        self.zoom.outage = None

    async def sum_up(self) -> Year:
        """Look at what is left."""
        records = await self.store.page("app", Kind.USER, limit=len(self.users))
        asked = [when for when, _ in self.zoom.asked]
        days, hours, minutes = (
            Counter(int(when // length) for when in asked) for length in (DAY, HOUR, 60.0)
        )
        return Year(
            users=len(self.users),
            died=len({*self.zoom.died, *(user for user in self.users if self.zoom.age(user) > DEATH)}),
            connected=sum(record.state == State.ACTIVE.value for record in records),
            oldest=max(self.zoom.age(user) for user in self.users) / DAY,
            refreshes=len(asked),
            ahead=self.ahead,
            per_day=(mean(days[day] for day in range(DAYS)), max(days.values())),
            per_hour=max(hours.values()),
            per_minute=max(minutes.values()),
            doubled=self.zoom.doubled,
        )


def year(users: int, *, per_minute: int = PER_MINUTE) -> Year:
    """Simulate a year of so many people, with so many refreshes ahead of need in a minute and process."""
    chance = random.Random(1)  # noqa: S311 - it only has to be the same every time
    loop = SeededLoop(chance)
    service = _Service(loop, users, chance, per_minute)

    async def live() -> Year:
        await service.live()
        return await service.sum_up()

    try:
        result: Year = loop.run(live())
        assert not loop.complaints, loop.complaints
    finally:
        loop.end()
    return result


def main(users: int) -> int:
    """Say what a year came to; the exit code is 1 if anybody was lost."""
    logs.configure("error", "json", io.StringIO())  # of failures that belong to the year
    found = year(users)
    lines = (
        f"{found.users} people, {DAYS} days: {found.died} grants died, {found.connected} people are connected in the end",
        f"{found.refreshes} refreshes, {found.ahead} of them ahead of need",
        f"a day has {found.per_day[0]:.0f}, and {found.per_day[1]} at most; an hour {found.per_hour}, a minute {found.per_minute}",
        f"the oldest refresh token is {found.oldest:.1f} days old; {found.doubled} were spent twice",
    )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int((found.died, found.doubled, found.connected) != (0, 0, found.users))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
