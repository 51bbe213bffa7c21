"""Exponential backoff of each user whose refreshes fail, so that a failure of one user delays no other user."""

from collections import OrderedDict
from dataclasses import dataclass

from zoomgate_server.backoff import Backoff
from zoomgate_server.clock import Clock
from zoomgate_server.connections.refresh.protocol import Failure, Timing
from zoomgate_server.zoom.token_outcome import Throttled

CAPACITY = 10_000
"""Maximum number of users. The user whose last failure is the oldest is evicted first."""


@dataclass(slots=True)
class _FailingUser:
    """A user whose last refresh failed, and the reading of the monotonic clock from which the next refresh may start."""

    backoff: Backoff
    outcome: Failure
    until: float = 0.0


class UserBackoff:
    """The users whose last refresh failed."""

    def __init__(self, clock: Clock, timing: Timing, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._timing = timing
        self._capacity = capacity
        self._failing: OrderedDict[str, _FailingUser] = OrderedDict()

    def remaining(self, zoom_user_id: str) -> tuple[Failure, float] | None:
        """Return the outcome of the user's last refresh and the remaining seconds, or None if a refresh may start."""
        failing = self._failing.get(zoom_user_id)
        remaining = 0.0 if failing is None else failing.until - self._clock.monotonic()
        return None if failing is None or remaining <= 0 else (failing.outcome, remaining)

    def record_failure(self, zoom_user_id: str, outcome: Failure) -> None:
        """Start the user's next pause, which is twice as long as the previous one, and at least as long as Zoom requests."""
        failing = self._failing.setdefault(
            zoom_user_id,
            _FailingUser(Backoff(self._timing.first_backoff, self._timing.longest_backoff), outcome),
        )
        requested = outcome.retry_after if isinstance(outcome, Throttled) else 0.0
        failing.outcome = outcome
        failing.until = self._clock.monotonic() + max(failing.backoff.next_pause(), requested)
        self._failing.move_to_end(zoom_user_id)
        if len(self._failing) > self._capacity:
            self._failing.popitem(last=False)

    def reset(self, zoom_user_id: str) -> None:
        """End the user's backoff, after a success."""
        self._failing.pop(zoom_user_id, None)
