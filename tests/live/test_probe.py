"""Tests for the probe of Zoom's rules, against simulators with every combination of rules."""

import asyncio
import itertools
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from live.probe import Passcodes, Probe, ProbeError
from support.harness import MONICA, SECONDS, browser, consent_form
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import LOOPBACK_REDIRECTS
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoomgate_server import settings
from zoomgate_server.app.zoom_clients import open_clients
from zoomgate_server.clock import SystemClock

TESTS = Path(__file__).parents[1]
COMBINATIONS = [
    Rules(*values)
    for values in itertools.product(RefreshTokenReuse, (False, True), (False, True), Revocation)
]
REDIRECT_URI = "https://zoom.example.com/oauth/callback"


def simulator(rules: Rules) -> Simulator:
    """Return a simulator with these rules."""
    redirect_uris = (REDIRECT_URI, LOOPBACK_REDIRECTS)
    return Simulator(SimulatorOptions(port=0, rules=rules, redirect_uris=redirect_uris))


def environment(zoom: Simulator, redirect_uri: str = REDIRECT_URI) -> dict[str, str]:
    """Return the settings of the app that a simulator serves."""
    return {
        "ZOOMGATE_CLIENT_ID": zoom.options.client_id,
        "ZOOMGATE_CLIENT_SECRET": zoom.options.client_secret,
        "ZOOMGATE_REDIRECT_URI": redirect_uri,
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
    }


async def redirect_of(url: str, decision: str = "allow") -> str:
    """Consent in a browser, and return the address to which Zoom redirects it."""
    async with browser() as session:
        action, fields = await consent_form(session, url)
        data = fields | {"user": MONICA, "decision": decision}
        async with session.post(action, data=data, allow_redirects=False) as response:
            return response.headers["Location"]


@asynccontextmanager
async def probing(rules: Rules = Rules()) -> AsyncIterator[tuple[Probe, Simulator]]:
    """Run a simulator and a probe whose user consents at once."""
    async with (
        simulator(rules) as zoom,
        AsyncExitStack() as stack,
    ):
        clients = open_clients(settings.load(environment(zoom)), SystemClock(), stack)
        yield Probe(*clients, redirect_of, settle=0.0), zoom


@pytest.mark.parametrize("rules", COMBINATIONS, ids=lambda rules: "-".join(map(str, astuple(rules))))
async def test_probe_detects_every_combination_of_rules(rules: Rules) -> None:
    async with probing(rules) as (probe, _):
        observed, earlier, current = await probe.tokens_and_consents(await probe.authorize())
        revocation = await probe.revocation(earlier, current)
        assert replace(observed, revocation=revocation) == rules


async def test_meetings_of_the_probe_are_deleted() -> None:
    async with probing() as (probe, zoom):
        assert await probe.passcodes(await probe.authorize()) == Passcodes(
            by_default=True, without_default=False
        )
        assert [meeting.deleted for meeting in zoom.zoom.meetings.values()] == [True, True]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("token", "status", status=503), "neither accepted nor rejected"),
        (Fault("users_me", "status", status=500), "failed with status 500"),
    ],
)
async def test_failure_of_zoom_is_not_taken_for_an_answer(fault: Fault, message: str) -> None:
    async with probing() as (probe, zoom):
        tokens = await probe.authorize()
        zoom.faults.add(fault)
        with pytest.raises(ProbeError, match=message):
            await probe.tokens_and_consents(tokens)


async def test_denied_consent_ends_the_probe() -> None:
    async with probing() as (probe, _):
        probe._consent = lambda url: redirect_of(url, "deny")
        with pytest.raises(ProbeError, match="contains no code for this consent"):
            await probe.authorize()


@pytest.mark.slow
@pytest.mark.parametrize("listens", [True, False])
async def test_command_guides_through_the_probe(listens: bool) -> None:
    """The operator consents three times, and either the command receives the redirects, or the operator pastes their addresses."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    redirect_uri = f"http://127.0.0.1:{port}/oauth/callback" if listens else REDIRECT_URI
    rules = Rules(RefreshTokenReuse.ENDS_GRANT, revocation=Revocation.USER)
    async with simulator(rules) as zoom, asyncio.timeout(SECONDS):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "live",
            "0",
            cwd=TESTS,
            env=os.environ | environment(zoom, redirect_uri),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        output = ""
        process.stdin.write(b"y\n")
        while chunk := (await process.stdout.read(4096)).decode():
            output += chunk
            while match := re.search(rf"({re.escape(zoom.oauth_url)}/authorize\S+)\n", output):
                output = output[match.end() :]
                location = await redirect_of(match[1])
                if not listens:
                    process.stdin.write(f"{location}\n".encode())
                else:
                    async with browser() as session, session.get(location) as response:
                        assert await response.text() == "Return to the terminal.\n"
            if re.search(r"(meetings of the user|the user's tokens)\? \[y/N\] $", output):
                process.stdin.write(b"y\n")
        assert await process.wait() == 0, output
    assert re.search(r"reuse of a used refresh token +│ ends +│ rejected", output)
    assert re.search(r"revocation of an access token ends +│ user +│ token", output)
    assert re.search(r"earlier grant, after a new consent +│ invalid +│ invalid +│ nothing", output)
    assert "sim-" not in output


async def test_command_requires_an_app() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "live", cwd=TESTS, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "set ZOOMGATE_CLIENT_ID" in errors.decode()
