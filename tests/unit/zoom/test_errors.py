"""Tests for the mapping of Zoom's error responses."""

import orjson
import pytest

from zoomgate_server.errors import (
    MeetingNotFound,
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
NOW = 1_900_000_000.0
TO_MIDNIGHT = 86_400.0 - NOW % 86_400.0
SCOPES = "Invalid access token, does not contain scopes:[meeting:read:meeting, meeting:read]."


def response(status: int, body: object, *headers: tuple[str, str]) -> ZoomResponse:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return ZoomResponse(status, headers or (("content-type", "application/json"),), raw)


TABLE: list[tuple[int, object, type[ZoomgateError], str]] = [
    (400, {"code": 300, "message": "Invalid field."}, ZoomRefusedArguments, "300"),
    (400, {"code": 3000, "message": "x"}, ZoomRefusedArguments, "3000"),
    (422, {"code": 300, "message": "x"}, ZoomRefusedArguments, "300"),
    (401, {"code": 124, "message": "Access token is expired."}, ZoomRefusedPermission, "124"),
    (400, {"code": 124, "message": "Invalid access token."}, ZoomRefusedPermission, "124"),
    (401, {"code": 1010, "message": "User not in account."}, ZoomRefusedPermission, "1010"),
    (403, {"code": 3000, "message": "x"}, ZoomRefusedPermission, "3000"),
    (404, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
    (404, {"code": "3001", "message": "x"}, MeetingNotFound, "3001"),
    (400, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
    (403, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
    (500, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
    (404, {"code": 1001, "message": "x"}, ZoomRefusedNotFound, "1001"),
    (409, {"code": 1, "message": "x"}, ZoomRefusedConflict, "1"),
    (400, {"code": 4711, "message": SCOPES}, ScopeMissing, "4711"),
    (401, {"code": 4711, "message": SCOPES}, ScopeMissing, "4711"),
    (401, {"code": 4700, "message": SCOPES}, ScopeMissing, "4700"),
    (400, {"code": 4711, "message": "x"}, ZoomRefusedArguments, "4711"),
    (400, {"code": "300"}, ZoomRefusedArguments, "300"),
    (409, {"code": "conflict", "message": "x"}, ZoomRefusedConflict, ""),
    (403, {"message": "Forbidden"}, ZoomRefusedPermission, ""),
    (400, {"code": [], "message": SCOPES}, ZoomRefusedArguments, ""),
    (404, b'{"code": NaN}', ZoomRefusedNotFound, ""),
    (404, b'{"code": 3001, "message": "\\ud83d", "x": 1e999}', MeetingNotFound, "3001"),
    (404, b'{"code": ' + b"9" * 5000 + b"}", ZoomRefusedNotFound, ""),
    (301, b"", ZoomBadResponse, ""),
    (302, {"code": 300}, ZoomBadResponse, "300"),
    (304, b"", ZoomBadResponse, ""),
    (307, b"", ZoomBadResponse, ""),
    (303, b"", ZoomOutcomeUnknown, ""),
    *((status, b"", ZoomOutcomeUnknown, "") for status in (400, 403, 404, 408, 413, 425, 499)),
    *((status, b"Forbidden", ZoomOutcomeUnknown, "") for status in (400, 403, 404, 408, 413, 425, 499)),
    (408, {"code": 300, "message": "x"}, ZoomOutcomeUnknown, "300"),
    (499, {"code": 300, "message": "x"}, ZoomOutcomeUnknown, "300"),
    (404, b"{", ZoomOutcomeUnknown, ""),
    (404, b"{}", ZoomOutcomeUnknown, ""),
    (404, b"[]", ZoomOutcomeUnknown, ""),
    (404, b"\xff\xfe", ZoomOutcomeUnknown, ""),
    (404, b"[" * 100_000, ZoomOutcomeUnknown, ""),
    (404, b'{"code":3001,"x":"' + b"x" * 65_536 + b'"}', ZoomOutcomeUnknown, ""),
    (200, b"", ZoomOutcomeUnknown, ""),
    (201, b'{"id":1,"to', ZoomOutcomeUnknown, ""),
    (200, {"topic": "x"}, ZoomOutcomeUnknown, ""),
    (202, {"code": 202, "message": "accepted"}, ZoomOutcomeUnknown, "202"),
    (200, {"code": 0, "message": "success"}, ZoomOutcomeUnknown, "0"),
    (200, {"code": 300, "message": "Invalid field."}, ZoomRefusedArguments, "300"),
    (200, {"code": 3001, "message": "x"}, MeetingNotFound, "3001"),
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
    ("status", "body"),
    [
        (200, b"<html>"),
        (201, b""),
        (200, b'{"id":1,"to'),
        (403, b"Forbidden"),
        (408, b""),
        (499, b""),
        (404, b"[]"),
    ],
)
def test_read_without_a_response_of_zoom_may_be_retried(status: int, body: bytes) -> None:
    failure = errors.error_for(GET, response(status, body))
    assert type(failure) is ZoomUnavailable
    assert failure.retry_after
    assert failure.metadata == {"http_status": str(status)}


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize(
    "body", [{"topic": "x"}, {}, [], [{"id": 1}], None, "x", 7, True, b'{"x": NaN}', {"x": "y" * 65_536}]
)
def test_other_json_is_a_bad_response_to_a_read(status: int, body: object) -> None:
    """Zoom's API itself has changed, or is not at this URL; a retry does not help. A write may have taken effect."""
    assert type(errors.error_for(GET, response(status, body))) is ZoomBadResponse
    assert type(errors.error_for(POST, response(status, body))) is ZoomOutcomeUnknown


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("7", 7.0), ("2030-03-17T17:46:50Z", 10.0), ("90000", 3600.0), ("0", 1.0), ("x", 2.0), ("", 2.0)],
)
def test_delay_that_zoom_requests_is_returned_with_every_outage(
    status: int, delay: str, seconds: float
) -> None:
    failed = response(status, b"", ("retry-after", delay))
    assert errors.error_for(GET, failed, wall=lambda: NOW).retry_after == seconds
    assert errors.error_for(POST, failed, wall=lambda: NOW).retry_after is None


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_redirect_of_a_read_is_not_retried(status: int) -> None:
    """A repetition would be redirected again. After a write, status 303 does not prove that nothing was done."""
    failure = errors.error_for(GET, response(status, b"", ("retry-after", "7")))
    assert (type(failure), failure.retry_after) == (ZoomBadResponse, None)


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (200, "text/html"),
        (500, "application/json"),
        (502, "text/html"),
        (403, "Text/HTML; charset=x"),
    ],
)
def test_responses_of_intermediaries_are_not_zoom_errors(status: int, content_type: str) -> None:
    """A response with status 5xx or an HTML body does not prove an outcome: a read may be retried, a write may have taken effect."""
    error_response = response(
        status, {"code": 300 if status == 500 else 3001}, ("content-type", content_type)
    )
    assert type(errors.error_for(GET, error_response)) is ZoomUnavailable
    assert type(errors.error_for(POST, error_response)) is ZoomOutcomeUnknown


def test_missing_scopes_are_listed() -> None:
    """The metadata lists the missing scopes as plain names."""
    failure = errors.error_for(GET, response(400, {"code": 4711, "message": SCOPES}))
    assert failure.metadata["scopes"] == "meeting:read:meeting meeting:read"
    assert failure.metadata["zoom_message"] == SCOPES
    assert errors.scope_missing(GET, response(400, {"code": 300, "message": SCOPES})) is None
    assert errors.scope_missing(GET, response(500, {"code": 4711, "message": SCOPES})) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("code", [104, 124, 200, 4700, 4711, "4711"])
@pytest.mark.parametrize(
    ("message", "scopes"),
    [
        ('Invalid access token, does not contain scopes:["meeting:read:admin","meeting:read"]', "meeting:read:admin meeting:read"),
        ("Invalid access token, does not contain scopes: [user:read, user:write].", "user:read user:write"),
        ("Invalid access token, does not contain scope:[user_profile]", "user_profile"),
        ("Invalid access token, does not contain scopes [a:b, a:b", "a:b"),
        ("Access token does not contain required scopes.", None),
        ("INVALID ACCESS TOKEN, DOES NOT CONTAIN SCOPES:[]", None),
    ],
)  # fmt: skip
def test_missing_scopes_are_recognized_in_every_notation(
    status: int, code: object, message: str, scopes: str | None
) -> None:
    """A missing scope never looks like a rejected token, which a refresh would replace."""
    reported = response(status, {"code": code, "message": message})
    failure = errors.error_for(ZoomRequest("GET", Target("/phone/numbers")), reported)
    assert type(failure) is ScopeMissing
    assert failure.metadata.get("scopes") == scopes
    assert not errors.is_token_rejected(reported)


@pytest.mark.parametrize(
    ("status", "body", "rejected"),
    [
        (401, {"code": 124}, True),
        (401, {"code": 4711}, False),
        (400, {"code": 124}, True),
        (401, {"code": "124"}, True),
        (403, {"code": 124}, False),
        (401, b"<html>124</html>", False),
        (401, b"", False),
    ],
)
def test_rejected_token_is_distinguished_from_other_errors(status: int, body: object, rejected: bool) -> None:
    """Only 401 and 400 with the token error code mean that Zoom rejected the token."""
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
            {"retry_after": "2030-03-17T17:46:50Z", "limit_type": "daily"},
        ),
        ((("retry-after", "86400\x00"),), 2.0, {"retry_after": "86400"}),
        ((("retry-after", "x" * 500),), 2.0, {"retry_after": "x" * 64}),
        ((("retry-after", "86400"),), 3600.0, {"retry_after": "86400"}),
        ((("x-ratelimit-type", "QPS"),), 2.0, {"limit_type": "QPS"}),
        ((("x-ratelimit-type", "Daily-limit"),), TO_MIDNIGHT, {"limit_type": "daily"}),
        (
            (("retry-after", "90000"), ("x-ratelimit-type", "Daily-limit")),
            86_400.0,
            {"retry_after": "90000", "limit_type": "daily"},
        ),
    ],
)
def test_rate_limit_error_has_delay_and_metadata(
    headers: tuple[tuple[str, str], ...], seconds: float, metadata: dict[str, str]
) -> None:
    """The delay is bounded; the metadata contains the original value and the kind of limit, sanitized and truncated."""
    limited = errors.rate_limit(ZoomResponse(429, headers, b""), wall=lambda: NOW)
    assert limited is not None
    assert limited.retry_after == seconds
    assert limited.metadata == {"http_status": "429"} | metadata


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (429, 429, "You have exceeded the daily rate limit (100) of Meeting Create/Update API requests permitted for this user."),
        (429, 429, "You may resume these requests at GMT 00:00:00."),
        (429, 429, "You have exceeded the daily rate limit of (3) for Add meeting registrant API requests for (x@y.example)."),
        (429, 429, "You have reached the maximum daily rate limit for this API. Refer to the response header for details."),
        (429, 300, "Too many requests; this limit resets at GMT 00:00:00."),
        (429, "429", "You can create 100 meetings per day."),
        (400, 429, "You have exceeded the daily rate limit (100)."),
        (400, 300, "A maximum of 100 meetings can be created/updated for a single user in one day."),
    ],
)  # fmt: skip
def test_daily_limit_is_recognized_by_its_message(status: int, code: object, message: str) -> None:
    """The delay lasts until midnight UTC, and callers receive Zoom's message. The header shows only the limit that was not reached."""
    limited = errors.rate_limit(response(status, {"code": code, "message": message}), wall=lambda: NOW)
    assert limited is not None
    assert limited.retry_after == TO_MIDNIGHT
    assert (limited.metadata["limit_type"], limited.metadata["zoom_message"]) == ("daily", message)
    assert message in limited.message


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, 300, "For a daily meeting, the maximum interval is 99 days."),
        (404, 3001, "The daily rate limit was exceeded."),
        (500, 429, "You have exceeded the daily rate limit (100)."),
        (200, 429, "You have exceeded the daily rate limit (100)."),
    ],
)
def test_other_errors_are_not_rate_limits(status: int, code: int, message: str) -> None:
    assert errors.rate_limit(response(status, {"code": code, "message": message})) is None


def test_per_second_limit_is_not_a_daily_limit() -> None:
    message = "You have reached the maximum per-second rate limit for this API. Try again later."
    limited = errors.rate_limit(response(429, {"code": 429, "message": message}), wall=lambda: NOW)
    assert limited is not None
    assert (limited.retry_after, limited.metadata.get("limit_type")) == (2.0, None)
    assert message in limited.message
