"""Tests that pages of other sites in the developer's browser cannot control the simulator."""

import re
from pathlib import Path

import pytest

from support.harness import MONICA
from support.zoom_app import Client

ROOT = Path(__file__).parents[3]

SWITCHES = {
    "fault": '{"endpoint": "any", "kind": "html"}',
    "clock": '{"advance": 60}',
    "expire": "{}",
    "revoke_user": f'{{"user": "{MONICA}"}}',
    "event": f'{{"event": "app_deauthorized", "user": "{MONICA}"}}',
    "users": '{"email": "eve@example.com"}',
    "rename_user": f'{{"user": "{MONICA}", "email": "eve@example.com"}}',
    "authorize": f'{{"user": "{MONICA}", "redirect_uri": "http://127.0.0.1/"}}',
    "play": '{"meeting": 81234567897}',
    "reset": "{}",
}

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
]


async def status(client: Client, path: str, body: str, headers: dict[str, str]) -> int:
    async with client.session.post(
        f"{client.simulator.url}/_sim/{path}", data=body.encode(), headers=headers
    ) as response:
        return response.status


async def state_of(client: Client) -> list[str]:
    """Return all that the simulator reports about its state."""
    reports = []
    for path in ("stats", "clock", "users", "webhooks"):
        async with client.session.get(f"{client.simulator.url}/_sim/{path}") as response:
            reports.append(await response.text())
    return reports


def test_every_endpoint_that_changes_the_simulator_is_tested() -> None:
    documented = re.findall(
        r"^\| `POST /_sim/([a-z_]+)`", (ROOT / "docs/simulator.md").read_text(), re.MULTILINE
    )
    assert set(documented) == set(SWITCHES)


@pytest.mark.parametrize("path", SWITCHES)
async def test_request_from_a_different_site_is_rejected(client: Client, path: str) -> None:
    """Nothing changes, whichever header the browser sends."""
    await client.consent()
    before = await state_of(client)
    for headers in FOREIGN:
        assert (
            await status(client, path, SWITCHES[path], {"Content-Type": "application/json"} | headers) == 403
        )
    assert await state_of(client) == before
    assert (await client.api("GET", "/users/me"))[0] == 200
    async with client.session.delete(f"{client.simulator.url}/_sim/fault", headers=FOREIGN[0]) as response:
        assert response.status == 403


@pytest.mark.parametrize("path", SWITCHES)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_body_that_is_not_declared_as_json_is_rejected(
    client: Client, path: str, content_type: str
) -> None:
    """Browsers send these types to any site without asking it. Only the forms of the overview page use one of them."""
    if path in {"event", "play"} and content_type == "application/x-www-form-urlencoded":
        return
    await client.consent()
    assert await status(client, path, SWITCHES[path], {"Content-Type": content_type}) == 415
    assert (await client.api("GET", "/users/me"))[0] == 200


@pytest.mark.parametrize("path", SWITCHES)
async def test_request_of_a_program_or_of_the_overview_page_is_accepted(client: Client, path: str) -> None:
    """Programs send neither header; a browser at the overview page states the same origin."""
    for headers in (
        {},
        {"Origin": client.simulator.url},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    ):
        await client.sim("reset")
        await client.consent()
        await client.api("POST", "/users/me/meetings")
        assert (
            await status(client, path, SWITCHES[path], {"Content-Type": "application/json"} | headers) < 300
        )
