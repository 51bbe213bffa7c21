"""Tests for the consent flow in the user's browser, including misuse."""

import asyncio
from pathlib import Path

import pytest
from yarl import URL

from support.harness import MONICA, OMAR, SECONDS, Harness, browser, consent, consent_form, running
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection


async def outcome_of(zoomgate: Harness, path: str) -> tuple[int, str]:
    """Open a path of the HTTP server, and return the status and outcome of the last page."""
    async with browser() as session, session.get(zoomgate.http_url + path) as page:
        return page.status, page.url.query.get("outcome", "")


async def callback_location(zoomgate: Harness, session: object, url: str, user: str = MONICA) -> URL:
    """Grant consent, and return the URL of Zoom's redirect without following the redirect."""
    action, fields = await consent_form(session, url)  # type: ignore[arg-type]
    async with session.post(  # type: ignore[attr-defined]
        action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
    ) as response:
        return URL(response.headers["Location"])


async def is_connected(zoomgate: Harness, user: str = MONICA) -> bool:
    listed = await zoomgate.call(zoomgate.auth.ListConnections, pb.ListConnectionsRequest(), "admin")
    return user in [connection.user_email for connection in listed.connections]


@pytest.mark.parametrize(
    "path",
    [
        "/oauth/start",
        "/oauth/start?ticket=",
        "/oauth/start?ticket=a&ticket=b",
        "/oauth/continue",
        "/oauth/callback",
        "/oauth/callback?state=x",
        "/oauth/callback?code=x",
        "/oauth/callback?state=x&code=a&code=b",
        "/oauth/callback?state=x&code=a&error=b",
        "/oauth/callback?state=x&code=" + "c" * 2049,
    ],
)
async def test_malformed_parameters_show_an_error_page(zoomgate: Harness, path: str) -> None:
    """Missing, repeated and overlong parameters cause no code exchange."""
    assert await outcome_of(zoomgate, path) == (400, "bad_request")
    assert zoomgate.stat("token.authorization_code.refused") == 0


@pytest.mark.parametrize(
    "path",
    [
        "/oauth/start?ticket=unknown",
        "/oauth/continue?ticket=unknown",
        "/oauth/callback?state=unknown&code=x",
        "/oauth/callback?state=unknown.mac&code=x",
        "/oauth/callback?state=%3Cscript%3E&error=access_denied&error_description=%3Cscript%3E",
    ],
)
async def test_unknown_state_shows_the_expired_link_page(zoomgate: Harness, path: str) -> None:
    """The state is rejected before any call to Zoom."""
    assert await outcome_of(zoomgate, path) == (400, "link_expired")
    assert zoomgate.stat("token.authorization_code.refused") == 0


async def test_callback_in_a_different_browser_is_rejected(zoomgate: Harness) -> None:
    """The original browser can still use the callback URL."""
    started = await zoomgate.begin_authorization()
    async with browser() as own_browser, browser() as other:
        callback_url = await callback_location(zoomgate, own_browser, started.authorization_url)
        async with other.get(callback_url) as page:
            assert page.url.query["outcome"] == "other_browser"
        await consent_form(other, started.authorization_url)
        async with other.get(callback_url) as page:
            assert page.url.query["outcome"] == "other_browser"
        assert not await is_connected(zoomgate)
        async with own_browser.get(callback_url) as page:
            assert page.url.query["outcome"] == "connected"
    assert await is_connected(zoomgate)


async def test_callback_is_single_use(zoomgate: Harness) -> None:
    """Of several concurrent requests, one succeeds."""
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        callback_url = await callback_location(zoomgate, session, started.authorization_url)

        async def visit() -> str:
            async with session.get(callback_url) as page:
                return page.url.query["outcome"]

        outcomes = await asyncio.gather(*(visit() for _ in range(4)))
        assert sorted(outcomes) == ["connected", "link_used", "link_used", "link_used"]
        assert zoomgate.stat("token.authorization_code.issued") == 1


async def test_link_preview_does_not_consume_the_link(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization()
    async with browser() as preview, preview.get(started.authorization_url) as page:
        assert page.status == 200
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        assert page.url.query["outcome"] == "connected"


async def test_consent_of_a_different_zoom_user_is_rejected(zoomgate: Harness) -> None:
    """The page explains the mismatch, and nothing is stored."""
    started = await zoomgate.begin_authorization(MONICA)
    async with browser() as session:
        page = await consent(session, started.authorization_url, OMAR)
        assert (page.status, page.url.query["outcome"]) == (409, "other_user")
    assert not await is_connected(zoomgate)
    assert not await is_connected(zoomgate, OMAR)


async def test_zoom_outage_shows_a_retry_page(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization()
    zoomgate.simulator.faults.add(Fault("token", "status"))
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        assert (page.status, page.url.query["outcome"]) == (503, "try_later")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, (500, "misconfigured")),
        (403, (500, "misconfigured")),
        (429, (503, "try_later")),
        (500, (503, "try_later")),
    ],
)
async def test_user_is_connected_later_if_zoom_does_not_identify_the_user(
    zoomgate: Harness, status: int, outcome: tuple[int, str]
) -> None:
    """The page reports an outage or a missing scope. The user does not have to consent again."""
    started = await zoomgate.begin_authorization()
    zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1, status=status))
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        assert (page.status, page.url.query["outcome"]) == outcome
    assert not await is_connected(zoomgate)
    zoomgate.simulator.faults.clear()
    async with asyncio.timeout(SECONDS):
        while not await is_connected(zoomgate):
            await asyncio.sleep(0.01)
    assert zoomgate.stat("revoke.known") == 0


async def test_missing_scope_is_not_reported_as_an_outage(tmp_path: Path) -> None:
    """Zoom does not identify the user to an app without the scope `user:read:user`."""
    options = SimulatorOptions(port=0, scopes=("meeting:read:meeting",))
    async with running(tmp_path / "data", simulator=options) as zoomgate:
        started = await zoomgate.begin_authorization()
        async with browser() as session:
            page = await consent(session, started.authorization_url, MONICA)
            assert page.url.query["outcome"] == "misconfigured"
        assert not await is_connected(zoomgate)
        assert zoomgate.stat("revoke.known") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("access_denied", "declined"),
        ("something_new", "declined"),
        ("server_error", "try_later"),
        ("temporarily_unavailable", "try_later"),
        ("invalid_scope", "misconfigured"),
        ("unauthorized_client", "misconfigured"),
    ],
)
async def test_callback_error_is_reported_by_its_kind(zoomgate: Harness, error: str, outcome: str) -> None:
    """Declined consents, outages and configuration errors lead to different pages."""
    started = await zoomgate.begin_authorization()
    continue_url = started.authorization_url.replace("/oauth/start", "/oauth/continue")
    async with browser() as session:
        async with session.get(continue_url, allow_redirects=False) as redirect:
            state = URL(redirect.headers["Location"]).query["state"]
        async with session.get(
            f"{zoomgate.http_url}/oauth/callback", params={"state": state, "error": error}
        ) as page:
            assert page.url.query["outcome"] == outcome


async def test_pages_contain_no_code_and_set_security_headers(zoomgate: Harness) -> None:
    """The final URL contains no code; every page forbids caching, framing, scripts and referrers."""
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
    assert set(page.url.query) == {"outcome", "view"}
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    async with browser() as session, session.get(page.url) as again:
        text = await again.text()
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


async def test_browser_cookie_is_http_only_and_same_site(zoomgate: Harness) -> None:
    """With HTTPS, the cookie is also Secure and its name has the __Host- prefix."""
    started = await zoomgate.begin_authorization()
    continue_url = started.authorization_url.replace("/oauth/start", "/oauth/continue")
    async with browser() as session, session.get(continue_url, allow_redirects=False) as page:
        cookie = page.headers["Set-Cookie"]
        assert cookie.startswith("zoomgate-browser=")
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
    https = {"ZOOMGATE_REDIRECT_URI": "https://zoomgate.example/oauth/callback"}
    async with running(zoomgate.data_dir / "https", environ=https) as secure:
        started = await secure.begin_authorization()
        assert started.authorization_url.startswith("https://zoomgate.example/oauth/start?")
        start = secure.http_url + URL(started.authorization_url).raw_path_qs.replace("start", "continue")
        async with browser() as session, session.get(start, allow_redirects=False) as page:
            cookie = page.headers["Set-Cookie"]
            assert cookie.startswith("__Host-zoomgate-browser=")
            assert "Secure" in cookie


async def test_return_to_receives_a_one_time_ticket(zoomgate: Harness) -> None:
    """Only the caller that started the authorization can redeem the ticket for user, options and connection."""
    environ = {"ZOOMGATE_RETURN_TO": "shop=http://127.0.0.1:9/connected?from=zoom"}
    async with running(zoomgate.data_dir / "return-to", environ=environ) as service:
        started = await service.begin_authorization(return_to="shop", options={"cart": 7})
        async with browser() as session:
            callback_url = await callback_location(service, session, started.authorization_url)
            async with session.get(callback_url, allow_redirects=False) as response:
                return_url = URL(response.headers["Location"])
        assert return_url.host == "127.0.0.1"
        assert return_url.query["from"] == "zoom"
        request = pb.CompleteAuthorizationRequest(ticket=return_url.query["ticket"])
        other_caller = await service.error_of(service.auth.CompleteAuthorization, request, "blind")
        assert other_caller.reason == "INVALID_STATE"
        completed = await service.call(service.auth.CompleteAuthorization, request)
        assert (completed.user_email, dict(completed.options)) == (MONICA, {"cart": 7})
        assert completed.connection.state == Connection.STATE_ACTIVE
        assert (await service.error_of(service.auth.CompleteAuthorization, request)).reason == "INVALID_STATE"
        unknown = await service.error_of(
            service.auth.BeginAuthorization,
            pb.BeginAuthorizationRequest(user_email=MONICA, return_to="https://evil.example"),
        )
        assert set(unknown.violations) == {"return_to"}


async def test_health_and_metrics_endpoints(zoomgate: Harness) -> None:
    """Metrics use a fixed set of label values."""
    async with browser() as session:
        for path, text in (("/healthz", "ok"), ("/readyz", "ready")):
            async with session.get(zoomgate.http_url + path) as page:
                assert (page.status, (await page.text()).strip()) == (200, text)
        async with session.get(zoomgate.http_url + "/no/such/path-1234") as page:
            assert page.status == 404
        async with session.get(zoomgate.http_url + "/metrics") as page:
            metrics = await page.text()
    assert 'zoomgate_http_requests_total{route="other",status_class="4xx"} 1.0' in metrics
    assert "path-1234" not in metrics


async def test_start_page_names_the_user(zoomgate: Harness) -> None:
    """The start page does not consume the state and sets no cookie."""
    started = await zoomgate.begin_authorization()
    for _ in range(2):
        async with browser() as session, session.get(started.authorization_url) as page:
            text = await page.text()
            assert MONICA in text
            assert "Continue to Zoom" in text
            assert "Set-Cookie" not in page.headers


async def test_result_page_shows_details_only_in_the_consenting_browser(zoomgate: Harness) -> None:
    """The result page shows the user and the granted permissions only in the browser that completed the consent."""
    started = await zoomgate.begin_authorization()
    async with browser() as own_browser, browser() as other:
        completed = await consent(own_browser, started.authorization_url, MONICA)
        text = await completed.text()
        assert MONICA in text
        assert "<li>Create and change your meetings</li>" in text
        assert "<li>Change your meetings</li>" not in text
        await consent_form(other, (await zoomgate.begin_authorization(OMAR)).authorization_url)
        for session in (other, browser()):
            async with session, session.get(completed.url) as page:
                assert page.status == 200
                assert MONICA not in await page.text()


async def test_failure_page_names_the_requested_user(zoomgate: Harness) -> None:
    """The failure page does not name the user who consented, and lists no permissions."""
    async with browser() as session:
        page = await consent(session, (await zoomgate.begin_authorization(MONICA)).authorization_url, OMAR)
        text = await page.text()
    assert MONICA in text
    assert OMAR not in text
    assert "<li>" not in text


async def test_pages_use_the_configured_brand(zoomgate: Harness) -> None:
    """The brand name is always rendered as text."""
    brand = {"ZOOMGATE_BRAND_NAME": "A & B <script>", "ZOOMGATE_BRAND_COLOR": "#FFCC00"}
    async with running(zoomgate.data_dir / "brand", environ=brand) as branded:
        started = await branded.begin_authorization()
        async with browser() as session, session.get(started.authorization_url) as page:
            text = await page.text()
    assert "A &amp; B &lt;script&gt;" in text
    assert "<script" not in text
    assert "background:#ffcc00;color:#000000" in text


async def test_requests_are_counted_by_page(zoomgate: Harness) -> None:
    """The metrics show how many users continue from the first page and how many return."""
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        await consent(session, started.authorization_url, MONICA)
        async with session.get(f"{zoomgate.http_url}/metrics") as response:
            text = await response.text()
    for page in ("start", "continue", "callback", "result"):
        assert f'zoomgate_http_requests_total{{route="/oauth/{page}"' in text
