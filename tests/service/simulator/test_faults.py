"""Tests for fault injection and the admin API under `/_sim/`."""

import asyncio
from typing import Any

import pytest

from support.zoom_app import MONICA, REDIRECT_URI, Client, Clock
from zoom_simulator.state import RETAINED_TOKENS


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"kind": "status"}, "endpoint"),
        ({"endpoint": "nowhere", "kind": "status"}, "endpoint"),
        ({"endpoint": "any", "kind": "meteor"}, "kind"),
        ({"endpoint": ["any"], "kind": "status"}, "endpoint"),
        ({"endpoint": "any", "kind": "status", "until": 1}, "fields"),
        ({"endpoint": "any", "kind": "status", "times": 0}, "times"),
        ({"endpoint": "any", "kind": "status", "times": "2"}, "times"),
        ({"endpoint": "any", "kind": "status", "times": True}, "times"),
        ({"endpoint": "any", "kind": "status", "status": 99_999}, "status"),
        ({"endpoint": "any", "kind": "status", "status": 204}, "status"),
        ({"endpoint": "any", "kind": "status", "status": "503"}, "status"),
        ({"endpoint": "any", "kind": "delay", "seconds": -1}, "seconds"),
        ({"endpoint": "any", "kind": "delay", "seconds": 601}, "seconds"),
        ({"endpoint": "any", "kind": "delay", "seconds": "1"}, "seconds"),
        ({"endpoint": "any", "kind": "redirect", "location": "https://x.example/\r\nX: y"}, "location"),
        ({"endpoint": "any", "kind": "redirect", "location": 5}, "location"),
        ({"endpoint": "any", "kind": "status", "user": 5}, "user"),
        ({"endpoint": "any", "kind": "status", "user": "unknown@example.com"}, "user is unknown"),
    ],
)
async def test_invalid_fault_is_rejected(client: Client, fault: dict[str, Any], word: str) -> None:
    """The error names the field, and no fault is injected."""
    assert word in (await client.sim("fault", **fault))["error"]
    await client.consent()
    assert (await client.api("GET", "/users/me"))[0] == 200


async def test_clearing_faults_releases_delayed_requests(client: Client) -> None:
    """The overview page shows that the delay was ended early."""
    await client.consent()
    await client.sim("fault", endpoint="users_me", kind="delay", seconds=600)
    delayed = asyncio.create_task(client.api("GET", "/users/me"))
    while not client.simulator.zoom.counters["faults.delay"]:
        await asyncio.sleep(0.01)
    async with client.session.delete(f"{client.simulator.url}/_sim/fault") as response:
        assert response.status == 200
    assert (await delayed)[0] == 200
    async with client.session.get(f"{client.simulator.url}/_sim/") as page:
        assert "responded when the fault was cleared" in await page.text()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "status", "status": 401}, 401, 124),
        ({"kind": "rate_limit_qps"}, 429, 429),
        ({"kind": "status", "status": 503}, 503, 503),
    ],
)
async def test_fault_for_a_user_affects_no_other_user(
    client: Client, fault: dict[str, Any], status: int, code: int
) -> None:
    await client.consent()
    affected = client.access
    await client.consent(user="omar@example.com")
    other = client.access
    await client.sim("fault", endpoint="users_me", user="MONICA@example.com", times=2, **fault)
    results = []
    for client.access in (other, affected, other, affected, affected):
        response_status, body = await client.api("GET", "/users/me")
        results.append((response_status, body.get("code")))
    assert results == [(200, None), (status, code), (200, None), (status, code), (200, None)]


@pytest.mark.parametrize("request_with", ["code", "refresh_token", "revoked_token", "access_token"])
async def test_fault_for_a_user_is_matched_by_every_kind_of_token(client: Client, request_with: str) -> None:
    zoom = client.simulator.zoom

    async def respond(user: str) -> int:
        """Return the status of a request with a token of the user, while a fault affects Monica."""
        tokens = await client.consent(user=user)
        code = zoom.issue_code(zoom.user(user), REDIRECT_URI)
        await client.sim("fault", endpoint="any", kind="status", user=MONICA)
        match request_with:
            case "code":
                form = {"code": code, "redirect_uri": REDIRECT_URI}
                status, _ = await client.token(grant_type="authorization_code", **form)
            case "refresh_token":
                status, _ = await client.refresh(tokens["refresh_token"])
            case "revoked_token":
                status, _ = await client.revoke(tokens["access_token"])
            case _:
                status, _ = await client.api("POST", "/users/me/meetings", topic="T")
        client.simulator.faults.clear()
        return status

    assert await respond("omar@example.com") < 300
    assert await respond(MONICA) == 503


async def test_redirect_uses_the_configured_status_or_302(client: Client) -> None:
    for status_field, status in ({"status": 307}, 307), ({}, 302):
        await client.sim("fault", endpoint="users_me", kind="redirect", **status_field)
        url = f"{client.simulator.api_url}/users/me"
        async with client.session.get(url, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (status, "https://elsewhere.example/")


async def test_daily_limit_ends_at_midnight_of_the_simulator_clock(client: Client, clock: Clock) -> None:
    clock.now = 1_767_225_599.0  # 2025-12-31T23:59:59Z
    await client.sim("fault", endpoint="users_me", kind="rate_limit_daily")
    async with client.session.get(f"{client.simulator.api_url}/users/me") as response:
        assert response.headers["Retry-After"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "invalid", [{"client_id": "other"}, {"response_type": "token"}, {"redirect_uri": "https://evil.example/"}]
)
async def test_consent_without_a_browser_is_validated_like_the_page(
    client: Client, invalid: dict[str, str]
) -> None:
    valid = {
        "user": MONICA,
        "redirect_uri": REDIRECT_URI,
        "client_id": "zoomgate-dev",
        "response_type": "code",
    }
    assert "location" in await client.sim("authorize", **valid)
    assert next(iter(invalid)) in (await client.sim("authorize", **valid | invalid))["error"]


async def test_used_refresh_tokens_are_deleted_beyond_a_limit(client: Client) -> None:
    """The latest refresh token is still accepted."""
    zoom = client.simulator.zoom
    for _ in range(2):
        issued = await client.consent()
        for _ in range(RETAINED_TOKENS):
            issued = zoom.refresh(issued["refresh_token"])
    assert len(zoom.refresh_tokens) == RETAINED_TOKENS + 1
    assert (await client.refresh(issued["refresh_token"]))[0] == 200


async def test_unused_codes_are_deleted_after_expiry(client: Client, clock: Clock) -> None:
    zoom = client.simulator.zoom
    for _ in range(20):
        zoom.issue_code(zoom.users[MONICA], REDIRECT_URI)
        clock.now += 60
    assert len(zoom.codes) <= 11


async def test_renamed_user_retains_id_tokens_and_meetings(client: Client) -> None:
    """The renamed user's next consent still revokes the previous grant."""
    issued = await client.consent()
    _, before = await client.api("GET", "/users/me")
    _, meeting = await client.api("POST", "/users/me/meetings", topic="Harbour")
    renamed = await client.sim("rename_user", user=MONICA, email="monica.geller@example.com")
    assert renamed["user_id"] == before["id"]
    _, after = await client.api("GET", "/users/me")
    assert (after["id"], after["email"]) == (before["id"], "monica.geller@example.com")
    _, fetched = await client.api("GET", f"/meetings/{meeting['id']}")
    assert fetched["host_email"] == "monica.geller@example.com"
    status, refreshed = await client.refresh(issued["refresh_token"])
    assert status == 200
    await client.consent(user="monica.geller@example.com")
    assert (await client.refresh(refreshed["refresh_token"]))[1]["code"] == 4741


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"user": "unknown@example.com", "email": "x@example.com"}, "unknown"),
        ({"user": MONICA, "email": "omar@example.com"}, "already in use"),
        ({"user": MONICA, "email": "no address"}, "email"),
        ({"user": MONICA}, "email"),
    ],
)
async def test_invalid_or_used_email_is_rejected_on_rename(
    client: Client, body: dict[str, str], word: str
) -> None:
    assert word in (await client.sim("rename_user", **body))["error"]
    assert (await client.consent())["access_token"]
