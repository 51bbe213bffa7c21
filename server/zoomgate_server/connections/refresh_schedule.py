"""Due dates of proactive refreshes, which keep the grants of idle users valid.

Zoom expires a refresh token that has not been used for about 90 days, and reserves the right to change this number. A pair is therefore
refreshed after 45 to 60 days. The day depends on the Zoom user, because many users may have consented, or been imported, on the same day.
"""

from hashlib import blake2b

from zoomgate_server.connections.token_pair import TokenPair

EARLIEST_SECONDS = 45 * 24 * 3600.0
"""Minimum age at which an unused pair is refreshed proactively."""

SPREAD_SECONDS = 15 * 24 * 3600.0
"""Range, above the minimum age, over which the users' due dates are spread."""

AHEAD_SECONDS = 15 * 24 * 3600.0
"""Tolerance for a store clock that was ahead when a pair was issued. With a larger tolerance, Zoom could expire the pair before its due
date."""

LATEST_SECONDS = EARLIEST_SECONDS + SPREAD_SECONDS + AHEAD_SECONDS
"""Maximum time until a due date. A later due date was computed from a wrong clock."""


def due_at(zoom_user_id: str, tokens: TokenPair, now: float) -> float | None:
    """Return the due date of the refresh of an unused pair, or None if the pair has no refresh token.

    Times are seconds since 1970 on the store's clock. A pair issued in the future is due immediately, because its age is unknown.
    """
    if not tokens.refresh_token:
        return None
    if tokens.obtained_at > now + AHEAD_SECONDS:
        return now
    share = int.from_bytes(blake2b(zoom_user_id.encode(), digest_size=8).digest()) / 2**64
    return tokens.obtained_at + EARLIEST_SECONDS + share * SPREAD_SECONDS
