"""Circuit breaker for Zoom's token endpoint.

The breaker opens when Zoom rejects the app's credentials, rate limits the app or does not respond. The breaker applies to the app as a
whole. It therefore opens only after failures of several users, because a failure of one user may be specific to this user.
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
    UnexplainedRejection,
    Unknown,
)

APP_REJECTION_USERS, APP_REJECTION_PAUSE_SECONDS = 3, 30.0
"""Number of users whose requests Zoom consecutively rejects because of the app's credentials before the breaker opens, and the pause."""

THROTTLED_USERS, MAX_THROTTLED_PAUSE_SECONDS = 2, 900.0
"""Number of users with consecutive 429 responses that open the breaker, and the maximum pause, which is as long as Zoom requests."""

UNREACHABLE_USERS, UNREACHABLE_PAUSE_SECONDS = 3, 10.0
"""Number of users with consecutive failed requests or lost responses that open the breaker, and the pause."""

PROBE_INTERVAL_SECONDS = 10.0
"""Interval between two probes while no probe has completed."""

_Failure = NotSent | Throttled | AppRejected


class CircuitBreaker:
    """A circuit breaker that opens after consecutive failures of several users.

    After the pause, one refresh token at a time is sent as a probe. A success closes the breaker; a failure of the same kind opens the
    breaker again for the same time.

    Args:
        on_change: Called with True when the breaker opens and with False when it closes.
    """

    def __init__(self, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._kind: type[_Failure] | None = None
        self._failing_users: set[str] = set()
        self._outcome: _Failure | None = None
        self._until = 0.0

    def open_for(self) -> tuple[_Failure, float] | None:
        """Return the outcome that opened the breaker and the remaining seconds, or None if a refresh may start."""
        remaining = self._until - self._clock.monotonic()
        return None if self._outcome is None or remaining <= 0 else (self._outcome, remaining)

    def admit(self) -> _Failure | None:
        """Return None if a refresh token may be sent now, otherwise the outcome that opened the breaker.

        If the pause is over, the token is the probe: the breaker stays open for all others for `PROBE_INTERVAL_SECONDS`.
        """
        opened = self.open_for()
        if opened is not None:
            return opened[0]
        if self._outcome is not None:
            self._until = self._clock.monotonic() + PROBE_INTERVAL_SECONDS
        return None

    def record(self, zoom_user_id: str, outcome: TokenOutcome) -> None:
        """Record the outcome of a user's request."""
        match outcome:
            case UnexplainedRejection():
                pass  # the reason may concern the user or the app
            case Issued() | Rejected() | BadResponse():
                # Zoom processed a user's token, so the app's credentials are accepted
                self._kind = None
                if self._outcome is not None:
                    self._outcome = None
                    self._on_change(False)
            case AppRejected():
                self._count(zoom_user_id, outcome, APP_REJECTION_USERS, APP_REJECTION_PAUSE_SECONDS)
            case Throttled(retry_after):
                self._count(
                    zoom_user_id, outcome, THROTTLED_USERS, min(retry_after, MAX_THROTTLED_PAUSE_SECONDS)
                )
            case NotSent() | Unknown():
                # the tokens of other users are not sent, so their outcome is known
                unreachable = NotSent("the circuit breaker is open")
                self._count(zoom_user_id, unreachable, UNREACHABLE_USERS, UNREACHABLE_PAUSE_SECONDS)

    def _count(self, zoom_user_id: str, outcome: _Failure, users: int, seconds: float) -> None:
        if self._kind is not type(outcome):
            self._kind, self._failing_users = type(outcome), set()
        if len(self._failing_users) < users:
            self._failing_users.add(zoom_user_id)
        if len(self._failing_users) < users:
            return
        self._until = max(self._until, self._clock.monotonic() + seconds)
        if self._outcome is None:
            self._on_change(True)
        self._outcome = outcome
