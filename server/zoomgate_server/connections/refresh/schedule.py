"""When the grant of somebody who is idle is refreshed, so that it does not die.

Zoom lets a refresh token die when it was not used for about 90 days, and reserves the right to change that number. So a pair is renewed
after 45 to 60 days: everybody at a day of their own, since many may have consented, or been imported, on the same one.
"""

from hashlib import blake2b

from zoomgate_server.connections.token_pair import TokenPair

EARLIEST_SECONDS = 45 * 24 * 3600.0
"""How old an unused pair becomes at least before it is renewed for its own sake."""

SPREAD_SECONDS = 15 * 24 * 3600.0
"""How much older at most, by the user."""

AHEAD_SECONDS = 15 * 24 * 3600.0
"""How far the store's clock may have been ahead when a pair was issued. By more than that Zoom could let it die before its time."""

LATEST_SECONDS = EARLIEST_SECONDS + SPREAD_SECONDS + AHEAD_SECONDS
"""No pair is due later than so long from now; one that is has its date from a clock that was wrong."""


def due_at(user_email: str, tokens: TokenPair, now: float) -> float | None:
    """Say when a pair that nobody uses is renewed, or None if it cannot be.

    Args:
        user_email: Whose it is.
        tokens: The pair.
        now: The store's clock. A pair of the future is due at once: nobody knows how old it is.

    Returns:
        Seconds since 1970 by the store's clock.
    """
    if not tokens.refresh_token:
        return None
    if tokens.obtained_at > now + AHEAD_SECONDS:
        return now
    share = int.from_bytes(blake2b(user_email.encode(), digest_size=8).digest()) / 2**64
    return tokens.obtained_at + EARLIEST_SECONDS + share * SPREAD_SECONDS
