"""Tests for outages of Zoom and the store, rejected app credentials and a full disk.

Calls may fail, but not if a valid token is cached, and no user's connection changes.
"""

import asyncio
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.captured_logs import capture_logs
from support.clock import AdvancingClock
from support.harness import MONICA, OMAR, Harness, RpcError, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.refresh.circuit_breaker import (
    APP_REJECTION_USERS,
    MAX_THROTTLED_PAUSE_SECONDS,
    UNREACHABLE_PAUSE_SECONDS,
    UNREACHABLE_USERS,
)
from zoomgate_server.connections.refresh.protocol import Timing
from zoomgate_server.storage.record_store import StoreError

USERS = tuple(f"user{number}@example.com" for number in range(6))
OPTIONS = SimulatorOptions(port=0, users=(*DEFAULT_USERS, *(SimulatedUser(email) for email in USERS)))
NO_REFRESH_INTERVAL = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
EXPIRING = replace(OPTIONS, access_token_seconds=95)
"""Zoom issues tokens that are refreshed at the next call, and are valid until the test ends."""

LIST_MEETINGS = meetings.ListMeetingsRequest(user_email=MONICA)


async def failed_refresh(zoomgate: Harness, user: str) -> RpcError:
    return await zoomgate.error_of(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def refresh(zoomgate: Harness, user: str) -> int:
    response = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))
    generation: int = response.token.generation
    return generation


async def check_connections_unchanged(zoomgate: Harness) -> None:
    """Check that all users are connected, and that calls return each user's access token from the consent, which is still valid."""
    for user in USERS:
        response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        assert response.connection.state == Connection.STATE_ACTIVE
        issued = await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=user))
        assert issued.token.generation == 1


async def connect_all(zoomgate: Harness) -> None:
    for user in USERS:
        await zoomgate.connect(user)


async def is_circuit_breaker_open(zoomgate: Harness) -> bool:
    """Return whether the circuit breaker is open according to `/metrics`."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        return "\nzoomgate_token_endpoint_circuit_breaker_open 1.0\n" in await page.text()


async def test_wrong_client_secret_opens_the_circuit_breaker_and_changes_no_connection(
    tmp_path: Path,
) -> None:
    """After three rejections, refreshes fail without a call to Zoom; valid tokens are served. The correct secret restores refreshes."""
    async with Simulator(OPTIONS) as zoom:
        async with serving(zoom, tmp_path / "data") as zoomgate:
            await connect_all(zoomgate)
        async with serving(
            zoom, tmp_path / "data", environ={"ZOOMGATE_CLIENT_SECRET": "wrong-one"}
        ) as zoomgate:
            assert not await is_circuit_breaker_open(zoomgate)
            for user in USERS:
                error = await failed_refresh(zoomgate, user)
                assert error.short == ("INTERNAL", "APP_CREDENTIALS_REJECTED")
            assert zoomgate.stat("token.refresh_token.refused") == APP_REJECTION_USERS
            assert await is_circuit_breaker_open(zoomgate)
            await check_connections_unchanged(zoomgate)
        async with serving(zoom, tmp_path / "data") as zoomgate:
            assert [await refresh(zoomgate, user) for user in USERS] == [2] * len(USERS)
            assert not await is_circuit_breaker_open(zoomgate)


async def test_daily_limit_of_zoom_stops_refreshes_for_at_most_15_minutes(tmp_path: Path) -> None:
    """The 429 response to a second user opens the circuit breaker for at most 15 minutes, even though the daily limit lasts longer."""
    async with running(tmp_path / "data", simulator=OPTIONS) as zoomgate:
        await connect_all(zoomgate)
        zoomgate.simulator.faults.add(Fault("token", "rate_limit_daily", times=-1))
        delays = []
        for user in USERS:
            error = await failed_refresh(zoomgate, user)
            assert error.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
            delays.append(error.retry_after or 0.0)
        assert zoomgate.stat("faults.rate_limit_daily") == 2
        assert all(1 <= delay <= 3600 for delay in delays[:2])
        assert all(1 <= delay <= MAX_THROTTLED_PAUSE_SECONDS for delay in delays[2:])
        await check_connections_unchanged(zoomgate)


@pytest.mark.parametrize("kind", ["status", "html"])
async def test_outage_causes_few_calls_and_changes_no_connection(tmp_path: Path, kind: str) -> None:
    """While Zoom responds with 5xx, each running refresh calls Zoom three times, and later refreshes fail without a call."""
    async with running(tmp_path / "data", simulator=OPTIONS, environ=NO_REFRESH_INTERVAL) as zoomgate:
        await connect_all(zoomgate)
        zoomgate.simulator.faults.add(Fault("token", kind, times=-1, status=502))
        first = await asyncio.gather(*(failed_refresh(zoomgate, user) for user in USERS[:UNREACHABLE_USERS]))
        later = await asyncio.gather(*(failed_refresh(zoomgate, user) for user in USERS for _ in range(20)))
        assert {error.short for error in (*first, *later)} == {("UNAVAILABLE", "ZOOM_UNAVAILABLE")}
        assert all((error.retry_after or 0) > 0 for error in (*first, *later))
        assert zoomgate.stat(f"faults.{kind}") == UNREACHABLE_USERS * 3
        await check_connections_unchanged(zoomgate)


async def test_user_whose_refresh_failed_backs_off_alone(tmp_path: Path) -> None:
    """Within the pause, calls for the user fail with the same error, without a store or Zoom call. Other users are refreshed."""
    clock = AdvancingClock()
    async with running(tmp_path / "data", environ=NO_REFRESH_INTERVAL, clock=clock) as zoomgate:
        for user in (MONICA, OMAR):
            await zoomgate.connect(user)
        zoomgate.simulator.faults.add(Fault("token", "cut_before", times=3))
        first = await failed_refresh(zoomgate, MONICA)
        writes = zoomgate.store.calls["put"]
        repeated = await failed_refresh(zoomgate, MONICA)
        assert repeated.short == first.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert 0 < (repeated.retry_after or 0.0) <= Timing().first_backoff
        assert zoomgate.store.calls["put"] == writes
        assert zoomgate.stat("faults.cut_before") == 3
        assert zoomgate.stat("token.refresh_token.issued") == 0
        assert await refresh(zoomgate, OMAR) == 2
        clock.ahead += Timing().first_backoff
        assert await refresh(zoomgate, MONICA) == 2


async def test_retry_after_of_zoom_delays_only_the_limited_user(tmp_path: Path) -> None:
    async with running(tmp_path / "data", environ=NO_REFRESH_INTERVAL) as zoomgate:
        for user in (MONICA, OMAR):
            await zoomgate.connect(user)
        zoomgate.simulator.faults.add(Fault("token", "rate_limit_daily"))
        first = await failed_refresh(zoomgate, MONICA)
        repeated = await failed_refresh(zoomgate, MONICA)
        assert repeated.short == first.short == ("RESOURCE_EXHAUSTED", "ZOOM_RATE_LIMITED")
        assert Timing().first_backoff < (repeated.retry_after or 0.0) <= (first.retry_after or 0.0)
        assert await refresh(zoomgate, OMAR) == 2


@pytest.mark.parametrize(
    ("environ", "refreshes", "response"),
    [
        (NO_REFRESH_INTERVAL | {"ZOOMGATE_MAX_REFRESHES_PER_HOUR": "2"}, 2, "SERVER_OVERLOADED"),
        ({"ZOOMGATE_FORCED_REFRESH_SECONDS": "3600"}, 1, ""),
    ],
    ids=["hourly limit", "refreshed recently"],
)
async def test_refresh_that_does_not_call_zoom_does_not_keep_the_circuit_breaker_open(
    tmp_path: Path, environ: dict[str, str], refreshes: int, response: str
) -> None:
    """Calls for such a user in a loop do not prevent the probe, by which another user's refresh closes the circuit breaker."""
    clock = AdvancingClock()
    async with running(tmp_path / "data", simulator=OPTIONS, environ=environ, clock=clock) as zoomgate:
        await connect_all(zoomgate)
        await zoomgate.connect(MONICA)
        for generation in range(refreshes):
            assert await refresh(zoomgate, MONICA) == generation + 2
        zoomgate.simulator.faults.add(Fault("token", "cut_before", times=3 * UNREACHABLE_USERS))
        await asyncio.gather(*(failed_refresh(zoomgate, user) for user in USERS[:UNREACHABLE_USERS]))
        assert await is_circuit_breaker_open(zoomgate)
        clock.ahead += UNREACHABLE_PAUSE_SECONDS
        for _ in range(3):
            if response:
                assert (await failed_refresh(zoomgate, MONICA)).reason == response
            else:
                assert await refresh(zoomgate, MONICA) == refreshes + 1
        assert await refresh(zoomgate, USERS[-1]) == 2
        assert not await is_circuit_breaker_open(zoomgate)


async def test_client_secret_is_changed_without_interruption(tmp_path: Path) -> None:
    """If both secrets are configured, the new one first, calls succeed both before and after Zoom accepts the new secret."""
    old, new = OPTIONS.client_secret, "the-next-secret-of-the-app"
    monica = "monica@example.com"
    async with Simulator(OPTIONS) as zoom:
        async with serving(
            zoom, tmp_path / "data", environ=NO_REFRESH_INTERVAL | {"ZOOMGATE_CLIENT_SECRET": f"{new} {old}"}
        ) as zoomgate:
            await zoomgate.connect(monica)
            assert await refresh(zoomgate, monica) == 2
            zoom.zoom.options = SimulatorOptions(port=0, client_secret=new)
            assert await refresh(zoomgate, monica) == 3
            await zoomgate.connect("omar@example.com")
            await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=monica))
            assert zoomgate.stat("revoke.known") >= 1
        async with serving(
            zoom, tmp_path / "data", environ=NO_REFRESH_INTERVAL | {"ZOOMGATE_CLIENT_SECRET": new}
        ) as zoomgate:
            assert await refresh(zoomgate, "omar@example.com") == 2


async def test_full_disk_fails_refreshes_before_zoom_is_called(tmp_path: Path) -> None:
    """While the disk is full, valid tokens are served. Refreshes succeed once space is available again."""
    # otherwise, tokens would be withheld while no audit line can be written; see tests/service/test_audit.py
    environ = {"ZOOMGATE_AUDIT_REQUIRED": "off"}
    async with running(tmp_path / "data", simulator=OPTIONS, environ=environ) as zoomgate:
        await connect_all(zoomgate)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            error = await failed_refresh(zoomgate, USERS[0])
            await check_connections_unchanged(zoomgate)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert error.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert zoomgate.stat("token.refresh_token.issued") == 0
        assert await refresh(zoomgate, USERS[0]) == 2


async def test_slow_refresh_does_not_fail_calls_with_a_valid_token(tmp_path: Path) -> None:
    """Later calls read the token, because the lease has removed it from the cache. The refresh continues, and its token is stored."""
    async with running(tmp_path / "data", simulator=EXPIRING) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("token", "delay", seconds=7.0))
        for _ in range(3):
            await zoomgate.call(zoomgate.meetings.ListMeetings, LIST_MEETINGS, seconds=4.0)
        request = pb.GetTokenRequest(user_email=MONICA)
        async with asyncio.timeout(10.0):
            while (await zoomgate.call(zoomgate.auth.GetToken, request)).token.generation == 1:
                await asyncio.sleep(0.1)
        assert zoomgate.stat("token.refresh_token.issued") == 1


@pytest.mark.parametrize("seconds", [0.0, 600.0], ids=["failing", "hanging"])
async def test_failing_read_does_not_fail_calls_with_a_valid_cached_token(
    tmp_path: Path, seconds: float
) -> None:
    async def fail(_proceed: Any, *_: Any) -> Any:
        await asyncio.sleep(seconds)
        raise StoreError("injected")

    async with running(tmp_path / "data", simulator=EXPIRING) as zoomgate:
        await zoomgate.connect()
        await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
        with zoomgate.store.intercept("find", fail):
            await zoomgate.call(zoomgate.meetings.ListMeetings, LIST_MEETINGS, seconds=2.0)
            other = meetings.ListMeetingsRequest(user_email=OMAR)
            error = await zoomgate.error_of(zoomgate.meetings.ListMeetings, other, seconds=2.0)
            assert error.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")


async def test_cause_of_a_store_failure_is_logged(tmp_path: Path) -> None:
    """The log names the remedy if the file of the store was deleted; callers do not receive it."""
    problem = "the store's file was deleted while it was open; restart the service"
    async with running(tmp_path / "data", simulator=OPTIONS) as zoomgate:
        for path in (tmp_path / "data").glob("*.db*"):
            path.unlink()
        with capture_logs() as lines:
            request = meetings.ListMeetingsRequest(user_email=MONICA)
            error = await zoomgate.error_of(zoomgate.meetings.ListMeetings, request)
            async with asyncio.timeout(10.0):
                while not any(line["event"] == "change_feed.store_failed" for line in lines):
                    await asyncio.sleep(0.1)
        assert error.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "deleted" not in error.message
        assert {(line["event"], line.get("problem") or line.get("cause")) for line in lines} >= {
            ("rpc.rejected", problem),
            ("change_feed.store_failed", problem),
        }
