"""The end of calls that are still running when the time for them after SIGTERM is over."""

import asyncio
from typing import Any

from zoomgate_server.call_context import current_unknown_outcome
from zoomgate_server.errors import ShuttingDown
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method

STREAM_SECONDS = 1.0
"""Time for streams, which callers can resume. Watches end themselves within this time, with a position that is as late as possible."""


class Drain:
    """A stage that ends running calls with an error that states whether a retry is safe.

    The gRPC library would cancel them with UNAVAILABLE, even if Zoom may have processed a write.
    """

    def __init__(self) -> None:
        self._running: dict[asyncio.Timeout, Method] = {}
        self._ends_at: float | None = None
        self._streams_end_at: float | None = None

    def end_calls_after(self, seconds: float) -> None:
        """End the streams soon, and the other calls that are still running after this time."""
        now = asyncio.get_running_loop().time()
        self._streams_end_at, self._ends_at = now + STREAM_SECONDS, now + seconds
        for timeout, method in self._running.items():
            timeout.reschedule(self._end_of(method))

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Add the end of the drain to a method."""

        async def respond_in_time(request: Any, context: Context) -> Any:
            timeout = asyncio.timeout_at(self._end_of(method))
            try:
                async with timeout:
                    self._running[timeout] = method
                    return await respond(request, context)
            except TimeoutError:
                if not timeout.expired():
                    raise
                raise current_unknown_outcome.get() or ShuttingDown() from None
            finally:
                self._running.pop(timeout, None)

        return respond_in_time

    def _end_of(self, method: Method) -> float | None:
        return self._streams_end_at if method.streams else self._ends_at
