"""Tests for the requests and outcomes of the OAuth client."""

import asyncio
import base64
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from support.raw_upstream import CUT, Endless, RawUpstream, raw_upstream
from zoomgate_server import settings
from zoomgate_server.app import timing as app_timing
from zoomgate_server.app.zoom_clients import open_clients
from zoomgate_server.clock import SystemClock
from zoomgate_server.zoom.oauth import MAX_BODY_BYTES, OAuthClient, Timing
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    Issued,
    NotSent,
    Rejected,
    Revoked,
    Throttled,
    Unknown,
)

ISSUED = orjson.dumps({"access_token": "a", "refresh_token": "r", "token_type": "bearer", "expires_in": 3599})


def response(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d x" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def client(base: str, *secrets: str, timing: Timing = Timing()) -> OAuthClient:
    return OAuthClient(
        oauth_url=base,
        client_id="app",
        client_secrets=secrets or ("secret",),
        redirect_uri="https://x.example/cb?a=b",
        user_agent="zoomgate/test",
        wall=lambda: 1_900_000_000.0,
        timing=timing,
    )


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as raw:
        yield raw


@pytest.fixture
async def oauth(upstream: RawUpstream) -> AsyncIterator[OAuthClient]:
    oauth_client = client(upstream.url, "new", "old")
    yield oauth_client
    await oauth_client.close()


def basic_credential(request: bytes) -> str:
    """Return the HTTP Basic credentials of a request."""
    line = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization: Basic "))
    return base64.b64decode(line.rpartition(b" ")[2]).decode()


async def test_client_secret_is_sent_only_in_the_header(oauth: OAuthClient, upstream: RawUpstream) -> None:
    """No secret is in the URL, and the client secret is not in the form."""
    upstream.responses = [response(200, ISSUED)]
    assert isinstance(await oauth.exchange_code("c&=", code_verifier="v"), Issued)
    assert isinstance(await oauth.refresh("r1"), Issued)
    assert isinstance(await oauth.revoke("t"), Revoked)
    assert upstream.lines() == [
        "POST /v2/token HTTP/1.1",
        "POST /v2/token HTTP/1.1",
        "POST /v2/revoke HTTP/1.1",
    ]
    forms = [parse_qs(sent.partition(b"\r\n\r\n")[2].decode()) for sent in upstream.requests]
    assert forms == [
        {
            "grant_type": ["authorization_code"],
            "code": ["c&="],
            "redirect_uri": ["https://x.example/cb?a=b"],
            "code_verifier": ["v"],
        },
        {"grant_type": ["refresh_token"], "refresh_token": ["r1"]},
        {"token": ["t"]},
    ]
    assert {basic_credential(sent) for sent in upstream.requests} == {"app:new"}


async def test_connections_are_not_reused(oauth: OAuthClient, upstream: RawUpstream) -> None:
    """If connections were reused, a closed connection would be indistinguishable from a lost response."""
    upstream.responses = [response(200, ISSUED, b"Connection: keep-alive", b"Set-Cookie: a=b")]
    for _ in range(3):
        await oauth.refresh("r")
    assert upstream.connections == 3
    assert not any(b"\r\nCookie" in sent for sent in upstream.requests)


@pytest.mark.parametrize(
    "error", [b'{"error":"invalid_client"}', b'{"code":4702}', b'{"errorCode":"4704"}'], ids=repr
)
async def test_older_secret_is_used_if_zoom_rejects_the_newer(
    oauth: OAuthClient, upstream: RawUpstream, error: bytes
) -> None:
    """During a rotation, both secrets are valid for token requests and revocations; a rejected attempt does not use the refresh token."""
    for call in (oauth.refresh("r"), oauth.revoke("t")):
        upstream.responses = [response(401, error), response(200, ISSUED)]
        assert isinstance(await call, Issued | Revoked)
    assert [basic_credential(sent) for sent in upstream.requests] == ["app:new", "app:old"] * 2
    upstream.responses = [response(401, error)]
    assert await oauth.refresh("r") == AppRejected("invalid_client")


@pytest.mark.parametrize(
    ("status", "error"), [(401, b'{"error":"unauthorized_client"}'), (400, b'{"code":4709}'), (302, b"")]
)
async def test_only_revocations_are_repeated_after_other_rejections_of_the_app(
    oauth: OAuthClient, upstream: RawUpstream, status: int, error: bytes
) -> None:
    """A repeated revocation does no harm. A repeated token request could use a code or token that Zoom has already used."""
    upstream.responses = [response(status, error), response(200, b"")]
    assert isinstance(await oauth.revoke("t"), Revoked)
    upstream.responses = [response(status, error)]
    assert isinstance(await oauth.refresh("r"), AppRejected)
    assert [basic_credential(sent) for sent in upstream.requests] == ["app:new", "app:old", "app:new"]


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (CUT, Unknown),
        (response(200, ISSUED)[:-1], Unknown),
        (response(400, b'{"error":"invalid_grant"}')[:-1], Unknown),
        (b"\x16\x03 noise\r\n\r\n", Unknown),
        (b"HTTP/1.1 400 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", Unknown),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Unknown),
        (response(200, b'{"x":"' + b"x" * MAX_BODY_BYTES + b'"}'), Unknown),
        (response(500, b'{"error":"invalid_client"}'), Unknown),
        (response(201, ISSUED), Unknown),
        (response(302, b"", b"Location: /v2/elsewhere"), AppRejected),
        (response(307, b"", b"Location: /v2/elsewhere"), AppRejected),
        (response(429, b"", b"Retry-After: 9"), Throttled),
        (response(400, b'{"error":"invalid_grant"}'), Rejected),
    ],
)
async def test_token_request_is_sent_only_once(upstream: RawUpstream, sent: bytes, outcome: type) -> None:
    """Only a complete response is classified; no request is resent or redirected, and no outcome contains a secret."""
    upstream.responses = [sent]
    upstream.close_after_response = True
    oauth = client(upstream.url)
    result = await oauth.refresh("canary-refresh")
    await oauth.close()
    assert type(result) is outcome
    assert "canary" not in repr(result)
    assert len(upstream.requests) == 1


async def test_late_response_is_accepted_until_the_timeout(upstream: RawUpstream) -> None:
    """Zoom has 30 seconds to respond, since aborting would lose the tokens. The lease is longer than this timeout."""
    requests, refreshes = app_timing.Timing().token_requests, app_timing.Timing().refreshes
    assert requests.total == 30.0
    assert requests.total + requests.grace < refreshes.call < refreshes.lease
    oauth = client(upstream.url, timing=Timing(total=1.0, grace=0.0))
    upstream.responses = [response(200, ISSUED)]
    upstream.open.clear()
    late = asyncio.create_task(oauth.refresh("r"))
    while not upstream.requests:
        await asyncio.sleep(0)
    upstream.open.set()
    assert isinstance(await late, Issued)
    upstream.open.clear()
    too_late = asyncio.create_task(oauth.refresh("r"))
    while len(upstream.requests) < 2:
        await asyncio.sleep(0)
    assert isinstance(await too_late, Unknown)
    assert len(upstream.requests) == 2
    await oauth.close()


class FrozenLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when a test advances it."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(100):
            await asyncio.sleep(0)


def respond_slowly(seconds: float, then: float) -> tuple[object, int, float]:
    """Refresh with two secrets. Zoom rejects the newer secret after `seconds`, and does not respond to the older within `then` seconds.

    Returns:
        The outcome, the number of requests, and the duration.
    """

    async def refresh() -> tuple[object, int, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FrozenLoop)
        async with raw_upstream() as upstream:
            upstream.responses = [response(401, b'{"error":"invalid_client"}'), Endless(b"")]
            oauth = client(upstream.url, "new", "old")
            upstream.open.clear()
            running = asyncio.create_task(oauth.refresh("r"))
            while not upstream.requests:
                await asyncio.sleep(0)
            await loop.advance(seconds)
            upstream.open.set()
            while len(upstream.requests) < 2 and not running.done():
                await asyncio.sleep(0)
            await loop.advance(then)
            await loop.advance(Timing().grace)
            assert running.done()
            await oauth.close()
            return await running, len(upstream.requests), loop.now

    with asyncio.Runner(loop_factory=FrozenLoop) as runner:
        return runner.run(refresh())


def test_all_secrets_of_a_call_share_one_deadline() -> None:
    """Otherwise, a call could outlast the lease of its refresh."""
    half = Timing().total / 2
    outcome, requests, seconds = respond_slowly(half, then=half)
    assert (type(outcome), requests) == (Unknown, 2)
    assert seconds < app_timing.Timing().refreshes.call


def test_older_secret_is_not_used_in_the_second_half_of_a_call() -> None:
    """Little time would be left for the response, which may contain the only valid tokens."""
    outcome, requests, _ = respond_slowly(Timing().total / 2 + 1.0, then=0.0)
    assert (type(outcome), requests) == (NotSent, 1)


async def test_nothing_is_sent_after_the_client_was_stopped(
    oauth: OAuthClient, upstream: RawUpstream
) -> None:
    """A call that started earlier completes."""
    upstream.responses = [response(200, ISSUED)]
    upstream.open.clear()
    running = asyncio.create_task(oauth.refresh("r"))
    while not upstream.requests:
        await asyncio.sleep(0)
    oauth.stop_after(0.0)
    for call in (oauth.refresh("r"), oauth.exchange_code("c", code_verifier=None), oauth.revoke("t")):
        assert isinstance(await call, NotSent)
    upstream.open.set()
    assert isinstance(await running, Issued)
    assert len(upstream.requests) == 1


async def test_response_that_arrived_during_a_suspension_is_accepted() -> None:
    """A process that resumes after the timeout reads a response that it has already received."""
    received, suspended, responded = threading.Event(), threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while b"canary-refresh" not in connection.recv(65_536, socket.MSG_PEEK):
                pass
            received.set()
            suspended.wait()
            connection.sendall(response(200, ISSUED))
            responded.set()
            connection.recv(65_536)  # keeps the connection open until the client closes it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        oauth = client(
            f"http://127.0.0.1:{listener.getsockname()[1]}/oauth", timing=Timing(total=1.0, grace=20.0)
        )
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        refresh = asyncio.create_task(oauth.refresh("canary-refresh"))
        while not received.is_set():
            await asyncio.sleep(0)
        suspended.set()
        responded.wait()
        time.sleep(1.0)  # noqa: ASYNC251 - suspends the event loop until the timeout is due
        assert isinstance(await refresh, Issued)
        await oauth.close()
        server.join()


async def test_refused_connection_is_reported_as_not_sent() -> None:
    """`NotSent` is returned only if no connection was established."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        oauth = client(f"http://127.0.0.1:{unused.getsockname()[1]}/oauth")
        assert isinstance(await oauth.refresh("r"), NotSent)
        assert isinstance(await oauth.exchange_code("c", code_verifier=None), NotSent)
        assert isinstance(await oauth.revoke("t"), NotSent)
        await oauth.close()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"status":"success"}', Revoked),
        (200, b"", Revoked),
        (400, b'{"error":"invalid_grant","reason":"Invalid Token!"}', Revoked),
        (400, b'{"error":"temporarily_unavailable"}', Unknown),
        (429, b"{}", Unknown),
        (500, b'{"error":"invalid_grant"}', Unknown),
        (503, b"", Unknown),
        (404, b"<html>", Unknown),
        (401, b'{"error":"unauthorized_client"}', AppRejected),
        (301, b"", AppRejected),
    ],
)
async def test_token_is_revoked_only_if_zoom_confirms_it(
    oauth: OAuthClient, upstream: RawUpstream, status: int, body: bytes, outcome: type
) -> None:
    """Success and "invalid token" are treated as revoked; after all other responses the revocation is retried."""
    upstream.responses = [response(status, body)]
    assert type(await oauth.revoke("t")) is outcome


async def test_other_client_is_closed_if_the_oauth_client_cannot_be_created() -> None:
    loaded = replace(settings.load({}), zoom_oauth_url="https://[")
    unclosed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unclosed.append(context))
    with pytest.raises(ValueError, match="Invalid IPv6 URL"):
        async with AsyncExitStack() as stack:
            open_clients(loaded, SystemClock(), stack)
    gc.collect()
    assert not unclosed


async def test_authorize_url_is_encoded() -> None:
    """Every value is a separate parameter, and the challenge method is always sent."""
    oauth = client("https://zoom.us/oauth/")
    parts = urlsplit(oauth.authorize_url("s&t", "ch"))
    await oauth.close()
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://zoom.us/oauth/authorize"
    assert parse_qs(parts.query) == {
        "response_type": ["code"],
        "client_id": ["app"],
        "redirect_uri": ["https://x.example/cb?a=b"],
        "state": ["s&t"],
        "code_challenge": ["ch"],
        "code_challenge_method": ["S256"],
    }
