"""Token pairs as Zoom issued them."""

import sys
from dataclasses import dataclass, field

from zoomgate_server.zoom.token_outcome import Issued


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token and the refresh token issued with it. The repr contains neither token.

    Attributes:
        access_token: Opaque bearer token for Zoom's API.
        refresh_token: Single-use token for the next refresh. Empty if Zoom issued none.
        scope: The granted scopes, separated by spaces, as Zoom sent them.
        access_expire_at: When the access token expires, in seconds since 1970 on the store's clock.
        obtained_at: When the request for the pair was sent, in seconds since 1970 on the store's clock.
        is_exchanged: Whether Zoom issued the pair to this service, so that no other copy exists. Otherwise, the refresh token might belong
            to a different user than the access token.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scope: str
    access_expire_at: float
    obtained_at: float
    is_exchanged: bool = True

    def __post_init__(self) -> None:
        # most users have the same scopes, which may be as long as a token
        object.__setattr__(self, "scope", sys.intern(self.scope))

    @classmethod
    def from_response(cls, issued: Issued, obtained_at: float, *, previous: str = "") -> "TokenPair":
        """Return the token pair that Zoom issued.

        Args:
            obtained_at: When the request was sent, in seconds since 1970 on the store's clock.
            previous: The exchanged refresh token, which remains valid if the response contains none.
        """
        return cls(
            access_token=issued.access_token,
            refresh_token=issued.refresh_token or previous,
            scope=issued.scope,
            access_expire_at=obtained_at + issued.expires_in,
            obtained_at=obtained_at,
        )

    @property
    def scopes(self) -> tuple[str, ...]:
        """The granted scopes."""
        return tuple(self.scope.split())


NO_PAIR = TokenPair("", "", scope="", access_expire_at=0.0, obtained_at=0.0, is_exchanged=False)
"""The pair of an authorization code that has not been exchanged yet."""
