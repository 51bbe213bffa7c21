"""Tests for reproducible responses with a seed and a frozen clock."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from support.zoom_app import MONICA, REDIRECT_URI, Client, Clock
from zoom_simulator import Simulator, SimulatorOptions

START = "2026-01-01T00:00:00Z"
FIXED = ("--seed", "7", "--clock", START)


@asynccontextmanager
async def simulator_process(*options: str) -> AsyncIterator[str]:
    """Run a simulator in its own process and yield its base URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "zoom_simulator", "--listen", "127.0.0.1:0", *options, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        ready = re.fullmatch(r"zoom_simulator: ready http=(\S+)\n", line)
        assert ready, line
        yield f"http://{ready.group(1)}"
    finally:
        process.terminate()
        assert await process.wait() == 0


async def responses_of(url: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Return the responses of a simulator to a fixed sequence of requests."""
    responses: list[tuple[int, dict[str, str], bytes]] = []

    async with aiohttp.ClientSession() as session:

        async def call(method: str, path: str, **arguments: object) -> bytes:
            async with session.request(method, url + path, **arguments) as response:  # type: ignore[arg-type]
                headers = {name: value for name, value in response.headers.items() if name != "Location"}
                responses.append(
                    (response.status, headers, (await response.read()).replace(url.encode(), b""))
                )
                return responses[-1][2]

        basic = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
        query = f"?client_id=zoomgate-dev&response_type=code&redirect_uri={REDIRECT_URI}"
        await call("GET", f"/oauth/authorize{query}")
        location = await call("POST", "/_sim/authorize", json={"user": MONICA, "redirect_uri": REDIRECT_URI})
        code = re.search(rb"code=([\w-]+)", location)
        assert code is not None
        form = {
            "grant_type": "authorization_code",
            "code": code.group(1).decode(),
            "redirect_uri": REDIRECT_URI,
        }
        issued = await call("POST", "/oauth/token", data=form, headers=basic)
        token = re.search(rb'"access_token": "([\w-]+)"', issued)
        assert token is not None
        bearer = {"Authorization": f"Bearer {token.group(1).decode()}"}
        for topic in ("A", "B"):
            await call("POST", "/v2/users/me/meetings", json={"topic": topic}, headers=bearer)
        await call("POST", "/_sim/clock", json={"advance": 60})
        await call("GET", "/v2/users/me/meetings", headers=bearer)
        await call("POST", "/_sim/fault", json={"endpoint": "any", "kind": "rate_limit_daily"})
        await call("GET", "/v2/users/me", headers=bearer)
        await call("POST", "/_sim/clock", json={"advance": 3600})
        await call("GET", "/v2/users/me", headers=bearer)
        await call("GET", "/_sim/stats")
        await call("GET", "/_sim/")
    return responses


async def test_same_seed_and_clock_give_identical_responses() -> None:
    """Statuses, headers and bodies are identical; a different seed gives different responses."""
    async with (
        simulator_process(*FIXED) as one,
        simulator_process(*FIXED) as two,
        simulator_process("--seed", "8", *FIXED[2:]) as three,
    ):
        first, second, third = [await responses_of(url) for url in (one, two, three)]
    assert first == second
    assert first != third
    assert [status for status, _, _ in first] == [
        200,
        200,
        200,
        201,
        201,
        200,
        200,
        200,
        429,
        200,
        401,
        200,
        200,
    ]
    assert first[0][1]["Date"] == "Thu, 01 Jan 2026 00:00:00 GMT"


async def test_reset_restarts_the_seeded_sequence() -> None:
    async with simulator_process(*FIXED) as url, aiohttp.ClientSession() as session:
        first = await responses_of(url)
        async with session.post(f"{url}/_sim/reset") as response:
            assert response.status == 200
        assert await responses_of(url) == first


async def test_values_are_random_without_a_seed() -> None:
    """Two simulators without a seed share no token and no password."""
    tokens = set()
    for _ in range(2):
        async with Simulator(SimulatorOptions(port=0)) as simulator, aiohttp.ClientSession() as session:
            client = Client(simulator, session)
            tokens |= {*(await client.consent()).values()}
            _, meeting = await client.api("POST", "/users/me/meetings")
            tokens |= {meeting["uuid"], meeting["encrypted_password"], meeting["start_url"]}
    fixed = 4  # only token type, lifetime, scope and API URL are the same
    assert len(tokens) == fixed + 2 * 5


async def test_clock_can_be_advanced_and_reset(client: Client, clock: Clock) -> None:
    """The clock advances by seconds or to a time, tokens expire on the clock, and a reset undoes the advances."""
    await client.consent()
    assert await client.sim("clock", advance=3599.5) == {"now": "2030-03-17T18:46:39Z", "frozen": False}
    assert (await client.api("GET", "/users/me"))[0] == 200
    assert (await client.sim("clock", now="2030-03-17T18:46:40Z"))["now"] == "2030-03-17T18:46:40Z"
    assert (await client.api("GET", "/users/me"))[0] == 401
    clock.now += 60
    async with client.session.get(f"{client.simulator.url}/_sim/clock") as response:
        assert (await response.json())["now"] == "2030-03-17T18:47:40Z"
    await client.sim("reset")
    async with client.session.get(f"{client.simulator.url}/_sim/clock") as response:
        assert (await response.json())["now"] == "2030-03-17T17:47:40Z"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"advance": -1},
        {"advance": "60"},
        {"advance": 1e12},
        {"advance": True},
        {"advance": False},
        {"advance": 1, "now": START},
        {"now": START},
        {"now": "2031-01-01"},
        {"now": "soon"},
    ],
)
async def test_invalid_and_past_times_are_rejected(client: Client, body: dict[str, object]) -> None:
    """The error describes valid input, and the clock does not change."""
    assert "advance" in (await client.sim("clock", **body))["error"]
    assert client.simulator.zoom.wall() == 1_900_000_000.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "127.0.0.1:99999"), "port from 0 to 65535"),
        (("--listen", "0.0.0.0:8090"), "use 127.0.0.1:PORT"),
        (("--listen", "8090"), "use 127.0.0.1:PORT"),
        (("--clock", "soon"), "such as 2026-01-01T00:00:00Z"),
        (("--clock", "2026-01-01T00:00:00"), "such as 2026-01-01T00:00:00Z"),
        (("--clock", "0001-01-01T00:00:00Z"), "from 1970 to 2100"),
        (("--seed", "-1"), "use an integer from 0"),
        (("--access-token-seconds", "0"), "use an integer from 1 to 86400"),
    ],
)
def test_invalid_option_exits_with_code_2(options: tuple[str, ...], message: str) -> None:
    """The error consists of one line and states how to correct the option."""
    result = subprocess.run(
        [sys.executable, "-m", "zoom_simulator", *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
