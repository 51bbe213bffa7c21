"""The possible outcomes of a request to Zoom's token endpoint.

The outcomes distinguish whether Zoom may have exchanged the refresh token, since an exchanged token is no longer valid. Only a complete
response proves that the token was exchanged or rejected.
"""

import re
from dataclasses import dataclass, field

from zoomgate_server.errors import (
    AppCredentialsRejected,
    CodeRefused,
    RedirectUriRefused,
    TokenRequestRefused,
    ZoomBadResponse,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomRateLimited,
    ZoomUnavailable,
)

MAX_TOKEN = 8 * 1024
DEFAULT_EXPIRES_IN = 3600.0
"""The lifetime of Zoom's access tokens in seconds."""

_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")


@dataclass(frozen=True, slots=True)
class Issued:
    """Tokens issued by Zoom.

    Attributes:
        refresh_token: The next refresh token, or None if the old refresh token stays valid (RFC 6749, section 6).
        scope: Granted scopes, separated by spaces.
        expires_in: Seconds, between 60 and 86,400.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scope: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """A permanent rejection of the authorization code or refresh token.

    Attributes:
        code: Zoom's numeric code or OAuth's error name.
        text: Zoom's message, without secrets.
    """

    code: str
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class AppRejected:
    """A rejection of the app's credentials, redirect URI or OAuth URL; no user is affected.

    Attributes:
        code: See `Rejected`.
        text: See `Rejected`.
        redirect_uri: Whether Zoom rejected the redirect URI.
    """

    code: str
    text: str = field(default="", compare=False)
    redirect_uri: bool = False


@dataclass(frozen=True, slots=True)
class UnexplainedRejection:
    """A rejection for a reason that Zoom does not document. The state of the authorization code or refresh token is unchanged.

    Attributes:
        code: See `Rejected`.
        text: See `Rejected`.
        status: The HTTP status.
    """

    code: str
    text: str
    status: int


@dataclass(frozen=True, slots=True)
class Throttled:
    """A rate limit of Zoom; the authorization code or refresh token was not used. `retry_after` is in seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class NotSent:
    """A connection failure before anything was sent."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A response that was lost or did not come from the token endpoint; Zoom may have processed the request."""

    detail: str


@dataclass(frozen=True, slots=True)
class BadResponse:
    """A response with unusable content, such as a token of an unknown type."""

    detail: str


TokenOutcome = (
    Issued | Rejected | AppRejected | UnexplainedRejection | Throttled | NotSent | Unknown | BadResponse
)


@dataclass(frozen=True, slots=True)
class Revoked:
    """A confirmation by Zoom that the token is revoked."""


RevokeOutcome = Revoked | NotSent | Unknown | AppRejected


def is_token(value: object) -> bool:
    """Return whether a value has the format of a token: 1 to 8,192 visible ASCII characters."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def error_for(outcome: TokenOutcome, *, retry_after: float | None = None) -> ZoomgateError:
    """Return the error for an outcome that is neither `Issued` nor `Rejected`; `retry_after` overrides the outcome's value."""
    match outcome:
        case AppRejected(code, text, redirect_uri=True):
            return RedirectUriRefused(
                _quoting(
                    "Zoom rejected the redirect URI of this service; it must be registered with the Zoom app, and the authorization must"
                    " have used the same one",
                    text,
                ),
                metadata={"zoom_code": code, "zoom_message": text},
            )
        case AppRejected(code) if code.startswith("redirect"):
            return AppCredentialsRejected(
                "Zoom's token endpoint redirected the request, which is not followed; an operator must check ZOOMGATE_ZOOM_OAUTH_URL",
                metadata={"zoom_code": code},
            )
        case AppRejected(code, text):
            return AppCredentialsRejected(
                _quoting(
                    "Zoom rejected this service's client ID or secret; an operator must check them", text
                ),
                metadata={"zoom_code": code, "zoom_message": text},
            )
        case UnexplainedRejection(code, text, status):
            return TokenRequestRefused(
                _quoting("Zoom refused the token request", text),
                metadata={"http_status": str(status), "zoom_code": code, "zoom_message": text},
            )
        case Throttled(suggested):
            return ZoomRateLimited(
                "Zoom is rate limiting token requests; retry later",
                metadata={"http_status": "429"},
                retry_after=retry_after or suggested,
            )
        case NotSent():
            return ZoomUnavailable(
                "Zoom's token endpoint could not be reached; retry in a moment",
                retry_after=retry_after or 2.0,
            )
        case BadResponse():
            return ZoomBadResponse("Zoom's token response is invalid; report this to the operator")
        case _:
            return ZoomOutcomeUnknown(
                "Zoom's response was lost or could not be parsed; start the operation again"
            )


def code_refused(rejection: Rejected) -> CodeRefused:
    """Return the error for an authorization code that Zoom rejected."""
    return CodeRefused(
        _quoting(
            "Zoom rejected the authorization code (used, older than 5 minutes, or for a different app); start a new authorization",
            rejection.text,
        ),
        metadata={"zoom_code": rejection.code, "zoom_message": rejection.text},
    )


def _quoting(message: str, text: str) -> str:
    return f"{message}: {text}" if text else message
