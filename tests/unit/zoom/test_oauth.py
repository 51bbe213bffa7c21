"""Tests for the classification of token responses."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomgate_server.zoom import oauth, response_headers
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    Issued,
    Rejected,
    Throttled,
    UnexplainedRejection,
    Unknown,
)


def classify(
    status: int, body: object, headers: dict[str, str] | None = None, form: dict[str, str] | None = None
) -> object:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return oauth.classify(status, headers or {}, raw, wall=lambda: 1_900_000_000.0, form=form)


ISSUED = {
    "access_token": "a",
    "refresh_token": "r",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": "x y",
}

CASES: list[tuple[int, object, type]] = [
    (200, ISSUED, Issued),
    (200, ISSUED | {"refresh_token": None}, Issued),
    (200, ISSUED | {"token_type": "Bearer"}, Issued),
    (200, ISSUED | {"api_url": "https://api-eu.zoom.us"}, Issued),
    (200, ISSUED | {"token_type": "mac"}, BadResponse),
    (200, ISSUED | {"api_url": "https://evil.com"}, Issued),
    (200, ISSUED | {"api_url": 7}, Issued),
    (200, ISSUED | {"access_token": ""}, Unknown),
    (200, ISSUED | {"access_token": "a b"}, Unknown),
    (200, ISSUED | {"access_token": "a" * 9000}, Unknown),
    (200, ISSUED | {"refresh_token": 7}, Unknown),
    (200, {}, Unknown),
    (200, [], Unknown),
    (200, b"<html>", Unknown),
    (200, b'{"access_token": "a', Unknown),
    (200, b"\xff", Unknown),
    (400, {"error": "invalid_grant", "reason": "Invalid Token!"}, Rejected),
    (400, {"error": "invalid_request", "reason": "Invalid Token!"}, Rejected),
    (401, {"reason": "Invalid Token!"}, Rejected),
    (400, {"error": "invalid_request", "code": 4741, "reason": "x"}, Rejected),
    (400, {"error": "invalid_client"}, AppRejected),
    (401, {"error": "unauthorized_client"}, AppRejected),
    (400, {"code": 4709, "reason": "Redirect URI mismatch"}, AppRejected),
    (400, {"errorCode": 4702}, AppRejected),
    (302, b"", AppRejected),
    (429, b"", Throttled),
    (403, {"error": "invalid_grant"}, UnexplainedRejection),
    (400, {"error": "access_denied", "reason": "The account is locked"}, UnexplainedRejection),
    (401, {"error": "invalid_request", "reason": "Invalid authorization code x"}, UnexplainedRejection),
    (422, {}, UnexplainedRejection),
    (400, {"error": "temporarily_unavailable"}, Unknown),
    (400, {"error": "server_error"}, Unknown),
    (408, {"error": "invalid_grant"}, Unknown),
    (499, {"error": "invalid_grant"}, Unknown),
    (400, b"<html>invalid_grant</html>", Unknown),
    (500, {"error": "invalid_grant"}, Unknown),
    (503, b"", Unknown),
]


@pytest.mark.parametrize(("status", "body", "expected"), CASES)
def test_response_is_classified(status: int, body: object, expected: type) -> None:
    assert type(classify(status, body)) is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": "invalid_grant", "reason": "Invalid authorization code"}, Rejected),
        ({"error": "invalid_request", "reason": "Invalid authorization code abc"}, Rejected),
        ({"error": "invalid_request", "reason": "Code is expired."}, Rejected),
        ({"errorCode": 4733, "errorMessage": "x"}, Rejected),
        ({"error": "invalid_request", "reason": "The account is locked"}, UnexplainedRejection),
        ({"error": "invalid_grant", "reason": "Redirect URI mismatch."}, AppRejected),
        (
            {"error": "invalid_request", "reason": "Invalid redirect: https://x.example/cb (4,700)"},
            AppRejected,
        ),
        ({"error": "invalid_redirect_uri"}, AppRejected),
    ],
)
def test_refused_code_is_classified_by_its_message(body: object, expected: type) -> None:
    """A code whose rejection Zoom reports under an unexpected name is rejected. A refresh token would not be."""
    outcome = classify(400, body, form={"grant_type": "authorization_code", "code": "abc"})
    assert type(outcome) is expected
    if isinstance(outcome, AppRejected):
        assert outcome.redirect_uri


@pytest.mark.parametrize(
    "secret", ["abc", "a+b/c", "obBEe8ewaL_KdYKjnimT4KPd8KKdQt9FQ", "x" * 8 + ".y", "eyJhbGciOiJIUzUxMiJ9.eyJ2ZXIiOiI3In0"]
)  # fmt: skip
@pytest.mark.parametrize("name", ["code", "code_verifier", "refresh_token"])
def test_message_of_zoom_is_returned_without_secrets(secret: str, name: str) -> None:
    """The values of the request are removed, and other words that may be tokens."""
    reason = f"The account is locked ({secret}; sim-at-0123456789abcdef0123)"
    outcome = classify(400, {"error": "access_denied", "reason": reason}, form={name: secret})
    assert outcome == UnexplainedRejection("access_denied", "The account is locked (***; ***)", 400)


@given(st.integers(100, 599), st.binary(max_size=60))
def test_classification_of_arbitrary_bytes_never_raises_or_rejects(status: int, body: bytes) -> None:
    """Arbitrary bytes are never treated as a rejection, which would disconnect a user."""
    assert not isinstance(classify(status, body), Rejected)


@pytest.mark.parametrize(
    ("expires_in", "expected"),
    [
        (3599, 3599),
        ("3600", 3600),
        (0, 60),
        (-5, 60),
        (10**12, 86_400),
        (None, 3600),
        ("x", 3600),
        (True, 3600),
        ([], 3600),
    ],
)
def test_lifetimes_are_clamped(expires_in: object, expected: float) -> None:
    """A missing or invalid lifetime is replaced by one between a minute and a day."""
    issued = classify(200, ISSUED | {"expires_in": expires_in})
    assert isinstance(issued, Issued)
    assert issued.expires_in == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 2.0),
        ("5", 5.0),
        ("0", 1.0),
        ("86400", 3600.0),
        ("-1", 2.0),
        ("1e9", 2.0),
        ("2030-03-17T17:46:50Z", 10.0),
        ("2031-01-01T00:00:00Z", 3600.0),
        ("Sun, 17 Mar 2030 17:47:00 GMT", 20.0),
        ("2000-01-01T00:00:00Z", 1.0),
        ("tomorrow", 2.0),
    ],
)
def test_retry_after_is_parsed_and_bounded(value: str, seconds: float) -> None:
    """Seconds, HTTP dates and ISO dates are parsed; other values are treated as absent; all results are between a second and an hour."""
    assert response_headers.parse_retry_after(value, lambda: 1_900_000_000.0) == seconds


@given(st.text(max_size=80))
def test_parsing_retry_after_never_raises(value: str) -> None:
    assert 1.0 <= response_headers.parse_retry_after(value, lambda: 0.0) <= 3600.0


def test_repr_of_outcome_has_no_token() -> None:
    """Issued tokens must not appear in logs and tracebacks."""
    issued = classify(200, ISSUED | {"access_token": "canary-access", "refresh_token": "canary-refresh"})
    assert "canary" not in repr(issued)
