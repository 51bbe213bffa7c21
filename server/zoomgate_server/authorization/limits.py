"""Limits on pending authorizations."""

from collections import deque

from zoomgate_server.clock import Clock
from zoomgate_server.errors import ServerOverloaded

STATE_SECONDS = 600.0
"""Lifetime in seconds of a pending authorization, a ticket and a result view."""


class PendingLimits:
    """Limits on the pending authorizations that this process started.

    A completed authorization is counted until its expiry time, because it also occupies space in the store until then.
    """

    def __init__(self, clock: Clock, *, per_user: int, per_caller: int) -> None:
        self._clock = clock
        self._per_user = per_user
        self._per_caller = per_caller
        self._started: dict[tuple[str, str], deque[float]] = {}
        self._cleaned_at = clock.monotonic()

    def add(self, caller: str, user_email: str) -> None:
        """Add a pending authorization; raise ServerOverloaded if a limit is reached."""
        now = self._clock.monotonic()
        self._clean(now)
        limits = {("caller", caller): self._per_caller, ("user", user_email): self._per_user}
        for key, limit in limits.items():
            times = self._started.setdefault(key, deque())
            while times and times[0] <= now - STATE_SECONDS:
                times.popleft()
            if len(times) >= limit:
                raise ServerOverloaded(
                    f"Too many pending authorizations for this {key[0]} (at most {limit} in 10 minutes); retry later",
                    metadata={"limit": f"pending_authorizations_per_{key[0]}"},
                    retry_after=times[0] + STATE_SECONDS - now,
                )
        for key in limits:
            self._started[key].append(now)

    def _clean(self, now: float) -> None:
        """Periodically discard the entries of callers and users without recent authorizations."""
        if now - self._cleaned_at < STATE_SECONDS:
            return
        self._cleaned_at = now
        self._started = {
            key: times for key, times in self._started.items() if times and times[-1] > now - STATE_SECONDS
        }
