"""The page at `/_sim/`: what the simulated Zoom knows, and why it answered as it did."""

import io
import re
from html import unescape

import aiohttp
import pytest

from support.zoom_app import BACK, MONICA, Client, Clock
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import KINDS
from zoom_simulator.overview_page import MOST
from zoom_simulator.request_log import LOGGED

OMAR, BASIL = "omar@example.com", "basil@example.com"


async def html(client: Client) -> str:
    async with client.session.get(f"{client.simulator.url}/_sim/") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        return await answer.text()


def rows(page: str, part: str) -> list[list[str]]:
    """The cells of a part's table, as a person reads them."""
    section = page.partition(f'<section aria-labelledby="{part}">')[2].partition("</section>")[0]
    body = section.partition("<tbody")[2]
    found = re.findall(r"<tr role=\"row\">(.*?)</tr>", body)
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in found
    ]


async def latest(client: Client) -> list[str]:
    """The latest request: time, request, status, why, user."""
    return rows(await html(client), "requests")[0]


async def why(client: Client) -> str:
    return (await latest(client))[3]


@pytest.fixture
async def connected(client: Client) -> Client:
    await client.consent()
    return client


async def test_a_fresh_simulator_says_what_to_do_next(client: Client) -> None:
    """Before the first request the page has the users and the time, and a command for everything that is still missing."""
    page = await html(client)
    assert [row[0] for row in rows(page, "users")] == [MONICA, OMAR, BASIL]
    assert [row[3] for row in rows(page, "users")] == ["yes", "yes", "no: cannot schedule"]
    assert {row[4] for row in rows(page, "users")} == {"not yet"}
    assert "2030-03-17T17:46:40Z" in page
    commands = unescape("\n".join(re.findall(r"<pre><code>(.*?)</code></pre>", page)))
    for part in ("/_sim/clock", "/_sim/fault", "/_sim/authorize", "/v2/users/me", "/v2/users/me/meetings"):
        assert f"{client.simulator.url}{part}" in commands


async def test_no_user_is_told_too() -> None:
    """A simulator where nobody has an account says how to give somebody one."""
    async with (
        Simulator(SimulatorOptions(port=0, users=())) as simulator,
        aiohttp.ClientSession() as session,
    ):
        assert f"{simulator.url}/_sim/users" in await html(Client(simulator, session))


async def test_what_it_knows_is_shown(client: Client, clock: Clock) -> None:
    """Connections, expiry, generations, meetings and faults are there, and a revoked or expired token is called so."""
    issued = await client.consent()
    _, issued = await client.refresh(issued["refresh_token"])
    client.access = issued["access_token"]
    _, meeting = await client.api(
        "POST", "/users/me/meetings", topic="Tea", start_time="2031-01-01T10:00:00Z"
    )
    await client.sim("fault", endpoint="token", kind="delay", seconds=2, times=3)
    await client.sim("fault", endpoint="any", kind="redirect", times=-1)
    page = await html(client)
    monica = rows(page, "users")[0]
    access, refresh = issued["access_token"][-4:], issued["refresh_token"][-4:]
    assert monica[4:7] == [
        "yes",
        f"…{access}, until 2030-03-17T18:46:40Z",
        f"…{refresh}, generation 2, 1 spent",
    ]
    assert rows(page, "meetings") == [
        [str(meeting["id"]), "Tea", MONICA, "2031-01-01T10:00:00Z, 60 min", "waiting"]
    ]
    assert rows(page, "faults") == [
        ["token", "delay", "3", "2 s"],
        ["any", "redirect", "for ever", "to https://elsewhere.example/"],
    ]
    assert f"curl -X DELETE {client.simulator.url}/_sim/fault" in page
    clock.now += 3600
    assert rows(await html(client), "users")[0][5] == f"…{access}, expired 2030-03-17T18:46:40Z"
    await client.sim("revoke_user", user=MONICA)
    assert rows(await html(client), "users")[0][4:7] == ["no: revoked", "-", "-"]


async def test_series_and_deleted_meetings_are_shown(connected: Client) -> None:
    """A series tells how many occurrences are left, a meeting without times says so, a deleted one stays and is called so."""
    body = {"type": 8, "start_time": "2031-07-01T09:00:00Z", "recurrence": {"type": 1, "end_times": 3}}
    _, series = await connected.api("POST", "/users/me/meetings", **body)
    occurrence = series["occurrences"][0]["occurrence_id"]
    await connected.api("DELETE", f"/meetings/{series['id']}?occurrence_id={occurrence}")
    assert await why(connected) == f"deleted occurrence {occurrence} of meeting {series['id']}"
    _, other = await connected.api("POST", "/users/me/meetings", type=3)
    await connected.api("DELETE", f"/meetings/{other['id']}")
    assert await why(connected) == f"deleted meeting {other['id']}"
    assert [row[3:] for row in rows(await html(connected), "meetings")] == [
        ["no fixed time", "deleted"],
        ["2031-07-01T09:00:00Z, 60 min, 2 of 3 occurrences", "waiting"],
    ]


async def test_no_secret_is_shown(client: Client) -> None:
    """No token, code, secret, meeting password or link is on the page, wherever somebody wrote one."""
    first = await client.consent()
    _, second = await client.refresh(first["refresh_token"])
    client.access = second["access_token"]
    _, meeting = await client.api("POST", "/users/me/meetings", password="Xq7-pass")
    zoom = client.simulator.zoom
    code = zoom.issue_code(zoom.users[OMAR], BACK)
    for token in (*zoom.access_tokens, *zoom.refresh_tokens, first["access_token"], code):
        await client.api("GET", f"/users/me/meetings?next_page_token={token}&access={token}&{token}=1")
        await client.api("GET", f"/nowhere/{token}/x")
        await client.token(grant_type=token, code=token, refresh_token=token)
        async with client.session.get(
            f"{client.simulator.oauth_url}/authorize", params={"state": token, "code": token}
        ) as answer:
            assert answer.status == 400
    page = await html(client)
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
    shown = unescape(page)
    assert "state=…&code=…" in shown
    assert "next_page_token=…" in shown
    assert not re.search(r"sim-[ar]t-[\w-]", page)


async def test_harmless_parameters_are_shown(connected: Client) -> None:
    """What a list was asked for can be read."""
    await connected.api("GET", "/users/me/meetings?type=upcoming&page_size=5&from=2030-03-18")
    _, request, status, reason, user = await latest(connected)
    assert request == "GET /v2/users/me/meetings?type=upcoming&page_size=5&from=2030-03-18"
    assert (status, reason, user) == ("200", "listed 0 of 0 upcoming meetings", MONICA)


async def test_text_of_others_is_harmless(client: Client) -> None:
    """Markup, control characters and such as turn the direction of reading are shown as what they are."""
    nasty = "<script>alert(1)</script>\"'&\u202eevil\u0007\n"
    await client.sim("users", email="<b>&'\"@example.com", first_name="<img src=x>", account_id="</td>")
    await client.consent(user="<b>&'\"@example.com")
    status, _ = await client.api("POST", "/users/me/meetings", topic=nasty)
    assert status == 201
    await client.api("GET", "/<script>alert(2)</script>?<i>=1&type=<u>%E2%80%AE")
    await client.sim("fault", endpoint="any", kind="redirect", location="javascript:<script>")
    page = await html(client)
    for wrong in ("<script", "<img", "<b>", "<i>", "<u>", "\u202e", "\u0007"):
        assert wrong not in page
    assert rows(page, "meetings")[0][1] == "<script>alert(1)</script>\"'&\\u202eevil\\u0007\\u000a"


async def test_the_page_runs_nothing_and_is_not_kept(client: Client) -> None:
    """Its policy allows its own style alone, no frame and no form; nothing is cached."""
    async with client.session.get(f"{client.simulator.url}/_sim/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        page = await answer.text()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in page
    assert "<script" not in page


async def test_the_slash_may_be_left_out(client: Client) -> None:
    """`/_sim` leads to `/_sim/`."""
    async with client.session.get(f"{client.simulator.url}/_sim") as answer:
        assert (answer.status, answer.url.path) == (200, "/_sim/")


async def test_only_so_much_is_shown(connected: Client) -> None:
    """Users, meetings, faults and requests are bounded, and how many more there are is told."""
    zoom = connected.simulator.zoom
    for number in range(MOST):
        await connected.sim("users", email=f"u{number}@example.com")
        zoom.schedule(zoom.users[MONICA], {"topic": f"M{number}"})
        await connected.sim("fault", endpoint="revoke", kind="status")
    zoom.schedule(zoom.users[MONICA], {"topic": "last"})
    await connected.sim("fault", endpoint="revoke", kind="status")
    for number in range(LOGGED + 4):
        await connected.api("GET", f"/no/{number}")
    page = await html(connected)
    parts = {part: rows(page, part) for part in ("users", "meetings", "faults", "requests")}
    assert {part: len(found) for part, found in parts.items()} == {
        "users": MOST,
        "meetings": MOST,
        "faults": MOST,
        "requests": LOGGED,
    }
    assert re.findall(r"and (\d+) more", page) == ["1", "3", "5", "1"]
    assert parts["meetings"][0][1] == "last"
    assert parts["requests"][0][1] == f"GET /v2/no/{LOGGED + 3}"


async def test_long_paths_are_cut(client: Client) -> None:
    """A path of thousands of characters does not fill the page."""
    await client.api("GET", "/" + "x/" * 3000)
    assert len((await latest(client))[1]) < 400


async def test_the_admin_path_is_not_logged(client: Client) -> None:
    """Switches and the page itself are no requests to Zoom."""
    await client.sim("expire")
    await html(client)
    async with client.session.get(f"{client.simulator.url}/_sim/nothing") as answer:
        assert answer.status == 404
    assert rows(await html(client), "requests") == []


async def test_a_reset_forgets_the_requests(connected: Client) -> None:
    """After a reset the page is as at the start."""
    await connected.sim("fault", endpoint="any", kind="status")
    await connected.sim("reset")
    assert rows(await html(connected), "requests") == []
    assert "None is switched on" in await html(connected)


# -- why -------------------------------------------------------------------------------------------------


async def test_tokens_tell_why(client: Client, clock: Clock) -> None:
    """Consent, rotation, a spent token, expiry, a later consent and revocation are each told apart, with the user."""
    first = await client.consent()
    entry = await latest(client)
    assert entry == [
        "2030-03-17T17:46:40Z",
        "POST /oauth/token",
        "200",
        "code of a fresh consent: first tokens of this grant",
        MONICA,
    ]
    _, second = await client.refresh(first["refresh_token"])
    assert await why(client) == "refresh token rotated: generation 2 was issued, the one before is spent"
    await client.refresh(first["refresh_token"])
    assert (await latest(client))[2:] == [
        "400",
        "refresh token was spent before (rotation): each one works once",
        MONICA,
    ]
    await client.api("GET", "/users/me")
    assert (await latest(client))[2:] == [
        "401",
        "access token was ended by a newer one (refresh)",
        MONICA,
    ]
    client.access = second["access_token"]
    await client.api("GET", "/users/me")
    assert (await latest(client))[2:] == ["200", "told whose token it is", MONICA]
    clock.now += 3600
    await client.api("GET", "/users/me")
    assert (await latest(client))[2:] == ["401", "access token is expired: it needs a refresh", MONICA]
    await client.consent()
    assert "it ended what the user granted before" in await why(client)
    await client.refresh(second["refresh_token"])
    assert await why(client) == "refresh token was ended by a later consent of the same user"
    third = await client.consent()
    await client.sim("revoke_user", user=MONICA)
    await client.refresh(third["refresh_token"])
    assert await why(client) == "refresh token belongs to a grant that was revoked"
    await client.api("GET", "/users/me")
    assert await why(client) == "access token belongs to a grant that was revoked"
    client.access = "made-up"
    await client.api("GET", "/users/me")
    assert (await latest(client))[3:] == ["access token is unknown", "-"]
    await client.refresh("made-up")
    assert "refresh token is unknown" in await why(client)
    await client.token("wrong", grant_type="refresh_token")
    assert await why(client) == "client secret is wrong"


async def test_a_tolerated_token_tells_why(clock: Clock) -> None:
    """That a spent token worked is told."""
    options = SimulatorOptions(port=0, tolerance=1)
    async with Simulator(options, wall=clock) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        first = await client.consent()
        await client.refresh(first["refresh_token"])
        await client.refresh(first["refresh_token"])
        assert (
            await why(client) == "spent refresh token worked once more (tolerance): generation 3 was issued"
        )


async def test_codes_tell_why(client: Client, clock: Clock) -> None:
    """A used, misdirected, unproven and expired code are told apart."""
    zoom = client.simulator.zoom
    user = zoom.users[MONICA]

    async def exchange(code: str, **more: str) -> str:
        await client.token(grant_type="authorization_code", code=code, **{"redirect_uri": BACK} | more)
        return await why(client)

    assert "used before" in await exchange("x")
    assert "redirect_uri" in await exchange(
        zoom.issue_code(user, BACK), redirect_uri="http://127.0.0.1/other"
    )
    assert "code verifier mismatch" in await exchange(
        zoom.issue_code(user, BACK, challenge="c"), code_verifier="v"
    )
    old = zoom.issue_code(user, BACK)
    clock.now += 301
    assert await exchange(old) == "the code is expired: it works for 5 minutes"


async def test_the_consent_page_tells_why(client: Client) -> None:
    """What the browser did is in the log: the page, an unregistered address, a foreign form, a refusal, a consent."""
    url = f"{client.simulator.oauth_url}/authorize"
    good = {"client_id": "zoomgate-dev", "response_type": "code", "redirect_uri": BACK, "state": "abc"}
    async with client.session.get(url, params=good) as page:
        nonce = re.findall(r'name="nonce" value="([^"]+)"', await page.text())[0]
        cookie = {"Cookie": f"simulator-consent={nonce}"}
    assert (await latest(client))[1:4] == [
        "GET /oauth/authorize?client_id=zoomgate-dev&response_type=code&redirect_uri=…&state=…",
        "200",
        "showed the consent page",
    ]
    async with client.session.get(url, params=good | {"redirect_uri": "https://evil.example/"}):
        assert await why(client) == "redirect_uri is not registered"
    for form, headers, reason in (
        ({"nonce": "x"}, {}, "does not come from the consent page of this browser"),
        ({"nonce": nonce}, cookie, "consent was declined"),
        ({"nonce": nonce, "decision": "allow", "user": OMAR}, cookie, "consented"),
    ):
        async with client.session.post(url, data=good | form, headers=headers, allow_redirects=False):
            assert reason in await why(client)
    assert (await latest(client))[4] == OMAR


@pytest.mark.parametrize("kind", KINDS)
async def test_faults_tell_why(client: Client, kind: str) -> None:
    """A request that a fault hit names it, and says whether anything was done all the same."""
    issued = await client.consent()
    await client.sim("fault", endpoint="token", kind=kind)
    form = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    basic = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
    url = f"{client.simulator.oauth_url}/token"
    try:
        async with client.session.post(url, data=form, headers=basic, allow_redirects=False) as answer:
            expected = str(answer.status)
    except aiohttp.ServerDisconnectedError:
        expected = "cut"
    _, _, status, reason, _ = await latest(client)
    assert status == expected
    assert (status == "cut") == kind.startswith("cut_")
    assert reason.startswith(f"fault {kind} that you switched on: ")
    done = kind in {"delay", "cut_after"}
    assert ("refresh token rotated" in reason) == done
    assert ("nothing was done" in reason) != done


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/v2/no/such/endpoint", "404", "no endpoint of the simulated Zoom"),
        ("GET", "/oauth2/token", "404", "has no such path: it serves /oauth/… and /v2/…"),
        ("GET", "/oauth/token", "405", "this path takes POST, not GET"),
        ("GET", "/v2/users/me", "401", "no access token came"),
        ("POST", "/oauth/revoke", "400", "did not authenticate by HTTP Basic"),
    ],
)
async def test_lost_requests_tell_why(
    client: Client, method: str, path: str, status: str, reason: str
) -> None:
    """A path that is not there, a wrong method and a missing credential are explained."""
    async with client.session.request(method, client.simulator.url + path) as answer:
        assert str(answer.status) == status
    _, request, shown, why_, _ = await latest(client)
    assert (request, shown) == (f"{method} {path}", status)
    assert reason in why_


async def test_too_large_bodies_tell_why(connected: Client) -> None:
    """A body that is not read is explained too."""
    url, headers = (
        f"{connected.simulator.api_url}/users/me/meetings",
        {"Authorization": f"Bearer {connected.access}"},
    )
    async with connected.session.post(
        url, data=io.BytesIO(b"x" * (3 * 1024 * 1024)), headers=headers
    ) as answer:
        assert answer.status == 413
    assert (await latest(connected))[2:4] == ["413", "the body is larger than 2 MiB"]


async def test_meetings_tell_why(connected: Client) -> None:
    """What was done to a meeting, and why not, is told."""
    client = connected
    _, meeting = await client.api("POST", "/users/me/meetings", topic="T")
    number = meeting["id"]
    assert await why(client) == f"created meeting {number}"
    path = f"/meetings/{number}"
    for method, way, body, reason in (
        ("GET", path, {}, f"read meeting {number}"),
        ("PATCH", path, {"topic": "U"}, f"changed meeting {number}"),
        ("GET", f"{path}/invitation", {}, f"wrote the invitation of meeting {number}"),
        ("PUT", f"{path}/status", {"action": "end"}, f"ended meeting {number}"),
        ("PUT", f"{path}/status", {"action": "recover"}, "the meeting is not deleted"),
        ("DELETE", path, {}, f"deleted meeting {number}"),
        ("GET", path, {}, "the meeting is deleted"),
        ("PUT", f"{path}/status", {"action": "recover"}, f"recovered meeting {number}"),
        ("GET", f"{path}?occurrence_id=1", {}, "the meeting has no such occurrence, or it is deleted"),
        ("GET", "/meetings/1", {}, "there is no meeting of this number"),
        (
            "GET",
            "/users/omar@example.com/meetings",
            {},
            "the path names a user: an app that acts for one user writes /users/me",
        ),
        (
            "POST",
            "/users/me/meetings",
            {"duration": 0},
            "refused fields: duration (The value must be between 1 and 1440)",
        ),
        ("GET", "/users/me/meetings?page_size=x", {}, "refused fields: page_size (Invalid field)"),
    ):
        await client.api(method, way, **body)
        assert await why(client) == reason
    client.simulator.zoom.grants[MONICA].scope = "user:read:user"
    await client.api("GET", path)
    assert (
        await why(client) == "scope missing: the consent granted none of meeting:read:meeting, meeting:read"
    )
    await client.consent(user=OMAR)
    await client.api("GET", path)
    assert (await latest(client))[3:] == ["the meeting is somebody else's", OMAR]
    await client.consent(user=BASIL)
    await client.api("POST", "/users/me/meetings", topic="T")
    assert (await latest(client))[2:] == ["400", f"refused the meeting: {BASIL} has no licence", BASIL]
