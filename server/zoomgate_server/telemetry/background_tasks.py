"""Tasks that outlive the call that started them, and supervised tasks that run as long as the service."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from zoomgate_server.backoff import Backoff
from zoomgate_server.call_context import current_unknown_outcome
from zoomgate_server.errors import ZoomOutcomeUnknown
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.spans import NOT_RECORDED, Span, current_span, detached_context

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Initial and maximum delay before a failed task is restarted. The delay doubles with each failure."""

TaskFactory = Callable[[], Coroutine[Any, Any, None]]
"""Factory of a coroutine that runs until canceled."""

_T = TypeVar("_T")
_log = logs.get("zoomgate.app")


class TaskSet:
    """The running tasks of a component. They continue if the call that started them is canceled; `drain` waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Return the number of unfinished tasks."""
        return sum(not task.done() for task in self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task that is independent of the current call and of its context, except for the current span."""
        return self._add(asyncio.get_running_loop().create_task(coroutine, context=detached_context()))

    async def shield(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of a coroutine that completes even if the current call is canceled, which then has an unknown outcome."""
        task = self._add(asyncio.get_running_loop().create_task(coroutine))
        task.add_done_callback(retrieve_exception)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current_unknown_outcome.set(
                ZoomOutcomeUnknown(
                    "This server is shutting down, and the call may take effect; check before retrying"
                )
            )
            raise

    async def drain(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds` for all tasks, including those that they start. Return whether all have finished."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        return not len(self)

    def _add(self, task: asyncio.Task[_T]) -> asyncio.Task[_T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Prevent asyncio from logging an exception that no call receives, because the call was canceled."""
    if not done.cancelled():
        done.exception()


@contextlib.contextmanager
def supervised(tasks: Mapping[str, TaskFactory], span: Span = NOT_RECORDED) -> Iterator[None]:
    """Run named background tasks within a span while the context is open. A task that raises an exception is restarted after a delay."""
    running = [
        asyncio.create_task(_keep_running(name, task, span), name=name) for name, task in tasks.items()
    ]
    try:
        yield
    finally:
        for task in running:
            task.cancel()


async def _keep_running(name: str, start: TaskFactory, span: Span) -> None:
    current_span.set(span)
    clock, backoff = asyncio.get_running_loop().time, Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        started_at = clock()
        try:
            await start()
        except Exception:  # noqa: BLE001 - an error in one record must not stop the processing of all others
            if clock() - started_at > LONGEST_PAUSE_SECONDS:
                backoff.reset()
            pause = backoff.next_pause()
            _log.exception("background_task.failed", task=name, retry_in=pause)
            await asyncio.sleep(pause)
        else:
            return
