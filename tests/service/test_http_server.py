"""The HTTP server behind a proxy: who gets which page, and what browsers are told."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.harness import MONICA, Harness, running
from zoomgate.v1 import auth_service_pb2 as pb

PUBLIC = {"ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com", "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0"}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A service whose only proxy is this machine."""
    async with running(tmp_path, environ=PUBLIC | {"ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1"}) as started:
        yield started


async def get(harness: Harness, path: str, **headers: str) -> aiohttp.ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{harness.http_url}{path}", headers=named, allow_redirects=False) as answer,
    ):
        await answer.read()
        return answer


async def link(harness: Harness) -> str:
    begun = await harness.call(
        harness.auth.BeginAuthorization, pb.BeginAuthorizationRequest(user_email=MONICA)
    )
    url: str = begun.authorization_url
    return url


async def test_links_lead_to_the_public_address(harness: Harness) -> None:
    """Links and the redirect URI have the address that browsers see, whatever this server listens on."""
    url = await link(harness)
    assert url.startswith("https://zoomgate.example.com/oauth/start?ticket=")
    assert (await get(harness, url.removeprefix("https://zoomgate.example.com"))).status == 200
    onward = url.removeprefix("https://zoomgate.example.com").replace("start", "continue")
    answer = await get(harness, onward, X_Forwarded_Proto="https")
    assert answer.status == 303
    assert "redirect_uri=https%3A%2F%2Fzoomgate.example.com%2Foauth%2Fcallback" in answer.headers["Location"]


async def test_browsers_are_told_to_stay_with_https(harness: Harness) -> None:
    """HSTS on every answer; the cookie is bound to the host, sent over https alone and not to scripts."""
    for path in ("/oauth/result?outcome=connected", "/healthz", "/nowhere"):
        assert (await get(harness, path)).headers["Strict-Transport-Security"] == "max-age=31536000"
    url = await link(harness)
    answer = await get(harness, url.removeprefix("https://zoomgate.example.com").replace("start", "continue"))
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-zoomgate-browser=")
    for flag in ("HttpOnly", "Path=/", "SameSite=Lax", "Secure"):
        assert flag in cookie.split("; ")
    assert "Domain" not in cookie


async def test_plain_http_through_the_proxy_is_refused(harness: Harness) -> None:
    """A proxy that forgot to send browsers to https gets no page, and no cookie is set."""
    answer = await get(harness, "/oauth/result?outcome=connected", X_Forwarded_Proto="http")
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (("https", "http"), 403),
        (("https, http",), 403),
        (("http", "https"), 403),
        (("",), 403),
        (("https, https",), 200),
        (("HTTPS",), 200),
        ((), 200),
    ],
)
async def test_all_of_the_way_is_https(harness: Harness, said: tuple[str, ...], status: int) -> None:
    """Of several proxies each has its say, and what a browser says about itself does not outdo the proxy."""
    headers = [("X-Forwarded-Proto", scheme) for scheme in said]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{harness.http_url}/oauth/result?outcome=connected", headers=headers) as answer,
    ):
        assert answer.status == status


async def test_metrics_are_not_for_the_public(harness: Harness) -> None:
    """Through the proxy there are none; health is for everybody."""
    assert (await get(harness, "/metrics")).status == 404
    assert (await get(harness, "/healthz")).status == 200
    assert (await get(harness, "/readyz")).status == 200


async def test_pages_are_served_through_the_proxy_only(tmp_path: Path) -> None:
    """Who comes around the proxy gets no page but metrics; forwarded headers of theirs count for nothing."""
    async with running(tmp_path, environ=PUBLIC | {"ZOOMGATE_TRUSTED_PROXIES": "192.0.2.1"}) as harness:
        for headers in ({}, {"X_Forwarded_For": "192.0.2.1", "X_Forwarded_Proto": "https"}):
            answer = await get(harness, "/oauth/result?outcome=connected", **headers)
            assert answer.status == 403
            assert (await get(harness, "/metrics", **headers)).status == 200


async def test_other_methods_are_told_which_one_to_use(harness: Harness) -> None:
    """A refused method names the one that is allowed (RFC 9110, section 15.5.6)."""
    async with (
        aiohttp.ClientSession() as session,
        session.head(f"{harness.http_url}/oauth/start", headers={"X-Forwarded-Proto": "https"}) as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_without_https_cookies_are_plain(tmp_path: Path) -> None:
    """On this machine alone there is neither HSTS nor a cookie that http would not carry."""
    async with running(tmp_path) as harness:
        url = await link(harness)
        answer = await get(harness, url.removeprefix(harness.http_url).replace("start", "continue"))
        assert answer.headers["Set-Cookie"].startswith("zoomgate-browser=")
        assert "Secure" not in answer.headers["Set-Cookie"]
        assert "Strict-Transport-Security" not in answer.headers
        assert (await get(harness, "/metrics")).status == 200
