"""Model tests for the change feed. No history of writes, polls, slow clients and interruptions may hide a change."""

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
STEPS = (
    st.tuples(st.just("write"), st.sampled_from(USERS), st.sampled_from([0.0, 1.0, 9.0, 30.0, 60.0])),
    st.tuples(st.just("disconnect"), st.sampled_from(USERS), st.sampled_from([0.0, 9.0, 60.0])),
    st.tuples(st.just("poll"), st.just(""), st.just(0.0)),
    st.tuples(st.just("read"), st.just(""), st.sampled_from([1.0, 2.0, 9.0])),
    st.tuples(st.just("time"), st.just(""), st.sampled_from([0.0, 0.5, 4.0, 100.0, 400.0])),
)
INTERRUPTIONS = st.tuples(st.just("interrupt"), st.just(""), st.sampled_from([0.0, 1.0]))
CLOCK_CHANGES = st.tuples(st.just("clock"), st.just(""), st.sampled_from([0.0, 5.0, 300.0, 3600.0]))

SLOW_CLIENT = [
    ("poll", "", 0.0),
    ("read", "", 1.0),
    ("write", USERS[0], 0.0),
    ("write", USERS[1], 0.0),
    ("time", "", 0.0),
    ("write", USERS[2], 0.0),
    ("time", "", 100.0),
    ("time", "", 100.0),
    ("read", "", 1.0),
    ("read", "", 1.0),
    ("interrupt", "", 0.0),
]
"""History of a client that reads its events minutes late and is interrupted before the last one."""


class World:
    """A store, a process that polls the store, and one client with an interrupted watch."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.clock_offset = 0.0
        self.store = MemoryStore(self.wall)
        self.envelope = Envelope(app="app", keys=ring(NEW))
        self.other_process = ConnectionRepository(
            app="app", store=self.store, envelope=self.envelope, clock=self, on_read=lambda: None
        )
        self.received: dict[str, ConnectionRecord] = {}
        self.events = 0
        self.position: Position | None = None
        self.synced = False
        self._credit = asyncio.Semaphore(0)
        self.start_process()

    def wall(self) -> float:
        return self.time - self.clock_offset

    def monotonic(self) -> float:
        return self.time

    def start_process(self) -> None:
        """Start a process that has not polled the store yet, and a watch."""
        self.connections = ConnectionRepository(
            app="app", store=self.store, envelope=self.envelope, clock=self, on_read=lambda: None
        )
        self.feed = ChangeFeed(connections=self.connections, clock=self, on_change=lambda _: None)
        self.watch()

    def watch(self) -> None:
        """Start a watch that resumes at the last position that the client received."""
        events = Watchers(feed=self.feed, metrics=Metrics("0", [])).watch(
            names=(), is_visible=lambda _: True, permit=lambda _: True, position=self.position
        )
        self.client = asyncio.get_running_loop().create_task(self._follow(events))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            await self._credit.acquire()
            self.events += 1
            self.position = event.position
            self.synced = event.type is EventType.SYNCED
            if event.record is not None:
                self.received[event.record.user_email] = event.record

    async def write(self, user: str, lag: float, *, disconnect: bool) -> None:
        """Store a change whose update time is `lag` seconds ago."""
        record, now = await self.other_process.read(user)
        at = now - lag
        if record is None:
            record = ConnectionRecord(user, State.ACTIVE, "g", 0, at, at, at, at)
        if disconnect:
            record = make_tombstone(record, at, revoke=False)
        else:
            record = replace(
                record, state=State.ACTIVE, generation=record.generation + 1, update_time=at, expire_at=None
            )
        assert await self.store.put(connection_record.encode(self.envelope, record), record.rev)

    async def settle(self) -> None:
        """Run all ready tasks."""
        for _ in range(40):
            await asyncio.sleep(0)

    async def sync(self) -> None:
        """Poll for the first time, and deliver the sync event to the client."""
        await self.feed.poll()
        self._credit.release()
        await self.settle()
        assert self.synced

    async def interrupt(self) -> None:
        """Interrupt the watch. Undelivered events are lost."""
        self.client.cancel()
        await asyncio.gather(self.client, return_exceptions=True)
        self._credit = asyncio.Semaphore(0)


async def run_history(steps: list[tuple[str, str, float]]) -> World:
    """Run a history, and then poll and read until all events are delivered."""
    world = World()
    for step, user, value in steps:
        match step:
            case "write" | "disconnect":
                await world.write(user, value, disconnect=step == "disconnect")
            case "poll":
                await world.feed.poll()
            case "read":
                for _ in range(int(value)):
                    world._credit.release()
            case "clock":
                await world.feed.poll()
                world.time += 0.5
                world.clock_offset = value
            case "time":
                world.time += value
                await world.feed.poll()
            case "interrupt":
                await world.interrupt()
                if value:
                    world.start_process()
                else:
                    world.watch()
        await world.settle()
    for _ in range(20):
        for _ in range(20):
            world._credit.release()
        world.time += 2.0
        await world.feed.poll()
        await world.settle()
    await world.interrupt()
    return world


@settings(max_examples=300)
@given(st.lists(st.one_of(*STEPS, INTERRUPTIONS), min_size=1, max_size=60))
@example(SLOW_CLIENT)
def test_client_has_the_latest_state_despite_late_writes_and_interruptions(
    steps: list[tuple[str, str, float]],
) -> None:
    world = asyncio.run(run_and_check_latest_state(steps))
    assert world.position is not None
    assert world.position.after is None


@settings(max_examples=300)
@given(st.lists(st.one_of(*STEPS, CLOCK_CHANGES), min_size=1, max_size=60))
def test_client_has_the_latest_state_despite_clock_changes(steps: list[tuple[str, str, float]]) -> None:
    """The store's clock is changed by any amount, and the process detects the change at any later time."""
    asyncio.run(run_and_check_latest_state(steps))


async def run_and_check_latest_state(steps: list[tuple[str, str, float]]) -> World:
    """Run a history, and check that the client has received the latest state of all users."""
    world = await run_history(steps)
    for user in USERS:
        record, _ = await world.connections.read(user)
        received = world.received.get(user)
        if record is None or (received is None and record.state is State.DISCONNECTED):
            assert received is None
        else:
            assert received == change_feed.without_internal_fields(record)
    return world


@pytest.mark.parametrize("log_entries", [10, 1000])
async def test_slow_client_does_not_let_the_log_grow(
    log_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow client receives the latest state of each user once."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", log_entries)
    monkeypatch.setattr(change_feed, "RESUME_OVERLAP_SECONDS", 5.0)
    monkeypatch.setattr(watchers, "RESUME_OVERLAP_SECONDS", 5.0)
    world = World()
    await world.sync()
    users = [f"p{number:03}@example.com" for number in range(200)]
    for turn, user in itertools.product(range(3), users):
        await world.write(user, 0.0, disconnect=False)
        world.time += 0.1
        if user == users[turn]:
            await world.feed.poll()
        assert world.feed.entry_count <= 200
    await world.feed.poll()
    world.time += 100.0
    await world.feed.poll()
    assert world.feed.entry_count == min(log_entries, len(users))
    previous_events = world.events
    for _ in range(1000):
        world._credit.release()
    for _ in range(60):
        await world.settle()
    assert {world.received[user].generation for user in users} == {3}
    assert world.events - previous_events <= len(users) + 2 * watchers.CHANGES_PAGE
    await world.interrupt()


async def test_clock_set_back_between_polls_hides_no_change() -> None:
    """A change is reported even if another process makes it after the store's clock was set back and before the next poll."""
    world = World()
    await world.sync()
    world.clock_offset = 3600.0
    await world.write(USERS[0], 0.0, disconnect=False)
    world.time += 120.0
    for _ in range(20):
        world._credit.release()
        await world.feed.poll()
        await world.settle()
        world.time += 1.0
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


async def test_change_in_the_future_does_not_let_the_log_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change with a future time stays in the change log, but changes that are written after it with an earlier time are removed."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", 10)
    world = World()
    await world.feed.poll()
    await world.write("future@example.com", -1e6, disconnect=False)
    await world.feed.poll()
    for number in range(100):
        await world.write(f"p{number:03}@example.com", 0.0, disconnect=False)
    await world.feed.poll()
    world.time += 1000.0
    await world.feed.poll()
    assert world.feed.entry_count == 10
    await world.interrupt()


async def test_slow_client_receives_changes_that_were_removed_from_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change with a future time stays in the change log longer than changes that are written after it."""
    monkeypatch.setattr(change_feed, "LOG_ENTRIES", 10)
    monkeypatch.setattr(change_feed, "PAGE_SIZE", 0)
    world = World()
    await world.sync()
    await world.write("future@example.com", -200.0, disconnect=False)
    await world.feed.poll()
    users = [f"p{number:03}@example.com" for number in range(100)]
    for user in users:
        await world.write(user, 0.0, disconnect=False)
    await world.feed.poll()
    await world.settle()
    world.time += 150.0
    await world.feed.poll()
    world.time += 300.0
    await world.write("last@example.com", 0.0, disconnect=False)
    await world.feed.poll()
    for _ in range(50):
        for _ in range(10):
            world._credit.release()
        await world.settle()
    assert set(world.received) == {"future@example.com", *users, "last@example.com"}
    await world.interrupt()


async def test_watch_resumed_during_a_drain_is_rejected_without_a_sync_event() -> None:
    world = World()
    await world.sync()
    await world.interrupt()
    await world.write(USERS[0], 0.0, disconnect=False)
    world.synced = False
    world.watch()
    world._credit.release()
    await world.settle()
    world.feed.close()
    await world.settle()
    assert isinstance(world.client.exception(), ShuttingDown)
    assert not world.synced


async def test_drain_ends_a_watch_immediately_while_the_store_does_not_respond() -> None:
    world = World()
    await world.settle()
    responds, changes = asyncio.Event(), world.store.changes

    async def delayed_changes(*arguments: Any, **options: Any) -> Any:
        await responds.wait()
        return await changes(*arguments, **options)

    world.store.changes = delayed_changes  # type: ignore[method-assign]
    poll = asyncio.create_task(world.feed.poll())
    await world.settle()
    world.feed.close()
    await world.settle()
    assert world.client.done()
    assert isinstance(world.client.exception(), ShuttingDown)
    responds.set()
    await poll


async def test_clock_set_back_hides_no_change_from_a_resumed_watch() -> None:
    """The clock is set back by an hour and catches up before the watch resumes. The client still receives every change."""
    world = World()
    await world.sync()
    await world.interrupt()
    world.clock_offset = 3600.0
    await world.feed.poll()
    world.time += 60.0
    await world.write(USERS[0], 0.0, disconnect=False)
    for _ in range(40):
        world.time += 100.0
        await world.feed.poll()
    world.watch()
    for _ in range(5):
        world._credit.release()
        await world.settle()
        await world.feed.poll()
        await world.settle()
    assert set(world.received) == {USERS[0]}
    await world.interrupt()
