"""Tests for tasks that outlive their call."""

import asyncio
import contextvars

import pytest

from zoomgate_server.telemetry.background_tasks import TaskSet

_CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="none")


async def test_canceled_call_does_not_cancel_its_shielded_task() -> None:
    tasks, finish, finished = TaskSet(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await finish.wait()
        finished.set()

    call = asyncio.create_task(tasks.shield(work()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not await tasks.drain(0.01)
    finish.set()
    assert await tasks.drain()
    assert finished.is_set()


async def test_shielded_task_returns_its_result_and_raises_its_error() -> None:
    async def fail() -> None:
        raise LookupError

    tasks = TaskSet()
    assert await tasks.shield(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(LookupError):
        await tasks.shield(fail())
    assert await tasks.drain(0)


async def test_error_of_a_shielded_task_whose_call_was_canceled_is_not_reported_by_asyncio() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    tasks = TaskSet()

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    call = asyncio.create_task(tasks.shield(fail()))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call})
    assert await tasks.drain(1)
    del call
    assert not reported


async def test_spawned_task_has_an_empty_context() -> None:
    async def read() -> str:
        return _CALLER.get()

    _CALLER.set("monica")
    tasks = TaskSet()
    assert await tasks.spawn(read()) == "none"
    assert await tasks.shield(read()) == "monica"


async def test_drain_waits_for_all_tasks_and_for_those_that_they_start() -> None:
    tasks, order = TaskSet(), list[str]()

    async def record(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    async def start_another() -> None:
        await record("first", 0.01)
        tasks.spawn(record("third", 0.03))

    tasks.spawn(start_another())
    tasks.spawn(record("second", 0.02))
    assert await tasks.drain(5)
    assert order == ["first", "second", "third"]


async def test_drain_is_complete_if_the_tasks_finish_before_it_starts() -> None:
    tasks = TaskSet()
    task = tasks.spawn(asyncio.sleep(0))
    while not task.done():
        await asyncio.sleep(0)
    assert await tasks.drain(0)
