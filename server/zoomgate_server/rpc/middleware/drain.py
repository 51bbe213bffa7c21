"""End of the calls that are still running at the end of the drain."""

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
        self._running: dict[asyncio.Task[Any] | None, Method] = {}
        self._ended: set[asyncio.Task[Any] | None] = set()

    def end_calls_after(self, seconds: float) -> None:
        """End the streams soon, and the other calls that are still running after this time."""
        loop = asyncio.get_running_loop()
        loop.call_later(STREAM_SECONDS, self._end, True)
        loop.call_later(seconds, self._end, False)

    def _end(self, streams: bool) -> None:
        for task, method in self._running.items():
            if task is not None and method.streams == streams:
                self._ended.add(task)
                task.cancel()

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Add the end of the drain to a method."""

        async def respond_in_time(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            self._running[task] = method
            try:
                return await respond(request, context)
            except asyncio.CancelledError:
                # if the caller has canceled the call, too, there is no response
                if task is None or task not in self._ended or task.uncancel():
                    raise
                raise current_unknown_outcome.get() or ShuttingDown() from None
            finally:
                del self._running[task]
                self._ended.discard(task)

        return respond_in_time
