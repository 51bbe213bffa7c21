"""Tests for the file that retains the simulated state across restarts."""

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from support.zoom_app import MONICA, Client, Clock
from zoom_simulator import Simulator, SimulatorOptions, StateFileError


@asynccontextmanager
async def restarted(path: Path, clock: Clock) -> AsyncIterator[Client]:
    """Run a new simulator with a state file; yield a client without a token."""
    options = SimulatorOptions(port=0, state_file=path)
    async with Simulator(options, wall=clock) as simulator, aiohttp.ClientSession() as session:
        yield Client(simulator, session)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "simulator.json"


async def test_tokens_and_meetings_survive_a_restart(path: Path, clock: Clock) -> None:
    """A refresh token that was used before the restart is still rejected after it."""
    async with restarted(path, clock) as client:
        issued = await client.consent()
        _, refreshed = await client.refresh(issued["refresh_token"])
        client.access = refreshed["access_token"]
        _, meeting = await client.api("POST", "/users/me/meetings", topic="Kept")
    async with restarted(path, clock) as client:
        client.access = refreshed["access_token"]
        assert (await client.api("GET", f"/meetings/{meeting['id']}"))[1]["topic"] == "Kept"
        assert (await client.api("POST", "/users/me/meetings"))[1]["id"] != meeting["id"]
        client.access = issued["access_token"]
        assert (await client.api("GET", "/users/me"))[0] == 401
        assert (await client.refresh(issued["refresh_token"]))[0] == 400
        assert (await client.refresh(refreshed["refresh_token"]))[0] == 200


async def test_registrants_instances_occurrences_and_limits_survive_a_restart(
    path: Path, clock: Clock
) -> None:
    """A meeting that is live at the restart can be ended after it."""
    async with restarted(path, clock) as client:
        access = client.access = (await client.consent())["access_token"]
        recurrence = {"type": 1, "end_times": 2}
        _, meeting = await client.api(
            "POST",
            "/users/me/meetings",
            type=8,
            start_time="2031-07-01T09:00:00Z",
            recurrence=recurrence,
            settings={"approval_type": 0, "registration_type": 2},
        )
        target, past = f"/meetings/{meeting['id']}", f"/past_meetings/{meeting['id']}"
        one = f"{target}?occurrence_id={meeting['occurrences'][0]['occurrence_id']}"
        await client.api("PATCH", one, agenda="A")
        await client.sim("play", meeting=meeting["id"], minutes=5)
        await client.sim("play", meeting=meeting["id"], action="start")
        for _ in range(3):
            await client.api("POST", f"{target}/registrants", email="ada@example.com", first_name="Ada")
        reads = [target, one, past, f"{past}/participants", f"{target}/registrants"]
        before = [await client.api("GET", read) for read in reads]
    async with restarted(path, clock) as client:
        client.access = access
        assert [await client.api("GET", read) for read in reads] == before
        status, _ = await client.api(
            "POST", f"{target}/registrants", email="ada@example.com", first_name="Ada"
        )
        assert status == 429
        await client.sim("play", meeting=meeting["id"], action="end")
        assert len((await client.api("GET", f"{past}/instances"))[1]["meetings"]) == 2


async def test_revocations_users_and_the_clock_survive_a_restart(path: Path, clock: Clock) -> None:
    async with restarted(path, clock) as client:
        issued = await client.consent()
        await client.revoke(issued["refresh_token"])
        await client.sim("rename_user", user=MONICA, email="new@example.com")
        await client.sim("clock", advance=86_400)
        before = client.simulator.zoom.wall()
    async with restarted(path, clock) as client:
        assert client.simulator.zoom.user("new@example.com").user_id == "u-Monica-7Yc1"
        assert (await client.refresh(issued["refresh_token"]))[0] == 400
        assert client.simulator.zoom.wall() == before


async def test_reset_restores_the_initial_state_for_good(path: Path, clock: Clock) -> None:
    async with restarted(path, clock) as client:
        issued = await client.consent()
        await client.sim("reset")
    async with restarted(path, clock) as client:
        assert (await client.refresh(issued["refresh_token"]))[0] == 400


async def test_file_is_readable_by_its_owner_only(path: Path, clock: Clock) -> None:
    async with restarted(path, clock) as client:
        await client.consent()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"users": 5}', '{"users": [{"email": 5}]}'])
def test_file_with_other_content_is_rejected(path: Path, content: str) -> None:
    """The file is not changed."""
    path.write_text(content)
    with pytest.raises(StateFileError, match="delete it to start with the initial state"):
        Simulator(SimulatorOptions(state_file=path))
    assert path.read_text() == content
