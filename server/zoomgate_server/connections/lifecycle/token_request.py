"""Requests to Zoom's token endpoint under a lease or mark."""

from dataclasses import dataclass

from zoomgate_server.connections.lifecycle.effects import (
    ExchangeCode,
    ExchangeRefreshToken,
    LeaseTiming,
    Now,
    Protocol,
    Sleep,
)
from zoomgate_server.zoom.token_outcome import TokenOutcome, Unknown

UNKNOWN_RETRIES = 2
"""Number of retries with the same refresh token after a lost response. A retry loses nothing: without the response, the old token is the
only one available. Codes are never sent again."""

UNKNOWN_PAUSE_SECONDS = 2.0
"""Pause before a retry after a lost response, so that Zoom is no longer processing the first request."""


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """The result of sending one code or refresh token.

    Attributes:
        outcome: The outcome of the latest request, or None if the lease or mark no longer covered a call, so that nothing was sent.
        sent_at: The reading of the monotonic clock before the latest request.
        is_lost: Whether a response was lost.
    """

    outcome: TokenOutcome | None
    sent_at: float
    is_lost: bool = False


def send(
    request: ExchangeCode | ExchangeRefreshToken, since: float, timing: LeaseTiming
) -> Protocol[TokenResponse]:
    """Send a code or refresh token while a lease or mark covers the call.

    Args:
        since: The reading of the monotonic clock before the read on which the lease or mark is based.
    """
    response = TokenResponse(None, since)
    for attempt in range(1 + UNKNOWN_RETRIES if isinstance(request, ExchangeRefreshToken) else 1):
        if attempt:
            yield Sleep(UNKNOWN_PAUSE_SECONDS)
        now: float = yield Now()
        if not timing.allows_call(since, now):
            break
        outcome: TokenOutcome = yield request
        is_unknown = isinstance(outcome, Unknown)
        response = TokenResponse(outcome, now, is_lost=response.is_lost or is_unknown)
        if not is_unknown:
            break
    return response
