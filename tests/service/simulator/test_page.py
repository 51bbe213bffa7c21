"""Tests for the overview page at `/_sim/`, and for the reasons in the request log."""

import io
import re
from html import unescape

import aiohttp
import pytest

from support.zoom_app import MONICA, REDIRECT_URI, Client, Clock
from zoom_simulator import RefreshTokenReuse, Rules, Simulator, SimulatorOptions
from zoom_simulator.faults import KINDS
from zoom_simulator.overview_page import MAX_ROWS
from zoom_simulator.request_log import MAX_ENTRIES

OMAR, BASIL = "omar@example.com", "basil@example.com"


async def overview(client: Client) -> str:
    async with client.session.get(f"{client.simulator.url}/_sim/") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        return await response.text()


def rows(page: str, section: str) -> list[list[str]]:
    """Return the cells of a section's table as plain text."""
    html = page.partition(f'<section aria-labelledby="{section}">')[2].partition("</section>")[0]
    table_body = html.partition("<tbody")[2]
    table_rows = re.findall(r"<tr role=\"row\">(.*?)</tr>", table_body)
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in table_rows
    ]


async def latest_request(client: Client) -> list[str]:
    """Return time, request, status, reason and user of the latest request."""
    return rows(await overview(client), "requests")[0]


async def latest_reason(client: Client) -> str:
    return (await latest_request(client))[3]


@pytest.fixture
async def connected(client: Client) -> Client:
    await client.consent()
    return client


async def test_fresh_page_lists_users_and_next_commands(client: Client) -> None:
    """Each empty section shows an example command."""
    page = await overview(client)
    assert [row[0] for row in rows(page, "users")] == [MONICA, OMAR, BASIL]
    assert [row[3] for row in rows(page, "users")] == ["yes", "yes", "no: cannot schedule"]
    assert {row[4] for row in rows(page, "users")} == {"not yet"}
    assert "2030-03-17T17:46:40Z" in page
    commands = unescape("\n".join(re.findall(r"<pre><code>(.*?)</code></pre>", page)))
    for path in ("/_sim/clock", "/_sim/fault", "/_sim/authorize", "/v2/users/me", "/v2/users/me/meetings"):
        assert f"{client.simulator.url}{path}" in commands


async def test_page_without_users_shows_how_to_create_one() -> None:
    async with (
        Simulator(SimulatorOptions(port=0, users=())) as simulator,
        aiohttp.ClientSession() as session,
    ):
        assert f"{simulator.url}/_sim/users" in await overview(Client(simulator, session))


async def test_page_shows_connections_meetings_and_faults(client: Client, clock: Clock) -> None:
    """Expired and revoked tokens are marked."""
    issued = await client.consent()
    _, issued = await client.refresh(issued["refresh_token"])
    client.access = issued["access_token"]
    _, meeting = await client.api(
        "POST", "/users/me/meetings", topic="Tea", start_time="2031-01-01T10:00:00Z"
    )
    await client.sim("fault", endpoint="token", kind="delay", seconds=2, times=3)
    await client.sim("fault", endpoint="any", kind="redirect", times=-1)
    await client.sim("fault", endpoint="users_me", kind="garbage", user=MONICA)
    page = await overview(client)
    monica = rows(page, "users")[0]
    access, refresh = issued["access_token"][-4:], issued["refresh_token"][-4:]
    assert monica[4:7] == [
        "yes",
        f"…{access}, until 2030-03-17T18:46:40Z",
        f"…{refresh}, generation 2, 1 used",
    ]
    assert rows(page, "meetings") == [
        [
            str(meeting["id"]),
            "Tea",
            MONICA,
            "2031-01-01 11:00 Europe/Berlin, 60 min",
            "waiting",
            "not required",
            "-",
            "PlayStart",
        ]
    ]
    assert rows(page, "faults") == [
        ["token", "delay", "3", "2 s"],
        ["any", "redirect", "unlimited", "to https://elsewhere.example/"],
        ["users_me", "garbage", "1", f"for {MONICA}"],
    ]
    assert f"curl -X DELETE {client.simulator.url}/_sim/fault" in page
    clock.now += 3600
    assert rows(await overview(client), "users")[0][5] == f"…{access}, expired 2030-03-17T18:46:40Z"
    await client.sim("revoke_user", user=MONICA)
    assert rows(await overview(client), "users")[0][4:7] == ["no: revoked", "-", "-"]


async def test_page_shows_recurring_and_deleted_meetings(connected: Client) -> None:
    """A series is shown with the number of remaining occurrences."""
    body = {"type": 8, "start_time": "2031-07-01T09:00:00Z", "recurrence": {"type": 1, "end_times": 3}}
    _, series = await connected.api("POST", "/users/me/meetings", **body)
    occurrence = series["occurrences"][0]["occurrence_id"]
    await connected.api("DELETE", f"/meetings/{series['id']}?occurrence_id={occurrence}")
    assert await latest_reason(connected) == f"deleted occurrence {occurrence} of meeting {series['id']}"
    _, other = await connected.api("POST", "/users/me/meetings", type=3)
    await connected.api("DELETE", f"/meetings/{other['id']}")
    assert await latest_reason(connected) == f"deleted meeting {other['id']}"
    assert [row[3:5] for row in rows(await overview(connected), "meetings")] == [
        ["no fixed time", "deleted"],
        ["2031-07-01 11:00 Europe/Berlin, 60 min, 2 of 3 occurrences", "waiting"],
    ]


async def test_page_shows_registrants_and_past_instances(connected: Client) -> None:
    """A live meeting can be ended, other meetings can be started or played, and deleted ones cannot."""
    api, page = connected.api, f"{connected.simulator.url}/_sim/play"
    _, meeting = await api("POST", "/users/me/meetings", settings={"approval_type": 1})
    path = f"/meetings/{meeting['id']}/registrants"
    for name, approve in (("a", True), ("b", True), ("c", False)):
        await api("POST", path, email=f"{name}@example.com", first_name=name, auto_approve=approve)
    assert rows(await overview(connected), "meetings")[0][4:] == [
        "waiting",
        "2 approved, 1 pendinga@example.com: approvedb@example.com: approvedc@example.com: pending",
        "-",
        "PlayStart",
    ]
    for action, state, past, buttons in (
        ("play", "waiting", "1; 3 joined the latest", "PlayStart"),
        ("start", "started", "1; 3 joined the latest", "End"),
        ("end", "waiting", "2; 1 joined the latest", "PlayStart"),
    ):
        form = {"meeting": str(meeting["id"]), "action": action}
        async with connected.session.post(page, data=form, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/_sim/#meetings")
        row = rows(await overview(connected), "meetings")[0]
        assert (row[4], row[6], row[7]) == (state, past, buttons)
    await api("DELETE", f"/meetings/{meeting['id']}")
    assert rows(await overview(connected), "meetings")[0][7] == "-"


@pytest.mark.parametrize(
    ("path", "form", "message"),
    [
        ("play", {"meeting": "1", "action": "end"}, "meeting is unknown or deleted"),
        ("event", {"user": OMAR, "event": "app_deauthorized"}, "connect the user first"),
        ("event", {"user": "gone@example.com", "event": "user.deleted"}, "user is unknown"),
    ],
)
async def test_rejected_button_of_a_stale_page_leads_back(
    connected: Client, path: str, form: dict[str, str], message: str
) -> None:
    """The browser shows a page with the reason."""
    async with connected.session.post(f"{connected.simulator.url}/_sim/{path}", data=form) as response:
        assert (response.status, response.content_type) == (400, "text/html")
        page = await response.text()
    assert message in page
    assert '<a href="/_sim/">' in page


async def test_page_contains_no_secret(client: Client) -> None:
    """Tokens, codes, meeting passwords and links are masked, including those from requests."""
    first = await client.consent()
    _, second = await client.refresh(first["refresh_token"])
    client.access = second["access_token"]
    _, meeting = await client.api("POST", "/users/me/meetings", password="Xq7-pass")
    zoom = client.simulator.zoom
    code = zoom.issue_code(zoom.users[OMAR], REDIRECT_URI)
    for token in (*zoom.access_tokens, *zoom.refresh_tokens, first["access_token"], code):
        await client.api("GET", f"/users/me/meetings?next_page_token={token}&access={token}&{token}=1")
        await client.api("GET", f"/nowhere/{token}/x")
        await client.token(grant_type=token, code=token, refresh_token=token)
        async with client.session.get(
            f"{client.simulator.oauth_url}/authorize", params={"state": token, "code": token}
        ) as response:
            assert response.status == 400
    page = await overview(client)
    assert zoom.access_tokens
    secrets = {
        *zoom.access_tokens,
        *zoom.refresh_tokens,
        *first.values(),
        code,
        client.simulator.options.client_secret,
    }
    secrets -= {first["scope"], first["token_type"], first["expires_in"], first["api_url"]}
    secrets |= {meeting["password"], meeting["encrypted_password"], meeting["start_url"], meeting["join_url"]}
    for secret in secrets:
        assert secret not in page
    text = unescape(page)
    assert "state=…&code=…" in text
    assert "next_page_token=…" in text
    assert not re.search(r"sim-[ar]t-[\w-]", page)


async def test_page_shows_values_of_nonsecret_query_parameters(connected: Client) -> None:
    await connected.api("GET", "/users/me/meetings?type=upcoming&page_size=5&from=2030-03-18")
    _, request, status, reason, user = await latest_request(connected)
    assert request == "GET /v2/users/me/meetings?type=upcoming&page_size=5&from=2030-03-18"
    assert (status, reason, user) == ("200", "listed 0 of 0 upcoming meetings", MONICA)


async def test_untrusted_text_is_escaped(client: Client) -> None:
    """Markup, control characters and bidirectional overrides are shown as text."""
    untrusted = "<script>alert(1)</script>\"'&\u202eevil\u0007\n"
    await client.sim("users", email="<b>&'\"@example.com", first_name="<img src=x>", account_id="</td>")
    await client.consent(user="<b>&'\"@example.com")
    status, _ = await client.api("POST", "/users/me/meetings", topic=untrusted)
    assert status == 201
    await client.api("GET", "/<script>alert(2)</script>?<i>=1&type=<u>%E2%80%AE")
    await client.sim("fault", endpoint="any", kind="redirect", location="javascript:<script>")
    page = await overview(client)
    for markup in ("<script", "<img", "<b>", "<i>", "<u>", "\u202e", "\u0007"):
        assert markup not in page
    assert rows(page, "meetings")[0][1] == "<script>alert(1)</script>\"'&\\u202eevil\\u0007\\u000a"


async def test_page_has_a_strict_policy_and_is_not_cached(client: Client) -> None:
    """The policy allows only the page's own style, no frames and no scripts."""
    async with client.session.get(f"{client.simulator.url}/_sim/") as response:
        policy = response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"
        page = await response.text()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in page
    assert "<script" not in page


@pytest.mark.parametrize("path", ["", "/", "/_sim"])
async def test_root_and_path_without_slash_redirect_to_the_page(client: Client, path: str) -> None:
    async with client.session.get(client.simulator.url + path) as response:
        assert (response.status, response.url.path) == (200, "/_sim/")


async def test_tables_are_limited_and_show_the_omitted_count() -> None:
    options = SimulatorOptions(port=0, daily_limits=False)
    async with Simulator(options) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        await client.consent()
        await check_limited_tables(client)


async def check_limited_tables(connected: Client) -> None:
    """Add more users, meetings, faults and requests than the page shows."""
    zoom = connected.simulator.zoom
    for number in range(MAX_ROWS):
        await connected.sim("users", email=f"u{number}@example.com")
        zoom.schedule(zoom.users[MONICA], {"topic": f"M{number}"})
        await connected.sim("fault", endpoint="revoke", kind="status")
    zoom.schedule(zoom.users[MONICA], {"topic": "last"})
    await connected.sim("fault", endpoint="revoke", kind="status")
    for number in range(MAX_ENTRIES + 4):
        await connected.api("GET", f"/no/{number}")
    page = await overview(connected)
    tables = {section: rows(page, section) for section in ("users", "meetings", "faults", "requests")}
    assert {section: len(table_rows) for section, table_rows in tables.items()} == {
        "users": MAX_ROWS,
        "meetings": MAX_ROWS,
        "faults": MAX_ROWS,
        "requests": MAX_ENTRIES,
    }
    assert re.findall(r"and (\d+) more", page) == ["1", "3", "1", "5"]
    assert tables["meetings"][0][1] == "last"
    assert tables["requests"][0][1] == f"GET /v2/no/{MAX_ENTRIES + 3}"


async def test_long_paths_are_truncated(client: Client) -> None:
    await client.api("GET", "/" + "x/" * 3000)
    assert len((await latest_request(client))[1]) < 400


async def test_admin_requests_are_not_logged(client: Client) -> None:
    await client.sim("expire")
    await overview(client)
    async with client.session.get(f"{client.simulator.url}/_sim/nothing") as response:
        assert response.status == 404
    assert rows(await overview(client), "requests") == []


async def test_reset_deletes_the_request_log(connected: Client) -> None:
    await connected.sim("fault", endpoint="any", kind="status")
    await connected.sim("reset")
    assert rows(await overview(connected), "requests") == []
    assert "No active faults" in await overview(connected)


# -- reasons -------------------------------------------------------------------------------------------------


async def test_reasons_of_token_requests_and_calls(client: Client, clock: Clock) -> None:
    """Consent, rotation, reuse, expiry, a later consent and revocation have different reasons."""
    first = await client.consent()
    entry = await latest_request(client)
    assert entry == [
        "2030-03-17T17:46:40Z",
        "POST /oauth/token",
        "200",
        "code exchanged: first token pair of this grant",
        MONICA,
    ]
    _, second = await client.refresh(first["refresh_token"])
    assert (
        await latest_reason(client)
        == "refresh token rotated: generation 2 issued, the previous one is no longer valid"
    )
    await client.refresh(first["refresh_token"])
    assert (await latest_request(client))[2:] == [
        "400",
        "refresh token was already used (rotation); a refresh token can be used only once",
        MONICA,
    ]
    await client.api("GET", "/users/me")
    assert (await latest_request(client))[2:] == [
        "401",
        "access token was replaced by a newer one (refresh)",
        MONICA,
    ]
    client.access = second["access_token"]
    await client.api("GET", "/users/me")
    assert (await latest_request(client))[2:] == ["200", "returned the token's user", MONICA]
    clock.now += 3600
    await client.api("GET", "/users/me")
    assert (await latest_request(client))[2:] == ["401", "access token has expired; refresh it", MONICA]
    await client.consent()
    assert "the user's previous grant was revoked" in await latest_reason(client)
    await client.refresh(second["refresh_token"])
    assert await latest_reason(client) == "refresh token was revoked by a later consent of the same user"
    third = await client.consent()
    await client.sim("revoke_user", user=MONICA)
    await client.refresh(third["refresh_token"])
    assert await latest_reason(client) == "refresh token belongs to a revoked grant"
    await client.api("GET", "/users/me")
    assert await latest_reason(client) == "access token belongs to a revoked grant"
    client.access = "made-up"
    await client.api("GET", "/users/me")
    assert (await latest_request(client))[3:] == ["unknown access token", "-"]
    await client.refresh("made-up")
    assert "unknown refresh token" in await latest_reason(client)
    await client.token("wrong", grant_type="refresh_token")
    assert await latest_reason(client) == "wrong client secret"


async def test_reason_of_a_tolerated_refresh_token(clock: Clock) -> None:
    options = SimulatorOptions(port=0, rules=Rules(refresh_token_reuse=RefreshTokenReuse.TOLERATED))
    async with Simulator(options, wall=clock) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        first = await client.consent()
        await client.refresh(first["refresh_token"])
        await client.refresh(first["refresh_token"])
        assert (
            await latest_reason(client)
            == "used refresh token accepted once more (tolerance): generation 3 issued"
        )


async def test_reasons_of_rejected_codes(client: Client, clock: Clock) -> None:
    zoom = client.simulator.zoom
    user = zoom.users[MONICA]

    async def exchange(code: str, **more: str) -> str:
        await client.token(
            grant_type="authorization_code", code=code, **{"redirect_uri": REDIRECT_URI} | more
        )
        return await latest_reason(client)

    assert "already used" in await exchange("x")
    assert "redirect_uri" in await exchange(
        zoom.issue_code(user, REDIRECT_URI), redirect_uri="http://127.0.0.1/other"
    )
    assert "code verifier mismatch" in await exchange(
        zoom.issue_code(user, REDIRECT_URI, challenge="c"), code_verifier="v"
    )
    old = zoom.issue_code(user, REDIRECT_URI)
    clock.now += 301
    assert await exchange(old) == "the code has expired; codes are valid for 5 minutes"


async def test_reasons_of_consent_page_requests(client: Client) -> None:
    url = f"{client.simulator.oauth_url}/authorize"
    query = {
        "client_id": "zoomgate-dev",
        "response_type": "code",
        "redirect_uri": REDIRECT_URI,
        "state": "abc",
    }
    async with client.session.get(url, params=query) as page:
        nonce = re.findall(r'name="nonce" value="([^"]+)"', await page.text())[0]
        cookie = {"Cookie": f"simulator-consent={nonce}"}
    assert (await latest_request(client))[1:4] == [
        "GET /oauth/authorize?client_id=zoomgate-dev&response_type=code&redirect_uri=…&state=…",
        "200",
        "returned the consent page",
    ]
    async with client.session.get(url, params=query | {"redirect_uri": "https://evil.example/"}):
        assert await latest_reason(client) == "redirect_uri is not registered"
    for form, headers, reason in (
        ({"nonce": "x"}, {}, "was not submitted from this browser's consent page"),
        ({"nonce": nonce}, cookie, "consent declined"),
        ({"nonce": nonce, "decision": "allow", "user": OMAR}, cookie, "consent granted"),
    ):
        async with client.session.post(url, data=query | form, headers=headers, allow_redirects=False):
            assert reason in await latest_reason(client)
    assert (await latest_request(client))[4] == OMAR


@pytest.mark.parametrize("kind", KINDS)
async def test_reasons_of_injected_faults(client: Client, kind: str) -> None:
    """The reason names the fault and states whether the request was processed."""
    issued = await client.consent()
    await client.sim("fault", endpoint="token", kind=kind)
    form = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    basic = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
    url = f"{client.simulator.oauth_url}/token"
    try:
        async with client.session.post(url, data=form, headers=basic, allow_redirects=False) as response:
            expected = str(response.status)
    except aiohttp.ServerDisconnectedError:
        expected = "cut"
    _, _, status, reason, _ = await latest_request(client)
    assert status == expected
    assert (status == "cut") == kind.startswith("cut_")
    assert reason.startswith(f"injected fault {kind}: ")
    done = kind in {"delay", "cut_after"}
    assert ("refresh token rotated" in reason) == done
    assert ("was not processed" in reason) != done


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/v2/no/such/endpoint", "404", "has no endpoint with this method and path"),
        (
            "GET",
            "/oauth2/token",
            "404",
            "does not serve this path; it serves /oauth/…, /v2/… and /rec/download/…",
        ),
        ("GET", "/oauth/token", "405", "this path accepts POST, not GET"),
        ("GET", "/v2/users/me", "401", "no access token; send"),
        ("POST", "/oauth/revoke", "400", "no HTTP Basic credentials"),
    ],
)
async def test_reasons_of_unroutable_and_unauthenticated_requests(
    client: Client, method: str, path: str, status: str, reason: str
) -> None:
    async with client.session.request(method, client.simulator.url + path) as response:
        assert str(response.status) == status
    _, request, text, logged_reason, _ = await latest_request(client)
    assert (request, text) == (f"{method} {path}", status)
    assert reason in logged_reason


async def test_reason_of_a_too_large_body(connected: Client) -> None:
    url, headers = (
        f"{connected.simulator.api_url}/users/me/meetings",
        {"Authorization": f"Bearer {connected.access}"},
    )
    async with connected.session.post(
        url, data=io.BytesIO(b"x" * (3 * 1024 * 1024)), headers=headers
    ) as response:
        assert response.status == 413
    assert (await latest_request(connected))[2:4] == ["413", "the body is larger than 2 MiB"]


async def test_reasons_of_meeting_calls(connected: Client) -> None:
    client = connected
    _, meeting = await client.api("POST", "/users/me/meetings", topic="T")
    number = meeting["id"]
    assert await latest_reason(client) == f"created meeting {number}"
    path = f"/meetings/{number}"
    for method, target, body, reason in (
        ("GET", path, {}, f"read meeting {number}"),
        ("PATCH", path, {"topic": "U"}, f"updated meeting {number}"),
        ("GET", f"{path}/invitation", {}, f"returned the invitation of meeting {number}"),
        ("PUT", f"{path}/status", {"action": "end"}, f"ended meeting {number}"),
        ("PUT", f"{path}/status", {"action": "recover"}, "the meeting is not deleted"),
        ("DELETE", path, {}, f"deleted meeting {number}"),
        ("GET", path, {}, "the meeting is deleted"),
        ("PUT", f"{path}/status", {"action": "recover"}, f"recovered meeting {number}"),
        (
            "GET",
            f"{path}?occurrence_id=1",
            {},
            "the meeting has no such occurrence, or the occurrence is deleted",
        ),
        ("GET", "/meetings/1", {}, "no meeting has this ID"),
        (
            "GET",
            "/users/omar@example.com/meetings",
            {},
            "the path contains a different user; user-level apps must use /users/me",
        ),
        (
            "POST",
            "/users/me/meetings",
            {"duration": 0},
            "invalid fields: duration (The value must be between 1 and 1440)",
        ),
        ("GET", "/users/me/meetings?page_size=x", {}, "invalid fields: page_size (Invalid field)"),
    ):
        await client.api(method, target, **body)
        assert await latest_reason(client) == reason
    client.simulator.zoom.grants[MONICA].scope = "user:read:user"
    await client.api("GET", path)
    assert (
        await latest_reason(client)
        == "missing scope: the grant contains none of meeting:read:meeting, meeting:read"
    )
    await client.consent(user=OMAR)
    await client.api("GET", path)
    assert (await latest_request(client))[3:] == ["the meeting belongs to a different user", OMAR]
    await client.consent(user=BASIL)
    await client.api("POST", "/users/me/meetings", topic="T")
    assert (await latest_request(client))[2:] == ["400", f"meeting rejected: {BASIL} has no license", BASIL]
