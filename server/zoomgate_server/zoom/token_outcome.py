"""The possible outcomes of a request to Zoom's token endpoint.

The important distinction is whether Zoom may have exchanged the refresh token, which invalidates it. Only a complete response proves
that the token was exchanged or rejected.
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
        refresh_token: The next refresh token, or None if Zoom sent none; the old one then stays valid (RFC 6749, section 6).
        token_type: `bearer`.
        scope: Granted scopes, separated by spaces.
        api_url: The API URL in the response, or empty.
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
    """Zoom permanently rejected this authorization code or refresh token.

    Attributes:
        code: Zoom's numeric code, or OAuth's error name.
        reason: Zoom's own message, at most 200 characters, or empty.
    """

    code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AppRejected:
    """Zoom rejected the app's credentials, redirect URI or OAuth URL; no user is affected."""

    code: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Zoom is rate limiting token requests; the grant was not used. `retry_after` is in seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class NotSent:
    """The connection failed before anything was sent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The response was lost, or did not come from the token endpoint; Zoom may have processed the request."""

    detail: str


@dataclass(frozen=True, slots=True)
class BadResponse:
    """Zoom issued something that must not be used, such as a token for an unknown API URL.

    Attributes:
        detail: The problem.
        issued: The tokens, without the API URL, if only the API URL is the problem. They are valid, so they must be revoked or stored.
    """

    detail: str
    issued: Issued | None = None


TokenOutcome = Issued | Rejected | AppRejected | Throttled | NotSent | Unknown | BadResponse


@dataclass(frozen=True, slots=True)
class Revoked:
    """Zoom confirmed that the token is revoked."""


RevokeOutcome = Revoked | NotSent | Unknown | AppRejected


def issued_by(outcome: TokenOutcome) -> Issued:
    """Return the issued tokens, or raise the error of any other outcome."""
    match outcome:
        case Issued():
            return outcome
        case AppRejected(code):
            raise AppCredentialsRejected(
                "Zoom rejected this service's client ID, secret or redirect URI; an operator must check them",
                metadata={"zoom_code": code},
            )
        case Throttled(retry_after):
            raise ZoomRateLimited(
                "Zoom is rate limiting token requests",
                metadata={"http_status": "429"},
                retry_after=retry_after,
            )
        case NotSent():
            raise ZoomUnavailable(
                "Zoom's token endpoint could not be reached; retry in a moment", retry_after=2.0
            )
        case Rejected():
            raise ZoomBadResponse("Zoom rejected the request")
        case BadResponse():
            raise ZoomBadResponse(
                "Zoom's token response is invalid and nothing was connected; report this to the operator"
            )
        case _:
            raise ZoomOutcomeUnknown("Zoom's response was lost or could not be parsed; start again")
