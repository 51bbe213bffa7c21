"""When the grant of somebody who is idle is refreshed, so that it does not die.

Zoom lets a refresh token die when it was not used for about 90 days, and reserves the right to change that number. So a pair is renewed
after 45 to 60 days: everybody at a day of their own, since many may have consented, or been imported, on the same one.
"""

from hashlib import blake2b

from zoomgate_server.tokens.token import TokenPair

EARLIEST_SECONDS = 45 * 24 * 3600.0
"""How old an unused pair becomes at least before it is renewed for its own sake."""

SPREAD_SECONDS = 15 * 24 * 3600.0
"""How much older at most, by the user."""


def due_at(user_email: str, tokens: TokenPair) -> float | None:
    """Say when a pair that nobody uses is renewed, or None if it cannot be.

    Args:
        user_email: Whose it is.
        tokens: The pair.

    Returns:
        Seconds since 1970 by the store's clock.
    """
    if not tokens.refresh_token:
        return None
    share = int.from_bytes(blake2b(user_email.encode(), digest_size=8).digest()) / 2**64
    return tokens.obtained_at + EARLIEST_SECONDS + share * SPREAD_SECONDS
