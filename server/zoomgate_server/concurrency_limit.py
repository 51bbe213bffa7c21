"""Limits on concurrent operations of a process, which bound its memory, its file descriptors and the load on Zoom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import StrEnum

from zoomgate_server.clock import Clock
from zoomgate_server.errors import ServerOverloaded
from zoomgate_server.telemetry.metrics import Metrics


class Limit(StrEnum):
    """The limits, as named in metrics and errors."""

    REFRESHES = "concurrent_refreshes"
    EXCHANGES = "concurrent_exchanges"
    ZOOM_CALLS = "concurrent_zoom_calls"
    DOWNLOADS = "concurrent_downloads"
    LARGE_REQUESTS = "concurrent_large_requests"


class ConcurrencyLimit:
    """A limit on concurrent operations. Operations that wait for a slot start in the order of their arrival.

    Attributes:
        background: The semaphore of background operations, which use at most a quarter of the slots. Acquire it before a slot.
    """

    def __init__(self, limit: Limit, slots: int, clock: Clock, metrics: Metrics) -> None:
        self._limit = limit
        self._slots = asyncio.Semaphore(slots)
        self._clock = clock
        self._used = metrics.slots_used.labels(limit)
        self._waiting = metrics.slots_waiting.labels(limit)
        self.background = asyncio.Semaphore(max(1, slots // 4))

    @contextlib.asynccontextmanager
    async def slot(self, deadline: float | None = None) -> AsyncIterator[None]:
        """Hold a slot within the context.

        Args:
            deadline: Reading of the monotonic clock until which to wait for a slot; None for no limit.

        Raises:
            ServerOverloaded: No slot was free before the deadline.
        """
        await self.acquire(deadline)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, deadline: float | None = None) -> None:
        """Acquire a slot as `slot` does, but without an async generator, which the event loop would track. It must be released."""
        if self._slots.locked():
            await self._wait(deadline)
        else:
            await self._slots.acquire()
        self._used.inc()

    def release(self) -> None:
        """Release an acquired slot."""
        self._used.dec()
        self._slots.release()

    async def _wait(self, deadline: float | None) -> None:
        seconds = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        with self._waiting.track_inprogress():
            try:
                async with asyncio.timeout(seconds):
                    await self._slots.acquire()
            except TimeoutError:
                raise self.overloaded() from None

    def overloaded(self) -> ServerOverloaded:
        """Return the error for an operation that received no slot in time."""
        return ServerOverloaded(
            "This server is processing too many calls; retry in a moment",
            metadata={"limit": self._limit.value},
            retry_after=1.0,
        )
