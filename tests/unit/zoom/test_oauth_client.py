"""What the OAuth client really sends, and when it says that nothing was spent."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from support.raw_upstream import CUT, RawUpstream, raw_upstream
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.zoom.oauth import MAX_BODY_BYTES, TOTAL_SECONDS, OAuthClient
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


def answer(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d x" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def client(base: str, *secrets: str) -> OAuthClient:
    return OAuthClient(
        oauth_url=base,
        api_url="https://api.zoom.us/v2",
        client_id="app",
        client_secrets=secrets or ("secret",),
        redirect_uri="https://x.example/cb?a=b",
        user_agent="zoomgate/test",
        wall=lambda: 1_900_000_000.0,
    )


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as raw:
        yield raw


@pytest.fixture
async def oauth(upstream: RawUpstream) -> AsyncIterator[OAuthClient]:
    opened = client(upstream.url, "new", "old")
    await opened.start()
    yield opened
    await opened.close()


def secret_of(request: bytes) -> str:
    """The Basic credential of a request."""
    line = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization: Basic "))
    return base64.b64decode(line.rpartition(b" ")[2]).decode()


async def test_secrets_go_into_the_header_and_the_rest_into_the_body(
    oauth: OAuthClient, upstream: RawUpstream
) -> None:
    """Nothing secret is in the address, and the client's own secret not in the form."""
    upstream.answers = [answer(200, ISSUED)]
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
    assert {secret_of(sent) for sent in upstream.requests} == {"app:new"}


async def test_a_connection_is_used_once(oauth: OAuthClient, upstream: RawUpstream) -> None:
    """A dead kept-alive connection cannot be taken for a lost answer, since there is none."""
    upstream.answers = [answer(200, ISSUED, b"Connection: keep-alive", b"Set-Cookie: a=b")]
    for _ in range(3):
        await oauth.refresh("r")
    assert upstream.connections == 3
    assert not any(b"\r\nCookie" in sent for sent in upstream.requests)


@pytest.mark.parametrize(
    "refusal", [b'{"error":"invalid_client"}', b'{"code":4702}', b'{"errorCode":"4704"}'], ids=repr
)
async def test_an_older_secret_is_tried_when_zoom_refuses_the_newer(
    oauth: OAuthClient, upstream: RawUpstream, refusal: bytes
) -> None:
    """While a secret is rotated either works, for tokens and revocations; nothing was spent by the refused try."""
    for call in (oauth.refresh("r"), oauth.revoke("t")):
        upstream.answers = [answer(401, refusal), answer(200, ISSUED)]
        assert isinstance(await call, Issued | Revoked)
    assert [secret_of(sent) for sent in upstream.requests] == ["app:new", "app:old"] * 2
    upstream.answers = [answer(401, refusal)]
    assert await oauth.refresh("r") == AppRejected("invalid_client")


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (CUT, Unknown),
        (answer(200, ISSUED)[:-1], Unknown),
        (answer(400, b'{"error":"invalid_grant"}')[:-1], Unknown),
        (b"\x16\x03 noise\r\n\r\n", Unknown),
        (b"HTTP/1.1 400 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", Unknown),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Unknown),
        (answer(200, b'{"x":"' + b"x" * MAX_BODY_BYTES + b'"}'), Unknown),
        (answer(500, b'{"error":"invalid_client"}'), Unknown),
        (answer(201, ISSUED), Unknown),
        (answer(302, b"", b"Location: /v2/elsewhere"), AppRejected),
        (answer(307, b"", b"Location: /v2/elsewhere"), AppRejected),
        (answer(429, b"", b"Retry-After: 9"), Throttled),
        (answer(400, b'{"error":"invalid_grant"}'), Rejected),
    ],
)
async def test_a_token_is_asked_for_once(upstream: RawUpstream, sent: bytes, outcome: type) -> None:
    """Only a fully read answer is one; nothing is sent again or elsewhere, and no outcome shows a secret."""
    upstream.answers = [sent]
    upstream.close_after_answer = True
    oauth = client(upstream.url)
    await oauth.start()
    got = await oauth.refresh("canary-refresh")
    await oauth.close()
    assert type(got) is outcome
    assert "canary" not in repr(got)
    assert len(upstream.requests) == 1


async def test_a_late_answer_counts_and_a_later_one_is_lost(
    oauth: OAuthClient, upstream: RawUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zoom has half a minute for an answer, since to hang up is to lose it; a lease covers that, and what comes after is lost."""
    assert TOTAL_SECONDS == 30.0 < protocol.CALL_SECONDS
    upstream.answers = [answer(200, ISSUED)]
    upstream.open.clear()
    late = asyncio.create_task(oauth.refresh("r"))
    while not upstream.requests:
        await asyncio.sleep(0)
    upstream.open.set()
    assert isinstance(await late, Issued)
    upstream.open.clear()
    later = asyncio.create_task(oauth.refresh("r"))
    while len(upstream.requests) < 2:
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda now=loop.time: now() + TOTAL_SECONDS + 1.0)
    assert isinstance(await later, Unknown)
    assert len(upstream.requests) == 2


async def test_a_refused_connection_spent_nothing() -> None:
    """NotSent is said only of connections that never came to be."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        oauth = client(f"http://127.0.0.1:{unused.getsockname()[1]}/oauth")
        await oauth.start()
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
async def test_a_token_is_revoked_once_zoom_says_so(
    oauth: OAuthClient, upstream: RawUpstream, status: int, body: bytes, outcome: type
) -> None:
    """Success and "no such token" mean revoked; everything else leaves it to be tried again."""
    upstream.answers = [answer(status, body)]
    assert type(await oauth.revoke("t")) is outcome


def test_the_consent_address_is_encoded() -> None:
    """Everything that varies is a parameter of its own; the challenge's method is always named."""
    parts = urlsplit(client("https://zoom.us/oauth/").authorize_url("s&t", "ch"))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://zoom.us/oauth/authorize"
    assert parse_qs(parts.query) == {
        "response_type": ["code"],
        "client_id": ["app"],
        "redirect_uri": ["https://x.example/cb?a=b"],
        "state": ["s&t"],
        "code_challenge": ["ch"],
        "code_challenge_method": ["S256"],
    }
