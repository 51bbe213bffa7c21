"""Zoom's error responses, with the reasons that the request log shows."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from zoom_simulator.request_log import log_reason

_TOKEN_ERRORS: dict[int | None, tuple[str, str]] = {
    4702: ("invalid_client", "Invalid client_id or client_secret"),
    4704: ("invalid_client", "Invalid client_id or client_secret"),
    4705: ("unsupported_grant_type", "Unsupported grant type"),
    4706: ("invalid_request", "Missing grant type"),
    4709: ("invalid_request", "Redirect URI mismatch"),
    4733: ("invalid_grant", "Authorization code expired"),
    4734: ("invalid_grant", "Invalid authorization code"),
    4735: ("invalid_grant", "Invalid Token!"),
    4741: ("invalid_grant", "The token was revoked by a later authorization"),
}
"""Zoom's error names and messages (https://developers.zoom.us/docs/integrations/oauth-error-messages/), by error code."""


class ErrorResponse(Exception):
    """An error response in Zoom's format.

    Attributes:
        reason: Explanation for the request log.
    """

    def __init__(
        self, status: int, body: dict[str, Any], reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.body = body
        self.reason = reason
        self._headers = headers

    def response(self, reason: str = "") -> web.Response:
        """Log the reason, or a different one, and return the response."""
        log_reason(reason or self.reason)
        return web.json_response(self.body, status=self.status, headers=self._headers)


class TokenError(ErrorResponse):
    """An error response of the token and revocation endpoints.

    Args:
        code: Zoom's error code, a key of `_TOKEN_ERRORS`; None for an error to which Zoom assigns no code.
        message: Zoom's message for an error without a code.
    """

    def __init__(self, reason: str, code: int | None = None, *, message: str = "Invalid Token!") -> None:
        error, message = _TOKEN_ERRORS.get(code, ("invalid_grant", message))
        super().__init__(
            400, {"reason": message, "error": error} | ({} if code is None else {"code": code}), reason
        )


class ApiError(ErrorResponse):
    """An error response of the REST API."""

    def __init__(self, status: int, code: int, message: str, *, reason: str = "") -> None:
        super().__init__(status, {"code": code, "message": message}, reason or message.rstrip("."))


class InvalidFields(ErrorResponse):
    """The REST API's response to invalid fields or query parameters.

    Args:
        fields: Zoom's error message for each field.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        errors = [{"field": field, "message": message} for field, message in fields.items()]
        reason = ", ".join(f"{field} ({message.rstrip('.')})" for field, message in fields.items())
        self.fields = fields
        super().__init__(
            400,
            {"code": 300, "message": "Validation Failed.", "errors": errors},
            f"invalid fields: {reason}",
        )
