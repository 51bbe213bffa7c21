"""Token pairs as Zoom issued them, and their stored form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scope: str
    access_expire_at: float
    obtained_at: float

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


def to_fields(pair: TokenPair) -> dict[str, Any]:
    """Return the stored form of a token pair."""
    return {
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "scope": pair.scope,
        "access_expire_at": pair.access_expire_at,
        "obtained_at": pair.obtained_at,
    }


def from_fields(fields: Mapping[str, Any]) -> TokenPair:
    """Read a token pair from its stored form."""
    return TokenPair(
        access_token=fields["access_token"],
        refresh_token=fields["refresh_token"],
        scope=fields["scope"],
        access_expire_at=fields["access_expire_at"],
        obtained_at=fields["obtained_at"],
    )
