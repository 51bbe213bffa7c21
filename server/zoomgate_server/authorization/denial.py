"""The errors with which Zoom redirects a browser instead of an authorization code (RFC 6749, section 4.1.2.1)."""

from collections.abc import Mapping

from zoomgate_server.errors import (
    AuthorizationDeclined,
    AuthorizationRequestRefused,
    ZoomgateError,
    ZoomUnavailable,
)
from zoomgate_server.external_text import sanitize

_MAX_REASON = 200

_RETRY_SECONDS = 2.0

_KINDS: Mapping[str, type[ZoomgateError]] = {
    "server_error": ZoomUnavailable,
    "temporarily_unavailable": ZoomUnavailable,
    "invalid_request": AuthorizationRequestRefused,
    "invalid_scope": AuthorizationRequestRefused,
    "unauthorized_client": AuthorizationRequestRefused,
    "unsupported_response_type": AuthorizationRequestRefused,
}
"""The kind of each error. Any other error means that the user declined."""


def denial(error: str, description: str = "") -> tuple[ZoomgateError, str]:
    """Return the error to raise for the parameters of a redirect, and the outcome for the audit trail."""
    kind = _KINDS.get(error, AuthorizationDeclined)
    is_outage = kind is ZoomUnavailable
    problem = (
        "The user declined the consent in Zoom"
        if error == "access_denied"
        else "Zoom returned an error instead of a code"
    )
    failure = kind(
        f"{problem} ({reason_of(error, description)}); start a new authorization",
        metadata={"zoom_code" if is_outage else "error": error},
        retry_after=_RETRY_SECONDS if is_outage else None,
    )
    return failure, "ZOOM_UNAVAILABLE" if is_outage else "DECLINED"


def reason_of(error: str, description: str) -> str:
    """Return the parameters of a redirect as text that can be displayed."""
    return sanitize(f"{error}: {description}", _MAX_REASON).rstrip(": ")
