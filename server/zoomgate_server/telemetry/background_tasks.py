"""What goes on beside the calls."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from zoomgate_server.telemetry import logs

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Pauses before a work that ended by a defect is begun again: each twice as long as the one before."""

TaskFactory = Callable[[], Coroutine[Any, Any, None]]
"""Begins something that goes on until it is cancelled."""

_log = logs.get("zoomgate.app")


@contextlib.contextmanager
def supervised(works: Mapping[str, TaskFactory]) -> Iterator[None]:
    """Run works, each under its name, as long as the context lasts. One that ends by a defect is begun again."""
    tasks = [asyncio.create_task(_keep_running(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _keep_running(name: str, work: TaskFactory) -> None:
    clock, pause = asyncio.get_running_loop().time, FIRST_PAUSE_SECONDS
    while True:
        begun = clock()
        try:
            await work()
        except Exception:  # noqa: BLE001 - what one record brings about may not end what all others need
            if clock() - begun > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            _log.exception("background_task.failed", task=name, retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            return
