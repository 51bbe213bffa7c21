"""Tests for the HTTP server behind a reverse proxy: access to pages, response headers and cookies."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.harness import MONICA, Harness, running
from zoomgate.v1 import auth_service_pb2 as pb

PUBLIC = {"ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com", "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0"}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service that trusts the proxy 127.0.0.1."""
    async with running(tmp_path, environ=PUBLIC | {"ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1"}) as started:
        yield started


async def get(harness: Harness, path: str, **headers: str) -> aiohttp.ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{harness.http_url}{path}", headers=named, allow_redirects=False) as response,
    ):
        await response.read()
        return response


async def authorization_url(harness: Harness) -> str:
    response = await harness.call(
        harness.auth.BeginAuthorization, pb.BeginAuthorizationRequest(user_email=MONICA)
    )
    url: str = response.authorization_url
    return url


async def test_links_use_the_public_url(harness: Harness) -> None:
    """Links and the redirect URI use the configured public URL, not the address on which the server listens."""
    url = await authorization_url(harness)
    assert url.startswith("https://zoomgate.example.com/oauth/start?ticket=")
    assert (await get(harness, url.removeprefix("https://zoomgate.example.com"))).status == 200
    continue_path = url.removeprefix("https://zoomgate.example.com").replace("start", "continue")
    response = await get(harness, continue_path, X_Forwarded_Proto="https")
    assert response.status == 303
    assert (
        "redirect_uri=https%3A%2F%2Fzoomgate.example.com%2Foauth%2Fcallback" in response.headers["Location"]
    )


async def test_https_is_enforced_for_browsers(harness: Harness) -> None:
    """Every response has an HSTS header. The cookie is bound to the host, sent only over https, and hidden from scripts."""
    for path in ("/oauth/result?outcome=connected", "/healthz", "/nowhere"):
        assert (await get(harness, path)).headers["Strict-Transport-Security"] == "max-age=31536000"
    url = await authorization_url(harness)
    response = await get(
        harness, url.removeprefix("https://zoomgate.example.com").replace("start", "continue")
    )
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-zoomgate-browser=")
    for flag in ("HttpOnly", "Path=/", "SameSite=Lax", "Secure"):
        assert flag in cookie.split("; ")
    assert "Domain" not in cookie


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https"])
async def test_https_features_do_not_depend_on_the_case_of_the_public_url(
    tmp_path: Path, scheme: str
) -> None:
    """URL schemes are case-insensitive (RFC 3986, section 3.1)."""
    environ = PUBLIC | {
        "ZOOMGATE_PUBLIC_URL": f"{scheme}://zoomgate.example.com",
        "ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with running(tmp_path, environ=environ) as harness:
        path = (await authorization_url(harness)).removeprefix("https://zoomgate.example.com")
        response = await get(harness, path.replace("start", "continue"))
        assert response.headers["Set-Cookie"].startswith("__Host-zoomgate-browser=")
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert (await get(harness, path, X_Forwarded_Proto="http")).status == 403


async def test_plain_http_through_the_proxy_is_rejected(harness: Harness) -> None:
    """If the proxy does not redirect browsers to https, no page is served and no cookie is set."""
    response = await get(harness, "/oauth/result?outcome=declined", X_Forwarded_Proto="http")
    assert response.status == 403
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        (("https", "http"), 200),
        (("https, http",), 200),
        (("https,http,http",), 200),
        (("http", "https"), 403),
        (("http, https",), 403),
        ((" HTTP ,https",), 403),
        (("",), 403),
        ((", https",), 403),
        (("wss",), 403),
        (("https, https",), 200),
        (("HTTPS",), 200),
        ((), 200),
    ],
)
async def test_browser_must_use_https_to_reach_the_first_proxy(
    harness: Harness, forwarded: tuple[str, ...], status: int
) -> None:
    """TLS may end at the first proxy, whose value comes first; further proxies that are reached with plain HTTP may add their own."""
    headers = [("X-Forwarded-Proto", scheme) for scheme in forwarded]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{harness.http_url}/oauth/result?outcome=declined", headers=headers) as response,
    ):
        assert response.status == status


FORWARDED = [{}, {"Forwarded": "for=192.0.2.1"}, {"via": "1.1 proxy"}, {"x-forwarded-for": "192.0.2.1"}]


@pytest.mark.parametrize("headers", [*FORWARDED, {"X-Forwarded-Proto": "https"}], ids=str)
async def test_metrics_are_not_served_through_the_proxy(harness: Harness, headers: dict[str, str]) -> None:
    """Some proxies add no header by default, such as nginx and HAProxy. The health endpoints are also served through the proxy."""
    assert (await get(harness, "/metrics", **headers)).status == 404
    assert (await get(harness, "/healthz", **headers)).status == 200
    assert (await get(harness, "/readyz", **headers)).status == 200


@pytest.mark.parametrize("headers", FORWARDED, ids=str)
async def test_metrics_are_served_to_a_scraper_in_the_network_of_the_proxies(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """In a cluster, the proxies and Prometheus may have addresses of the same network, which a setting then lists for both."""
    networks = {"ZOOMGATE_TRUSTED_PROXIES": "127.0.0.0/8", "ZOOMGATE_METRICS_NETWORKS": "127.0.0.0/8"}
    async with running(tmp_path, environ=PUBLIC | networks) as harness:
        assert (await get(harness, "/metrics", **headers)).status == (404 if headers else 200)


async def test_metrics_are_served_only_to_the_listed_networks(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"ZOOMGATE_METRICS_NETWORKS": "192.0.2.0/24"}) as harness:
        assert (await get(harness, "/metrics")).status == 404
        assert (await get(harness, "/readyz")).status == 200


async def test_pages_are_served_through_the_proxy_only(tmp_path: Path) -> None:
    """Clients that bypass the proxy receive metrics but no pages, and the server ignores their forwarded headers."""
    async with running(tmp_path, environ=PUBLIC | {"ZOOMGATE_TRUSTED_PROXIES": "192.0.2.1"}) as harness:
        for headers in ({}, {"X_Forwarded_For": "192.0.2.1", "X_Forwarded_Proto": "https"}):
            response = await get(harness, "/oauth/result?outcome=connected", **headers)
            assert response.status == 403
            assert (await get(harness, "/metrics", **headers)).status == 200


async def test_root_has_no_page_in_production(harness: Harness) -> None:
    """The version is not public."""
    assert (await get(harness, "/")).status == 404


async def test_rejected_method_lists_the_allowed_method(harness: Harness) -> None:
    """A 405 response has an Allow header (RFC 9110, section 15.5.6)."""
    async with (
        aiohttp.ClientSession() as session,
        session.head(f"{harness.http_url}/oauth/start", headers={"X-Forwarded-Proto": "https"}) as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_local_service_uses_no_https_features(tmp_path: Path) -> None:
    """Without https, responses have no HSTS header, and the cookie is not `Secure`, because browsers would not send a `Secure` cookie."""
    async with running(tmp_path) as harness:
        url = await authorization_url(harness)
        response = await get(harness, url.removeprefix(harness.http_url).replace("start", "continue"))
        assert response.headers["Set-Cookie"].startswith("zoomgate-browser=")
        assert "Secure" not in response.headers["Set-Cookie"]
        assert "Strict-Transport-Security" not in response.headers
        assert (await get(harness, "/metrics")).status == 200
