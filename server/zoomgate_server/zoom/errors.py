"""Mapping of Zoom's error responses to Zoomgate errors, by HTTP status and Zoom's error code.

Zoom's error code is independent of the status, so both are checked (https://developers.zoom.us/docs/api/errors/).
"""

import re
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import orjson

from zoomgate_server.errors import (
    MeetingNotFound,
    ReauthRequired,
    ScopeMissing,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomRefusedArguments,
    ZoomRefusedConflict,
    ZoomRefusedNotFound,
    ZoomRefusedPermission,
)
from zoomgate_server.zoom import retry_after
from zoomgate_server.zoom.client import response_lost
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse

MAX_MESSAGE = 300
"""Maximum number of characters of Zoom's error message that callers receive."""

_MAX_ERROR_BODY = 64 * 1024
_TOKEN_CODE = 124
_MEETING_NOT_FOUND = 3001
_SCOPE_CODES = frozenset({4700, 4711})
_SCOPES = re.compile(r"does not contain scopes?:?\s*\[([^\]]{0,2000})\]", re.IGNORECASE)
_SCOPE = re.compile(r"[A-Za-z0-9_:]{1,100}", re.ASCII)
_ERROR_CLASSES: dict[int, Callable[..., ZoomgateError]] = {
    400: ZoomRefusedArguments,
    401: ZoomRefusedPermission,  # 401 with Zoom error code 124 is handled before the lookup; for other codes, a new token would not help
    403: ZoomRefusedPermission,
    404: ZoomRefusedNotFound,
    409: ZoomRefusedConflict,
}


def is_token_rejected(response: ZoomResponse) -> bool:
    """Return whether Zoom rejected the access token itself: 401 with code 124. Zoom then did not process the call."""
    return response.status == 401 and _parse(response).get("code") == _TOKEN_CODE


def missing_scopes(response: ZoomResponse) -> tuple[str, ...] | None:
    """Return the scopes that are missing from the user's consent, or None if the error has a different cause.

    The code is 4711 or 4700 and the status 400 or 401, depending on the endpoint, so the error is recognized by its message.
    """
    if response.status not in (400, 401, 403):
        return None
    error = _parse(response)
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, int) or code not in _SCOPE_CODES or not isinstance(message, str):
        return None
    match = _SCOPES.search(message)
    return tuple(_SCOPE.findall(match.group(1)))[:20] if match else None


def rate_limited(response: ZoomResponse, wall: Callable[[], float] = time.time) -> ZoomRateLimited:
    """Return the error for a 429 response."""
    delay = response.header("retry-after")
    metadata = {"http_status": "429"}
    if delay:
        metadata["retry_after"] = sanitize(delay, 64)
    if limit_type := response.header("x-ratelimit-type"):
        metadata["limit_type"] = sanitize(limit_type, 32)
    return ZoomRateLimited(
        "Zoom's rate limit was reached; retry later",
        metadata=metadata,
        retry_after=retry_after.parse(delay, wall),
    )


def error_for(request: ZoomRequest, response: ZoomResponse) -> ZoomgateError:
    """Return the error for an unsuccessful response to a request that the service itself built, such as one of `endpoints`."""
    if response.status >= 500 or (response.status >= 400 and _is_html(response)):
        return response_lost(request, http_status=str(response.status))
    error = _parse(response)
    code, message = error.get("code"), error.get("message")
    metadata = {"http_status": str(response.status)}
    if isinstance(code, int):
        metadata["zoom_code"] = str(code)
    if response.status < 400 or not isinstance(code, int):
        return ZoomBadResponse(
            "Zoom's response could not be parsed", metadata={**metadata, "length": str(len(response.body))}
        )
    text = sanitize(message, MAX_MESSAGE) if isinstance(message, str) else ""
    if response.status == 404 and code == _MEETING_NOT_FOUND:
        return MeetingNotFound(
            "the user has no such meeting in Zoom; check the meeting ID", metadata=metadata
        )
    scopes = missing_scopes(response)
    if scopes is not None:
        return ScopeMissing(
            "the user's consent does not cover this call", metadata={**metadata, "scopes": " ".join(scopes)}
        )
    if response.status == 401 and code == _TOKEN_CODE:
        return ReauthRequired(
            "Zoom rejected the user's token; ask the user to consent again",
            metadata={**metadata, "cause": "REJECTED"},
        )
    error_class = _ERROR_CLASSES.get(response.status, ZoomRefusedArguments)
    return error_class(
        f"Zoom rejected the request: {text}{_details(error)}" if text else "Zoom rejected the request",
        metadata=metadata,
    )


def _is_html(response: ZoomResponse) -> bool:
    """Return whether an intermediary produced the response: Zoom's API itself never responds with HTML."""
    return response.header("content-type").strip().lower().startswith("text/html")


def sanitize(text: str, limit: int) -> str:
    """Sanitize external text: replace control, format and separator characters with spaces, and truncate it."""
    printable = "".join(
        character if unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029" else " "
        for character in text[: 2 * limit]
    )
    return " ".join(printable.split())[:limit]


def _details(error: dict[str, Any]) -> str:
    """Return the invalid fields that Zoom lists, as text, or an empty string."""
    rows = error.get("errors")
    if not isinstance(rows, list):
        return ""
    problems = [
        f"{sanitize(row['field'], 60)}: {sanitize(row['message'], 120)}"
        for row in rows[:5]
        if isinstance(row, dict) and isinstance(row.get("field"), str) and isinstance(row.get("message"), str)
    ]
    return f" ({'; '.join(problems)})" if problems else ""


def _parse(response: ZoomResponse) -> dict[str, Any]:
    """Parse an error body; return an empty dictionary if it is not a JSON object."""
    if len(response.body) > _MAX_ERROR_BODY:
        return {}
    try:
        error = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return {}
    return error if isinstance(error, dict) else {}
