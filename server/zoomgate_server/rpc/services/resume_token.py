"""Resume tokens: where a watch goes on. Opaque to callers, and worth something only to the caller with the users it was given for."""

import hashlib
from collections.abc import Collection

from zoomgate_server.errors import FieldViolation, InvalidPageToken, InvalidResumeToken
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.watch.watchers import Position

_PURPOSE = "WatchConnections"


class ResumeTokens:
    """Makes the resume tokens of one watch and reads them back.

    Args:
        page_tokens: Puts its seal on them.
        identity: Of the caller.
        user_emails: Whom the caller watches; the order does not matter.
    """

    def __init__(self, page_tokens: PageTokens, identity: str, user_emails: Collection[str]) -> None:
        self._page_tokens = page_tokens
        whose = hashlib.sha256("\n".join(sorted(set(user_emails))).encode()).hexdigest()
        self._bound_to = (_PURPOSE, identity, whose)

    def make(self, position: Position) -> str:
        """Make the token of a position."""
        after = "" if position.after is None else f" {position.after}"
        return self._page_tokens.make(f"{position.watermark!r}{after}", *self._bound_to)

    def read(self, token: str) -> Position | None:
        """Give what `make` was given, or None for an empty token.

        Raises:
            InvalidResumeToken: It was not made by this service for this caller and these users.
        """
        if not token:
            return None
        try:
            watermark, space, after = self._page_tokens.read(token, *self._bound_to).partition(" ")
        except InvalidPageToken:
            raise InvalidResumeToken(
                [
                    FieldViolation(
                        "resume_token",
                        "was not given to this caller with these user_emails: send the one of the last event, or leave it empty",
                    )
                ]
            ) from None
        return Position(float(watermark), after if space else None)
