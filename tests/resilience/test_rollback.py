"""Tests for a store that is rolled back while the service runs, as after a restore: callers never receive an older token."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest

from resilience.place import Place
from support.captured_logs import capture_logs
from support.harness import MONICA, OMAR, Harness, running, serving
from zoom_simulator import RefreshTokenReuse, Rules, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.watch import change_feed

NEVER, OFTEN = 1e6, 0.01
"""Poll intervals of the change feed, in seconds."""

STRICT = SimulatorOptions(port=0)
TOLERANT = SimulatorOptions(port=0, rules=Rules(refresh_token_reuse=RefreshTokenReuse.TOLERATED))
CONSENT = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED", "REJECTED")


async def refresh(harness: Harness, user: str = MONICA) -> pb.Token:
    """Refresh the token of a user, and return the new token."""
    request = pb.RefreshTokenRequest(user_email=user)
    return (await harness.call(harness.auth.RefreshToken, request)).token


async def token(harness: Harness, user: str = MONICA, seconds: int = 0) -> pb.Token:
    """Return the token of a user."""
    request = pb.GetTokenRequest(user_email=user)
    request.min_validity.seconds = seconds
    return (await harness.call(harness.auth.GetToken, request)).token


async def error_of(harness: Harness, method: str = "RefreshToken") -> tuple[str, str, str]:
    """Return the status code, reason and cause of a failing call for Monica."""
    request = getattr(pb, f"{method}Request")(user_email=MONICA)
    refusal = await harness.error_of(getattr(harness.auth, method), request)
    return *refusal.short, refusal.metadata["cause"]


async def rollbacks_detected(harness: Harness) -> int:
    """Return the number of detected rollbacks according to the metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{harness.http_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    (line,) = (line for line in lines if line.startswith("zoomgate_store_rollbacks_detected_total"))
    return int(float(line.split()[1]))


@pytest.fixture
def timing(request: pytest.FixtureRequest) -> Timing:
    """Return the timing of the service. With NEVER, the change feed polls only at the start, so it invalidates no cached token."""
    return Timing(feed=change_feed.Timing(poll_interval=getattr(request, "param", NEVER)))


@pytest.fixture(params=[STRICT, TOLERANT], ids=["strict", "tolerant"])
async def restored(
    request: pytest.FixtureRequest, place: Place, timing: Timing
) -> AsyncIterator[tuple[Harness, pb.Token]]:
    """Yield a service whose store was rolled back to Monica's first record, and Monica's second token, which that record lacks."""
    async with running(
        place.folder, simulator=request.param, environ=place.environ, timing=timing
    ) as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
        backup = await place.record(MONICA)
        newest = await refresh(zoomgate)
        assert newest.generation == 2
        await place.put(backup)
        yield zoomgate, newest


async def test_cached_newer_token_is_used_before_the_older_one_is_tried(
    restored: tuple[Harness, pb.Token],
) -> None:
    """The older, stored refresh token is used only if needed. If Zoom accepts it, the new generation is higher than all previous ones."""
    zoomgate, newest = restored
    assert (await token(zoomgate)).access_token == newest.access_token
    with capture_logs() as lines:
        for _ in range(3):
            checked = pb.CheckTokenRequest(user_email=MONICA)
            assert not (await zoomgate.call(zoomgate.auth.CheckToken, checked)).expired
    logged = [line for line in lines if line["event"] == "connection.rolled_back"]
    assert [(line["level"], line["generation"], line["seen"]) for line in logged] == [("error", 1, 2)]
    assert await rollbacks_detected(zoomgate) == 3
    rejected = zoomgate.stat("token.refresh_token.refused")
    if zoomgate.simulator.options is TOLERANT:
        assert (await refresh(zoomgate)).generation == 3
        assert (await token(zoomgate)).generation == 3
    else:
        for _ in range(2):
            assert await error_of(zoomgate) == CONSENT
        assert zoomgate.stat("token.refresh_token.refused") == rejected + 1
        await zoomgate.connect()
        assert (await token(zoomgate)).generation == 3
    assert (await refresh(zoomgate)).generation == 4
    assert (await token(zoomgate, OMAR)).generation == 1


@pytest.mark.parametrize("timing", [OFTEN], indirect=True)
async def test_token_dropped_from_the_cache_is_not_followed_by_an_older_one(
    restored: tuple[Harness, pb.Token], timing: Timing
) -> None:
    """When the change feed detects the rollback, the service refreshes the stored token and never returns the older access token."""
    zoomgate, newest = restored
    returned = newest
    while returned.access_token == newest.access_token:
        await asyncio.sleep(0.01)
        try:
            returned = await token(zoomgate)
        except grpc.aio.AioRpcError:  # checked at the end of the test
            break
    if zoomgate.simulator.options is TOLERANT:
        assert (await token(zoomgate)).generation == 3
    else:
        assert await error_of(zoomgate, "GetToken") == CONSENT
    assert await rollbacks_detected(zoomgate)


async def test_many_concurrent_calls_share_one_refresh(place: Place, timing: Timing) -> None:
    """A rollback while the token is about to expire causes one refresh, not one per call."""
    options = replace(TOLERANT, access_token_seconds=200)
    async with running(place.folder, simulator=options, environ=place.environ, timing=timing) as zoomgate:
        await zoomgate.connect()
        backup = await place.record(MONICA)
        await refresh(zoomgate)
        await place.put(backup)
        zoomgate.simulator.zoom.options = TOLERANT
        issued = zoomgate.stat("token.refresh_token.issued")
        tokens = await asyncio.gather(*(token(zoomgate, seconds=300) for _ in range(20)))
        assert {returned.generation for returned in tokens} == {3}
        assert zoomgate.stat("token.refresh_token.issued") == issued + 1


async def test_tokens_of_an_earlier_consent_are_not_returned(zoomgate: Harness, place: Place) -> None:
    """A record from before the latest consent is treated as older, whatever its generation. The next consent gets a higher generation."""
    await zoomgate.connect()
    await refresh(zoomgate)
    backup = await place.record(MONICA)
    await zoomgate.connect()
    newest = await token(zoomgate)
    assert newest.generation == 3
    await place.put(backup)
    assert (await token(zoomgate)).access_token == newest.access_token
    assert (await error_of(zoomgate))[:2] == CONSENT[:2]
    await zoomgate.connect()
    assert (await token(zoomgate)).generation == 4


@pytest.mark.parametrize("timing", [OFTEN], indirect=True)
async def test_consent_in_an_emptied_store_is_used(zoomgate: Harness, place: Place, tmp_path: Path) -> None:
    """A consent through a different service restarts at generation 1 and replaces the cached token of the first service."""
    await zoomgate.connect()
    await refresh(zoomgate)
    lost = await place.record(MONICA)
    assert await (await place.store()).delete(lost.key, lost.rev)
    async with serving(zoomgate.simulator, tmp_path / "other", place.elsewhere()) as other:
        await other.connect()
        returned = await token(other)
    assert returned.generation == 1
    while (await token(zoomgate)).access_token != returned.access_token:
        await asyncio.sleep(0.01)
    assert (await refresh(zoomgate)).generation == 2
