"""A rate limiter for operations of one process."""

import time
from collections.abc import Callable


class RateLimiter:
    """A rate limiter, in operations per second, whose callers sleep themselves.

    A late operation may be followed by one early operation, which preserves the rate.
    """

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / rate
        self._now = now
        self._next = self._held_until = now()

    def reserve(self) -> float:
        """Reserve the next start of an operation, and return the number of seconds until then."""
        now = self._now()
        start = max(self._next, self._held_until, now - self._interval)
        self._next = start + self._interval
        return max(start - now, 0.0)

    def hold(self, seconds: float) -> None:
        """Delay all further starts by at least this number of seconds from now."""
        self._held_until = max(self._held_until, self._now() + seconds)

    def held_seconds(self) -> float:
        """Return the number of seconds until the current hold ends, or 0."""
        return max(self._held_until - self._now(), 0.0)
