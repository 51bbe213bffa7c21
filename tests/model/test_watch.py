"""Model tests for the change feed. No history of writes, polls, slow clients and interruptions may hide a change."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.faulty_store import FaultyStore, Gate
from support.memory_store import MemoryStore
from support.process import NEW, OLD, ring
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import FORMAT, Envelope
from zoomgate_server.errors import ServerOverloaded, ShuttingDown
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed, without_secrets
from zoomgate_server.watch.watchers import Event, EventType, Position, Watchers

USERS = [f"u{number}@example.com" for number in range(5)]
STEPS = (
    st.tuples(st.just("write"), st.sampled_from(USERS), st.sampled_from([0.0, 1.0, 9.0, 30.0, 60.0])),
    st.tuples(st.just("rename"), st.sampled_from(USERS), st.sampled_from([0.0, 9.0, 60.0])),
    st.tuples(st.just("disconnect"), st.sampled_from(USERS), st.sampled_from([0.0, 9.0, 60.0])),
    st.tuples(st.just("poll"), st.just(""), st.just(0.0)),
    st.tuples(st.just("slow poll"), st.just(""), st.just(0.0)),
    st.tuples(st.just("read"), st.just(""), st.sampled_from([1.0, 2.0, 9.0])),
    st.tuples(st.just("time"), st.just(""), st.sampled_from([0.0, 0.5, 4.0, 100.0, 400.0])),
)
INTERRUPTIONS = st.tuples(st.just("interrupt"), st.just(""), st.sampled_from([0.0, 1.0]))
CLOCK_CHANGES = st.tuples(st.just("clock"), st.just(""), st.sampled_from([0.0, 5.0, 300.0, 3600.0]))

KEY_CHANGES = st.tuples(st.just("key"), st.just(""), st.sampled_from([0.0, 1.0]))
"""The process loses or receives the primary key of the other process."""

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

LATE_RESPONSE = [
    ("poll", "", 0.0),
    ("read", "", 9.0),
    ("write", USERS[0], 0.0),
    ("slow poll", "", 0.0),
    ("write", USERS[0], 0.0),
    ("interrupt", "", 0.0),
    ("read", "", 9.0),
]
"""History of a client that resumes, and reads the second change from the store, while the feed still reads the first one."""


OLD_KEYS = KeyRing([key for key in ring(OLD).keys if key.key_id == OLD])
"""The key ring of a process that has not received the primary key of the other process."""

OLD_ENVELOPE = Envelope(app="app", keys=ring(OLD))
"""Encrypts records under the key that every process has."""


class LateKeyRing:
    """The key ring of a process that receives the primary key of the other process late.

    Attributes:
        keys: The keys that the process has received.
    """

    def __init__(self) -> None:
        self.keys = ring(NEW)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.keys, name)


class World:
    """A store, a process that polls the store, and one client with an interrupted watch.

    Attributes:
        key_ring: The key ring of the process.
        ordered: Whether the client has received the states of each user in order.
    """

    def __init__(self, max_queued: int = 256) -> None:
        self.key_ring = LateKeyRing()
        self.ordered = True
        self.slow_poll: asyncio.Task[None] | None = None
        self.max_queued = max_queued
        self.time = 1_000_000.0
        self.clock_offset = 0.0
        self.store = FaultyStore(MemoryStore(self.wall))
        self.envelope = Envelope(app="app", keys=ring(NEW))
        self.other_process = ConnectionRepository(
            app="app", store=self.store, envelope=self.envelope, clock=self, on_read=lambda: None
        )
        self._numbers = itertools.count(1)
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
            app="app",
            store=self.store,
            envelope=Envelope(app="app", keys=self.key_ring),
            clock=self,
            on_read=lambda: None,
        )
        self.feed = ChangeFeed(
            connections=self.connections, clock=self, on_change=lambda _: None, max_queued=self.max_queued
        )
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
                self._receive(event.record)

    def _receive(self, record: ConnectionRecord) -> None:
        """Keep the received state, and check the order of the states of a Zoom user."""
        previous = self.received.get(record.user_email, record)
        if previous.zoom_user_id == record.zoom_user_id:
            self.ordered = self.ordered and previous.generation <= record.generation
        self.received[record.user_email] = record

    async def write(
        self, user: str, lag: float, *, disconnect: bool, envelope: Envelope | None = None
    ) -> None:
        """Store a change whose update time is `lag` seconds ago."""
        record, now = await self.other_process.find(user)
        at = now - lag
        if record is None or (record.zoom_user_id == user and not disconnect):
            await self._release(user, at)
            record = ConnectionRecord(f"z{next(self._numbers)}", user, State.ACTIVE, "g", 0, at, at, at, at)
        if disconnect:
            record = decisions.end(record, Cause.REVOKED, at)
        else:
            record = replace(
                record, state=State.ACTIVE, generation=record.generation + 1, update_time=at, expire_at=None
            )
        assert await self.store.put(connection_record.encode(envelope or self.envelope, record), record.rev)

    async def change(self, kind: str, user: str, lag: float) -> None:
        """Store a change of a kind whose update time is `lag` seconds ago."""
        if kind == "rename":
            await self.rename(user, lag)
        else:
            await self.write(user, lag, disconnect=kind == "disconnect")

    async def rename(self, user: str, lag: float) -> None:
        """Store a connection under the next user's address, from whom the address is taken, and the tombstone of its previous address."""
        record, now = await self.other_process.find(user)
        if record is None or record.state is State.DISCONNECTED:
            return
        at, address = now - lag, USERS[(USERS.index(user) + 1) % len(USERS)]
        await self._release(address, at)
        renamed = replace(record, user_email=address, generation=record.generation + 1, update_time=at)
        assert await self.other_process.write(renamed)
        previous, _ = await self.other_process.read(user)
        tombstone = replace(
            decisions.address_tombstone(replace(renamed, renamed_from=user), at),
            rev=0 if previous is None else previous.rev,
            generation=next(self._numbers),
        )
        assert await self.other_process.write(tombstone)

    async def _release(self, user: str, at: float) -> None:
        """Remove an address from the record that has it."""
        record, _ = await self.other_process.find(user)
        if record is None:
            return
        if record.state is not State.DISCONNECTED:
            record = decisions.end(record, Cause.REVOKED, at)
        assert await self.other_process.write(replace(record, user_email=""))

    @property
    def queued(self) -> int:
        """The number of records in the queue of the watch."""
        return sum(len(subscription.queue) for subscription in self.feed.subscriptions)

    async def poll(self) -> None:
        """Poll and publish once, after the slow poll."""
        await self.end_slow_poll()
        await self.feed.poll()
        await self.feed.publish()

    async def start_slow_poll(self) -> None:
        """Start to poll while the history continues. The store responds late to the first read."""
        delays = itertools.chain([300], itertools.repeat(0))

        async def respond_late(proceed: Callable[..., Any], *arguments: Any) -> Any:
            response = await proceed(*arguments)
            for _ in range(next(delays)):
                await asyncio.sleep(0)
            return response

        async def poll() -> None:
            with self.store.intercept("find", respond_late):
                await self.feed.poll()
                await self.feed.publish()

        await self.end_slow_poll()
        self.slow_poll = asyncio.create_task(poll())

    async def end_slow_poll(self) -> None:
        """Wait for the slow poll, if one is running."""
        if self.slow_poll is not None:
            await self.slow_poll
        self.slow_poll = None

    async def settle(self) -> None:
        """Run all ready tasks."""
        for _ in range(40):
            await asyncio.sleep(0)

    async def sync(self) -> None:
        """Poll for the first time, and deliver the sync event to the client."""
        await self.poll()
        self._credit.release()
        await self.settle()
        assert self.synced

    async def first_event(self, names: list[str], position: Position | None = None) -> Event:
        """Return the first event of another watch by name."""
        events = Watchers(feed=self.feed, metrics=Metrics("0", [])).watch(
            names=names, is_visible=lambda _: True, permit=lambda _: True, position=position
        )
        async with aclosing(events):
            return await anext(events)

    async def deliver(self, events: int = 20) -> None:
        """Poll, and deliver events to the client."""
        for _ in range(3):
            for _ in range(events):
                self._credit.release()
            await self.poll()
            for _ in range(10):
                await self.settle()
            self.time += 1.0

    async def interrupt(self) -> None:
        """Interrupt the watch. Undelivered events are lost."""
        self.client.cancel()
        await asyncio.gather(self.client, return_exceptions=True)
        self._credit = asyncio.Semaphore(0)

    async def resume(self, *, new_process: bool) -> None:
        """Interrupt the watch and resume it."""
        await self.interrupt()
        if new_process:
            await self.end_slow_poll()
            self.start_process()
        else:
            self.watch()


async def run_history(steps: list[tuple[str, str, float]], max_queued: int) -> World:
    """Run a history, and then poll and read until all events are delivered."""
    world = World(max_queued)
    for step, user, value in steps:
        match step:
            case "write" | "disconnect" | "rename":
                await world.change(step, user, value)
            case "slow poll":
                await world.start_slow_poll()
            case "read":
                for _ in range(int(value)):
                    world._credit.release()
            case "clock":
                await world.poll()
                world.time += 0.5
                world.clock_offset = value
            case "key":
                world.key_ring.keys = ring(NEW) if value else OLD_KEYS
            case "poll" | "time":
                world.time += value
                await world.poll()
            case "interrupt":
                await world.resume(new_process=bool(value))
        await world.settle()
    await world.end_slow_poll()
    world.key_ring.keys = ring(NEW)
    for _ in range(20):
        for _ in range(20):
            world._credit.release()
        world.time += 2.0
        await world.poll()
        await world.settle()
    await world.interrupt()
    return world


@settings(max_examples=300)
@given(st.lists(st.one_of(*STEPS, INTERRUPTIONS), min_size=1, max_size=60), st.sampled_from([1, 256]))
@example(SLOW_CLIENT, 256)
@example(SLOW_CLIENT, 1)
@example(LATE_RESPONSE, 256)
def test_client_has_the_latest_state_despite_late_writes_and_interruptions(
    steps: list[tuple[str, str, float]], max_queued: int
) -> None:
    world = asyncio.run(run_and_check_latest_state(steps, max_queued))
    assert world.position is not None
    assert world.position.after is None


@settings(max_examples=300)
@given(st.lists(st.one_of(*STEPS, CLOCK_CHANGES), min_size=1, max_size=60), st.sampled_from([1, 256]))
def test_client_has_the_latest_state_despite_clock_changes(
    steps: list[tuple[str, str, float]], max_queued: int
) -> None:
    """The store's clock is changed by any amount, and the process detects the change at any later time."""
    asyncio.run(run_and_check_latest_state(steps, max_queued))


@settings(max_examples=300)
@given(
    st.lists(st.one_of(*STEPS, INTERRUPTIONS, KEY_CHANGES), min_size=1, max_size=60),
    st.sampled_from([1, 256]),
)
def test_client_has_the_latest_state_despite_missing_keys_and_interruptions(
    steps: list[tuple[str, str, float]], max_queued: int
) -> None:
    asyncio.run(run_and_check_latest_state(steps, max_queued))


async def run_and_check_latest_state(steps: list[tuple[str, str, float]], max_queued: int) -> World:
    """Run a history, and check that the client has received the latest state of all users, and the states of each user in order."""
    world = await run_history(steps, max_queued)
    assert world.ordered
    for user in USERS:
        record, _ = await world.connections.find(user)
        received = world.received.get(user)
        if record is None or (received is None and record.state is State.DISCONNECTED):
            assert received is None
        else:
            assert received == without_secrets(record)
    return world


@pytest.mark.parametrize("max_queued", [10, 1000])
async def test_slow_client_receives_the_latest_state_of_each_user_once(max_queued: int) -> None:
    """The queue of the watch is bounded. After an overflow, the watch reads the changes from the store."""
    world = World(max_queued)
    await world.sync()
    users = [f"p{number:03}@example.com" for number in range(200)]
    for turn, user in itertools.product(range(3), users):
        await world.write(user, 0.0, disconnect=False)
        world.time += 0.1
        if user == users[turn]:
            await world.poll()
        assert world.queued <= min(max_queued, len(users))
    await world.poll()
    world.time += 100.0
    await world.poll()
    previous_events = world.events
    for _ in range(1000):
        world._credit.release()
    for _ in range(60):
        await world.settle()
    assert {world.received[user].generation for user in users} == {3}
    assert world.events - previous_events <= len(users) + 2
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
        await world.poll()
        await world.settle()
        world.time += 1.0
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


async def test_slow_client_receives_a_change_with_a_future_time() -> None:
    """A change with a future time does not hide changes that are written after it with an earlier time."""
    world = World(10)
    await world.sync()
    await world.write("future@example.com", -200.0, disconnect=False)
    await world.poll()
    users = [f"p{number:03}@example.com" for number in range(100)]
    for user in users:
        await world.write(user, 0.0, disconnect=False)
    await world.poll()
    await world.settle()
    world.time += 150.0
    await world.poll()
    world.time += 300.0
    await world.write("last@example.com", 0.0, disconnect=False)
    await world.poll()
    for _ in range(50):
        for _ in range(10):
            world._credit.release()
        await world.settle()
    assert set(world.received) == {"future@example.com", *users, "last@example.com"}
    await world.interrupt()


async def test_watch_resumed_during_a_drain_is_rejected_without_a_sync_event() -> None:
    """The changes since the position cannot be read before the drain, so no token that includes them is sent."""
    world = World()
    await world.sync()
    await world.interrupt()
    await world.write(USERS[0], 0.0, disconnect=False)
    world.synced = False
    reads = Gate(after_effect=False)
    with world.store.intercept("changes", reads):
        world.watch()
        world._credit.release()
        await world.settle()
        world.feed.close()
        reads.opened.set()
        await world.settle()
    assert isinstance(world.client.exception(), ShuttingDown)
    assert not world.synced


async def test_drain_ends_a_watch_immediately_while_the_store_does_not_respond() -> None:
    world = World()
    await world.settle()
    reads = Gate(after_effect=False)
    with world.store.intercept("changes", reads):
        poll = asyncio.create_task(world.poll())
        await world.settle()
        world.feed.close()
        await world.settle()
        assert world.client.done()
        assert isinstance(world.client.exception(), ShuttingDown)
        reads.opened.set()
        await poll


async def test_failed_read_ends_publishing_after_the_reads_in_progress() -> None:
    """Otherwise, an outdated record could be read and processed after a newer one was published."""
    world = World()
    await world.sync()
    for user in USERS[:2]:
        await world.write(user, 0.0, disconnect=False)
    await world.feed.poll()
    reads = Gate(after_effect=False)
    world.store.fail("find", 1)
    with world.store.intercept("find", reads):
        publishing = asyncio.create_task(world.feed.publish())
        await reads.reached.wait()
        await world.settle()
        assert not publishing.done()
        reads.opened.set()
        with pytest.raises(StoreError):
            await publishing
    await world.poll()
    assert world.queued == 2


async def test_clock_set_back_hides_no_change_from_a_resumed_watch() -> None:
    """The clock is set back by an hour and catches up before the watch resumes. The client still receives every change."""
    world = World()
    await world.sync()
    await world.interrupt()
    world.clock_offset = 3600.0
    await world.poll()
    world.time += 60.0
    await world.write(USERS[0], 0.0, disconnect=False)
    for _ in range(40):
        world.time += 100.0
        await world.poll()
    world.watch()
    for _ in range(5):
        world._credit.release()
        await world.settle()
        await world.poll()
        await world.settle()
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


@pytest.mark.parametrize("resumed", ["not at all", "before the key arrives", "by another process"])
async def test_change_is_delivered_when_its_key_arrives(resumed: str) -> None:
    """The key of the record arrives an hour after the change."""
    world = World()
    await world.sync()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    for _ in range(60):
        world._credit.release()
        world.time += 60.0
        await world.poll()
        await world.settle()
    assert not world.received
    if resumed != "not at all":
        await world.interrupt()
    if resumed == "before the key arrives":
        world.watch()
        await world.settle()
    world.key_ring.keys = ring(NEW)
    if resumed == "by another process":
        world.start_process()
    for _ in range(3):
        world._credit.release()
        await world.poll()
        await world.settle()
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


async def test_read_by_another_watch_does_not_change_when_a_missing_key_delays_the_position() -> None:
    """The client receives the change from another process, although a watch by name has failed to read the record much later."""
    world = World()
    await world.sync()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    await world.poll()
    world.time += 600.0
    await world.poll()
    await world.first_event([USERS[0]])
    world.time += 600.0
    await world.poll()
    await world.write(USERS[1], 0.0, disconnect=False, envelope=OLD_ENVELOPE)
    await world.poll()
    world._credit.release()
    await world.settle()
    assert set(world.received) == {USERS[1]}
    world.key_ring.keys = ring(NEW)
    await world.resume(new_process=True)
    await world.deliver()
    assert set(world.received) == set(USERS[:2])
    await world.interrupt()


async def test_position_of_a_watch_by_name_is_before_a_change_with_a_missing_key() -> None:
    """The watch starts 10 minutes after the change."""
    world = World()
    await world.poll()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    world.time += 600.0
    await world.poll()
    event = await world.first_event([USERS[0]])
    assert event.type is EventType.SYNCED
    world.key_ring.keys = ring(NEW)
    world.start_process()
    await world.poll()
    event = await world.first_event([USERS[0]], event.position)
    assert event.record is not None
    await world.interrupt()


async def test_position_in_a_snapshot_is_before_a_skipped_record_with_a_missing_key() -> None:
    """A client that resumes the snapshot after the skipped user still receives the user."""
    world = World()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    await world.write(USERS[1], 0.0, disconnect=False, envelope=OLD_ENVELOPE)
    world.time += 600.0
    await world.poll()
    await world.settle()
    world._credit.release()
    await world.settle()
    assert set(world.received) == {USERS[1]}
    world.key_ring.keys = ring(NEW)
    await world.resume(new_process=True)
    await world.deliver()
    assert set(world.received) == set(USERS[:2])
    await world.interrupt()


async def test_change_is_delivered_if_another_watch_reads_it_as_soon_as_its_key_arrives() -> None:
    world = World()
    await world.sync()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    await world.poll()
    world.key_ring.keys = ring(NEW)
    event = await world.first_event([USERS[0]])
    assert event.record is not None
    await world.deliver()
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


async def test_key_that_arrives_after_more_than_a_day_hides_no_change_from_a_live_watch() -> None:
    """More records become readable than the queue can contain, and all are older than the position of the watch."""
    world = World(max_queued=10)
    await world.sync()
    world.key_ring.keys = OLD_KEYS
    users = [f"p{number:03}@example.com" for number in range(50)]
    for user in users:
        await world.write(user, 0.0, disconnect=False)
    await world.poll()
    for _ in range(30):
        world.time += 3600.0
        await world.poll()
    await world.write(USERS[0], 0.0, disconnect=False, envelope=OLD_ENVELOPE)
    await world.poll()
    world._credit.release()
    await world.settle()
    assert set(world.received) == {USERS[0]}
    world.key_ring.keys = ring(NEW)
    await world.poll()
    await world.deliver(100)
    assert set(world.received) == {USERS[0], *users}
    await world.interrupt()


async def test_record_that_becomes_readable_no_longer_holds_back_the_position() -> None:
    """Another process stores the record under a key that this process has, while this process has no watches."""
    world = World()
    await world.sync()
    world.key_ring.keys = OLD_KEYS
    await world.write(USERS[0], 0.0, disconnect=False)
    await world.poll()
    await world.interrupt()
    await world.write(USERS[0], 0.0, disconnect=False, envelope=OLD_ENVELOPE)
    world.time += 600.0
    await world.poll()
    await world.poll()
    assert world.feed.watermark == world.time


async def test_record_in_a_newer_format_is_delivered_by_a_process_of_the_newer_release() -> None:
    """The change holds back the position, although the old process can never read the record."""
    world = World()
    await world.sync()
    await world.write(USERS[0], 0.0, disconnect=False)
    record, _ = await world.store.find("app", USERS[0])
    assert record is not None
    newer = replace(record, value=bytes([FORMAT + 1]) + record.value[1:])
    rev = await world.store.put(newer, record.rev)
    for _ in range(10):
        world.time += 60.0
        await world.poll()
    await world.interrupt()
    await world.store.put(
        record, rev
    )  # the tests have no newer release, which could read the record as it is
    world.start_process()
    await world.deliver()
    assert set(world.received) == {USERS[0]}
    await world.interrupt()


async def test_client_that_was_too_slow_receives_each_later_change_once() -> None:
    """After an overflow of its queue, a client that reads three events per second keeps up with one change per second."""
    world = World(max_queued=10)
    await world.sync()
    changes = 0

    async def run_seconds(seconds: int, events: int) -> None:
        nonlocal changes
        for _ in range(seconds):
            await world.write(f"p{changes:03}@example.com", 0.0, disconnect=False)
            changes += 1
            world.time += 1.0
            await world.poll()
            for _ in range(events):
                world._credit.release()
            await world.settle()

    await run_seconds(100, 1)
    await run_seconds(20, 0)
    await run_seconds(100, 3)
    assert len(world.received) == changes
    assert world.events <= changes + 5
    await world.interrupt()


async def test_first_poll_detects_no_clock_jump() -> None:
    """Before the first poll, the store time is unknown, and the local clock may be ahead of it."""
    world = World()

    async def earlier(proceed: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        changes, now = await proceed(*arguments, **options)
        return changes, now - 300.0

    with world.store.intercept("changes", earlier):
        await world.poll()
    assert world.feed.safe_watermark(world.time - 100.0) == world.time - 100.0
    await world.interrupt()


async def test_corrupt_record_does_not_hold_back_the_position() -> None:
    world = World()
    await world.sync()
    await world.write(USERS[0], 0.0, disconnect=False)
    record, _ = await world.store.find("app", USERS[0])
    assert record is not None
    await world.store.put(
        replace(record, value=record.value[:-1] + bytes([record.value[-1] ^ 1])), record.rev
    )
    world.time += 3600.0
    await world.poll()
    await world.poll()
    assert world.feed.watermark == world.time
    await world.interrupt()


async def test_watches_above_the_limit_are_rejected() -> None:
    """A new watch is accepted once one of the existing watches has ended."""
    world = World()
    await world.poll()
    watchers = Watchers(feed=world.feed, metrics=Metrics("0", []), max_watches=1)

    def watch() -> AsyncGenerator[Event, None]:
        return watchers.watch(names=(), is_visible=lambda _: True, permit=lambda _: True, position=None)

    async with aclosing(watch()) as accepted:
        await anext(accepted)
        with pytest.raises(ServerOverloaded) as rejection:
            await anext(watch())
        assert rejection.value.metadata == {"limit": "watches"}
    async with aclosing(watch()) as accepted:
        await anext(accepted)
    await world.interrupt()
