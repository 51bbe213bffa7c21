"""Circuit breaker for Zoom's token endpoint.

The breaker opens when Zoom rejects the app's credentials, rate limits the app or does not respond. The breaker applies to the app as a
whole: none of these outcomes is specific to a user, and none changes a record.
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
"""Number of consecutive rejections of the app's credentials that open the breaker, and the duration of the pause."""

MAX_THROTTLED, MAX_THROTTLED_PAUSE_SECONDS = 2, 900.0
"""Number of consecutive 429 responses that open the breaker, and the maximum duration of the pause, which is as long as Zoom requests.
A single 429 response may concern one user only."""

MAX_UNREACHABLE, UNREACHABLE_PAUSE_SECONDS = 5, 10.0
"""Number of consecutive failed requests or lost responses that open the breaker, and the duration of the pause."""

PROBE_INTERVAL_SECONDS = 10.0
"""Interval between two probes while no probe has completed."""

_Failure = NotSent | Unknown | Throttled | AppRejected


class CircuitBreaker:
    """A circuit breaker that opens after consecutive failures that are not specific to a user.

    After the pause, one refresh at a time is allowed as a probe. A success closes the breaker; a failure of the same kind opens the breaker
    again for the same time.

    Args:
        on_change: Called with True when the breaker opens and with False when it closes.
    """

    def __init__(self, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._kind: type[TokenOutcome] | None = None
        self._consecutive = 0
        self._outcome: _Failure | None = None
        self._until = 0.0

    def open_for(self) -> tuple[_Failure, float] | None:
        """Return the outcome that opened the breaker and the remaining seconds, or None if the caller may send a request.

        If the pause is over, the caller's request is a probe: the breaker stays open for other callers for `PROBE_INTERVAL_SECONDS`.
        """
        paused = self.pause()
        if paused is None and self._outcome is not None:
            self._until = self._clock.monotonic() + PROBE_INTERVAL_SECONDS
        return paused

    def pause(self) -> tuple[_Failure, float] | None:
        """Return the outcome that opened the breaker and the remaining seconds of the pause, or None if there is no pause."""
        remaining = self._until - self._clock.monotonic()
        return (self._outcome, remaining) if self._outcome is not None and remaining > 0 else None

    def record(self, outcome: TokenOutcome) -> None:
        """Record the outcome of a request."""
        match outcome:
            case Issued() | Rejected() | BadResponse():
                # Zoom processed a user's token, so the app's credentials are accepted
                self._kind, self._consecutive = None, 0
                if self._outcome is not None:
                    self._outcome = None
                    self._on_change(False)
            case AppRejected():
                self._count(outcome, AppRejected, MAX_APP_REJECTIONS, APP_REJECTION_PAUSE_SECONDS)
            case Throttled(retry_after):
                self._count(outcome, Throttled, MAX_THROTTLED, min(retry_after, MAX_THROTTLED_PAUSE_SECONDS))
            case NotSent() | Unknown():
                self._count(outcome, Unknown, MAX_UNREACHABLE, UNREACHABLE_PAUSE_SECONDS)

    def _count(self, outcome: _Failure, kind: type[TokenOutcome], limit: int, seconds: float) -> None:
        self._consecutive = self._consecutive + 1 if self._kind is kind else 1
        self._kind = kind
        if self._consecutive >= limit:
            self._until = max(self._until, self._clock.monotonic() + seconds)
            if self._outcome is None:
                self._on_change(True)
            self._outcome = outcome
