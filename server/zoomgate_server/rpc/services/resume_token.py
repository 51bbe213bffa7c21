"""Resume tokens: positions from which a watch can be resumed. Opaque to callers, and valid only for the same caller and users."""

import hashlib
from collections.abc import Collection

from zoomgate_server.errors import InvalidPageToken, InvalidResumeToken
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.watch.watchers import Position

_PURPOSE = "WatchConnections"


class ResumeTokens:
    """A creator and verifier of the resume tokens of a caller's watch of these users."""

    def __init__(self, page_tokens: PageTokens, identity: str, user_emails: Collection[str]) -> None:
        self._page_tokens = page_tokens
        users_digest = hashlib.sha256("\n".join(sorted(set(user_emails))).encode()).hexdigest()
        self._bound_to = (_PURPOSE, identity, users_digest)

    def make(self, position: Position) -> str:
        """Return the resume token for a position."""
        after = "" if position.after is None else f" {position.after}"
        return self._page_tokens.make(f"{position.watermark!r}{after}", *self._bound_to)

    def read(self, token: str) -> Position | None:
        """Return the position in a resume token, or None for an empty token.

        Raises:
            InvalidResumeToken: The token was not issued by this service to this caller for these users.
        """
        if not token:
            return None
        try:
            watermark, space, after = self._page_tokens.read(token, *self._bound_to).partition(" ")
        except InvalidPageToken:
            raise InvalidResumeToken.of(
                "resume_token",
                "was not issued to this caller for these user_emails; send the resume_token of the last event, or leave it empty",
            ) from None
        return Position(float(watermark), after if space else None)
