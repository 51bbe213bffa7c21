"""What goes on beside the calls."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Protocol

from zoomgate_server import logs
from zoomgate_server.tokens.store import StoreError

CLEAN_SECONDS = 60.0
"""Pause between two looks for what has expired."""

_log = logs.get("zoomgate.app")


class Cleanable(Protocol):
    """Something that may hold what has expired."""

    async def clean(self) -> int:
        """Delete some of what has expired, and say how much.

        Raises:
            StoreError: The store failed.
        """
        ...


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


async def clean(*stores: Cleanable) -> None:
    """Delete what has expired now and then; it is worth nothing already. Where the database does the same, nothing is left to do."""
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        try:
            for store in stores:
                await store.clean()
        except StoreError:
            _log.warning("expired.clean_failed")
