"""Zoom's rules for tokens where its documentation is silent or contradictory."""

from dataclasses import dataclass
from enum import StrEnum


class RefreshTokenReuse(StrEnum):
    """Effect of exchanging a refresh token that was already used."""

    REJECTED = "rejected"
    """The exchange fails, and the grant remains valid."""

    TOLERATED = "tolerated"
    """The most recently used refresh token of a grant is accepted once more."""

    ENDS_GRANT = "ends"
    """The exchange fails, and the whole grant is revoked."""


class Revocation(StrEnum):
    """What the revocation of a token revokes."""

    TOKEN = "token"
    """Only that access token. A refresh token is revoked together with its grant."""

    GRANT = "grant"
    """The whole grant, even if the token itself was already invalid."""

    USER = "user"
    """All grants of the token's user, even if the token itself was already invalid."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one Zoom app.

    Attributes:
        overlapping_access_tokens: Whether a refresh leaves the previous access tokens valid until they expire.
        concurrent_grants: Whether a new consent leaves the user's earlier grants valid.
    """

    refresh_token_reuse: RefreshTokenReuse = RefreshTokenReuse.REJECTED
    overlapping_access_tokens: bool = False
    concurrent_grants: bool = False
    revocation: Revocation = Revocation.TOKEN
