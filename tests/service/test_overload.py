"""Tests for calls beyond the concurrency limits: they wait until their deadline, and fail before anything is used or stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from support.harness import BASIL, MONICA, OMAR, Harness, browser, consent, consent_form, running
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.timing import Timing
from zoomgate_server.authorization import browser_flow
from zoomgate_server.connections import disconnection
from zoomgate_server.rpc.middleware import authentication

OTHERS = tuple(f"user{number}@example.com" for number in range(4))
REDIRECT_URI = "http://127.0.0.1:9/elsewhere"
SLOTS = {
    "ZOOMGATE_MAX_CONCURRENT_REFRESHES": str(len(OTHERS)),
    "ZOOMGATE_MAX_CONCURRENT_EXCHANGES": "1",
    "ZOOMGATE_MAX_CONCURRENT_ZOOM_CALLS": "1",
    "ZOOMGATE_MAX_CONCURRENT_DOWNLOADS": "1",
}
MARGIN = 9.5
TIMING = replace(
    Timing(),
    calls=authentication.Timing(response_margin=MARGIN),
    browsers=browser_flow.Timing(slot_wait=0.1),
    disconnections=disconnection.Timing(revocation_wait=0.0),
)
SHORT, LONG = MARGIN + 0.5, MARGIN + 50.0
"""Deadlines of calls, in seconds. The service stops waiting for a slot half a second, or 50 seconds, after their start."""

Call = tuple[Any, Any]


@pytest.fixture
async def zoomgate(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """Return a service with few slots. Codes come from pages of the caller if the test has the parameter `REDIRECT_URI`."""
    options = SimulatorOptions(port=0, users=(*DEFAULT_USERS, *(SimulatedUser(email) for email in OTHERS)))
    environ = SLOTS | ({"ZOOMGATE_REDIRECT_URI": request.param} if hasattr(request, "param") else {})
    async with running(tmp_path / "data", simulator=options, environ=environ, timing=TIMING) as harness:
        yield harness


async def slots(zoomgate: Harness, metric: str, limit: str) -> float:
    """Return the number of used slots, or of waiting operations."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        name = f'zoomgate_{metric}{{limit="{limit}"}} '
        return next(
            float(line.removeprefix(name))
            for line in (await page.text()).splitlines()
            if line.startswith(name)
        )


async def check_overloaded(zoomgate: Harness, held: list[Call], limit: str, call: Call) -> None:
    """Check that a call fails while the held calls use all slots of a limit, and that the same call waits and succeeds with more time."""
    running = [asyncio.create_task(zoomgate.call(*held_call, seconds=LONG)) for held_call in held]
    while zoomgate.stat("faults.delay") < len(held):
        await asyncio.sleep(0)
    assert await slots(zoomgate, "slots_used", limit) == len(held)
    writes, sent = zoomgate.store.calls["put"], dict(zoomgate.simulator.zoom.counters)
    error = await zoomgate.error_of(*call, seconds=SHORT)
    assert error.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
    assert error.metadata == {"limit": limit}
    assert error.retry_after
    assert zoomgate.store.calls["put"] == writes
    assert dict(zoomgate.simulator.zoom.counters) == sent
    waiting = asyncio.create_task(zoomgate.call(*call, seconds=LONG))
    while not await slots(zoomgate, "slots_waiting", limit):
        await asyncio.sleep(0)
    zoomgate.simulator.faults.clear()
    await asyncio.gather(waiting, *running)
    assert await slots(zoomgate, "slots_used", limit) == 0


async def test_refresh_waits_for_a_slot_before_its_lease(zoomgate: Harness) -> None:
    for user in (MONICA, *OTHERS):
        await zoomgate.connect(user)
    zoomgate.simulator.faults.add(Fault("token", "delay", times=len(OTHERS), seconds=600.0))

    def refresh(user: str) -> Call:
        return zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user)

    await check_overloaded(
        zoomgate, [refresh(user) for user in OTHERS], "concurrent_refreshes", refresh(MONICA)
    )
    connection = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
    assert connection.connection.generation == 2


async def test_call_to_the_zoom_api_waits_for_a_slot(zoomgate: Harness) -> None:
    await zoomgate.connect()
    call = zoomgate.proxy.Get, proxy.GetRequest(user_email=MONICA, url="/users/me")
    zoomgate.simulator.faults.add(Fault("users_me", "delay", seconds=600.0))
    await check_overloaded(zoomgate, [call], "concurrent_zoom_calls", call)


async def test_download_waits_for_a_slot(zoomgate: Harness) -> None:
    await zoomgate.connect()
    url = f"{zoomgate.simulator.url}/rec/download/9/meeting.mp4"
    call = zoomgate.proxy.Download, proxy.DownloadRequest(user_email=MONICA, url=url)
    zoomgate.simulator.faults.add(Fault("files", "delay", seconds=600.0))
    await check_overloaded(zoomgate, [call], "concurrent_downloads", call)


async def with_state(zoomgate: Harness, user: str) -> Call:
    authorization = await zoomgate.begin_authorization(user)
    code, state = await code_of(authorization.authorization_url, user)
    return zoomgate.auth.CompleteAuthorization, pb.CompleteAuthorizationRequest(code=code, state=state)


async def with_code(zoomgate: Harness, user: str) -> Call:
    authorization = await zoomgate.begin_authorization(user)
    code, state = await code_of(authorization.authorization_url, user)
    request = pb.CreateTokenRequest(user_email=user, code=code, state=state)
    return zoomgate.auth.CreateToken, request


async def with_refresh_token(zoomgate: Harness, user: str) -> Call:
    zoom = zoomgate.simulator.zoom
    issued = zoom.exchange(zoom.issue_code(zoom.users[user], REDIRECT_URI), REDIRECT_URI, "")
    request = pb.RequestTokenRequest(user_email=user, refresh_token=issued["refresh_token"])
    return zoomgate.auth.RequestToken, request


async def with_import(zoomgate: Harness, user: str) -> Call:
    zoom = zoomgate.simulator.zoom
    issued = zoom.exchange(zoom.issue_code(zoom.users[user], REDIRECT_URI), REDIRECT_URI, "")
    request = pb.ImportConnectionRequest(user_email=user, refresh_token=issued["refresh_token"])
    return zoomgate.auth.ImportConnection, request


async def code_of(url: str, user: str) -> tuple[str, str]:
    """Grant consent, and return the code and state that Zoom sends to the caller's page."""
    async with browser() as session:
        action, fields = await consent_form(session, url)
        data = fields | {"user": user, "decision": "allow"}
        async with session.post(action, data=data, allow_redirects=False) as response:
            query = URL(response.headers["Location"]).query
            return query["code"], query["state"]


@pytest.mark.parametrize("zoomgate", [REDIRECT_URI], indirect=True)
@pytest.mark.parametrize("call", [with_state, with_code, with_refresh_token, with_import])
async def test_exchange_waits_for_a_slot_before_the_state_and_the_code_are_used(
    zoomgate: Harness, call: Callable[[Harness, str], Awaitable[Call]]
) -> None:
    held, waiting = await with_refresh_token(zoomgate, OMAR), await call(zoomgate, MONICA)
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=600.0))
    await check_overloaded(zoomgate, [held], "concurrent_exchanges", waiting)


async def test_consent_in_a_browser_can_be_repeated_after_an_overload(zoomgate: Harness) -> None:
    """The page asks the user to try again, and the link remains valid."""
    authorization = await zoomgate.begin_authorization(MONICA)
    request = await with_refresh_token(zoomgate, OMAR)
    zoomgate.simulator.faults.add(Fault("token", "delay", seconds=600.0))
    held = asyncio.create_task(zoomgate.call(*request, seconds=LONG))
    while not zoomgate.stat("faults.delay"):
        await asyncio.sleep(0)
    async with browser() as session:
        page = await consent(session, authorization.authorization_url, MONICA)
        assert page.url.query["outcome"] == "try_later"
        zoomgate.simulator.faults.clear()
        await held
        page = await consent(session, authorization.authorization_url, MONICA)
        assert page.url.query["outcome"] == "connected"


async def test_revocations_use_at_most_a_quarter_of_the_refresh_slots(zoomgate: Harness) -> None:
    """While Zoom does not respond to revocations, tokens are refreshed."""
    for user in (MONICA, OMAR, BASIL):
        await zoomgate.connect(user)
    zoomgate.simulator.faults.add(Fault("revoke", "delay", times=-1, seconds=600.0))
    for user in (OMAR, BASIL):
        await zoomgate.call(
            zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user), "admin"
        )
    while not zoomgate.stat("faults.delay"):
        await asyncio.sleep(0)
    assert await slots(zoomgate, "slots_used", "concurrent_refreshes") == len(OTHERS) // 4
    await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
    zoomgate.simulator.faults.clear()
