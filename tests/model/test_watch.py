"""Histories of writers, looks, slow readers and breaks: whoever watches hears the last of everybody."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.process import NEW, ring
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import ShuttingDown
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch import change_feed, watchers
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.watch.watchers import Event, EventType, Position, Watchers

USERS = [f"u{number}@example.com" for number in range(5)]
SMOOTH = (
    st.tuples(st.just("write"), st.sampled_from(USERS), st.sampled_from([0.0, 1.0, 9.0, 30.0, 60.0])),
    st.tuples(st.just("end"), st.sampled_from(USERS), st.sampled_from([0.0, 9.0, 60.0])),
    st.tuples(st.just("look"), st.just(""), st.just(0.0)),
    st.tuples(st.just("read"), st.just(""), st.sampled_from([1.0, 2.0, 9.0])),
    st.tuples(st.just("time"), st.just(""), st.sampled_from([0.0, 0.5, 4.0, 100.0, 400.0])),
)
BREAKS = st.tuples(st.just("break"), st.just(""), st.sampled_from([0.0, 1.0]))
CLOCKS = st.tuples(st.just("clock"), st.just(""), st.sampled_from([0.0, 5.0, 300.0, 3600.0]))

SLOW = [
    ("look", "", 0.0),
    ("read", "", 1.0),
    ("write", USERS[0], 0.0),
    ("write", USERS[1], 0.0),
    ("time", "", 0.0),
    ("write", USERS[2], 0.0),
    ("time", "", 100.0),
    ("time", "", 100.0),
    ("read", "", 1.0),
    ("read", "", 1.0),
    ("break", "", 0.0),
]
"""A client that reads its events minutes later, and breaks off before the last."""


class World:
    """A store, a process that watches it, and one client whose connection breaks."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.set_back = 0.0
        self.store = MemoryStore(self.wall)
        self.envelope = Envelope(app="app", keys=ring(NEW))
        self.elsewhere = ConnectionRepository(
            app="app", store=self.store, envelope=self.envelope, clock=self, on_read=lambda: None
        )
        self.heard: dict[str, ConnectionRecord] = {}
        self.events = 0
        self.position: Position | None = None
        self.caught_up = False
        self._credit = asyncio.Semaphore(0)
        self.start()

    def wall(self) -> float:
        return self.time - self.set_back

    def monotonic(self) -> float:
        return self.time

    def start(self) -> None:
        """Start the process, which knows nothing yet."""
        self.connections = ConnectionRepository(
            app="app", store=self.store, envelope=self.envelope, clock=self, on_read=lambda: None
        )
        self.feed = ChangeFeed(connections=self.connections, clock=self, on_change=lambda _: None)
        self.watch()

    def watch(self) -> None:
        """Watch, from the last position on."""
        events = Watchers(feed=self.feed, metrics=Metrics("0", [])).watch(
            names=(), is_visible=lambda _: True, permit=lambda _: True, position=self.position
        )
        self.client = asyncio.get_running_loop().create_task(self._follow(events))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            await self._credit.acquire()
            self.events += 1
            self.position = event.position
            self.caught_up = event.type is EventType.SYNCED
            if event.record is not None:
                self.heard[event.record.user_email] = event.record

    async def write(self, user: str, lag: float, *, end: bool) -> None:
        """Store a change whose time was taken `lag` seconds ago, as the latest of all."""
        record, now = await self.elsewhere.read(user)
        at = now - lag
        if record is None:
            record = ConnectionRecord(user, State.ACTIVE, "g", 0, at, at, at, at)
        if end:
            record = make_tombstone(record, at, revoke=False)
        else:
            record = replace(
                record, state=State.ACTIVE, generation=record.generation + 1, update_time=at, expire_at=None
            )
        assert await self.store.put(connection_record.encode(self.envelope, record), record.rev)

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(40):
            await asyncio.sleep(0)

    async def catch_up(self) -> None:
        """Let the process look for the first time, and the client hear that there is nothing."""
        await self.feed.poll()
        self._credit.release()
        await self.settle()
        assert self.caught_up

    async def stop(self) -> None:
        """Break the connection: what was on the way is lost."""
        self.client.cancel()
        await asyncio.gather(self.client, return_exceptions=True)
        self._credit = asyncio.Semaphore(0)


async def live(steps: list[tuple[str, str, float]]) -> World:
    """Let a history happen, and then let everything come to rest."""
    world = World()
    for step, user, value in steps:
        match step:
            case "write" | "end":
                await world.write(user, value, end=step == "end")
            case "look":
                await world.feed.poll()
            case "read":
                for _ in range(int(value)):
                    world._credit.release()
            case "clock":
                await world.feed.poll()
                world.time += 0.5
                world.set_back = value
            case "time":
                world.time += value
                await world.feed.poll()
            case "break":
                await world.stop()
                if value:
                    world.start()
                else:
                    world.watch()
        await world.settle()
    for _ in range(20):
        for _ in range(20):
            world._credit.release()
        world.time += 2.0
        await world.feed.poll()
        await world.settle()
    await world.stop()
    return world


@settings(max_examples=300)
@given(st.lists(st.one_of(*SMOOTH, BREAKS), min_size=1, max_size=60))
@example(SLOW)
def test_the_last_of_everybody_is_heard(steps: list[tuple[str, str, float]]) -> None:
    """However late writes land, however slowly a client reads and however often it breaks off, it ends with what the store has."""
    world = asyncio.run(told_in_the_end(steps))
    assert world.position is not None
    assert world.position.after is None


@settings(max_examples=300)
@given(st.lists(st.one_of(*SMOOTH, CLOCKS), min_size=1, max_size=60))
def test_a_clock_that_is_set_hides_nothing(steps: list[tuple[str, str, float]]) -> None:
    """Wherever the store's clock is set to, and however late that is noticed, who watches meanwhile ends with what the store has."""
    asyncio.run(told_in_the_end(steps))


async def told_in_the_end(steps: list[tuple[str, str, float]]) -> World:
    """Live through a history in which the client hears the last of everybody."""
    world = await live(steps)
    for user in USERS:
        record, _ = await world.connections.read(user)
        heard = world.heard.get(user)
        if record is None or (heard is None and record.state is State.DISCONNECTED):
            assert heard is None
        else:
            assert heard == change_feed.visible_part(record)
    return world


@pytest.mark.parametrize("kept", [10, 1000])
async def test_a_slow_reader_holds_nothing_up(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a client does not read, the log stays as small as it is allowed, and the client then hears the latest of everybody once."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", kept)
    monkeypatch.setattr(change_feed, "RETURN_SECONDS", 5.0)
    monkeypatch.setattr(watchers, "RETURN_SECONDS", 5.0)
    world = World()
    await world.catch_up()
    users = [f"p{number:03}@example.com" for number in range(200)]
    for turn, user in itertools.product(range(3), users):
        await world.write(user, 0.0, end=False)
        world.time += 0.1
        if user == users[turn]:
            await world.feed.poll()
        assert world.feed.entry_count <= 200
    await world.feed.poll()
    world.time += 100.0
    await world.feed.poll()
    assert world.feed.entry_count == min(kept, len(users))
    before = world.events
    for _ in range(1000):
        world._credit.release()
    for _ in range(60):
        await world.settle()
    assert {world.heard[user].generation for user in users} == {3}
    assert world.events - before <= len(users) + 2 * watchers.CHANGES_PAGE
    await world.stop()


async def test_a_clock_that_is_set_back_while_nobody_looks_hides_nothing() -> None:
    """A process that could not reach the store meanwhile tells of what others changed since then, by the slower clock, too."""
    world = World()
    await world.catch_up()
    world.set_back = 3600.0
    await world.write(USERS[0], 0.0, end=False)
    world.time += 120.0
    for _ in range(20):
        world._credit.release()
        await world.feed.poll()
        await world.settle()
        world.time += 1.0
    assert set(world.heard) == {USERS[0]}
    await world.stop()


async def test_a_change_of_the_future_does_not_let_the_log_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was stored while the clock was wrong stays in the log, and what is old behind it goes."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", 10)
    world = World()
    await world.feed.poll()
    await world.write("future@example.com", -1e6, end=False)
    await world.feed.poll()
    for number in range(100):
        await world.write(f"p{number:03}@example.com", 0.0, end=False)
    await world.feed.poll()
    world.time += 1000.0
    await world.feed.poll()
    assert world.feed.entry_count == 10
    await world.stop()


async def test_what_was_forgotten_stays_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader hears of what the log forgot before an earlier change that had to stay longer."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", 10)
    monkeypatch.setattr(change_feed, "PAGE_SIZE", 0)
    world = World()
    await world.catch_up()
    await world.write("future@example.com", -200.0, end=False)
    await world.feed.poll()
    users = [f"p{number:03}@example.com" for number in range(100)]
    for user in users:
        await world.write(user, 0.0, end=False)
    await world.feed.poll()
    await world.settle()
    world.time += 150.0
    await world.feed.poll()
    world.time += 300.0
    await world.write("last@example.com", 0.0, end=False)
    await world.feed.poll()
    for _ in range(50):
        for _ in range(10):
            world._credit.release()
        await world.settle()
    assert set(world.heard) == {"future@example.com", *users, "last@example.com"}
    await world.stop()


async def test_a_drain_does_not_say_what_is_not_known() -> None:
    """Whoever comes back while a process drains is sent elsewhere, and not told that everything was told."""
    world = World()
    await world.catch_up()
    await world.stop()
    await world.write(USERS[0], 0.0, end=False)
    world.caught_up = False
    world.watch()
    world._credit.release()
    await world.settle()
    world.feed.close()
    await world.settle()
    assert isinstance(world.client.exception(), ShuttingDown)
    assert not world.caught_up


async def test_a_drain_is_told_while_the_store_is_silent() -> None:
    """Whoever waits for a look at a store that does not answer is sent elsewhere at once."""
    world = World()
    await world.settle()
    answers, changes = asyncio.Event(), world.store.changes

    async def silent(*arguments: Any, **named: Any) -> Any:
        await answers.wait()
        return await changes(*arguments, **named)

    world.store.changes = silent  # type: ignore[method-assign]
    look = asyncio.create_task(world.feed.poll())
    await world.settle()
    world.feed.close()
    await world.settle()
    assert world.client.done()
    assert isinstance(world.client.exception(), ShuttingDown)
    answers.set()
    await look


async def test_a_clock_that_was_set_back_hides_nothing_from_who_comes_back() -> None:
    """Who left before and comes back once the clock has gone through the same hour again hears of what changed in it the second time."""
    world = World()
    await world.catch_up()
    await world.stop()
    world.set_back = 3600.0
    await world.feed.poll()
    world.time += 60.0
    await world.write(USERS[0], 0.0, end=False)
    for _ in range(40):
        world.time += 100.0
        await world.feed.poll()
    world.watch()
    for _ in range(5):
        world._credit.release()
        await world.settle()
        await world.feed.poll()
        await world.settle()
    assert set(world.heard) == {USERS[0]}
    await world.stop()
