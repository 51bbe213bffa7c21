"""The switches below `/_sim/`."""

import asyncio
from typing import Any

import pytest

from support.zoom_app import BACK, MONICA, Client, Clock
from zoom_simulator.state import REMEMBERED


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
    ],
)
async def test_wrong_faults_are_refused(client: Client, fault: dict[str, Any], word: str) -> None:
    """A fault with a field that cannot be is refused with its name, and no fault happens."""
    assert word in (await client.sim("fault", **fault))["error"]
    await client.consent()
    assert (await client.api("GET", "/users/me"))[0] == 200


async def test_a_delay_ends_when_faults_are_switched_off(client: Client) -> None:
    """Who holds an answer back lets it go when they want; the page says so."""
    await client.consent()
    await client.sim("fault", endpoint="users_me", kind="delay", seconds=600)
    held = asyncio.create_task(client.api("GET", "/users/me"))
    while not client.simulator.zoom.counters["faults.delay"]:
        await asyncio.sleep(0.01)
    async with client.session.delete(f"{client.simulator.url}/_sim/fault") as answer:
        assert answer.status == 200
    assert (await held)[0] == 200
    async with client.session.get(f"{client.simulator.url}/_sim/") as page:
        assert "answered once you switched it off" in await page.text()


async def test_redirects_have_the_status_that_was_asked_for(client: Client) -> None:
    """A redirect is a 302 unless another 3xx was wanted."""
    for wanted, status in ({"status": 307}, 307), ({}, 302):
        await client.sim("fault", endpoint="users_me", kind="redirect", **wanted)
        url = f"{client.simulator.api_url}/users/me"
        async with client.session.get(url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (status, "https://elsewhere.example/")


async def test_the_daily_limit_ends_at_the_simulators_midnight(client: Client, clock: Clock) -> None:
    """Retry-After of a daily limit is the next midnight of the simulator's clock, not of this machine's."""
    clock.now = 1_767_225_599.0  # 2025-12-31T23:59:59Z
    await client.sim("fault", endpoint="users_me", kind="rate_limit_daily")
    async with client.session.get(f"{client.simulator.api_url}/users/me") as answer:
        assert answer.headers["Retry-After"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "wrong", [{"client_id": "other"}, {"response_type": "token"}, {"redirect_uri": "https://evil.example/"}]
)
async def test_consents_without_a_browser_are_checked_too(client: Client, wrong: dict[str, str]) -> None:
    """What the consent page refuses is refused without a browser as well."""
    good = {"user": MONICA, "redirect_uri": BACK, "client_id": "zoomgate-dev", "response_type": "code"}
    assert "location" in await client.sim("authorize", **good)
    assert next(iter(wrong)) in (await client.sim("authorize", **good | wrong))["error"]


async def test_spent_tokens_are_forgotten_in_the_end(client: Client) -> None:
    """However often a user refreshes and consents, only so many tokens are remembered, and the latest works."""
    zoom = client.simulator.zoom
    for _ in range(REMEMBERED + 3):
        issued = await client.consent()
        for _ in range(REMEMBERED + 3):
            status, issued = await client.refresh(issued["refresh_token"])
            assert status == 200
    assert len(zoom.refresh_tokens) <= (REMEMBERED + 1) ** 2
    assert (await client.refresh(issued["refresh_token"]))[0] == 200


async def test_codes_that_nobody_fetches_are_forgotten(client: Client, clock: Clock) -> None:
    """Authorization codes do not pile up."""
    zoom = client.simulator.zoom
    for _ in range(20):
        zoom.issue_code(zoom.users[MONICA], BACK)
        clock.now += 60
    assert len(zoom.codes) <= 11


async def test_a_renamed_user_stays_the_same_person(client: Client) -> None:
    """Another address, the same id: tokens and meetings go on, and the next consent ends the grant before."""
    issued = await client.consent()
    _, before = await client.api("GET", "/users/me")
    _, meeting = await client.api("POST", "/users/me/meetings", topic="Harbour")
    renamed = await client.sim("rename_user", user=MONICA, email="monica.geller@example.com")
    assert renamed["user_id"] == before["id"]
    _, after = await client.api("GET", "/users/me")
    assert (after["id"], after["email"]) == (before["id"], "monica.geller@example.com")
    _, seen = await client.api("GET", f"/meetings/{meeting['id']}")
    assert seen["host_email"] == "monica.geller@example.com"
    status, refreshed = await client.refresh(issued["refresh_token"])
    assert status == 200
    await client.consent(user="monica.geller@example.com")
    assert (await client.refresh(refreshed["refresh_token"]))[1]["code"] == 4741


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"user": "nobody@example.com", "email": "x@example.com"}, "unknown"),
        ({"user": MONICA, "email": "omar@example.com"}, "somebody"),
        ({"user": MONICA, "email": "no address"}, "email"),
        ({"user": MONICA}, "email"),
    ],
)
async def test_wrong_names_are_refused(client: Client, body: dict[str, str], word: str) -> None:
    """Nobody is renamed to what is no address or somebody else's, and the refusal says why."""
    assert word in (await client.sim("rename_user", **body))["error"]
    assert (await client.consent())["access_token"]
