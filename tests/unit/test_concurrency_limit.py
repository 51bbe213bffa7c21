"""Tests for the limits on concurrent operations."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.errors import ServerOverloaded
from zoomgate_server.telemetry.metrics import Metrics


class World:
    """A limit, and the operations that hold or wait for a slot."""

    def __init__(self, slots: int) -> None:
        self.metrics = Metrics("0")
        self.limit = ConcurrencyLimit(Limit.EXCHANGES, slots, SystemClock(), self.metrics)
        self.started: list[str] = []
        self._finished: dict[str, asyncio.Event] = {}

    async def start(self, name: str, *, background: bool = False) -> asyncio.Task[None]:
        """Start an operation, and let it run until it holds a slot or waits for one."""
        self._finished[name] = asyncio.Event()
        task = asyncio.create_task(self._operate(name, background=background))
        await settle()
        return task

    async def finish(self, name: str) -> None:
        """Finish an operation, and let another one start."""
        self._finished[name].set()
        await settle()

    async def _operate(self, name: str, *, background: bool) -> None:
        async with AsyncExitStack() as stack:
            if background:
                await stack.enter_async_context(self.limit.background)
            await stack.enter_async_context(self.limit.slot())
            self.started.append(name)
            await self._finished[name].wait()

    def gauge(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"zoomgate_{name}", {"limit": "concurrent_exchanges"})


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_operations_start_in_the_order_of_their_arrival() -> None:
    """An operation that gives up leaves its place to the next one."""
    world = World(slots=1)
    tasks = [await world.start(name) for name in ("first", "second", "third", "fourth")]
    assert world.started == ["first"]
    tasks[1].cancel()
    await world.finish("first")
    assert world.started == ["first", "third"]
    late = await world.start("late")
    await world.finish("third")
    assert world.started == ["first", "third", "fourth"]
    for name in ("fourth", "late"):
        await world.finish(name)
    await asyncio.gather(tasks[0], *tasks[2:], late)


async def test_operation_without_a_slot_fails_at_its_deadline() -> None:
    """The error names the limit, and contains a retry delay."""
    world = World(slots=1)
    running = await world.start("running")
    with pytest.raises(ServerOverloaded) as overloaded:
        async with world.limit.slot(deadline=SystemClock().monotonic()):
            raise AssertionError("the operation started")
    assert overloaded.value.metadata == {"limit": "concurrent_exchanges"}
    assert overloaded.value.retry_after
    await world.finish("running")
    await running
    async with world.limit.slot(deadline=SystemClock().monotonic()):
        pass


async def test_background_operations_use_at_most_a_quarter_of_the_slots() -> None:
    """Other operations start before a waiting background operation."""
    world = World(slots=8)
    background = [await world.start(f"background {number}", background=True) for number in range(3)]
    others = [await world.start(f"call {number}") for number in range(6)]
    assert world.started == ["background 0", "background 1", *(f"call {number}" for number in range(6))]
    await world.finish("background 0")
    assert world.started[-1] == "background 2"
    for name in list(world.started):
        await world.finish(name)
    await asyncio.gather(*background, *others)


async def test_used_slots_and_waiting_operations_are_counted() -> None:
    world = World(slots=2)
    tasks = [await world.start(str(number)) for number in range(5)]
    assert (world.gauge("slots_used"), world.gauge("slots_waiting")) == (2, 3)
    tasks[4].cancel()
    await settle()
    assert (world.gauge("slots_used"), world.gauge("slots_waiting")) == (2, 2)
    for number in range(4):
        await world.finish(str(number))
    await asyncio.gather(*tasks[:4])
    assert (world.gauge("slots_used"), world.gauge("slots_waiting")) == (0, 0)
