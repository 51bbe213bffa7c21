"""Limits on pending authorizations."""

from collections import deque

from zoomgate_server.clock import Clock
from zoomgate_server.errors import ServerOverloaded

STATE_SECONDS = 600.0
"""How long a person may take to consent, and a page to redeem its ticket."""


class PendingLimits:
    """Counts the authorizations that this process began and that can still be completed.

    Completed ones count until they would have expired: the limit is on beginning, so that a flood of links fills no store.
    """

    def __init__(self, clock: Clock, *, per_user: int, per_caller: int) -> None:
        self._clock = clock
        self._per_user = per_user
        self._per_caller = per_caller
        self._started: dict[tuple[str, str], deque[float]] = {}
        self._looked_at = clock.monotonic()

    def add(self, caller: str, user_email: str) -> None:
        """Count one more.

        Raises:
            ServerOverloaded: A limit is reached.
        """
        now = self._clock.monotonic()
        self._clean(now)
        for key, limit in ((("caller", caller), self._per_caller), (("user", user_email), self._per_user)):
            times = self._started.get(key, deque())
            while times and times[0] <= now - STATE_SECONDS:
                times.popleft()
            if len(times) >= limit:
                raise ServerOverloaded(
                    f"Too many authorizations of this {key[0]} are open (at most {limit} in 10 minutes)",
                    metadata={"limit": f"pending_authorizations_per_{key[0]}"},
                    retry_after=times[0] + STATE_SECONDS - now,
                )
        for key in (("caller", caller), ("user", user_email)):
            self._started.setdefault(key, deque()).append(now)

    def _clean(self, now: float) -> None:
        """Forget, once a while, whoever began nothing lately."""
        if now - self._looked_at < STATE_SECONDS:
            return
        self._looked_at = now
        self._started = {
            key: times for key, times in self._started.items() if times and times[-1] > now - STATE_SECONDS
        }
