"""Tests for the requests of the API client and its handling of invalid responses."""

import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from support.raw_upstream import CUT, OK, RawUpstream, raw_upstream
from zoomgate_server.errors import (
    DeadlineTooShort,
    ZoomOutcomeUnknown,
    ZoomResponseTooLarge,
    ZoomUnavailable,
)
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.request import Target, ZoomRequest

TOKEN = "canary-token"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as raw:
        yield raw


@pytest.fixture
async def zoom(upstream: RawUpstream) -> AsyncIterator[ZoomClient]:
    client = ZoomClient(api_url=upstream.url, user_agent="zoomgate/test", max_response_bytes=100_000)
    yield client
    await client.close()


def request(method: str, path: str = "/users/me") -> ZoomRequest:
    return ZoomRequest(method, Target(path))


async def test_request_line_headers_and_body_are_exact(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """Only the client's own headers and the caller's allowed headers are sent; the caller's `accept` replaces the client's."""
    sent = ZoomRequest(
        "POST",
        Target("/users/me/meetings", "a=%20b"),
        headers=(("accept", "text/plain"), ("x-zm-trackingid", "t")),
        body=b"{}",
        content_type="application/json",
    )
    await zoom.send(sent, TOKEN, timeout=5)
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /v2/users/me/meetings?a=%20b HTTP/1.1"
    assert body == b"{}"
    remaining = dict(header.split(": ", 1) for header in headers)
    assert remaining.pop("Accept-Encoding")
    assert {name.lower(): value for name, value in remaining.items()} == {
        "host": f"127.0.0.1:{upstream.port}",
        "user-agent": "zoomgate/test",
        "accept": "text/plain",
        "authorization": f"Bearer {TOKEN}",
        "content-type": "application/json",
        "content-length": "2",
        "x-zm-trackingid": "t",
    }


@pytest.mark.parametrize("method", WRITES)
async def test_write_without_a_body_has_no_content_type(
    zoom: ZoomClient, upstream: RawUpstream, method: str
) -> None:
    await zoom.send(request(method), TOKEN, timeout=5)
    head, _, body = upstream.requests[0].lower().partition(b"\r\n\r\n")
    assert b"content-type" not in head
    assert body == b""


async def test_encoded_paths_are_sent_unchanged(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """No library decodes, joins, or normalizes a path."""
    for path in (
        "/past_meetings/%252Fa%253D%253D",
        "/users/a%40b%2Bc",
        "/users/",
        "/users/~%7E!$&'()*+,;=:@",
    ):
        await zoom.send(request("GET", path), TOKEN, timeout=5)
    assert upstream.lines() == [
        "GET /v2/past_meetings/%252Fa%253D%253D HTTP/1.1",
        "GET /v2/users/a%40b%2Bc HTTP/1.1",
        "GET /v2/users/ HTTP/1.1",
        "GET /v2/users/~%7E!$&'()*+,;=:@ HTTP/1.1",
    ]


@pytest.mark.parametrize("path", ["@evil.com/", ".evil.com/", ":80/x", "x", "//["])
async def test_unvalidated_path_is_not_sent_elsewhere(
    zoom: ZoomClient, upstream: RawUpstream, path: str
) -> None:
    """An unvalidated path stays below the pinned base URL or raises an error."""
    with suppress(ValueError):
        await zoom.send(request("GET", path), TOKEN, timeout=5)
    assert all(line.startswith("GET /v2/") for line in upstream.lines())


@pytest.mark.parametrize("name", ["Host", "Authorization", "Cookie", "Content-Length", "Transfer-Encoding"])
async def test_forged_headers_are_not_sent(zoom: ZoomClient, upstream: RawUpstream, name: str) -> None:
    """A header outside the allowlist raises an error."""
    with pytest.raises(ValueError, match="may not set"):
        await zoom.send(ZoomRequest("GET", Target("/x"), headers=((name, "x"),)), TOKEN, timeout=5)
    assert upstream.requests == []


async def test_response_headers_are_filtered(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """Callers receive allowed headers as valid text; cookies and redirects to other origins are dropped."""
    upstream.responses = [
        b"HTTP/1.1 302 x\r\nContent-Length: 0\r\nX-Zm-TrackingId: a\xffb\r\nSet-Cookie: s=1\r\nLocation: https://u:p@x/\r\n\r\n",
        f"HTTP/1.1 307 x\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:{upstream.port}/v2/y\r\n\r\n".encode(),
        b"HTTP/1.1 301 x\r\nContent-Length: 0\r\nLocation: //evil.com/x\r\n\r\n",
    ]
    first = await zoom.send(request("GET"), TOKEN, timeout=5)
    assert first.headers == (("x-zm-trackingid", "a\ufffdb"),)
    second = await zoom.send(request("GET"), TOKEN, timeout=5)
    assert second.header("location") == f"http://127.0.0.1:{upstream.port}/v2/y"
    assert (await zoom.send(request("GET"), TOKEN, timeout=5)).headers == ()
    assert upstream.lines() == ["GET /v2/users/me HTTP/1.1"] * 3
    assert all(b"\r\nCookie" not in sent for sent in upstream.requests)


@pytest.mark.parametrize(
    "location", ["//evil.com/x", r"/\evil.com/x", "/\t/evil.com", "/\t\\evil.com", r"\\evil.com"]
)
async def test_location_that_browsers_read_as_another_host_is_dropped(
    zoom: ZoomClient, upstream: RawUpstream, location: str
) -> None:
    upstream.responses = [
        f"HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode(),
        b"HTTP/1.1 302 x\r\nContent-Length: 0\r\nLocation: /v2/y\r\n\r\n",
    ]
    assert (await zoom.send(request("GET"), TOKEN, timeout=5)).headers == ()
    assert (await zoom.send(request("GET"), TOKEN, timeout=5)).header("location") == "/v2/y"


async def test_connections_are_reused(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """After a complete response, with or without a body, the connection is reused."""
    upstream.responses = [b"HTTP/1.1 204 No Content\r\n\r\n", OK, CUT]
    assert (await zoom.send(request("DELETE"), TOKEN, timeout=5)).status == 204
    assert (await zoom.send(request("GET"), TOKEN, timeout=5)).body == b"{}"
    assert upstream.connections == 1


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("warm", [False, True])
async def test_write_is_sent_only_once(
    zoom: ZoomClient, upstream: RawUpstream, method: str, warm: bool
) -> None:
    """If the connection is lost after a write, on a new or a reused connection, the outcome is unknown and the write is not resent."""
    if warm:
        await zoom.send(request("GET"), TOKEN, timeout=5)
        upstream.requests.clear()
    upstream.responses = [CUT]
    with pytest.raises(ZoomOutcomeUnknown) as lost:
        await zoom.send(request(method), TOKEN, timeout=5)
    assert TOKEN not in repr(lost.value)
    assert lost.value.__suppress_context__
    assert len(upstream.requests) == 1


MALFORMED = {
    "cut length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "not HTTP": b"\x16\x03\x01\x02 hello\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "invalid gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_response_is_treated_as_lost(
    zoom: ZoomClient, upstream: RawUpstream, method: str, name: str
) -> None:
    """A malformed response does not prove that a request was rejected: a read may be retried, a write may have taken effect."""
    upstream.responses = [MALFORMED[name]]
    upstream.close_after_response = True
    with pytest.raises(ZoomUnavailable if method == "GET" else ZoomOutcomeUnknown) as lost:
        await zoom.send(request(method), TOKEN, timeout=5)
    assert TOKEN not in str(lost.value)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_refused_connection_is_reported_as_unavailable(method: str) -> None:
    """After a refused connection, the outcome is known, regardless of the method."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = ZoomClient(
            api_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v2", user_agent="x", max_response_bytes=1000
        )
        with pytest.raises(ZoomUnavailable):
            await client.send(request(method), TOKEN, timeout=5)
        await client.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_connect_timeout_is_not_an_unknown_outcome(method: str) -> None:
    """Connecting times out before the call does, so the call is reported as not sent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        client = ZoomClient(
            api_url=f"http://127.0.0.1:{full.getsockname()[1]}/v2", user_agent="x", max_response_bytes=1000
        )
        with pytest.raises(DeadlineTooShort, match="nothing was sent"):
            await client.send(request(method), TOKEN, timeout=2.0)
        await client.close()
        for other in waiting:
            other.close()


async def test_call_with_too_little_time_is_not_sent(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """A call requires at least 0.3 seconds before the deadline."""
    for seconds in (0.299, 0.0, -5.0):
        with pytest.raises(DeadlineTooShort):
            await zoom.send(request("POST"), TOKEN, timeout=seconds)
    assert upstream.connections == 0


async def test_response_body_has_a_limit(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """A body of the maximum size is returned; a body that is one byte larger is rejected, with or without a Content-Length."""
    for size, headers in ((100_000, b"Content-Length: 100000"), (100_001, b"Content-Length: 100001")):
        upstream.responses = [b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n" + b"x" * size]
        if size == 100_000:
            assert len((await zoom.send(request("GET"), TOKEN, timeout=5)).body) == size
        else:
            with pytest.raises(ZoomResponseTooLarge):
                await zoom.send(request("GET"), TOKEN, timeout=5)
    upstream.responses = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"2710\r\n" + b"x" * 10_000 + b"\r\n") * 20
    ]
    with pytest.raises(ZoomResponseTooLarge):
        await zoom.send(request("GET"), TOKEN, timeout=5)


async def test_decompression_stops_at_the_limit(zoom: ZoomClient, upstream: RawUpstream) -> None:
    """A response of 20 MB of zeros, compressed to 20 KB, uses only a fraction of 20 MB of memory."""
    bomb = gzip.compress(b"0" * 20_000_000)
    upstream.responses = [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    ]
    tracemalloc.start()
    with pytest.raises(ZoomResponseTooLarge):
        await zoom.send(request("GET"), TOKEN, timeout=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
