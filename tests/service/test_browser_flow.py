"""Tests for the consent flow in the user's browser, including misuse."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from support.harness import MONICA, OMAR, SECONDS, Harness, browser, consent, consent_form, running
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError


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
        "/oauth/callback?code=a&code=b",
        "/oauth/callback?code=a&error=b",
        "/oauth/callback?code=&error=",
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
    ("kind", "status", "outcome"),
    [
        ("status", 400, (500, "misconfigured")),
        ("status", 403, (500, "misconfigured")),
        ("status", 408, (202, "pending")),
        ("status", 429, (202, "pending")),
        ("status", 500, (202, "pending")),
        ("html", 400, (202, "pending")),
        ("html", 403, (202, "pending")),
        ("redirect", 302, (202, "pending")),
    ],
)
async def test_user_is_connected_later_if_zoom_does_not_identify_the_user(
    zoomgate: Harness, kind: str, status: int, outcome: tuple[int, str]
) -> None:
    """The page does not ask for another consent. Reloading the page of an outage shows the connection.

    Only Zoom itself can report a misconfigured app, not an intermediary.
    """
    started = await zoomgate.begin_authorization()
    zoomgate.simulator.faults.add(Fault("users_me", kind, times=-1, status=status))
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        assert (page.status, page.url.query["outcome"]) == outcome
        assert not re.search("new link|again|retry", await page.text())
        assert not await is_connected(zoomgate)
        zoomgate.simulator.faults.clear()
        async with asyncio.timeout(SECONDS):
            while not await is_connected(zoomgate):
                await asyncio.sleep(0.01)
        async with session.get(page.url) as reloaded:
            assert ("You are connected" in await reloaded.text()) is (outcome[1] == "pending")
    assert zoomgate.stat("revoke.known") == 0


async def test_earlier_connection_is_not_shown_as_the_result_of_a_pending_consent(zoomgate: Harness) -> None:
    await zoomgate.connect()
    started = await zoomgate.begin_authorization()
    zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1))
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        assert (page.status, "You will be connected soon" in await page.text()) == (202, True)
    assert await outcome_of(zoomgate, "/oauth/result?outcome=pending") == (404, "pending")


@pytest.mark.parametrize("is_identified", [True, False])
async def test_consent_whose_result_cannot_be_stored_is_not_shown_as_lost(
    zoomgate: Harness, is_identified: bool
) -> None:
    started = await zoomgate.begin_authorization()
    if not is_identified:
        zoomgate.simulator.faults.add(Fault("users_me", "status", times=-1))
    used = False

    async def fail_for_the_view(proceed: Any, record: Record, *rest: Any) -> Any:
        nonlocal used
        if record.key.kind is Kind.STATE:
            if used:
                raise StoreError("injected")
            used = True
        return await proceed(record, *rest)

    async with browser() as session:
        with zoomgate.store.intercept("put", fail_for_the_view):
            page = await consent(session, started.authorization_url, MONICA)
        assert (page.status, page.url.query["outcome"]) == (200, "details_unavailable")
    assert await is_connected(zoomgate) is is_identified


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


@pytest.mark.parametrize("path", ["/oauth/callback?code=x", "/oauth/callback?code=x&state="])
async def test_user_who_added_the_app_in_the_marketplace_learns_where_to_connect(
    zoomgate: Harness, path: str
) -> None:
    """Zoom's redirect then has a code and no state. The code is not exchanged, and does not stay in the address."""
    async with browser() as session, session.get(zoomgate.http_url + path) as page:
        assert (page.status, str(page.url.relative())) == (200, "/oauth/result?outcome=app_added")
        assert "Marketplace" in await page.text()
        assert "href" not in await page.text()
    assert zoomgate.stat("token.authorization_code.refused") == 0
    environ = {"ZOOMGATE_CONNECT_URL": "https://shop.example/zoom?a=1&b=%22#connect"}
    async with running(zoomgate.data_dir / "with-url", environ=environ) as service:
        for outcome in (path, "/oauth/callback?error=access_denied", "/oauth/result?outcome=link_expired"):
            async with browser() as session, session.get(service.http_url + outcome) as page:
                assert (
                    '<a class="go" href="https://shop.example/zoom?a=1&amp;b=%22#connect">'
                    in await page.text()
                )


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("error=access_denied", "<strong>access_denied</strong>"),
        ("error=invalid_scope&state=", "<strong>invalid_scope</strong>"),
        ("code=&error=4700", "<strong>4700</strong>"),
        ("error=e&error_description=Invalid+redirect%3A+%C3%BC", "<strong>e: Invalid redirect: ü</strong>"),
        (
            "error=%3Cb%3E&error_description=%22%3Cscript%3E",
            "<strong>&lt;b&gt;: &quot;&lt;script&gt;</strong>",
        ),
        ("error=e&error_description=a%0D%0Ab%E2%80%AEc%00", "<strong>e: a b c</strong>"),
        ("error=e&error_description=" + "d" * 3000, f"<strong>e: {'d' * 197}</strong>"),
        ("error=" + "e" * 2000, f"<strong>{'e' * 200}</strong>"),
    ],
)
async def test_error_without_state_shows_the_reason_of_zoom(
    zoomgate: Harness, query: str, shown: str
) -> None:
    """The reason is text of at most 200 characters, since anyone can create such an address."""
    async with browser() as session, session.get(f"{zoomgate.http_url}/oauth/callback?{query}") as page:
        text = await page.text()
        assert (page.status, page.history) == (400, ())
    assert shown in text
    assert "<script" not in text


async def test_result_of_a_connection_that_has_ended_is_not_shown_as_connected(zoomgate: Harness) -> None:
    started = await zoomgate.begin_authorization()
    async with browser() as session:
        page = await consent(session, started.authorization_url, MONICA)
        await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
        async with session.get(page.url) as reloaded:
            assert (reloaded.status, "You are not connected" in await reloaded.text()) == (409, True)
    assert await outcome_of(zoomgate, "/oauth/result?outcome=connected") == (404, "connected")


@pytest.mark.parametrize("connected", [False, True])
async def test_page_after_consent_with_a_different_account_says_what_happened(
    zoomgate: Harness, connected: bool
) -> None:
    """If the other account is connected already, its connection remains; otherwise the access is revoked."""
    if connected:
        await zoomgate.connect(OMAR)
    started = await zoomgate.begin_authorization(MONICA)
    async with browser() as session:
        page = await consent(session, started.authorization_url, OMAR)
        text = await page.text()
    assert page.url.query["outcome"] == ("other_user_connected" if connected else "other_user")
    assert ("That connection remains" in text, "allowed is revoked" in text) == (
        connected,
        not connected,
    )
    assert OMAR not in text
    assert await is_connected(zoomgate, OMAR) is connected


async def test_disconnection_during_the_consent_is_not_reported_as_an_outage(zoomgate: Harness) -> None:
    await zoomgate.connect(MONICA)
    started = await zoomgate.begin_authorization(MONICA)
    zoomgate.simulator.faults.add(Fault("users_me", "delay", seconds=1.0))
    async with browser() as session:
        finishing = asyncio.create_task(consent(session, started.authorization_url, MONICA))
        async with asyncio.timeout(SECONDS):
            while zoomgate.stat("token.authorization_code.issued") < 2:
                await asyncio.sleep(0.01)
        await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
        page = await finishing
    assert (page.status, page.url.query["outcome"]) == (409, "disconnected")


RETURN_TO = [
    ("http://127.0.0.1:9/zoom", "http://127.0.0.1:9/zoom?"),
    ("http://127.0.0.1:9/zoom?", "http://127.0.0.1:9/zoom?"),
    ("http://127.0.0.1:9/zoom?from=a+b%2Cc", "http://127.0.0.1:9/zoom?from=a+b%2Cc&"),
    ("http://127.0.0.1:9", "http://127.0.0.1:9?"),
]


async def returned_to(service: Harness, user: str = MONICA, decision: str = "allow") -> str:
    """Start an authorization with `return_to`, decide, and return the URL to which the browser is redirected at the end."""
    started = await service.begin_authorization(MONICA, return_to="shop")
    async with browser() as session:
        action, fields = await consent_form(session, started.authorization_url)
        form = fields | {"user": user, "decision": decision}
        async with session.post(action, data=form, allow_redirects=False) as response:
            callback = response.headers["Location"]
        async with session.get(URL(callback, encoded=True), allow_redirects=False) as response:
            return response.headers["Location"]


@pytest.mark.parametrize(("configured", "prefix"), RETURN_TO)
async def test_browser_returns_to_the_configured_url_after_every_outcome(
    tmp_path: Path, configured: str, prefix: str
) -> None:
    """The outcome is named in the query. Only a success has a ticket. Parameters of the URL are retained."""
    async with running(tmp_path, environ={"ZOOMGATE_RETURN_TO": f"shop={configured}"}) as service:
        assert await returned_to(service, decision="deny") == f"{prefix}outcome=declined"
        assert await returned_to(service, OMAR) == f"{prefix}outcome=other_user"
        service.simulator.faults.add(Fault("token", "status", status=503))
        assert await returned_to(service) == f"{prefix}outcome=try_later"
        service.simulator.faults.add(Fault("users_me", "status", times=-1))
        assert await returned_to(service) == f"{prefix}outcome=pending"
        service.simulator.faults.clear()
        connected = await returned_to(service)
        assert connected.startswith(f"{prefix}outcome=connected&ticket=")


@pytest.mark.parametrize("operation", ["get", "put"])
async def test_browser_returns_to_the_configured_url_after_a_store_failure(
    tmp_path: Path, operation: str
) -> None:
    """A success whose ticket cannot be stored is still reported as a success."""
    async with running(tmp_path, environ={"ZOOMGATE_RETURN_TO": "shop=http://127.0.0.1:9/zoom"}) as service:
        stored = 0

        async def fail_for_tickets(proceed: Any, key: RecordKey | Record, *rest: Any) -> Any:
            nonlocal stored
            kind = key.kind if isinstance(key, RecordKey) else key.key.kind
            stored += service.stat("token.authorization_code.issued") and kind is Kind.STATE
            if stored:
                raise StoreError("injected")
            return await proceed(key, *rest)

        with service.store.intercept(operation, fail_for_tickets):
            assert await returned_to(service) == "http://127.0.0.1:9/zoom?outcome=connected"
        assert await is_connected(service)


async def test_ticket_remains_usable_after_a_store_failure(tmp_path: Path) -> None:
    """The connection is read before the ticket is used."""
    async with running(tmp_path, environ={"ZOOMGATE_RETURN_TO": "shop=http://127.0.0.1:9/zoom"}) as service:
        ticket = URL(await returned_to(service)).query["ticket"]
        request = pb.CompleteAuthorizationRequest(ticket=ticket)

        service.store.fail("find", 1)
        error = await service.error_of(service.auth.CompleteAuthorization, request)
        assert error.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        request = pb.CompleteAuthorizationRequest(
            callback_url=f"http://127.0.0.1:9/zoom?outcome=connected&ticket={ticket}"
        )
        completed = await service.call(service.auth.CompleteAuthorization, request)
        assert completed.user_email == MONICA


async def test_ticket_of_a_connection_that_has_ended_is_rejected(tmp_path: Path) -> None:
    async with running(tmp_path, environ={"ZOOMGATE_RETURN_TO": "shop=http://127.0.0.1:9/zoom"}) as service:
        ticket = URL(await returned_to(service)).query["ticket"]
        await service.call(service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=MONICA))
        request = pb.CompleteAuthorizationRequest(ticket=ticket)
        error = await service.error_of(service.auth.CompleteAuthorization, request)
        assert error.short == ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")


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
        get_request = pb.GetAuthorizationRequest(state=request.ticket)
        assert (await service.error_of(service.auth.GetAuthorization, get_request)).reason == "INVALID_STATE"
        other_caller = await service.error_of(service.auth.CompleteAuthorization, request, "blind")
        assert other_caller.reason == "INVALID_STATE"
        completed = await service.call(service.auth.CompleteAuthorization, request)
        assert (completed.user_email, dict(completed.options)) == (MONICA, {"cart": 7})
        assert completed.connection.state == Connection.STATE_ACTIVE
        assert (await service.error_of(service.auth.CompleteAuthorization, request)).reason == "INVALID_STATE"
        assert (await service.error_of(service.auth.GetAuthorization, get_request)).reason == "INVALID_STATE"
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
            assert "never sees your Zoom password" in text
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
                text = await page.text()
                assert page.status == 404
                assert MONICA not in text
                assert "You are connected" not in text


@pytest.mark.parametrize(
    ("scopes", "registrations", "participants"),
    [
        (("meeting:read:list_registrants", "meeting:update:registrant_status"), ["See", "Change"], []),
        (("meeting:write:registrant", "meeting:update:registrant_status"), ["Create and change"], []),
        (("meeting:delete:registrant", "meeting:read:meeting"), ["Delete"], []),
        (("meeting:read:list_past_participants",), [], ["See"]),
        (("meeting:read", "meeting:write"), ["See", "Create and change"], ["See"]),
        (("meeting:write:meeting", "webinar:read:webinar"), [], []),
    ],
)
async def test_result_page_shows_access_to_data_of_other_people(
    tmp_path: Path, scopes: tuple[str, ...], registrations: list[str], participants: list[str]
) -> None:
    """Granular scopes name the registrations or participants of meetings; classic scopes cover them."""
    options = SimulatorOptions(port=0, scopes=("user:read:user", *scopes))
    async with running(tmp_path / "data", simulator=options) as zoomgate, browser() as session:
        started = await zoomgate.begin_authorization()
        text = await (await consent(session, started.authorization_url, MONICA)).text()
    assert re.findall("<li>([A-Z][a-z ]+) the registrations for your meetings", text) == registrations
    assert re.findall("<li>([A-Z][a-z ]+) the names and email addresses of part", text) == participants
    has_meetings = any(scope.count(":") == 1 or scope.endswith(":meeting") for scope in scopes)
    assert bool(re.search("<li>(See|Create and change) your meetings", text)) is has_meetings


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
