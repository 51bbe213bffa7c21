"""Supervision of background tasks."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from zoomgate_server.telemetry import logs

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Initial and maximum delay before a failed task is restarted. The delay doubles with each failure."""

TaskFactory = Callable[[], Coroutine[Any, Any, None]]
"""Factory of a coroutine that runs until canceled."""

_log = logs.get("zoomgate.app")


@contextlib.contextmanager
def supervised(tasks: Mapping[str, TaskFactory]) -> Iterator[None]:
    """Run named background tasks while the context is open. A task that raises an exception is restarted after a delay."""
    running = [asyncio.create_task(_keep_running(name, task), name=name) for name, task in tasks.items()]
    try:
        yield
    finally:
        for task in running:
            task.cancel()


async def _keep_running(name: str, start: TaskFactory) -> None:
    clock, pause = asyncio.get_running_loop().time, FIRST_PAUSE_SECONDS
    while True:
        started_at = clock()
        try:
            await start()
        except Exception:  # noqa: BLE001 - an error in one record must not stop the processing of all others
            if clock() - started_at > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.exception("background_task.failed", task=name, retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            return
