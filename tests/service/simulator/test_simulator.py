"""Tests for the behavior of the simulator."""

from typing import Any

import aiohttp
import pytest

from support.zoom_app import MONICA, REDIRECT_URI, Client, Clock

REVOKED = (200, {"status": "success"})


async def test_refresh_token_rotates_and_is_single_use(client: Client) -> None:
    """Each refresh also invalidates the previous access token."""
    first = await client.consent()
    status, second = await client.refresh(first["refresh_token"])
    assert status == 200
    assert second["refresh_token"] != first["refresh_token"]
    assert await client.refresh(first["refresh_token"]) == (
        400,
        {"reason": "Invalid Token!", "error": "invalid_grant"},
    )
    assert (await client.api("GET", "/users/me"))[1]["code"] == 124
    assert (await client.refresh(second["refresh_token"]))[0] == 200


async def test_unused_refresh_token_expires_after_90_days(client: Client, clock: Clock) -> None:
    """Each refresh within 90 days extends the grant."""
    token = (await client.consent())["refresh_token"]
    for _ in range(3):
        clock.now += 89 * 86_400
        status, response = await client.refresh(token)
        assert status == 200
        token = response["refresh_token"]
    clock.now += 90 * 86_400
    assert await client.refresh(token) == (400, {"reason": "Invalid Token!", "error": "invalid_grant"})


async def test_new_consent_revokes_previous_tokens(client: Client) -> None:
    """The refresh token of the previous grant is rejected with code 4741."""
    first = await client.consent()
    old = client.access
    await client.consent()
    status, error = await client.refresh(first["refresh_token"])
    assert (status, error["code"]) == (400, 4741)
    client.access = old
    assert (await client.api("GET", "/users/me"))[0] == 401


async def test_code_is_single_use_and_bound_to_five_minutes_and_redirect_uri(
    client: Client, clock: Clock
) -> None:
    """A code with the wrong code verifier is also rejected."""
    zoom = client.simulator.zoom
    user = zoom.users[MONICA]
    used = zoom.issue_code(user, REDIRECT_URI)
    form = {"grant_type": "authorization_code", "redirect_uri": REDIRECT_URI}
    assert (await client.token(**form, code=used))[0] == 200
    assert (await client.token(**form, code=used))[1]["code"] == 4734
    old = zoom.issue_code(user, REDIRECT_URI)
    clock.now += 301
    assert (await client.token(**form, code=old))[1]["code"] == 4733
    other = zoom.issue_code(user, "http://127.0.0.1/other")
    assert (await client.token(**form, code=other))[1]["code"] == 4709
    proven = zoom.issue_code(
        user, REDIRECT_URI, challenge="E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", challenge_method="S256"
    )
    assert (await client.token(**form, code=proven, code_verifier="wrong"))[1]["error"] == "invalid_grant"


async def test_wrong_client_secret_is_rejected_without_using_the_token(client: Client) -> None:
    issued = await client.consent()
    form = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    status, error = await client.token("wrong", **form)
    assert (status, error["error"]) == (400, "invalid_client")
    assert (await client.refresh(issued["refresh_token"]))[0] == 200


async def test_access_token_expires_after_an_hour(client: Client, clock: Clock) -> None:
    await client.consent()
    assert (await client.api("GET", "/users/me"))[1]["email"] == MONICA
    clock.now += 3600
    status, error = await client.api("GET", "/users/me")
    assert (status, error) == (401, {"code": 124, "message": "Access token is expired."})


async def test_meeting_lifecycle(client: Client) -> None:
    """Cases: create, read, update, list, end, delete and recover a meeting."""
    await client.consent()
    status, meeting = await client.api("POST", "/users/me/meetings", topic="T", type=2, duration=30)
    assert status == 201
    path = f"/meetings/{meeting['id']}"
    assert (await client.api("PATCH", path, topic="U"))[0] == 204
    assert (await client.api("GET", path))[1]["topic"] == "U"
    listed = (await client.api("GET", "/users/me/meetings"))[1]["meetings"]
    assert [row["id"] for row in listed] == [meeting["id"]]
    assert "inviting you" in (await client.api("GET", f"{path}/invitation"))[1]["invitation"]
    assert (await client.api("PUT", f"{path}/status", action="end"))[0] == 204
    assert (await client.api("DELETE", path))[0] == 204
    assert (await client.api("GET", path))[1]["code"] == 3001
    assert (await client.api("PUT", f"{path}/status", action="recover"))[0] == 204
    assert (await client.api("GET", path))[0] == 200
    assert (await client.api("GET", "/no/such/endpoint"))[1]["code"] == 2300
    assert (await client.api("GET", "/users/another/meetings"))[0] == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"topic": "x" * 201}, "topic"),
        ({"agenda": "x" * 2001}, "agenda"),
        ({"duration": 0}, "duration"),
        ({"type": 7}, "type"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"start_time": "soon"}, "start_time"),
        ({"recurrence": {"type": 3, "repeat_interval": 11}}, "recurrence.repeat_interval"),
        ({"recurrence": {"type": 1, "end_times": 61}}, "recurrence.end_times"),
        ({"recurrence": {"type": 1, "repeat_interval": "x"}}, "recurrence.repeat_interval"),
        ({"recurrence": {"type": [1]}}, "recurrence.type"),
        ({"recurrence": {"type": 3, "monthly_day": 77}}, "recurrence.monthly_day"),
        ({"recurrence": {"type": 2, "weekly_days": "12"}}, "recurrence.weekly_days"),
        ({"type": True}, "type"),
    ],
)
async def test_invalid_meeting_is_rejected(client: Client, body: dict[str, Any], field: str) -> None:
    """The error has code 300 and names the field."""
    await client.consent()
    status, error = await client.api("POST", "/users/me/meetings", **body)
    assert (status, error["code"]) == (400, 300)
    assert [row["field"] for row in error["errors"]] == [field]


@pytest.mark.parametrize(
    ("recurrence", "days"),
    [
        ({"type": 1, "repeat_interval": 2, "end_times": 3}, ["07-01", "07-03", "07-05"]),
        ({"type": 2, "weekly_days": "2,4", "end_times": 3}, ["07-02", "07-07", "07-09"]),
        ({"type": 2, "weekly_days": "3", "repeat_interval": 2, "end_times": 2}, ["07-01", "07-15"]),
        ({"type": 3, "monthly_day": 31, "end_times": 2}, ["07-31", "08-31"]),
        ({"type": 3, "monthly_week": -1, "monthly_week_day": 6, "end_times": 2}, ["07-25", "08-29"]),
        ({"type": 1, "end_date_time": "2031-07-03T23:00:00Z"}, ["07-01", "07-02", "07-03"]),
    ],
)
async def test_occurrences_of_recurring_meetings(
    client: Client, recurrence: dict[str, Any], days: list[str]
) -> None:
    """Intervals are counted from the start, a Tuesday, and end conditions are honored."""
    await client.consent()
    body = {"type": 8, "start_time": "2031-07-01T09:00:00Z", "recurrence": recurrence}
    _, meeting = await client.api("POST", "/users/me/meetings", **body)
    assert [row["start_time"][5:10] for row in meeting["occurrences"]] == days


async def test_read_only_fields_are_ignored_and_invalid_paths_rejected(client: Client) -> None:
    await client.consent()
    _, meeting = await client.api("POST", "/users/me/meetings", id=5, host_id="evil", start_url="x")
    assert meeting["id"] != 5
    assert meeting["host_id"] == "u-Monica-7Yc1"
    path = f"/meetings/{meeting['id']}"
    assert (await client.api("PATCH", path, id=1, host_id="evil", topic="U"))[0] == 204
    after = (await client.api("GET", path))[1]
    assert (after["id"], after["host_id"], after["topic"]) == (meeting["id"], meeting["host_id"], "U")
    for invalid_path in (f"/meetings/{'9' * 5000}", "/meetings/x", "/users/me/meetings?page_size=x"):
        assert (await client.api("GET", invalid_path))[0] == 400


async def test_user_in_the_authorization_url_is_ignored(client: Client) -> None:
    url = f"{client.simulator.oauth_url}/authorize"
    query = {
        "client_id": "zoomgate-dev",
        "response_type": "code",
        "redirect_uri": REDIRECT_URI,
        "user": "omar@example.com",
    }
    async with client.session.get(url, params=query) as page:
        assert 'type="hidden" name="user"' not in await page.text()
    query["redirect_uri"] = "http://[::1"
    async with client.session.get(url, params=query) as page:
        assert page.status == 400


async def test_fault_affects_its_endpoint_the_configured_number_of_times(client: Client) -> None:
    """The counters include the injected faults."""
    issued = await client.consent()
    await client.sim("fault", endpoint="users_me", kind="rate_limit_daily", times=1)
    async with client.session.get(
        f"{client.simulator.api_url}/users/me", headers={"Authorization": f"Bearer {client.access}"}
    ) as response:
        assert (response.status, response.headers["X-RateLimit-Type"]) == (429, "Daily-limit")
        assert response.headers["Retry-After"].endswith("Z")
    assert (await client.api("GET", "/users/me"))[0] == 200
    await client.sim("fault", endpoint="token", kind="cut_after", times=1)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.refresh(issued["refresh_token"])
    assert client.simulator.zoom.counters["token.refresh_token.issued"] == 1
    assert (await client.refresh(issued["refresh_token"]))[0] == 400
    assert "error" in await client.sim("fault", endpoint="nowhere", kind="cut_after")


async def test_revoking_a_token_or_its_grant(client: Client) -> None:
    """An access token is revoked individually, a refresh token together with its grant; revoking an unknown token succeeds."""
    issued = await client.consent()
    assert await client.revoke(issued["access_token"]) == REVOKED
    assert (await client.api("GET", "/users/me"))[0] == 401
    assert await client.revoke(issued["refresh_token"]) == REVOKED
    assert (await client.refresh(issued["refresh_token"]))[0] == 400
    assert await client.revoke("unknown") == REVOKED


async def test_consent_page_requires_a_valid_authorization_url(client: Client) -> None:
    """Errors are returned directly and not redirected to the app."""
    url = f"{client.simulator.oauth_url}/authorize"
    valid = {"client_id": "zoomgate-dev", "response_type": "code", "redirect_uri": REDIRECT_URI}
    async with client.session.get(url, params=valid) as page:
        assert page.status == 200
        assert "<script" not in await page.text()
    for invalid in (
        {"redirect_uri": "https://evil.example/"},
        {"client_id": "x"},
        {"response_type": "token"},
    ):
        async with client.session.get(url, params=valid | invalid) as page:
            assert page.status == 400
            assert (await page.json())["status"] is False
    async with client.session.post(
        url, data=valid | {"user": MONICA, "decision": "allow", "nonce": "x"}
    ) as page:
        assert page.status == 400


async def test_parameters_of_the_token_endpoint_may_be_in_the_query(client: Client) -> None:
    """The same holds for the revocation."""
    issued = await client.consent()
    basic = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
    query = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    url = client.simulator.oauth_url
    async with client.session.post(f"{url}/token", params=query, headers=basic) as response:
        client.access = (await response.json())["access_token"]
    assert (await client.api("GET", "/users/me"))[0] == 200
    async with client.session.post(f"{url}/revoke", params={"token": client.access}, headers=basic):
        assert (await client.api("GET", "/users/me"))[0] == 401
