"""Keeps everybody from asking Zoom's token endpoint in vain: while it refuses the app itself, asks for patience, or does not answer.

It is the app's, not a user's: none of these outcomes says anything about a user, and none changes a record.
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

OUR_FAULTS, OUR_FAULT_SECONDS = 3, 30.0
"""So many refusals of our own credentials in a row stop refreshes for so long. It lasts until somebody corrects the secret."""

THROTTLINGS, LONGEST_THROTTLE_SECONDS = 2, 900.0
"""So many requests for patience in a row stop refreshes for as long as Zoom says, and at most so long. One alone may be about one user."""

SILENCES, SILENCE_SECONDS = 5, 10.0
"""So many lost or failed requests in a row stop refreshes for so long."""


PROBE_SECONDS = 10.0
"""Between two refreshes that find out whether Zoom answers again, as long as none of them has found out."""


class CircuitBreaker:
    """Counts what cannot be any user's fault, and opens when it comes in a row.

    When its time is over, one refresh at a time finds out whether all is well again: a success lets everybody go on, the next outcome of
    the same kind opens it for as long as before.

    Args:
        clock: Time.
        on_change: Hears when it opens and when it closes.
    """

    def __init__(self, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._kind: type[TokenOutcome] | None = None
        self._in_a_row = 0
        self._outcome: NotSent | Unknown | Throttled | AppRejected | None = None
        self._until = 0.0

    def open_for(self) -> tuple[NotSent | Unknown | Throttled | AppRejected, float] | None:
        """Say why nothing should be asked now, and for how many seconds still, or None if whoever asks may go on.

        Whoever may go on after its time holds back the others for as long as an answer may be due.
        """
        if self._outcome is None:
            return None
        now = self._clock.monotonic()
        remaining = self._until - now
        if remaining > 0:
            return self._outcome, remaining
        self._until = now + PROBE_SECONDS
        return None

    def record(self, outcome: TokenOutcome) -> None:
        """Learn how a request ended."""
        match outcome:
            case Issued() | Rejected() | BadResponse():  # Zoom dealt with a user: all is well with the app
                self._kind, self._in_a_row = None, 0
                self._close()
            case AppRejected():
                self._count(outcome, AppRejected, OUR_FAULTS, OUR_FAULT_SECONDS)
            case Throttled(retry_after):
                self._count(outcome, Throttled, THROTTLINGS, min(retry_after, LONGEST_THROTTLE_SECONDS))
            case NotSent() | Unknown():
                self._count(outcome, Unknown, SILENCES, SILENCE_SECONDS)

    def _count(
        self,
        outcome: NotSent | Unknown | Throttled | AppRejected,
        kind: type[TokenOutcome],
        limit: int,
        seconds: float,
    ) -> None:
        self._in_a_row = self._in_a_row + 1 if self._kind is kind else 1
        self._kind = kind
        if self._in_a_row >= limit:
            self._until = max(self._until, self._clock.monotonic() + seconds)
            if self._outcome is None:
                self._on_change(True)
            self._outcome = outcome

    def _close(self) -> None:
        if self._outcome is not None:
            self._outcome = None
            self._on_change(False)
