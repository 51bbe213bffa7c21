"""Circuit breaker for Zoom's token endpoint.

It opens when Zoom rejects the app's credentials, rate limits the app or does not respond. It applies to the app as a whole: none of these
outcomes is specific to a user, and none changes a record.
"""

from collections.abc import Callable

from zoomgate_server.clock import Clock
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    Issued,
    NotSent,
    Rejected,
    Throttled,
    TokenOutcome,
    Unknown,
)

MAX_APP_REJECTIONS, APP_REJECTION_PAUSE_SECONDS = 3, 30.0
"""Consecutive rejections of the app's credentials that open the breaker, and for how long. They persist until the secret is corrected."""

MAX_THROTTLED, MAX_THROTTLED_PAUSE_SECONDS = 2, 900.0
"""Consecutive 429 responses that open the breaker, and the upper bound of the requested pause. A single one may concern one user only."""

MAX_UNREACHABLE, UNREACHABLE_PAUSE_SECONDS = 5, 10.0
"""Consecutive failed requests or lost responses that open the breaker, and for how long."""

PROBE_INTERVAL_SECONDS = 10.0
"""Interval between two probes for as long as no probe has had an outcome."""


class CircuitBreaker:
    """Counts consecutive failures that no user can cause, and opens at a limit.

    Once the pause is over, one refresh at a time is let through as a probe. A success closes the breaker; another failure of the same kind
    opens it again for the same time.

    Args:
        on_change: Called with True when the breaker opens and with False when it closes.
    """

    def __init__(self, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._kind: type[TokenOutcome] | None = None
        self._consecutive = 0
        self._outcome: NotSent | Unknown | Throttled | AppRejected | None = None
        self._until = 0.0

    def open_for(self) -> tuple[NotSent | Unknown | Throttled | AppRejected, float] | None:
        """Return the outcome that opened the breaker and the remaining seconds, or None if the caller may send a request.

        A None after the pause makes the caller's request a probe: the breaker stays open for other callers while its response may be due.
        """
        if self._outcome is None:
            return None
        now = self._clock.monotonic()
        remaining = self._until - now
        if remaining > 0:
            return self._outcome, remaining
        self._until = now + PROBE_INTERVAL_SECONDS
        return None

    def record(self, outcome: TokenOutcome) -> None:
        """Record the outcome of a request."""
        match outcome:
            case Issued() | Rejected() | BadResponse():
                # Zoom processed a user's token, so the app itself works
                self._kind, self._consecutive = None, 0
                self._close()
            case AppRejected():
                self._count(outcome, AppRejected, MAX_APP_REJECTIONS, APP_REJECTION_PAUSE_SECONDS)
            case Throttled(retry_after):
                self._count(outcome, Throttled, MAX_THROTTLED, min(retry_after, MAX_THROTTLED_PAUSE_SECONDS))
            case NotSent() | Unknown():
                self._count(outcome, Unknown, MAX_UNREACHABLE, UNREACHABLE_PAUSE_SECONDS)

    def _count(
        self,
        outcome: NotSent | Unknown | Throttled | AppRejected,
        kind: type[TokenOutcome],
        limit: int,
        seconds: float,
    ) -> None:
        self._consecutive = self._consecutive + 1 if self._kind is kind else 1
        self._kind = kind
        if self._consecutive >= limit:
            self._until = max(self._until, self._clock.monotonic() + seconds)
            if self._outcome is None:
                self._on_change(True)
            self._outcome = outcome

    def _close(self) -> None:
        if self._outcome is not None:
            self._outcome = None
            self._on_change(False)
