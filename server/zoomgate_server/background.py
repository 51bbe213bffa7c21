"""What goes on beside the calls."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from zoomgate_server import logs

_log = logs.get("zoomgate.app")


@contextlib.contextmanager
def running(works: Mapping[str, Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run works, each under its name, as long as the context lasts."""
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    for task in tasks:
        task.add_done_callback(_say_end)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _say_end(task: asyncio.Task[None]) -> None:
    """Tell of background work that ended by a defect: nothing else would."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("background.ended", work=task.get_name(), exc_info=error)
