"""A token pair as Zoom issued it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token and the refresh token that renews it. The repr shows neither.

    Attributes:
        access_token: Bearer token for Zoom's API; opaque.
        refresh_token: Works once; empty if Zoom gave none.
        token_type: `bearer`.
        scope: The granted scopes, separated by spaces, as Zoom wrote them.
        api_url: The API address that Zoom named with the token, or empty.
        access_expire_at: When the access token expires, in seconds since 1970 by the store's clock.
        obtained_at: When it was asked for, by the same clock.
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
        """The granted scopes, one by one."""
        return tuple(self.scope.split())
