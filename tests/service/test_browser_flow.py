"""What a person's browser goes through, and what it must not be talked into."""

import asyncio

import pytest
from yarl import URL

from support.harness import MONICA, OMAR, Harness, browser, consent, consent_form, running
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection


async def outcome_of(zoomgate: Harness, path: str) -> tuple[int, str]:
    """Open a path of the HTTP front and give the status and outcome of the last page."""
    async with browser() as session, session.get(zoomgate.http_url + path) as page:
        return page.status, page.url.query.get("outcome", "")


async def callback_location(zoomgate: Harness, session: object, url: str, user: str = MONICA) -> URL:
    """Consent up to Zoom's redirect, without following it."""
    action, fields = await consent_form(session, url)  # type: ignore[arg-type]
    async with session.post(  # type: ignore[attr-defined]
        action, data=fields | {"user": user, "decision": "allow"}, allow_redirects=False
    ) as answer:
        return URL(answer.headers["Location"])


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
async def test_incomplete_addresses_say_so(zoomgate: Harness, path: str) -> None:
    """Missing, doubled and overlong parameters lead to a page, and to no exchange."""
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
async def test_unknown_states_are_expired_links(zoomgate: Harness, path: str) -> None:
    """A state that we did not make is refused before Zoom is asked."""
    assert await outcome_of(zoomgate, path) == (400, "link_expired")
    assert zoomgate.stat("token.authorization_code.refused") == 0


async def test_a_state_of_another_browser_is_refused(zoomgate: Harness) -> None:
    """Whoever gets hold of the address with the code cannot use it in another browser, and the right one still can."""
    begun = await zoomgate.begin()
    async with browser() as mine, browser() as other:
        back = await callback_location(zoomgate, mine, begun.authorization_url)
        async with other.get(back) as page:
            assert page.url.query["outcome"] == "other_browser"
        await consent_form(other, begun.authorization_url)
        async with other.get(back) as page:
            assert page.url.query["outcome"] == "other_browser"
        assert not await is_connected(zoomgate)
        async with mine.get(back) as page:
            assert page.url.query["outcome"] == "connected"
    assert await is_connected(zoomgate)


async def test_a_callback_works_once(zoomgate: Harness) -> None:
    """The second visit of the same address finds the state used; of two at once one wins."""
    begun = await zoomgate.begin()
    async with browser() as session:
        back = await callback_location(zoomgate, session, begun.authorization_url)

        async def visit() -> str:
            async with session.get(back) as page:
                return page.url.query["outcome"]

        outcomes = await asyncio.gather(*(visit() for _ in range(4)))
        assert sorted(outcomes) == ["connected", "link_used", "link_used", "link_used"]
        assert zoomgate.stat("token.authorization_code.issued") == 1


async def test_a_link_may_be_opened_twice_before_the_consent(zoomgate: Harness) -> None:
    """A preview of the link, in a chat for example, does not use it up."""
    begun = await zoomgate.begin()
    async with browser() as preview, preview.get(begun.authorization_url) as page:
        assert page.status == 200
    async with browser() as session:
        page = await consent(session, begun.authorization_url, MONICA)
        assert page.url.query["outcome"] == "connected"


async def test_the_wrong_person_is_told(zoomgate: Harness) -> None:
    """Consenting with another Zoom account than asked for leads to a page that says so, and stores nothing."""
    begun = await zoomgate.begin(MONICA)
    async with browser() as session:
        page = await consent(session, begun.authorization_url, OMAR)
        assert (page.status, page.url.query["outcome"]) == (409, "other_user")
    assert not await is_connected(zoomgate)
    assert not await is_connected(zoomgate, OMAR)


async def test_an_outage_of_zoom_is_told(zoomgate: Harness) -> None:
    """If the exchange gets no answer, the page asks to try again."""
    begun = await zoomgate.begin()
    zoomgate.simulator.faults.add(Fault("token", "status"))
    async with browser() as session:
        page = await consent(session, begun.authorization_url, MONICA)
        assert (page.status, page.url.query["outcome"]) == (503, "try_later")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(400, "misconfigured"), (403, "misconfigured"), (429, "try_later"), (500, "try_later")],
)
async def test_an_app_that_may_not_ask_who_consented_is_told_so(
    zoomgate: Harness, status: int, outcome: str
) -> None:
    """To try again helps after an outage, and not where the app lacks a scope; nothing is stored."""
    begun = await zoomgate.begin()
    zoomgate.simulator.faults.add(Fault("users_me", "status", status=status))
    async with browser() as session:
        page = await consent(session, begun.authorization_url, MONICA)
        assert page.url.query["outcome"] == outcome
    assert not await is_connected(zoomgate)


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
async def test_zooms_own_errors_are_no_decision_of_the_person(
    zoomgate: Harness, error: str, outcome: str
) -> None:
    """What Zoom says at the callback is told as what it is: declined, an outage, or an app that is set up wrong."""
    begun = await zoomgate.begin()
    onward = begun.authorization_url.replace("/oauth/start", "/oauth/continue")
    async with browser() as session:
        async with session.get(onward, allow_redirects=False) as way:
            state = URL(way.headers["Location"]).query["state"]
        async with session.get(
            f"{zoomgate.http_url}/oauth/callback", params={"state": state, "error": error}
        ) as page:
            assert page.url.query["outcome"] == outcome


async def test_pages_are_clean_and_locked_down(zoomgate: Harness) -> None:
    """The last address has no code, and every page forbids caching, framing, scripts and referrers."""
    begun = await zoomgate.begin()
    async with browser() as session:
        page = await consent(session, begun.authorization_url, MONICA)
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


async def test_the_cookie_is_out_of_reach_of_scripts(zoomgate: Harness) -> None:
    """The cookie that binds the browser is HttpOnly and SameSite; behind https it is Secure with the host prefix."""
    begun = await zoomgate.begin()
    onward = begun.authorization_url.replace("/oauth/start", "/oauth/continue")
    async with browser() as session, session.get(onward, allow_redirects=False) as page:
        cookie = page.headers["Set-Cookie"]
        assert cookie.startswith("zoomgate-browser=")
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
    https = {"ZOOMGATE_REDIRECT_URI": "https://zoomgate.example/oauth/callback"}
    async with running(zoomgate.data_dir / "https", environ=https) as secure:
        begun = await secure.begin()
        assert begun.authorization_url.startswith("https://zoomgate.example/oauth/start?")
        start = secure.http_url + URL(begun.authorization_url).raw_path_qs.replace("start", "continue")
        async with browser() as session, session.get(start, allow_redirects=False) as page:
            cookie = page.headers["Set-Cookie"]
            assert cookie.startswith("__Host-zoomgate-browser=")
            assert "Secure" in cookie


async def test_a_configured_place_gets_a_ticket_that_works_once(zoomgate: Harness) -> None:
    """With return_to the browser ends at the configured place, whose ticket gives user, options and connection to who began."""
    places = {"ZOOMGATE_RETURN_TO": "shop=http://127.0.0.1:9/connected?from=zoom"}
    async with running(zoomgate.data_dir / "places", environ=places) as placed:
        begun = await placed.begin(return_to="shop", options={"cart": 7})
        async with browser() as session:
            back = await callback_location(placed, session, begun.authorization_url)
            async with session.get(back, allow_redirects=False) as answer:
                place = URL(answer.headers["Location"])
        assert place.host == "127.0.0.1"
        assert place.query["from"] == "zoom"
        wanted = pb.CompleteAuthorizationRequest(ticket=place.query["ticket"])
        foreign = await placed.refusal(placed.auth.CompleteAuthorization, wanted, "blind")
        assert foreign.reason == "INVALID_STATE"
        done = await placed.call(placed.auth.CompleteAuthorization, wanted)
        assert (done.user_email, dict(done.options)) == (MONICA, {"cart": 7})
        assert done.connection.state == Connection.STATE_ACTIVE
        assert (await placed.refusal(placed.auth.CompleteAuthorization, wanted)).reason == "INVALID_STATE"
        unknown = await placed.refusal(
            placed.auth.BeginAuthorization,
            pb.BeginAuthorizationRequest(user_email=MONICA, return_to="https://evil.example"),
        )
        assert set(unknown.violations) == {"return_to"}


async def test_health_and_metrics_answer(zoomgate: Harness) -> None:
    """The HTTP front tells health, readiness and metrics with closed label sets."""
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


async def test_a_person_sees_whose_consent_it_is(zoomgate: Harness) -> None:
    """Before Zoom the page names app and address; nothing is used up and no cookie is set by looking."""
    begun = await zoomgate.begin()
    for _ in range(2):
        async with browser() as session, session.get(begun.authorization_url) as page:
            text = await page.text()
            assert MONICA in text
            assert "Continue to Zoom" in text
            assert "Set-Cookie" not in page.headers


async def test_the_result_is_for_the_browser_that_went_through_it(zoomgate: Harness) -> None:
    """It names who is connected and what the app may do; another browser with the same address learns nobody's name."""
    begun = await zoomgate.begin()
    async with browser() as mine, browser() as other:
        done = await consent(mine, begun.authorization_url, MONICA)
        text = await done.text()
        assert MONICA in text
        assert "<li>Create and change your meetings</li>" in text
        assert "<li>Change your meetings</li>" not in text
        await consent_form(other, (await zoomgate.begin(OMAR)).authorization_url)
        for session in (other, browser()):
            async with session, session.get(done.url) as page:
                assert page.status == 200
                assert MONICA not in await page.text()


async def test_a_failure_names_whom_it_was_for(zoomgate: Harness) -> None:
    """Signed in with another account, the page says which address was asked for, and lists no rights."""
    async with browser() as session:
        page = await consent(session, (await zoomgate.begin(MONICA)).authorization_url, OMAR)
        text = await page.text()
    assert MONICA in text
    assert OMAR not in text
    assert "<li>" not in text


async def test_the_pages_are_the_organisations(zoomgate: Harness) -> None:
    """Name and colour are settings; the name is text, whatever is in it."""
    brand = {"ZOOMGATE_BRAND_NAME": "A & B <script>", "ZOOMGATE_BRAND_COLOR": "#FFCC00"}
    async with running(zoomgate.data_dir / "brand", environ=brand) as branded:
        begun = await branded.begin()
        async with browser() as session, session.get(begun.authorization_url) as page:
            text = await page.text()
    assert "A &amp; B &lt;script&gt;" in text
    assert "<script" not in text
    assert "background:#ffcc00;color:#000000" in text


async def test_every_page_of_the_way_is_counted_by_its_name(zoomgate: Harness) -> None:
    """The metrics tell how many people went on from the first page, and how many came back."""
    begun = await zoomgate.begin()
    async with browser() as session:
        await consent(session, begun.authorization_url, MONICA)
        async with session.get(f"{zoomgate.http_url}/metrics") as answer:
            text = await answer.text()
    for page in ("start", "continue", "callback", "result"):
        assert f'zoomgate_http_requests_total{{route="/oauth/{page}"' in text
