"""Tests for the mapping of Zoom's error responses."""

import orjson
import pytest

from zoomgate_server.errors import (
    MeetingNotFound,
    ReauthRequired,
    ScopeMissing,
    ZoomBadResponse,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomRefusedArguments,
    ZoomRefusedConflict,
    ZoomRefusedNotFound,
    ZoomRefusedPermission,
    ZoomUnavailable,
)
from zoomgate_server.zoom import errors
from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse

GET, POST = (ZoomRequest(method, Target("/meetings/1")) for method in ("GET", "POST"))
SCOPES = "Invalid access token, does not contain scopes:[meeting:read:meeting, meeting:read]."


def response(status: int, body: object, *headers: tuple[str, str]) -> ZoomResponse:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return ZoomResponse(status, headers or (("content-type", "application/json"),), raw)


TABLE: list[tuple[int, object, type[ZoomgateError], str]] = [
    (400, {"code": 300, "message": "Invalid field."}, ZoomRefusedArguments, "300"),
    (400, {"code": 3000, "message": "x"}, ZoomRefusedArguments, "3000"),
    (422, {"code": 300, "message": "x"}, ZoomRefusedArguments, "300"),
    (401, {"code": 124, "message": "Access token is expired."}, ReauthRequired, "124"),
    (401, {"code": 1010, "message": "User not in account."}, ZoomRefusedPermission, "1010"),
    (403, {"code": 3000, "message": "x"}, ZoomRefusedPermission, "3000"),
    (404, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
    (404, {"code": 1001, "message": "x"}, ZoomRefusedNotFound, "1001"),
    (409, {"code": 1, "message": "x"}, ZoomRefusedConflict, "1"),
    (400, {"code": 4711, "message": SCOPES}, ScopeMissing, "4711"),
    (401, {"code": 4711, "message": SCOPES}, ScopeMissing, "4711"),
    (401, {"code": 4700, "message": SCOPES}, ScopeMissing, "4700"),
    (400, {"code": 4711, "message": "x"}, ZoomRefusedArguments, "4711"),
    (302, b"", ZoomBadResponse, ""),
    (200, b"{", ZoomBadResponse, ""),
    (404, b"{", ZoomBadResponse, ""),
    (404, b"[]", ZoomBadResponse, ""),
    (404, {"code": "3001"}, ZoomBadResponse, ""),
    (400, {"code": [], "message": SCOPES}, ZoomBadResponse, ""),
    (404, b"\xff\xfe", ZoomBadResponse, ""),
    (404, b'{"code": NaN}', ZoomBadResponse, ""),
    (404, b'{"code": ' + b"9" * 5000 + b"}", ZoomBadResponse, ""),
    (404, b"[" * 100_000, ZoomBadResponse, ""),
    (404, b'{"code":3001,"x":"' + b"x" * 65_536 + b'"}', ZoomBadResponse, ""),
]


@pytest.mark.parametrize(("status", "body", "expected", "zoom_code"), TABLE)
def test_error_depends_on_status_and_code(
    status: int, body: object, expected: type[ZoomgateError], zoom_code: str
) -> None:
    """The metadata always contains the status and Zoom's code, and never the body."""
    failure = errors.error_for(POST, response(status, body))
    assert type(failure) is expected
    assert failure.metadata["http_status"] == str(status)
    assert failure.metadata.get("zoom_code", "") == zoom_code


@pytest.mark.parametrize(
    ("status", "content_type"), [(500, "application/json"), (502, "text/html"), (403, "Text/HTML; charset=x")]
)
def test_responses_of_intermediaries_are_not_zoom_errors(status: int, content_type: str) -> None:
    """A response with status 5xx or an HTML body does not prove an outcome: a read may be retried, a write may have taken effect."""
    error_response = response(status, {"code": 3001}, ("content-type", content_type))
    assert type(errors.error_for(GET, error_response)) is ZoomUnavailable
    assert type(errors.error_for(POST, error_response)) is ZoomOutcomeUnknown


def test_missing_scopes_are_listed() -> None:
    """The metadata lists the missing scopes as plain names."""
    failure = errors.error_for(GET, response(400, {"code": 4711, "message": SCOPES}))
    assert failure.metadata["scopes"] == "meeting:read:meeting meeting:read"
    assert errors.missing_scopes(response(400, {"code": 300, "message": SCOPES})) is None
    assert errors.missing_scopes(response(500, {"code": 4711, "message": SCOPES})) is None


@pytest.mark.parametrize(
    ("status", "body", "rejected"),
    [
        (401, {"code": 124}, True),
        (401, {"code": 4711}, False),
        (400, {"code": 124}, False),
        (401, b"<html>124</html>", False),
        (401, b"", False),
    ],
)
def test_rejected_token_is_distinguished_from_other_errors(status: int, body: object, rejected: bool) -> None:
    """Only 401 with the token error code means that the call was not processed."""
    assert errors.is_token_rejected(response(status, body)) is rejected


def test_zoom_messages_are_sanitized() -> None:
    """Control, bidirectional, zero-width and separator characters become spaces, the text is truncated, and invalid fields are listed."""
    message = "a\r\n\x1b[31mb\u202ec\u200bd\u2028e" + "x" * 500
    failure = errors.error_for(
        GET,
        response(
            400, {"code": 300, "message": message, "errors": [{"field": "top\nic", "message": "y"}, 7, {}]}
        ),
    )
    assert failure.message.startswith("Zoom rejected the request: a [31mb c d e")
    assert failure.message.endswith(" (top ic: y)")
    assert len(failure.message) < errors.MAX_MESSAGE + 100
    assert failure.message.isprintable()


@pytest.mark.parametrize(
    ("headers", "seconds", "metadata"),
    [
        ((), 2.0, {}),
        ((("retry-after", "7"),), 7.0, {"retry_after": "7"}),
        (
            (("retry-after", "2030-03-17T17:46:50Z"), ("x-ratelimit-type", "Daily-limit")),
            10.0,
            {"retry_after": "2030-03-17T17:46:50Z", "limit_type": "Daily-limit"},
        ),
        ((("retry-after", "86400\x00"),), 2.0, {"retry_after": "86400"}),
        ((("retry-after", "x" * 500),), 2.0, {"retry_after": "x" * 64}),
    ],
)
def test_rate_limit_error_has_delay_and_metadata(
    headers: tuple[tuple[str, str], ...], seconds: float, metadata: dict[str, str]
) -> None:
    """The delay is bounded; the metadata contains the original value and the kind of limit, sanitized and truncated."""
    limited = errors.rate_limited(ZoomResponse(429, headers, b""), wall=lambda: 1_900_000_000.0)
    assert limited.retry_after == seconds
    assert limited.metadata == {"http_status": "429"} | metadata
