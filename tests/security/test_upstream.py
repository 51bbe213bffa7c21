"""What comes back from Zoom, or from whatever stands in its place: typed, never partial, never more than memory can take."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToJson

from security.memory import allocations_of
from support.harness import MONICA, Harness, Refusal, running
from support.raw_upstream import OK, Endless, RawUpstream, answer, raw_upstream
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.connections import access_tokens
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.zoom.client import MAX_RESPONSE_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

Service = tuple[Harness, RawUpstream]
Outcome = tuple[str, str]
GET = proxy.GetRequest(user_email=MONICA, url="/meetings/1", parse_json=True)
READ = meetings.GetMeetingRequest(user_email=MONICA, meeting_id=1)
WRITE = meetings.CreateMeetingRequest(user_email=MONICA)

AWAY, UNKNOWN = ("UNAVAILABLE", "ZOOM_UNAVAILABLE"), ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
BAD, LARGE = ("INTERNAL", "ZOOM_BAD_RESPONSE"), ("RESOURCE_EXHAUSTED", "ZOOM_RESPONSE_TOO_LARGE")
MEETING = ("OK", "1")
"""Code and reason of a failure, or what was understood."""


def status(number: int) -> Outcome:
    """The proxy gave an answer with this status."""
    return ("OK", str(number))


def page(line: str) -> bytes:
    """A page of something between Zoom's API and us."""
    body = b"<html><body>Bad Gateway</body></html>"
    return (
        f"HTTP/1.1 {line}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def bomb(megabytes: int, bits: int) -> bytes:
    """Zeros, compressed a thousand times smaller."""
    packer = zlib.compressobj(wbits=bits)
    return b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(megabytes)), packer.flush()])


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "

ANSWERS: dict[str, tuple[bytes | Endless, Outcome, Outcome, Outcome]] = {
    # what came, what the proxy gives, what a typed read gives, what a typed write gives
    "a page instead of an answer": (page("502 Bad Gateway"), status(502), AWAY, UNKNOWN),
    "a page that looks like success": (page("200 OK"), status(200), BAD, BAD),
    "a page of somebody who says no": (page("404 Not Found"), status(404), AWAY, UNKNOWN),
    "an error without words": (answer("500 Internal Server Error", b""), status(500), AWAY, UNKNOWN),
    "a status that nobody knows": (answer("799 What", b"{}"), status(799), AWAY, UNKNOWN),
    "a number that is no status": (b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\n{}", AWAY, AWAY, UNKNOWN),
    "half of the JSON": (answer("200 OK", b'{"id":1,"topic":"x'), status(200), BAD, BAD),
    "half of the length": (LENGTH + b'100\r\n\r\n{"id":1}', AWAY, AWAY, UNKNOWN),
    "half of a chunk": (CHUNKED + b'64\r\n{"id":1}', AWAY, AWAY, UNKNOWN),
    "a chunk of no length": (CHUNKED + b'zz\r\n{"id":1}\r\n', AWAY, AWAY, UNKNOWN),
    "a chunk of half the world": (CHUNKED + b"ffffffffffffffff\r\n{", AWAY, AWAY, UNKNOWN),
    "two lengths": (LENGTH + b'8\r\nContent-Length: 3\r\n\r\n{"id":1}', AWAY, AWAY, UNKNOWN),
    "a length below zero": (LENGTH + b'-1\r\n\r\n{"id":1}', AWAY, AWAY, UNKNOWN),
    "a length and chunks": (
        LENGTH + b"3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "bytes that are no text": (answer("200 OK", b'{"id":1,"topic":"\xff\xfe"}'), status(200), BAD, BAD),
    "half of a pair of letters": (answer("200 OK", b'{"id":1,"topic":"\\ud800"}'), status(200), BAD, BAD),
    "a number that is none": (answer("200 OK", b'{"id":NaN}'), status(200), BAD, BAD),
    "infinity": (answer("200 OK", b'{"id":1,"x":1e999}'), status(200), BAD, BAD),
    "an id of 70 bits": (answer("200 OK", b'{"id":1180591620717411303424}'), status(200), BAD, BAD),
    "an id of 63 bits": (
        answer("200 OK", b'{"id":9223372036854775807}'),
        status(200),
        ("OK", "9223372036854775807"),
        ("OK", "9223372036854775807"),
    ),
    "an id below zero": (answer("200 OK", b'{"id":-1}'), status(200), BAD, BAD),
    "an id with a fraction": (answer("200 OK", b'{"id":1.5}'), status(200), BAD, BAD),
    "an id that is text": (answer("200 OK", b'{"id":"1"}'), status(200), BAD, BAD),
    "an id that is true": (answer("200 OK", b'{"id":true}'), status(200), BAD, BAD),
    "5000 digits": (answer("200 OK", b'{"id":' + b"1" * 5000 + b"}"), status(200), BAD, BAD),
    "5000 digits elsewhere": (answer("200 OK", b'{"id":1,"x":' + b"1" * 5000 + b"}"), status(200), BAD, BAD),
    "100 000 levels": (answer("200 OK", b"[" * 100_000 + b"]" * 100_000), status(200), BAD, BAD),
    "100 levels": (
        answer("200 OK", b'{"id":1,"x":' + b"[" * 100 + b"]" * 100 + b"}"),
        status(200),
        MEETING,
        MEETING,
    ),
    "another shape": (answer("200 OK", b'[{"id":1}]'), status(200), BAD, BAD),
    "null": (answer("200 OK", b"null"), status(200), BAD, BAD),
    "fields of other types": (
        answer("200 OK", b'{"id":1,"topic":[],"settings":"x","occurrences":{},"start_time":7,"type":[]}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "times that are none": (
        answer("200 OK", b'{"id":1,"start_time":"2026-02-30T00:00:00Z","created_at":"99999-01-01"}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "nothing": (answer("200 OK", b""), status(200), BAD, BAD),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", status(204), BAD, BAD),
    "a redirect to another host": (
        answer("302 Found", b"", "Location: https://evil.com/x?token=y"),
        status(302),
        BAD,
        BAD,
    ),
    "a redirect that keeps the body": (
        answer("307 Temporary Redirect", b"", "Location: http://169.254.169.254/"),
        status(307),
        BAD,
        BAD,
    ),
    "a permanent redirect to plain http": (
        answer("301 Moved", b"", "Location: http://api.zoom.us/v2/users/me"),
        status(301),
        BAD,
        BAD,
    ),
    "no HTTP": (b"\x16\x03\x01\x02 hello\r\n\r\n", AWAY, AWAY, UNKNOWN),
    "HTTP/2": (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00d\r\n\r\n", AWAY, AWAY, UNKNOWN),
    "a header of 20 KB": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", AWAY, AWAY, UNKNOWN),
    "a header with a zero": (
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "5 times 100-continue": (
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5 + answer("200 OK", b'{"id":1}'),
        status(200),
        MEETING,
        MEETING,
    ),
    "bytes that are not compressed": (
        answer("200 OK", b"abcd", "Content-Encoding: gzip"),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "half of what was compressed": (
        answer("200 OK", gzip.compress(b'{"id":1}' * 100)[:-20], "Content-Encoding: gzip"),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "something behind what was compressed": (
        answer("200 OK", gzip.compress(b'{"id":1}') + b"x", "Content-Encoding: gzip"),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "a compression that nobody asked for": (
        answer("200 OK", b'{"id":1}', "Content-Encoding: br"),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "two compressions": (
        answer("200 OK", gzip.compress(b'{"id":1}'), "Content-Encoding: gzip, gzip"),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "compression, as it should be": (
        answer("200 OK", gzip.compress(b'{"id":1}' + b" " * 100_000), "Content-Encoding: GZIP"),
        status(200),
        MEETING,
        MEETING,
    ),
    "compression without a frame": (
        answer("200 OK", zlib.compress(b'{"id":1}', wbits=-15), "Content-Encoding: deflate"),
        status(200),
        MEETING,
        MEETING,
    ),
    "nothing, compressed": (
        answer("200 OK", b"", "Content-Encoding: gzip"),
        status(200),
        BAD,
        BAD,
    ),
    "a bomb": (
        answer("200 OK", bomb(200, 31), "Content-Encoding: gzip"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "a bomb of another kind": (
        answer("200 OK", bomb(200, 15), "Content-Encoding: deflate"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "a bomb that says no": (
        answer("404 Not Found", bomb(200, 31), "Content-Encoding: gzip"),
        LARGE,
        LARGE,
        LARGE,
    ),
    "more than fits, with its length": (
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
    "endless chunks of a byte": (Endless(CHUNKED, b"1\r\nx\r\n" * 1000, 0.005), AWAY, AWAY, UNKNOWN),
    "endless headers": (Endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100), AWAY, AWAY, UNKNOWN),
    "a header without an end": (Endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000), AWAY, AWAY, UNKNOWN),
    "endless 100-continue": (Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10, 0.005), AWAY, AWAY, UNKNOWN),
    "endless extensions of a chunk": (Endless(CHUNKED + b"1;", b"x" * 1000), AWAY, AWAY, UNKNOWN),
    "endless trailers": (
        Endless(CHUNKED + b'8\r\n{"id":1}\r\n0\r\n', b"X-A: b\r\n" * 100),
        AWAY,
        AWAY,
        UNKNOWN,
    ),
    "a slow drip": (Endless(CHUNKED, b"1\r\nx\r\n", 0.02), AWAY, AWAY, UNKNOWN),
    "a slow drip of headers": (Endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02), AWAY, AWAY, UNKNOWN),
    "silence": (Endless(b""), AWAY, AWAY, UNKNOWN),
    "silence behind the status": (Endless(b"HTTP/1.1 200 OK\r\n"), AWAY, AWAY, UNKNOWN),
    "silence inside the body": (Endless(LENGTH + b'100\r\n\r\n{"id":1'), AWAY, AWAY, UNKNOWN),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with a connected user whose API is a bare socket."""
    async with (
        raw_upstream() as raw,
        running(tmp_path_factory.mktemp("data"), zoom_api_url=raw.url) as zoomgate,
    ):
        raw.answers = [answer("200 OK", b'{"id":"u","email":"monica@example.com"}'), OK]
        await zoomgate.connect()
        yield zoomgate, raw


async def outcome(zoomgate: Harness, method: Any, request: Any) -> Outcome:
    """Call an RPC, and give its code with the reason of a failure or what was understood."""
    try:
        given = await zoomgate.call(method, request)
    except grpc.aio.AioRpcError as error:
        refusal = Refusal.of(error)
        assert not [word for word in ("aiohttp", "Error", "Traceback", "evil.com") if word in refusal.message]
        return refusal.short
    MessageToJson(given)  # what cannot be shown as JSON would be no use to grpcurl
    return ("OK", str(given.response.status if isinstance(given, proxy.GetResponse) else given.meeting.id))


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_answer_has_its_outcome(
    service: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Through the proxy a complete answer is data; typed, it is understood or refused; what is incomplete is neither, and costs little."""
    zoomgate, raw = service
    given, *expected = ANSWERS[name]
    raw.answers = [given]
    # only after what the client cannot take for whole: else it would keep the connection for a call that then is lost
    raw.close_after_answer = (
        expected[0] == AWAY and isinstance(given, bytes) and b"Content-Encoding" not in given
    )
    raw.requests.clear()
    if isinstance(given, Endless) and expected[0] == AWAY:
        monkeypatch.setattr(authentication, "MAX_SECONDS", 2.0)  # the server's own limit, which is a minute
    with allocations_of(48):
        outcomes = await asyncio.gather(
            outcome(zoomgate, zoomgate.proxy.Get, GET),
            outcome(zoomgate, zoomgate.meetings.GetMeeting, READ),
            outcome(zoomgate, zoomgate.meetings.CreateMeeting, WRITE),
        )
    monkeypatch.undo()
    assert outcomes == expected
    assert sorted(line.split()[0] for line in raw.lines()) == ["GET", "GET", "POST"]
    raw.answers, raw.close_after_answer = [answer("200 OK", b'{"id":1}')], False
    assert await outcome(zoomgate, zoomgate.meetings.GetMeeting, READ) == MEETING


async def test_silence_is_told_before_the_deadline(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of any deadline hear from us that a write's outcome is unknown, and not from gRPC that time is over."""
    # more than 0.2 seconds for the way back on a slow machine, and less than aiohttp would round up for one of these
    monkeypatch.setattr(access_tokens, "RESPONSE_MARGIN", 0.7)
    zoomgate, raw = service
    raw.answers = [Endless(b"")]
    calls = [
        zoomgate.refusal(zoomgate.meetings.CreateMeeting, WRITE, seconds=seconds)
        for seconds in (5.8, 6.0, 6.2, 6.4, 6.6)
    ]
    assert {refusal.short for refusal in await asyncio.gather(*calls)} == {UNKNOWN}


RETRY_AFTER = {
    "nothing": ("", 2, 2),
    "a day": ("86400", 3600, 3600),
    "a second ago": ("-1", 2, 2),
    "the end of time": ("9" * 60, 3600, 3600),
    "a number with an exponent": ("1e9", 2, 2),
    "a fraction": ("1.5", 2, 2),
    "zero": ("0", 1, 1),
    "Zoom's date of a day long ago": ("2020-01-01T00:00:00Z", 1, 1),
    "Zoom's date of a day far away": ("9999-12-31T23:59:59Z", 3600, 3600),
    "a date of HTTP": ("Wed, 21 Oct 2065 07:28:00 GMT", 3600, 3600),
    "a date that does not exist": ("2026-02-30T00:00:00Z", 2, 2),
    "a date beyond what clocks know": ("99999-01-01T00:00:00Z", 2, 2),
    "garbage": ("\x7f soon; or later" * 100, 2, 2),
    "digits of another script": ("١٢", 2, 2),
}


@pytest.mark.parametrize("name", RETRY_AFTER)
async def test_any_retry_after_becomes_a_delay(service: Service, name: str) -> None:
    """Whatever Zoom says about coming back, callers get a delay between a second and an hour, and Zoom's own words if they are short."""
    zoomgate, raw = service
    value, least, most = RETRY_AFTER[name]
    lines = f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {value}\r\nContent-Length: 2\r\n\r\n{{}}"
    raw.answers = [lines.replace("\x7f", "~").encode()]
    for method, request in ((zoomgate.proxy.Get, GET), (zoomgate.meetings.CreateMeeting, WRITE)):
        refusal = await zoomgate.refusal(method, request)
        assert refusal.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
        assert refusal.retry_after is not None
        assert least <= refusal.retry_after <= most
        assert len(refusal.metadata.get("retry_after", "")) <= 64


async def test_redirects_and_cookies_stay_here(service: Service) -> None:
    """No redirect is followed, foreign addresses are hidden, and a cookie set for one call is not sent with the next."""
    zoomgate, raw = service
    for location in ("https://evil.com/x", "//evil.com/x", "http://127.0.0.1:1/x", "javascript:x", "/v2/ok"):
        raw.answers = [answer("307 Temporary Redirect", b"", f"Location: {location}", "Set-Cookie: a=b")]
        raw.requests.clear()
        response = (await zoomgate.call(zoomgate.proxy.Get, GET)).response
        shown = {header.name: header.value for header in response.headers}
        assert shown.get("location", "") == ("/v2/ok" if location == "/v2/ok" else "")
        assert "set-cookie" not in shown
        assert len(raw.requests) == 1
        assert b"cookie" not in raw.requests[0].lower()


@pytest.mark.parametrize(
    "first",
    [
        OK + answer("200 OK", b'{"id":666}'),
        b"HTTP/1.1 204 No Content\r\n\r\n" + answer("200 OK", b'{"id":666}'),
        answer("204 No Content", b'{"id":666}'),
        answer("304 Not Modified", b'{"id":666}'),
    ],
    ids=["two answers", "two answers, one empty", "no content with a body", "not modified with a body"],
)
async def test_what_nobody_asked_for_answers_nobody(service: Service, first: bytes) -> None:
    """Bytes behind an answer are not taken for the answer to the next call."""
    zoomgate, raw = service
    raw.answers = [first, answer("200 OK", b'{"id":1}')]
    await outcome(zoomgate, zoomgate.proxy.Get, GET)
    for _ in range(3):
        assert await outcome(zoomgate, zoomgate.meetings.GetMeeting, READ) == MEETING


async def test_a_token_that_is_always_refused_is_tried_twice(service: Service) -> None:
    """401 again and again costs one refresh and one repetition, not a loop."""
    zoomgate, raw = service
    raw.answers = [answer("401 Unauthorized", b'{"code":124,"message":"Invalid access token."}')]
    raw.requests.clear()
    refusal = await zoomgate.refusal(zoomgate.proxy.Get, GET)
    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
    assert len(raw.requests) == 2
    assert zoomgate.stat("token.refresh_token.issued") == 1
    raw.answers = [OK]


async def test_an_answer_of_the_largest_size_is_given_whole(service: Service) -> None:
    """Exactly the limit is data, byte for byte, compressed or not."""
    zoomgate, raw = service
    body = b"ab" * (MAX_RESPONSE_BYTES // 2)
    async with grpc.aio.insecure_channel(
        zoomgate.grpc_address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        get = ProxyServiceStub(channel).Get
        for given in (
            answer("200 OK", body),
            answer("200 OK", gzip.compress(body), "Content-Encoding: gzip"),
        ):
            raw.answers = [given]
            assert (await zoomgate.call(get, GET)).response.body == body
    raw.answers = [OK]
