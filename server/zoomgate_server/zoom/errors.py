"""What Zoom's refusals mean, by HTTP status and Zoom's own code.

Zoom's code is independent of the status, so both are looked at (https://developers.zoom.us/docs/api/errors/).
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
from zoomgate_server.zoom.client import no_answer
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse

MAX_WORDS = 300
"""Characters of Zoom's own message that are passed on."""

_MAX_ERROR_BODY = 64 * 1024
_TOKEN_CODE = 124
_MEETING_MISSING = 3001
_SCOPE_CODES = frozenset({4700, 4711})
_SCOPES = re.compile(r"does not contain scopes?:?\s*\[([^\]]{0,2000})\]", re.IGNORECASE)
_SCOPE = re.compile(r"[A-Za-z0-9_:]{1,100}", re.ASCII)
_REFUSALS: dict[int, Callable[..., ZoomgateError]] = {
    400: ZoomRefusedArguments,
    401: ZoomRefusedPermission,  # with any code but the token's: another token would not help
    403: ZoomRefusedPermission,
    404: ZoomRefusedNotFound,
    409: ZoomRefusedConflict,
}


def is_token_rejected(response: ZoomResponse) -> bool:
    """Tell whether Zoom refused the access token itself: 401 with code 124, before it processed anything."""
    return response.status == 401 and _parse(response).get("code") == _TOKEN_CODE


def missing_scopes(response: ZoomResponse) -> tuple[str, ...] | None:
    """Give the scopes that Zoom asks for if the consent lacks them, else None.

    The code is 4711 or 4700 and the status 400 or 401, depending on whom one asks; the text decides.
    """
    if response.status not in (400, 401, 403):
        return None
    error = _parse(response)
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, int) or code not in _SCOPE_CODES or not isinstance(message, str):
        return None
    found = _SCOPES.search(message)
    return tuple(_SCOPE.findall(found.group(1)))[:20] if found else None


def rate_limited(response: ZoomResponse, wall: Callable[[], float] = time.time) -> ZoomRateLimited:
    """The error for a 429."""
    asked = response.header("retry-after")
    metadata = {"http_status": "429"}
    if asked:
        metadata["retry_after"] = plain(asked, 64)
    if limit_type := response.header("x-ratelimit-type"):
        metadata["limit_type"] = plain(limit_type, 32)
    return ZoomRateLimited(
        "Zoom's rate limit is reached: call again later",
        metadata=metadata,
        retry_after=retry_after.parse(asked, wall),
    )


def typed_failure(request: ZoomRequest, response: ZoomResponse) -> ZoomgateError:
    """Say what an answer that is no success means for a typed call."""
    if response.status >= 500 or (response.status >= 400 and _is_html(response)):
        return no_answer(request, http_status=str(response.status))
    error = _parse(response)
    code, message = error.get("code"), error.get("message")
    metadata = {"http_status": str(response.status)}
    if isinstance(code, int):
        metadata["zoom_code"] = str(code)
    if response.status < 400 or not isinstance(code, int):
        return ZoomBadResponse(
            "Zoom's answer cannot be understood", metadata={**metadata, "length": str(len(response.body))}
        )
    words = plain(message, MAX_WORDS) if isinstance(message, str) else ""
    if response.status == 404 and code == _MEETING_MISSING:
        return MeetingNotFound("Zoom knows no such meeting of this user: check its number", metadata=metadata)
    scopes = missing_scopes(response)
    if scopes is not None:
        return ScopeMissing(
            "The consent does not cover this call", metadata={**metadata, "scopes": " ".join(scopes)}
        )
    if response.status == 401 and code == _TOKEN_CODE:
        return ReauthRequired(
            "Zoom refuses this user's token: let the person consent again",
            metadata={**metadata, "cause": "REJECTED"},
        )
    refusal = _REFUSALS.get(response.status, ZoomRefusedArguments)
    return refusal(
        f"Zoom refused: {words}{_details(error)}" if words else "Zoom refused the call", metadata=metadata
    )


def _is_html(response: ZoomResponse) -> bool:
    """Tell whether something between Zoom's API and us answered: the API itself writes no pages."""
    return response.header("content-type").strip().lower().startswith("text/html")


def plain(text: str, limit: int) -> str:
    """Make foreign text harmless: no control, format or separator characters, and not too long."""
    kept = "".join(
        character if unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029" else " "
        for character in text[: 2 * limit]
    )
    return " ".join(kept.split())[:limit]


def _details(error: dict[str, Any]) -> str:
    """Zoom's list of wrong fields, if it sent one."""
    rows = error.get("errors")
    if not isinstance(rows, list):
        return ""
    found = [
        f"{plain(row['field'], 60)}: {plain(row['message'], 120)}"
        for row in rows[:5]
        if isinstance(row, dict) and isinstance(row.get("field"), str) and isinstance(row.get("message"), str)
    ]
    return f" ({'; '.join(found)})" if found else ""


def _parse(response: ZoomResponse) -> dict[str, Any]:
    """Read an error body; anything that is none gives an empty dictionary."""
    if len(response.body) > _MAX_ERROR_BODY:
        return {}
    try:
        error = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return {}
    return error if isinstance(error, dict) else {}
