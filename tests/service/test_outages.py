"""What trouble of the app at Zoom, or of this machine, means for users: nothing, but for the calls that it takes."""

import asyncio
import resource
from pathlib import Path

import aiohttp
import pytest

from support.harness import Harness, Refusal, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.refresh.circuit_breaker import LONGEST_THROTTLE_SECONDS, OUR_FAULTS

PEOPLE = tuple(f"person{number}@example.com" for number in range(6))
OPTIONS = SimulatorOptions(port=0, users=(*DEFAULT_USERS, *(SimulatedUser(email) for email in PEOPLE)))
OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}


async def refused(zoomgate: Harness, user: str) -> Refusal:
    return await zoomgate.refusal(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def refresh(zoomgate: Harness, user: str) -> int:
    answer = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))
    generation: int = answer.token.generation
    return generation


async def check_untouched(zoomgate: Harness) -> None:
    """Everybody is connected, and gets the token of the consent, which is valid still."""
    for user in PEOPLE:
        shown = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        assert shown.connection.state == Connection.STATE_ACTIVE
        given = await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=user))
        assert given.token.generation == 1


async def connect_everybody(zoomgate: Harness) -> None:
    for user in PEOPLE:
        await zoomgate.connect(user)


async def breaker_shown(zoomgate: Harness) -> bool:
    """Whether `/metrics` says that refreshes are held back."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        return "\nzoomgate_token_endpoint_breaker_open 1.0\n" in await page.text()


async def test_a_wrong_secret_touches_nobody_and_soon_asks_zoom_no_more(tmp_path: Path) -> None:
    """After three refusals of the app everybody is told at once, valid tokens are served, and with the right secret everybody works."""
    async with Simulator(OPTIONS) as zoom:
        async with serving(zoom, tmp_path / "data") as zoomgate:
            await connect_everybody(zoomgate)
        async with serving(
            zoom, tmp_path / "data", environ={"ZOOMGATE_CLIENT_SECRET": "wrong-one"}
        ) as zoomgate:
            assert not await breaker_shown(zoomgate)
            for user in PEOPLE:
                refusal = await refused(zoomgate, user)
                assert refusal.short == ("INTERNAL", "APP_CREDENTIALS_REJECTED")
            assert zoomgate.stat("token.refresh_token.refused") == OUR_FAULTS
            assert await breaker_shown(zoomgate)
            await check_untouched(zoomgate)
        async with serving(zoom, tmp_path / "data") as zoomgate:
            assert [await refresh(zoomgate, user) for user in PEOPLE] == [2] * len(PEOPLE)
            assert not await breaker_shown(zoomgate)


async def test_a_daily_limit_holds_refreshes_back_within_reason(tmp_path: Path) -> None:
    """A 429 until tomorrow, twice, stops refreshes for 15 minutes and not for a day; nobody is touched."""
    async with running(tmp_path / "data", simulator=OPTIONS) as zoomgate:
        await connect_everybody(zoomgate)
        zoomgate.simulator.faults.add(Fault("token", "rate_limit_daily", times=-1))
        delays = []
        for user in PEOPLE:
            refusal = await refused(zoomgate, user)
            assert refusal.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
            delays.append(refusal.retry_after or 0.0)
        assert zoomgate.stat("faults.rate_limit_daily") == 2
        assert all(1 <= delay <= 3600 for delay in delays[:2])
        assert all(1 <= delay <= LONGEST_THROTTLE_SECONDS for delay in delays[2:])
        await check_untouched(zoomgate)


@pytest.mark.parametrize("kind", ["status", "html"])
async def test_an_outage_costs_few_calls_and_touches_nobody(tmp_path: Path, kind: str) -> None:
    """While Zoom answers 5xx, refreshes that had begun try three times each, and those that follow ask nothing; afterwards all is well."""
    async with running(tmp_path / "data", simulator=OPTIONS, environ=OFTEN) as zoomgate:
        await connect_everybody(zoomgate)
        zoomgate.simulator.faults.add(Fault("token", kind, times=-1, status=502))
        first = await asyncio.gather(*(refused(zoomgate, user) for user in PEOPLE[:2]))
        later = await asyncio.gather(*(refused(zoomgate, user) for user in PEOPLE for _ in range(20)))
        assert {refusal.short for refusal in (*first, *later)} == {("UNAVAILABLE", "ZOOM_UNAVAILABLE")}
        assert all((refusal.retry_after or 0) > 0 for refusal in (*first, *later))
        assert zoomgate.stat(f"faults.{kind}") == 2 * 3
        await check_untouched(zoomgate)


async def test_a_client_secret_is_changed_without_a_gap(tmp_path: Path) -> None:
    """With the new secret before the old one every call works while Zoom takes the old one, and from the moment when it takes the new."""
    old, new = OPTIONS.client_secret, "the-next-secret-of-the-app"
    monica = "monica@example.com"
    async with Simulator(OPTIONS) as zoom:
        async with serving(
            zoom, tmp_path / "data", environ=OFTEN | {"ZOOMGATE_CLIENT_SECRET": f"{new} {old}"}
        ) as zoomgate:
            await zoomgate.connect(monica)
            assert await refresh(zoomgate, monica) == 2
            zoom.zoom.options = SimulatorOptions(port=0, client_secret=new)
            assert await refresh(zoomgate, monica) == 3
            await zoomgate.connect("omar@example.com")
            await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=monica))
            assert zoomgate.stat("revoke.known") >= 1
        async with serving(
            zoom, tmp_path / "data", environ=OFTEN | {"ZOOMGATE_CLIENT_SECRET": new}
        ) as zoomgate:
            assert await refresh(zoomgate, "omar@example.com") == 2


async def test_a_full_disk_spends_no_token_and_ends_by_itself(tmp_path: Path) -> None:
    """While nothing can be written, valid tokens are served, refreshes are refused before Zoom is asked; with room again all is well."""
    environ = {"ZOOMGATE_AUDIT_REQUIRED": "off"}  # else tokens are kept back: tests/service/test_audit.py
    async with running(tmp_path / "data", simulator=OPTIONS, environ=environ) as zoomgate:
        await connect_everybody(zoomgate)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            refusal = await refused(zoomgate, PEOPLE[0])
            await check_untouched(zoomgate)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert refusal.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert zoomgate.stat("token.refresh_token.issued") == 0
        assert await refresh(zoomgate, PEOPLE[0]) == 2
