"""Tests for the handling of invalid responses from Zoom or an intermediary."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict, MessageToJson

from security.memory import allocations_of
from support.harness import MONICA, Harness, RpcError
from support.raw_upstream import OK, Endless, RawUpstream, http_response, serving_upstream
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server import settings
from zoomgate_server.app.timing import Timing
from zoomgate_server.rpc.middleware import authentication

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_RESPONSE_BYTES = settings.load({}).max_response_bytes

Service = tuple[Harness, RawUpstream]
Outcome = tuple[str, str]
GET = proxy.GetRequest(user_email=MONICA, url="/meetings/1", parse_json=True)
READ = meetings.GetMeetingRequest(user_email=MONICA, meeting_id=1)
WRITE = meetings.CreateMeetingRequest(user_email=MONICA)

UNAVAILABLE, UNKNOWN = ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
BAD, LARGE = ("INTERNAL", "ZOOM_BAD_RESPONSE"), ("RESOURCE_EXHAUSTED", "ZOOM_RESPONSE_TOO_LARGE")
MEETING = ("OK", "1")
"""The status code and the error reason of a failed call, or OK and a value from the response."""


def status(number: int) -> Outcome:
    """Return the expected outcome of a proxy call to which Zoom responds with an HTTP status."""
    return ("OK", str(number))


def html_page(line: str) -> bytes:
    """Return the HTML response of an intermediary with the status line `line`."""
    body = b"<html><body>Bad Gateway</body></html>"
    return (
        f"HTTP/1.1 {line}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def compressed_zeros(megabytes: int, bits: int) -> bytes:
    """Return `megabytes` of zeros, compressed to about a thousandth of that size, without the end of the stream."""
    packer = zlib.compressobj(wbits=bits)
    first, other = (packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * (megabytes - 1)


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "

RESPONSES: dict[str, tuple[bytes | Endless, Outcome, Outcome, Outcome]] = {
    # each entry: the response, and the outcomes of the RPCs ProxyService.Get, GetMeeting and CreateMeeting
    "an HTML error page": (html_page("502 Bad Gateway"), status(502), UNAVAILABLE, UNKNOWN),
    "an HTML page with status 200": (html_page("200 OK"), status(200), UNAVAILABLE, UNKNOWN),
    "an HTML page with status 404": (html_page("404 Not Found"), status(404), UNAVAILABLE, UNKNOWN),
    "an error without a body": (
        http_response("500 Internal Server Error", b""),
        status(500),
        UNAVAILABLE,
        UNKNOWN,
    ),
    "an unknown status": (http_response("799 What", b"{}"), status(799), UNAVAILABLE, UNKNOWN),
    "an invalid status": (
        b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\n{}",
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "truncated JSON": (http_response("200 OK", b'{"id":1,"topic":"x'), status(200), UNAVAILABLE, UNKNOWN),
    "a body shorter than its length": (LENGTH + b'100\r\n\r\n{"id":1}', UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a truncated chunk": (CHUNKED + b'64\r\n{"id":1}', UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a chunk with an invalid length": (CHUNKED + b'zz\r\n{"id":1}\r\n', UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a chunk of 16 exabytes": (CHUNKED + b"ffffffffffffffff\r\n{", UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "two lengths": (LENGTH + b'8\r\nContent-Length: 3\r\n\r\n{"id":1}', UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a negative length": (LENGTH + b'-1\r\n\r\n{"id":1}', UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a length and chunks": (
        LENGTH + b"3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "invalid UTF-8": (http_response("200 OK", b'{"id":1,"topic":"\xff\xfe"}'), status(200), MEETING, MEETING),
    "a lone surrogate": (
        http_response("200 OK", b'{"id":1,"topic":"\\ud800"}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "NaN": (http_response("200 OK", b'{"id":NaN}'), status(200), BAD, UNKNOWN),
    "infinity": (http_response("200 OK", b'{"id":1,"x":1e999}'), status(200), MEETING, MEETING),
    "an id of 70 bits": (
        http_response("200 OK", b'{"id":1180591620717411303424}'),
        status(200),
        BAD,
        UNKNOWN,
    ),
    "an id of 63 bits": (
        http_response("200 OK", b'{"id":9223372036854775807}'),
        status(200),
        ("OK", "9223372036854775807"),
        ("OK", "9223372036854775807"),
    ),
    "a negative id": (http_response("200 OK", b'{"id":-1}'), status(200), BAD, UNKNOWN),
    "an id with a fraction": (http_response("200 OK", b'{"id":1.5}'), status(200), BAD, UNKNOWN),
    "an id as a string": (http_response("200 OK", b'{"id":"1"}'), status(200), MEETING, MEETING),
    "an id as a boolean": (http_response("200 OK", b'{"id":true}'), status(200), BAD, UNKNOWN),
    "5000 digits": (http_response("200 OK", b'{"id":' + b"1" * 5000 + b"}"), status(200), BAD, UNKNOWN),
    "5000 digits elsewhere": (
        http_response("200 OK", b'{"id":1,"x":' + b"1" * 5000 + b"}"),
        status(200),
        MEETING,
        MEETING,
    ),
    "100 000 levels": (
        http_response("200 OK", b"[" * 100_000 + b"]" * 100_000),
        status(200),
        BAD,
        UNKNOWN,
    ),
    "100 000 levels in a field": (
        http_response("200 OK", b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"id":1}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "100 levels": (
        http_response("200 OK", b'{"id":1,"x":' + b"[" * 100 + b"]" * 100 + b"}"),
        status(200),
        MEETING,
        MEETING,
    ),
    "an array instead of an object": (
        http_response("200 OK", b'[{"id":1}]'),
        status(200),
        BAD,
        UNKNOWN,
    ),
    "null": (http_response("200 OK", b"null"), status(200), BAD, UNKNOWN),
    "fields with wrong types": (
        http_response(
            "200 OK", b'{"id":1,"topic":[],"settings":"x","occurrences":{},"start_time":7,"type":[]}'
        ),
        status(200),
        MEETING,
        MEETING,
    ),
    "invalid times": (
        http_response("200 OK", b'{"id":1,"start_time":"2026-02-30T00:00:00Z","created_at":"99999-01-01"}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "an empty body": (http_response("200 OK", b""), status(200), UNAVAILABLE, UNKNOWN),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", status(204), UNAVAILABLE, UNKNOWN),
    "a redirect to a different host": (
        http_response("302 Found", b"", "Location: https://evil.com/x?token=y"),
        status(302),
        BAD,
        BAD,
    ),
    "a redirect that keeps the body": (
        http_response("307 Temporary Redirect", b"", "Location: http://169.254.169.254/"),
        status(307),
        BAD,
        BAD,
    ),
    "a permanent redirect to plain http": (
        http_response("301 Moved", b"", "Location: http://api.zoom.us/v2/users/me"),
        status(301),
        BAD,
        BAD,
    ),
    "not HTTP": (b"\x16\x03\x01\x02 hello\r\n\r\n", UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "HTTP/2": (
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00d\r\n\r\n",
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a header of 20 KB": (
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a header with a NUL": (
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "5 times 100-continue": (
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5 + http_response("200 OK", b'{"id":1}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "uncompressed bytes declared as gzip": (
        http_response("200 OK", b"abcd", "Content-Encoding: gzip"),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "truncated gzip": (
        http_response("200 OK", gzip.compress(b'{"id":1}' * 100)[:-20], "Content-Encoding: gzip"),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "data after gzip": (
        http_response("200 OK", gzip.compress(b'{"id":1}') + b"x", "Content-Encoding: gzip"),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "an unsupported encoding": (
        http_response("200 OK", b'{"id":1}', "Content-Encoding: br"),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "two encodings": (
        http_response("200 OK", gzip.compress(b'{"id":1}'), "Content-Encoding: gzip, gzip"),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a second encoding in a header of its own": (
        http_response(
            "200 OK", gzip.compress(b'{"id":1}'), "Content-Encoding: identity", "Content-Encoding: gzip"
        ),
        status(200),
        MEETING,
        MEETING,
    ),
    "an empty encoding": (
        http_response("200 OK", b'{"id":1}', "Content-Encoding: "),
        status(200),
        MEETING,
        MEETING,
    ),
    "valid gzip": (
        http_response("200 OK", gzip.compress(b'{"id":1}' + b" " * 100_000), "Content-Encoding: GZIP"),
        status(200),
        MEETING,
        MEETING,
    ),
    "raw deflate": (
        http_response("200 OK", zlib.compress(b'{"id":1}', wbits=-15), "Content-Encoding: deflate"),
        status(200),
        MEETING,
        MEETING,
    ),
    "an empty body declared as gzip": (
        http_response("200 OK", b"", "Content-Encoding: gzip"),
        status(200),
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a gzip bomb": (
        http_response("200 OK", compressed_zeros(200, 31), "Content-Encoding: gzip"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "a zlib bomb": (
        http_response("200 OK", compressed_zeros(200, 15), "Content-Encoding: deflate"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "a gzip bomb with status 404": (
        http_response("404 Not Found", compressed_zeros(200, 31), "Content-Encoding: gzip"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "an oversized body with its length": (
        LENGTH + b"%d\r\n\r\n" % (9 * 1024 * 1024) + bytes(9 * 1024 * 1024),
        LARGE,
        LARGE,
        LARGE,
    ),
    "endless chunks": (Endless(CHUNKED, b"2000\r\n" + bytes(0x2000) + b"\r\n"), LARGE, LARGE, LARGE),
    "an endless body without a length": (
        Endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(8192)),
        LARGE,
        LARGE,
        LARGE,
    ),
    "endless chunks of a byte": (
        Endless(CHUNKED, b"1\r\nx\r\n" * 1000, 0.005),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "endless headers": (
        Endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a header without an end": (
        Endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "endless 100-continue": (
        Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10, 0.005),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "endless chunk extensions": (Endless(CHUNKED + b"1;", b"x" * 1000), UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "endless trailers": (
        Endless(CHUNKED + b'8\r\n{"id":1}\r\n0\r\n', b"X-A: b\r\n" * 100),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "a slow drip": (Endless(CHUNKED, b"1\r\nx\r\n", 0.02), UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a slow drip of headers": (
        Endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02),
        UNAVAILABLE,
        UNAVAILABLE,
        UNKNOWN,
    ),
    "no response": (Endless(b""), UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "no data after the status line": (Endless(b"HTTP/1.1 200 OK\r\n"), UNAVAILABLE, UNAVAILABLE, UNKNOWN),
    "a stalled body": (Endless(LENGTH + b'100\r\n\r\n{"id":1'), UNAVAILABLE, UNAVAILABLE, UNKNOWN),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service and its upstream."""
    async with serving_upstream(tmp_path_factory.mktemp("data")) as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient_service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Yield a service that limits calls to 2 seconds instead of one minute, and its upstream."""
    timing = Timing(calls=authentication.Timing(max_limit=2.0))
    async with serving_upstream(tmp_path_factory.mktemp("impatient"), timing) as both:
        yield both


async def outcome(zoomgate: Harness, method: Any, request: Any) -> Outcome:
    """Call an RPC; return the status code and the error reason if it fails, otherwise OK and a value from the response."""
    try:
        result = await zoomgate.call(method, request)
    except grpc.aio.AioRpcError as error:
        rpc_error = RpcError.of(error)
        assert not [
            word for word in ("aiohttp", "Error", "Traceback", "evil.com") if word in rpc_error.message
        ]
        return rpc_error.short
    MessageToJson(result)  # grpcurl prints responses as JSON, so the conversion to JSON must not fail
    return ("OK", str(result.response.status if isinstance(result, proxy.GetResponse) else result.meeting.id))


@pytest.mark.parametrize("name", RESPONSES)
async def test_response_has_its_outcome(service: Service, impatient_service: Service, name: str) -> None:
    """Proxy calls return complete responses; meeting calls parse or reject them. Incomplete responses fail, and memory use is bounded."""
    response, *expected = RESPONSES[name]
    is_endless = isinstance(response, Endless) and expected[0] == UNAVAILABLE
    zoomgate, raw = impatient_service if is_endless else service
    raw.responses = [response]
    # only after responses that the service treats as incomplete; after others, the service would reuse the closed connection
    raw.close_after_response = (
        expected[0] == UNAVAILABLE and isinstance(response, bytes) and b"Content-Encoding" not in response
    )
    raw.requests.clear()
    with allocations_of(48):
        outcomes = await asyncio.gather(
            outcome(zoomgate, zoomgate.proxy.Get, GET),
            outcome(zoomgate, zoomgate.meetings.GetMeeting, READ),
            outcome(zoomgate, zoomgate.meetings.CreateMeeting, WRITE),
        )
    assert outcomes == expected
    assert sorted(line.split()[0] for line in raw.lines()) == ["GET", "GET", "POST"]
    raw.responses, raw.close_after_response = [http_response("200 OK", b'{"id":1}')], False
    assert await outcome(zoomgate, zoomgate.meetings.GetMeeting, READ) == MEETING


def text_page(line: str, body: bytes = b"Forbidden", content_type: str = "text/plain") -> bytes:
    """Return a response that is not from Zoom's API."""
    head = f"HTTP/1.1 {line}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


NOT_FOUND = ("NOT_FOUND", "MEETING_NOT_FOUND")
REFUSED = ("INVALID_ARGUMENT", "ZOOM_REFUSED")
DELETIONS = {
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", ("OK", "204")),
    "an HTML page": (html_page("200 OK"), UNKNOWN),
    "an empty response": (http_response("200 OK", b""), UNKNOWN),
    "an empty JSON object": (http_response("200 OK", b"{}"), UNKNOWN),
    "a meeting": (http_response("200 OK", b'{"id":1}'), UNKNOWN),
    "an accepted request": (http_response("202 Accepted", b""), UNKNOWN),
    "a success message": (http_response("200 OK", b'{"code":200,"message":"success"}'), UNKNOWN),
    "an error with status 200": (http_response("200 OK", b'{"code":3001,"message":"x"}'), NOT_FOUND),
    "an error code as text": (http_response("400 Bad Request", b'{"code":"300","message":"x"}'), REFUSED),
    "a missing meeting": (http_response("404 Not Found", b'{"code":3001,"message":"x"}'), NOT_FOUND),
    "a redirect": (http_response("308 Permanent Redirect", b"", "Location: /v2/x"), BAD),
    "a redirect after processing": (http_response("303 See Other", b"", "Location: /v2/x"), UNKNOWN),
    **{
        f"{line} without JSON": (text_page(line), UNKNOWN)
        for line in ("403 Forbidden", "404 Not Found", "408 Timeout", "413 Large", "425 Early", "499 Closed")
    },
    "a timeout with JSON": (http_response("408 Timeout", b'{"code":300,"message":"x"}'), UNKNOWN),
    "an outage": (http_response("503 Unavailable", b'{"code":503,"message":"x"}'), UNKNOWN),
}
"""Responses to a deletion, each with its outcome."""


@pytest.mark.parametrize("name", DELETIONS)
async def test_only_a_documented_response_confirms_a_deletion(service: Service, name: str) -> None:
    zoomgate, raw = service
    raw.responses, expected = [DELETIONS[name][0]], DELETIONS[name][1]
    request = meetings.DeleteMeetingRequest(user_email=MONICA, meeting_id=1)
    if expected[0] == "OK":
        assert (await zoomgate.call(zoomgate.meetings.DeleteMeeting, request)).response.status == 204
        return
    error = await zoomgate.error_of(zoomgate.meetings.DeleteMeeting, request)
    assert error.short == expected
    assert error.metadata["http_status"] == raw.responses[0].split()[1].decode()  # type: ignore[union-attr]


@pytest.mark.parametrize("status_line", ["401 Unauthorized", "400 Bad Request"])
@pytest.mark.parametrize("code", [b"124", b'"124"'])
async def test_rejected_token_is_refreshed(tmp_path: Path, status_line: str, code: bytes) -> None:
    """Zoom's code may be text, and some endpoints respond with 400."""
    async with serving_upstream(tmp_path) as (zoomgate, raw):
        raw.responses = [
            http_response(status_line, b'{"code":%b,"message":"Invalid access token."}' % code),
            http_response("200 OK", b'{"id":1}'),
        ]
        assert await outcome(zoomgate, zoomgate.meetings.GetMeeting, READ) == MEETING
        assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_unreadable_response_to_a_creation_has_its_status(service: Service) -> None:
    """The meeting may exist."""
    zoomgate, raw = service
    for response in (http_response("201 Created", b'{"id":81234567890,"to'), text_page("201 Created", b"")):
        raw.responses = [response]
        error = await zoomgate.error_of(zoomgate.meetings.CreateMeeting, WRITE)
        assert (error.short, error.metadata) == (UNKNOWN, {"http_status": "201"})


async def test_parsed_json_of_the_proxy_replaces_what_a_value_cannot_represent(service: Service) -> None:
    """The body itself is unchanged."""
    zoomgate, raw = service
    body = b'{"topic":"Plan \\ud83d","x":[NaN,-Infinity,1e999],"y":"\xf0\x9f"}'
    raw.responses = [http_response("200 OK", body)]
    response = (await zoomgate.call(zoomgate.proxy.Get, GET)).response
    assert response.body == body
    assert MessageToDict(response.json) == {
        "topic": "Plan \ufffd",
        "x": ["NaN", "-Infinity", "Infinity"],
        "y": "\ufffd",
    }


async def test_missing_response_is_reported_before_the_deadline(tmp_path: Path) -> None:
    """The service reports the unknown outcome of a write before gRPC reports DEADLINE_EXCEEDED."""
    # tolerates slow machines, but is less than the amount by which aiohttp would round up one of these timeouts
    timing = Timing(calls=authentication.Timing(response_margin=0.7))
    async with serving_upstream(tmp_path, timing) as (zoomgate, raw):
        raw.responses = [Endless(b"")]
        calls = [
            zoomgate.error_of(zoomgate.meetings.CreateMeeting, WRITE, seconds=seconds)
            for seconds in (5.8, 6.0, 6.2, 6.4, 6.6)
        ]
        assert {error.short for error in await asyncio.gather(*calls)} == {UNKNOWN}


RETRY_AFTER = {
    "empty": ("", 2, 2),
    "a day": ("86400", 3600, 3600),
    "a negative number": ("-1", 2, 2),
    "a very large number": ("9" * 60, 3600, 3600),
    "a number with an exponent": ("1e9", 2, 2),
    "a fraction": ("1.5", 2, 2),
    "zero": ("0", 1, 1),
    "an ISO date in the past": ("2020-01-01T00:00:00Z", 1, 1),
    "an ISO date in the distant future": ("9999-12-31T23:59:59Z", 3600, 3600),
    "an HTTP date": ("Wed, 21 Oct 2065 07:28:00 GMT", 3600, 3600),
    "a nonexistent date": ("2026-02-30T00:00:00Z", 2, 2),
    "a date out of range": ("99999-01-01T00:00:00Z", 2, 2),
    "garbage": ("\x7f soon; or later" * 100, 2, 2),
    "non-ASCII digits": ("١٢", 2, 2),
}


@pytest.mark.parametrize("name", RETRY_AFTER)
async def test_any_retry_after_yields_a_bounded_delay(service: Service, name: str) -> None:
    """The retry delay is between one second and one hour; the metadata contains Zoom's `Retry-After` value only if it is short."""
    zoomgate, raw = service
    value, minimum, maximum = RETRY_AFTER[name]
    lines = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {value}\r\nContent-Length: 2\r\n\r\n{{}}"
    raw.responses = [lines.replace("\x7f", "~").encode()]
    for method, request in ((zoomgate.proxy.Get, GET), (zoomgate.meetings.CreateMeeting, WRITE)):
        error = await zoomgate.error_of(method, request)
        assert error.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
        assert error.retry_after is not None
        assert minimum <= error.retry_after <= maximum
        assert len(error.metadata.get("retry_after", "")) <= 64


async def test_redirects_and_cookies_are_ignored(service: Service) -> None:
    """Redirects are not followed, other origins are hidden, and cookies are not sent with the next call."""
    zoomgate, raw = service
    for location in ("https://evil.com/x", "//evil.com/x", "http://127.0.0.1:1/x", "javascript:x", "/v2/ok"):
        raw.responses = [
            http_response("307 Temporary Redirect", b"", f"Location: {location}", "Set-Cookie: a=b")
        ]
        raw.requests.clear()
        response = (await zoomgate.call(zoomgate.proxy.Get, GET)).response
        headers = {header.name: header.value for header in response.headers}
        assert headers.get("location", "") == ("/v2/ok" if location == "/v2/ok" else "")
        assert "set-cookie" not in headers
        assert len(raw.requests) == 1
        assert b"cookie" not in raw.requests[0].lower()


@pytest.mark.parametrize(
    "first",
    [
        OK + http_response("200 OK", b'{"id":666}'),
        b"HTTP/1.1 204 No Content\r\n\r\n" + http_response("200 OK", b'{"id":666}'),
        http_response("204 No Content", b'{"id":666}'),
        http_response("304 Not Modified", b'{"id":666}'),
    ],
    ids=["two responses", "two responses, one empty", "no content with a body", "not modified with a body"],
)
async def test_surplus_response_bytes_are_discarded(service: Service, first: bytes) -> None:
    """Bytes that Zoom sends after the end of a response are not read as the response to the next call."""
    zoomgate, raw = service
    raw.responses = [first, http_response("200 OK", b'{"id":1}')]
    await outcome(zoomgate, zoomgate.proxy.Get, GET)
    for _ in range(3):
        assert await outcome(zoomgate, zoomgate.meetings.GetMeeting, READ) == MEETING


async def test_token_that_is_always_rejected_is_retried_once(service: Service) -> None:
    """If Zoom responds to every request with 401, a call causes only one refresh and one retry."""
    zoomgate, raw = service
    raw.responses = [http_response("401 Unauthorized", b'{"code":124,"message":"Invalid access token."}')]
    raw.requests.clear()
    response = (await zoomgate.call(zoomgate.proxy.Get, GET)).response
    assert (response.status, response.body) == (401, b'{"code":124,"message":"Invalid access token."}')
    assert len(raw.requests) == 2
    assert zoomgate.stat("token.refresh_token.issued") == 1
    raw.responses = [OK]


async def test_largest_response_is_returned_completely(service: Service) -> None:
    """A response whose size equals the limit, compressed or not, is returned unchanged to a gRPC client with default options."""
    zoomgate, raw = service
    body = b"ab" * (MAX_RESPONSE_BYTES // 2)
    for response in (
        http_response("200 OK", body),
        http_response("200 OK", gzip.compress(body), "Content-Encoding: gzip"),
    ):
        raw.responses = [response]
        assert (await zoomgate.call(zoomgate.proxy.Get, GET)).response.body == body
    raw.responses = [OK]
