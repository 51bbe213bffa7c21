"""How fast rows are begun, and how long everybody waits when Zoom asks for patience."""

from zoomgate_server.clock import Clock
from zoomgate_server.importing.stop import Stop


class Pace:
    """Keeps what is begun apart.

    Args:
        rate: How many a second may begin.
        clock: Time.
        stop: Ends all waiting.
    """

    def __init__(self, rate: float, clock: Clock, stop: Stop) -> None:
        self._apart = 1 / rate
        self._clock = clock
        self._stop = stop
        self._next = self._held_until = clock.monotonic()

    async def wait(self) -> None:
        """Wait until the next one may begin."""
        now = self._clock.monotonic()
        at = max(self._next, now - self._apart)  # who comes late may catch up with one
        self._next = at + self._apart
        if at > now:
            await self._stop.sleep(at - now)
        await self.patience()

    async def patience(self) -> None:
        """Wait as long as nothing may be sent."""
        while self._stop.why is None and (left := self._held_until - self._clock.monotonic()) > 0:
            await self._stop.sleep(left)

    def hold(self, seconds: float) -> None:
        """Let nothing be sent for so many seconds."""
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)
