"""Property tests for the handling of arbitrary Zoom responses. Only a rejection by Zoom itself ends an authorization."""

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomgate_server.errors import (
    MeetingNotFound,
    ScopeMissing,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomUnavailable,
)
from zoomgate_server.zoom import errors, oauth, token_outcome
from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse
from zoomgate_server.zoom.token_outcome import AppRejected, BadResponse, Issued, Rejected, Throttled

STRINGS = st.sampled_from(
    ["invalid_grant", "invalid_client", "invalid_request", "Invalid Token!", "4741", "4702", "bearer", "", "\u202e\x00",
     "https://api.zoom.us", "https://evil.com", "http://[", "does not contain scopes:[a:b, c]", "success"]
)  # fmt: skip
NUMBERS = st.sampled_from([124, 300, 429, 3001, 4700, 4702, 4711, 4717, 4733, 4741, 0, -1, 2**53, 1.5, 3600])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["error", "reason", "code", "errorCode", "message", "errorMessage", "errors", "field", "access_token",
     "refresh_token", "token_type", "expires_in", "scope", "api_url"]
)  # fmt: skip
BODIES = st.one_of(st.dictionaries(KEYS, VALUES, max_size=6).map(orjson.dumps), st.binary(max_size=40))
HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "Content-Type"]), st.text(max_size=40), max_size=2)
STATUSES = st.one_of(
    st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 503]), st.integers(100, 999)
)


@settings(max_examples=1000)
@given(STATUSES, HEADERS, BODIES)
def test_any_token_response_is_classified(status: int, headers: dict[str, str], body: bytes) -> None:
    """Classification never raises an error, each outcome requires a matching status, and issued tokens are bounded and usable."""
    outcome = oauth.classify(status, headers, body, wall=lambda: 0.0)
    match outcome:
        case Issued():
            assert status == 200
            assert 60 <= outcome.expires_in <= 86_400
            assert 1 <= len(outcome.access_token) <= token_outcome.MAX_TOKEN
            assert outcome.access_token.isascii()
            assert outcome.refresh_token != ""
        case BadResponse():
            assert status == 200
        case Rejected():
            assert status in (400, 401)
        case AppRejected():
            assert 300 <= status < 500
        case Throttled():
            assert status == 429
            assert 1.0 <= outcome.retry_after <= 3600.0


@settings(max_examples=1000)
@given(st.sampled_from(["GET", "POST", "DELETE"]), STATUSES, st.text(max_size=20), BODIES)
def test_any_error_response_becomes_a_zoomgate_error(
    method: str, status: int, content_type: str, body: bytes
) -> None:
    """The message is short and printable, and a write is never reported as safe to retry."""
    response = ZoomResponse(status, (("content-type", content_type),), body)
    failure = errors.error_for(ZoomRequest(method, Target("/x")), response)
    assert isinstance(failure, ZoomgateError)
    assert failure.message.isprintable()
    assert len(failure.message) <= 1024 + 300
    assert failure.metadata["http_status"] == str(status)
    if isinstance(failure, ZoomUnavailable):
        assert method == "GET" or 300 <= status < 400
    if status >= 500:
        assert isinstance(failure, ZoomUnavailable | ZoomOutcomeUnknown | MeetingNotFound)
    if isinstance(failure, ScopeMissing):
        scopes = failure.metadata.get("scopes", "").split()
        assert all(":" in scope or scope.isalnum() for scope in scopes)


@given(st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-type"]), st.text(max_size=90)))
def test_rate_limit_errors_are_bounded(headers: dict[str, str]) -> None:
    """For any headers, the delay is between a second and a day, and the metadata is short and printable."""
    limited = errors.rate_limit(ZoomResponse(429, tuple(headers.items()), b""), wall=lambda: 0.0)
    assert limited is not None
    assert limited.retry_after is not None
    assert (
        1.0 <= limited.retry_after <= (86_400.0 if limited.metadata.get("limit_type") == "daily" else 3600.0)
    )
    assert all(len(value) <= 64 and value.isprintable() for value in limited.metadata.values())
