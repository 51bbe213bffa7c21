"""With a seed and a clock that stands still the simulator answers the same, every time."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from support.zoom_app import BACK, MONICA, Client, Clock
from zoom_simulator import Simulator, SimulatorOptions

START = "2026-01-01T00:00:00Z"
FIXED = ("--seed", "7", "--clock", START)


@asynccontextmanager
async def process(*options: str) -> AsyncIterator[str]:
    """A simulator in a process of its own; gives its address."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "zoom_simulator", "--listen", "127.0.0.1:0", *options, stdout=subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        line = (await started.stdout.readline()).decode()
        ready = re.fullmatch(r"zoom_simulator: ready http=(\S+)\n", line)
        assert ready, line
        yield f"http://{ready.group(1)}"
    finally:
        started.terminate()
        assert await started.wait() == 0


async def conversation(url: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Everything that a simulator answers to the same requests."""
    heard: list[tuple[int, dict[str, str], bytes]] = []

    async with aiohttp.ClientSession() as session:

        async def say(method: str, path: str, **how: object) -> bytes:
            async with session.request(method, url + path, **how) as answer:  # type: ignore[arg-type]
                headers = {name: value for name, value in answer.headers.items() if name != "Location"}
                heard.append((answer.status, headers, (await answer.read()).replace(url.encode(), b"")))
                return heard[-1][2]

        basic = {"Authorization": aiohttp.encode_basic_auth("zoomgate-dev", "zoomgate-dev-secret")}
        where = f"?client_id=zoomgate-dev&response_type=code&redirect_uri={BACK}"
        await say("GET", f"/oauth/authorize{where}")
        located = await say("POST", "/_sim/authorize", json={"user": MONICA, "redirect_uri": BACK})
        code = re.search(rb"code=([\w-]+)", located)
        assert code is not None
        form = {"grant_type": "authorization_code", "code": code.group(1).decode(), "redirect_uri": BACK}
        issued = await say("POST", "/oauth/token", data=form, headers=basic)
        token = re.search(rb'"access_token": "([\w-]+)"', issued)
        assert token is not None
        bearer = {"Authorization": f"Bearer {token.group(1).decode()}"}
        for topic in ("A", "B"):
            await say("POST", "/v2/users/me/meetings", json={"topic": topic}, headers=bearer)
        await say("POST", "/_sim/clock", json={"advance": 60})
        await say("GET", "/v2/users/me/meetings", headers=bearer)
        await say("POST", "/_sim/fault", json={"endpoint": "any", "kind": "rate_limit_daily"})
        await say("GET", "/v2/users/me", headers=bearer)
        await say("POST", "/_sim/clock", json={"advance": 3600})
        await say("GET", "/v2/users/me", headers=bearer)
        await say("GET", "/_sim/stats")
        await say("GET", "/_sim/")
    return heard


async def test_two_processes_with_a_seed_answer_byte_by_byte_the_same() -> None:
    """The same seed, clock and requests give the same statuses, headers and bodies; another seed gives others."""
    async with process(*FIXED) as one, process(*FIXED) as two, process("--seed", "8", *FIXED[2:]) as three:
        first, second, third = [await conversation(url) for url in (one, two, three)]
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


async def test_a_reset_begins_again() -> None:
    """After a reset a seeded simulator answers what it answered at first."""
    async with process(*FIXED) as url, aiohttp.ClientSession() as session:
        first = await conversation(url)
        async with session.post(f"{url}/_sim/reset") as answer:
            assert answer.status == 200
        assert await conversation(url) == first


async def test_without_a_seed_nothing_can_be_foretold() -> None:
    """Two simulators without a seed share no token and no password."""
    tokens = set()
    for _ in range(2):
        async with Simulator(SimulatorOptions(port=0)) as simulator, aiohttp.ClientSession() as session:
            client = Client(simulator, session)
            tokens |= {*(await client.consent()).values()}
            _, meeting = await client.api("POST", "/users/me/meetings")
            tokens |= {meeting["uuid"], meeting["encrypted_password"], meeting["start_url"]}
    fixed = 4  # type, life, scope and address
    assert len(tokens) == fixed + 2 * 5


async def test_the_clock_goes_forward_when_told(client: Client, clock: Clock) -> None:
    """It can be moved by seconds or to a moment; tokens expire by it, and a reset brings it back."""
    await client.consent()
    assert await client.sim("clock", advance=3599.5) == {"now": "2030-03-17T18:46:39Z", "stands": False}
    assert (await client.api("GET", "/users/me"))[0] == 200
    assert (await client.sim("clock", now="2030-03-17T18:46:40Z"))["now"] == "2030-03-17T18:46:40Z"
    assert (await client.api("GET", "/users/me"))[0] == 401
    clock.now += 60
    async with client.session.get(f"{client.simulator.url}/_sim/clock") as answer:
        assert (await answer.json())["now"] == "2030-03-17T18:47:40Z"
    await client.sim("reset")
    async with client.session.get(f"{client.simulator.url}/_sim/clock") as answer:
        assert (await answer.json())["now"] == "2030-03-17T17:47:40Z"


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
async def test_the_clock_refuses_nonsense_and_the_past(client: Client, body: dict[str, object]) -> None:
    """A wrong move is refused with what to write, and the time stays."""
    assert "advance" in (await client.sim("clock", **body))["error"]
    assert client.simulator.zoom.wall() == 1_900_000_000.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "127.0.0.1:99999"), "port from 0 to 65535"),
        (("--listen", "0.0.0.0:8090"), "write 127.0.0.1:PORT"),
        (("--listen", "8090"), "write 127.0.0.1:PORT"),
        (("--clock", "soon"), "such as 2026-01-01T00:00:00Z"),
        (("--clock", "2026-01-01T00:00:00"), "such as 2026-01-01T00:00:00Z"),
        (("--clock", "0001-01-01T00:00:00Z"), "from 1970 to 2100"),
        (("--seed", "-1"), "write a whole number from 0"),
        (("--access-token-seconds", "0"), "write 1 to 86400"),
    ],
)
def test_wrong_options_are_told(options: tuple[str, ...], said: str) -> None:
    """An option that cannot be used ends with 2 and one sentence that says what to write."""
    found = subprocess.run(
        [sys.executable, "-m", "zoom_simulator", *options], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1, found.stderr
