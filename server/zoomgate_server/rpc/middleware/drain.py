"""The end of calls that are still running when the time for them after SIGTERM is over."""

import asyncio
from typing import Any

from zoomgate_server.call_context import current_lost_write
from zoomgate_server.errors import ShuttingDown
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method


class Drain:
    """A stage that ends running calls with an error that states whether a retry is safe.

    The gRPC library would cancel them with UNAVAILABLE, even if Zoom may have processed a write.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()
        self._ends_at: float | None = None

    def end_calls_after(self, seconds: float) -> None:
        """End the calls that are still running after this time."""
        self._ends_at = asyncio.get_running_loop().time() + seconds
        for timeout in self._running:
            timeout.reschedule(self._ends_at)

    def wrap(self, _: Method, respond: Handler) -> Handler:
        """Add the end of the drain to a method."""

        async def respond_in_time(request: Any, context: Context) -> Any:
            timeout = asyncio.timeout_at(self._ends_at)
            try:
                async with timeout:
                    self._running.add(timeout)
                    return await respond(request, context)
            except TimeoutError:
                if not timeout.expired():
                    raise
                raise current_lost_write.get() or ShuttingDown() from None
            finally:
                self._running.discard(timeout)

        return respond_in_time
