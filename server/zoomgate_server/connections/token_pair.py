"""A token pair as Zoom issued it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token and its refresh token. The repr contains neither.

    Attributes:
        access_token: Opaque bearer token for Zoom's API.
        refresh_token: Works once; empty if Zoom issued none.
        token_type: `bearer`.
        scope: The granted scopes, separated by spaces, as received from Zoom.
        api_url: The API URL that Zoom returned with the token, or empty.
        access_expire_at: When the access token expires, in seconds since 1970 by the store's clock.
        obtained_at: When the pair was requested, by the same clock.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    token_type: str
    scope: str
    api_url: str
    access_expire_at: float
    obtained_at: float

    @property
    def scopes(self) -> tuple[str, ...]:
        """The granted scopes as a tuple."""
        return tuple(self.scope.split())
