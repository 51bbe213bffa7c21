"""Rate limiter for rows, with pauses that apply to all rows."""

from zoomgate_server.clock import Clock
from zoomgate_server.importing.stop import StopSignal


class RateLimiter:
    """A rate limiter for rows. All waits end when the import stops.

    Args:
        rate: The maximum number of rows per second.
    """

    def __init__(self, rate: float, clock: Clock, stop: StopSignal) -> None:
        self._interval = 1 / rate
        self._clock = clock
        self._stop = stop
        self._next = self._held_until = clock.monotonic()

    async def wait(self) -> None:
        """Wait until the next row may start."""
        now = self._clock.monotonic()
        at = max(
            self._next, now - self._interval
        )  # after a delay, one row may start early to make up for the lost time
        self._next = at + self._interval
        if at > now:
            await self._stop.sleep(at - now)
        await self.wait_while_held()

    async def wait_while_held(self) -> None:
        """Wait for the end of the current pause, if any."""
        while self._stop.reason is None and (remaining := self._held_until - self._clock.monotonic()) > 0:
            await self._stop.sleep(remaining)

    def hold(self, seconds: float) -> None:
        """Pause all rows for at least this number of seconds."""
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)
