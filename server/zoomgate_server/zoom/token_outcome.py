"""What a request to Zoom's token endpoint can come to.

The distinction that matters is whether Zoom may have spent the refresh token: only a fully read answer says that it did or refused.
"""

from dataclasses import dataclass, field

from zoomgate_server.errors import (
    AppCredentialsRejected,
    ZoomBadResponse,
    ZoomOutcomeUnknown,
    ZoomRateLimited,
    ZoomUnavailable,
)


@dataclass(frozen=True, slots=True)
class Issued:
    """Zoom issued tokens.

    Attributes:
        access_token: Opaque.
        refresh_token: The next one, or None where Zoom sent none (RFC 6749, section 6: the old one stays).
        token_type: `bearer`.
        scope: Granted scopes, separated by spaces.
        api_url: API address that Zoom named, or empty.
        expires_in: Seconds, between 60 and 86,400.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    token_type: str
    scope: str
    api_url: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """Zoom refused this code or refresh token for good.

    Attributes:
        code: Zoom's numeric code or OAuth's error name.
        reason: Zoom's words, at most 200 characters, or empty.
    """

    code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AppRejected:
    """Zoom refused our own credentials, redirect URI or address; no user is affected."""

    code: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Zoom asked for patience, in seconds; nothing was spent."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class NotSent:
    """The connection failed before anything was sent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost or is not one of the token endpoint's: Zoom may have acted."""

    detail: str


@dataclass(frozen=True, slots=True)
class BadResponse:
    """Zoom issued something that must not be used, such as a token for a foreign address.

    Attributes:
        detail: What is wrong with it.
        issued: The tokens where they are whole and only the address is foreign, without that address: they are alive, so they are
            either revoked or kept.
    """

    detail: str
    issued: Issued | None = None


TokenOutcome = Issued | Rejected | AppRejected | Throttled | NotSent | Unknown | BadResponse


@dataclass(frozen=True, slots=True)
class Revoked:
    """Zoom confirmed that the token is dead."""


RevokeOutcome = Revoked | NotSent | Unknown | AppRejected


def issued_by(outcome: TokenOutcome) -> Issued:
    """Give what Zoom issued, or raise what else it means."""
    match outcome:
        case Issued():
            return outcome
        case AppRejected(code):
            raise AppCredentialsRejected(
                "Zoom refuses this service's own client id, secret or redirect URI: an operator has to check them",
                metadata={"zoom_code": code},
            )
        case Throttled(retry_after):
            raise ZoomRateLimited(
                "Zoom asks for fewer token requests", metadata={"http_status": "429"}, retry_after=retry_after
            )
        case NotSent():
            raise ZoomUnavailable("Zoom's token endpoint could not be reached: try again", retry_after=2.0)
        case Rejected():
            raise ZoomBadResponse("Zoom refused the request")
        case BadResponse():
            raise ZoomBadResponse(
                "Zoom's token answer is of a kind that is not accepted, so nothing was connected: report it, an operator has to look"
            )
        case _:
            raise ZoomOutcomeUnknown("Zoom's answer was lost or could not be understood: begin again")
