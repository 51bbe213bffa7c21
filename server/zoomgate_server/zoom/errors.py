"""Mapping of Zoom's error responses to Zoomgate errors, by HTTP status and Zoom's error code.

Zoom's error code is independent of the status, so both are checked (https://developers.zoom.us/docs/api/errors/).
"""

import re
import time
from collections.abc import Callable
from typing import Any

from zoomgate_server.errors import (
    InvalidPageToken,
    MeetingNotFound,
    RegistrantNotFound,
    ScopeMissing,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomRefusedArguments,
    ZoomRefusedConflict,
    ZoomRefusedNotFound,
    ZoomRefusedPermission,
)
from zoomgate_server.external_text import sanitize
from zoomgate_server.zoom import operations, response_headers, tolerant_json
from zoomgate_server.zoom.client import response_lost
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse

MAX_MESSAGE = 300
"""Maximum number of characters of Zoom's error message that callers receive."""

_MAX_ERROR_BODY = 64 * 1024
_ERROR_KEYS = frozenset({"code", "errorCode", "message", "errorMessage"})
_SEE_OTHER = 303
"""The status of a redirect after a write was processed."""

_LOST = frozenset({408, 499})
"""Statuses of an intermediary that gave up waiting. Zoom may still process the request."""

_TOKEN_CODE = 124
_MEETING_NOT_FOUND = 3001
_MEETING_TO_REGISTER_FOR_NOT_FOUND = 1001
"""Documented for adding a registrant only; elsewhere, this code means that the user does not exist."""

_VALIDATION_CODE = 300
_SCOPE_CODES = frozenset({104, _TOKEN_CODE, 200, 4700, 4711})
_SCOPES = re.compile(r"does not contain (?:[a-z]+ ){0,3}scopes?\b(?:[:\s]*\[([^\]]{0,2000}))?", re.IGNORECASE)
_SCOPE = re.compile(r"[A-Za-z0-9_:]{1,100}", re.ASCII)
_MAX_SCOPES = 8
"""Maximum number of scopes that an error names. No operation of Zoom accepts more."""

_PAGE_TOKEN = re.compile(r"\bnext[ _]page[ _]token\b", re.IGNORECASE)
"""The text of the refusal of a page token, which is from public error reports."""

_NAMES_REGISTRANTS = ("/registrants/{registrantId}", "/registrants/status")
_REGISTRANT = re.compile(r"\bregistrant(?: ID)?\b.*\b(?:invalid|not)\b", re.IGNORECASE)
"""The text of the refusal of an unknown registration, which has the code 300 of invalid values."""

_DAILY_LIMIT = re.compile(
    r"\bdaily (?:rate )?limit|\b(?:per|in one) day\b|\bGMT 00:00|\b00:00:00 GMT", re.IGNORECASE
)
"""The texts of daily limits. Zoom's documentation names only the limits; the texts are from public error reports."""

_ERROR_CLASSES: dict[int, Callable[..., ZoomgateError]] = {
    400: ZoomRefusedArguments,
    401: ZoomRefusedPermission,
    403: ZoomRefusedPermission,
    404: ZoomRefusedNotFound,
    409: ZoomRefusedConflict,
}


def is_token_rejected(response: ZoomResponse) -> bool:
    """Return whether Zoom rejected the access token itself. Zoom then did not process the call.

    The status is 401, and for some endpoints 400 (https://developers.zoom.us/docs/api/users/).
    """
    return (
        response.status in (400, 401)
        and _code(_parse(response)) == _TOKEN_CODE
        and _reported_scopes(response) is None
    )


def scope_missing(request: ZoomRequest, response: ZoomResponse) -> ScopeMissing | None:
    """Return the error for a response that reports missing scopes, or None.

    Zoom names scopes of one kind, or none. The table of operations adds the others that suffice.
    """
    reported = _reported_scopes(response)
    if reported is None:
        return None
    operation = operations.find(request.method, request.target.path)
    known = operation.scopes if operation else ()
    # if Zoom names only scopes for the data of other users, those of the user do not suffice
    levels = {operations.scope_level(scope) for scope in (reported or known) if scope in known}
    added = (scope for scope in known if operations.scope_level(scope) in levels)
    scopes = list(dict.fromkeys((*reported, *added)))[:_MAX_SCOPES]
    one_of = f"one of the scopes {', '.join(scopes)}" if scopes else "the scopes of this call"
    return ScopeMissing(
        f"The user's consent does not cover this call; add {one_of} to the Zoom app, and have the user consent again",
        metadata=_metadata(response, scopes=" ".join(scopes)),
    )


def _reported_scopes(response: ZoomResponse) -> list[str] | None:
    """Return the scopes that a response about missing scopes names, which may be none, or None for any other response.

    Code, status and notation of the scopes depend on the endpoint, so the error is recognized by its message.
    """
    error = _parse(response) if 400 <= response.status < 500 else {}
    match = _SCOPES.search(_message(error))
    if match is None or _code(error) not in _SCOPE_CODES:
        return None
    return _SCOPE.findall(match.group(1) or "")


def rate_limit(response: ZoomResponse, wall: Callable[[], float] = time.time) -> ZoomRateLimited | None:
    """Return the error for a response that reports a rate limit, or None.

    The daily limits per user have neither `Retry-After` nor `X-RateLimit-Type`, and have been sent with status 400, so they are recognized
    by their message.
    """
    if not 400 <= response.status < 500:
        return None
    error = _parse(response)
    code, is_daily = _code(error), _DAILY_LIMIT.search(_message(error)) is not None
    if 429 not in (response.status, code) and not (code == _VALIDATION_CODE and is_daily):
        return None
    delay, limit_type = response.header("retry-after"), response.header("x-ratelimit-type")
    is_daily = is_daily or "daily" in limit_type.lower()
    metadata = _metadata(
        response,
        retry_after=sanitize(delay, 64),
        limit_type="daily" if is_daily else sanitize(limit_type, 32),
    )
    text = metadata.get("zoom_message", "")
    return ZoomRateLimited(
        f"Zoom's {'daily' if is_daily else 'rate'} limit was reached; retry later{f': {text}' if text else ''}",
        metadata=metadata,
        retry_after=response_headers.parse_retry_after(delay, wall, daily=is_daily),
    )


def error_for(
    request: ZoomRequest, response: ZoomResponse, wall: Callable[[], float] = time.time
) -> ZoomgateError:
    """Return the error for a response to a request that the service itself built, such as one of `endpoints`.

    The response is not the one that Zoom documents for success. Only a refusal by Zoom proves that a write had no effect.
    """
    error, metadata = _parse(response), _metadata(response)
    code = _code(error)
    if failure := rate_limit(response, wall) or scope_missing(request, response):
        return failure
    if not _is_html(response) and _is_meeting_missing(request, code):
        return MeetingNotFound(_missing_meeting(request), metadata=metadata)
    retry_after = response_headers.parse_retry_after(response.header("retry-after"), wall)
    if 300 <= response.status < 400 and (request.is_read or response.status != _SEE_OTHER):
        return ZoomBadResponse(
            "Zoom redirected the call, and redirects are not followed; nothing was done. An operator must check ZOOMGATE_ZOOM_API_URL",
            metadata=metadata,
        )
    if request.method == "GET" and response.status < 300 and code is None and _is_json(response):
        return ZoomBadResponse(
            "Zoom's response is not the documented one; report the problem to the operator", metadata=metadata
        )
    if not _is_refusal(response, error):
        return response_lost(request, retry_after, **metadata)
    text = metadata.get("zoom_message", "")
    if (
        code == _VALIDATION_CODE
        and request.template.endswith(_NAMES_REGISTRANTS)
        and _REGISTRANT.search(text)
    ):
        return RegistrantNotFound(metadata=metadata)
    if "next_page_token=" in request.target.query and _PAGE_TOKEN.search(text):
        return InvalidPageToken.of(
            "page_token",
            "is not accepted by Zoom, whose page tokens are valid for 15 minutes and one page_size; start again with the first page",
            metadata=metadata,
        )
    error_class = (
        ZoomRefusedPermission  # a token that only this endpoint rejects
        if code == _TOKEN_CODE
        else _ERROR_CLASSES.get(response.status, ZoomRefusedArguments)
    )
    return error_class(
        f"Zoom rejected the request: {text}{_details(error)}" if text else "Zoom rejected the request",
        metadata=metadata,
    )


def _is_meeting_missing(request: ZoomRequest, code: int | None) -> bool:
    """Return whether a code states that the meeting does not exist, which it does independently of the status."""
    is_registration = (request.method, request.template) == ("POST", "/meetings/{meetingId}/registrants")
    return code == _MEETING_NOT_FOUND or (is_registration and code == _MEETING_TO_REGISTER_FOR_NOT_FOUND)


def _missing_meeting(request: ZoomRequest) -> str:
    """Return what is missing. Zoom reports all of this as a missing meeting."""
    if request.template.startswith("/past_meetings/"):
        return "The user has no ended instance of this meeting in Zoom; check the ID, and whether the meeting has taken place"
    if request.template.endswith("/status"):
        return "The user has no such meeting in Zoom to end, or no such deleted meeting to recover; check the meeting ID"
    if "occurrence_id=" in request.target.query:
        return "The user has no such meeting in Zoom, or the meeting no such occurrence; check the IDs"
    return MeetingNotFound.message


def _is_refusal(response: ZoomResponse, error: dict[str, Any]) -> bool:
    """Return whether a response states that Zoom rejected the request, rather than that the response was lost on the way.

    A 2xx response does so only with an error code of Zoom that cannot be confused with the HTTP status of a success.
    """
    status, code = response.status, _code(error)
    if status >= 500 or status in _LOST or _is_html(response):
        return False
    return not _ERROR_KEYS.isdisjoint(error) if status >= 400 else code is not None and code >= 300


def _is_html(response: ZoomResponse) -> bool:
    """Return whether an intermediary produced the response: Zoom's API itself never responds with HTML."""
    return response.header("content-type").strip().lower().startswith("text/html")


def _is_json(response: ZoomResponse) -> bool:
    """Return whether a response is JSON, and thus of Zoom's API itself."""
    try:
        tolerant_json.loads(response.body)
    except ValueError:
        return False
    return not _is_html(response)


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


def _metadata(response: ZoomResponse, **more: str) -> dict[str, str]:
    """Return the metadata of the error for a response: the status, Zoom's code and message, and further values that are not empty."""
    error = _parse(response)
    code = _code(error)
    values = {
        "http_status": str(response.status),
        "zoom_code": "" if code is None else str(code),
        **more,
        "zoom_message": sanitize(_message(error), MAX_MESSAGE),  # the last, since too long metadata is cut
    }
    return {name: value for name, value in values.items() if value}


def _code(error: dict[str, Any]) -> int | None:
    """Return Zoom's error code, which may be a number or text."""
    code = error.get("code", error.get("errorCode"))
    if isinstance(code, str) and re.fullmatch(r"\d{1,9}", code, re.ASCII):
        code = int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _message(error: dict[str, Any]) -> str:
    message = error.get("message", error.get("errorMessage"))
    return message if isinstance(message, str) else ""


def _parse(response: ZoomResponse) -> dict[str, Any]:
    """Parse an error body; return an empty dictionary if it is not a JSON object."""
    if len(response.body) > _MAX_ERROR_BODY:
        return {}
    try:
        error = tolerant_json.loads(response.body)
    except ValueError:
        return {}
    return error if isinstance(error, dict) else {}
