"""A store that goes back in time under a running service (a backup is restored): what was handed out once is not followed by less."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from resilience.place import Place
from support.harness import MONICA, OMAR, Harness, running, serving
from zoom_simulator import SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.watch import change_feed

NEVER, OFTEN = 1e6, 0.01
"""Pauses of the feed by which a service hears what others changed."""

STRICT = SimulatorOptions(port=0)
TOLERANT = SimulatorOptions(port=0, tolerance=1)
CONSENT = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED", "REJECTED")


async def refresh(harness: Harness, user: str = MONICA) -> pb.Token:
    """Refresh a person's token."""
    request = pb.RefreshTokenRequest(user_email=user)
    return (await harness.call(harness.auth.RefreshToken, request)).token


async def token(harness: Harness, user: str = MONICA, seconds: int = 0) -> pb.Token:
    """Get a person's token."""
    request = pb.GetTokenRequest(user_email=user)
    request.min_validity.seconds = seconds
    return (await harness.call(harness.auth.GetToken, request)).token


async def how_refused(harness: Harness, method: str = "RefreshToken") -> tuple[str, str, str]:
    """How a call about Monica's token fails."""
    request = getattr(pb, f"{method}Request")(user_email=MONICA)
    refusal = await harness.refusal(getattr(harness.auth, method), request)
    return *refusal.short, refusal.metadata["cause"]


async def times_set_back(harness: Harness) -> int:
    """What the metrics say."""
    async with aiohttp.ClientSession() as session, session.get(f"{harness.http_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (line,) = (line for line in lines if line.startswith("zoomgate_store_rollbacks_detected_total"))
    return int(float(line.split()[1]))


@pytest.fixture
def feed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the service looks at what others changed: with NEVER it keeps its tokens in memory."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", getattr(request, "param", NEVER))


@pytest.fixture(params=[STRICT, TOLERANT], ids=["strict", "tolerant"])
async def restored(
    request: pytest.FixtureRequest, place: Place, feed: None
) -> AsyncIterator[tuple[Harness, pb.Token]]:
    """A service whose store has Monica's first record again, and the second token that it has given since."""
    async with running(place.folder, simulator=request.param, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
        backup = await place.record(MONICA)
        newest = await refresh(zoomgate)
        assert newest.generation == 2
        await place.put(backup)
        yield zoomgate, newest


async def test_the_newer_token_goes_on_and_then_the_older_one_is_tried(
    restored: tuple[Harness, pb.Token],
) -> None:
    """What is in memory counts. The stored refresh token is tried once it is needed: refused, or taken and then above all before."""
    zoomgate, newest = restored
    assert (await token(zoomgate)).access_token == newest.access_token
    with capture_logs() as lines:
        for _ in range(3):
            checked = pb.CheckTokenRequest(user_email=MONICA)
            assert not (await zoomgate.call(zoomgate.auth.CheckToken, checked)).expired
    told = [line for line in lines if line["event"] == "connection.rolled_back"]
    assert [(line["log_level"], line["generation"], line["seen"]) for line in told] == [("error", 1, 2)]
    assert await times_set_back(zoomgate) == 3
    spent = zoomgate.stat("token.refresh_token.refused")
    if zoomgate.simulator.options.tolerance:
        assert (await refresh(zoomgate)).generation == 3
        assert (await token(zoomgate)).generation == 3
    else:
        for _ in range(2):
            assert await how_refused(zoomgate) == CONSENT
        assert zoomgate.stat("token.refresh_token.refused") == spent + 1
        await zoomgate.connect()
        assert (await token(zoomgate)).generation == 3
    assert (await refresh(zoomgate)).generation == 4
    assert (await token(zoomgate, OMAR)).generation == 1


@pytest.mark.parametrize("feed", [OFTEN], indirect=True)
async def test_a_token_that_went_from_memory_is_not_followed_by_an_older_one(
    restored: tuple[Harness, pb.Token], feed: None
) -> None:
    """Once the service has heard of the change, the older access token is not given either: its refresh token is tried first."""
    zoomgate, newest = restored
    given = newest
    while given.access_token == newest.access_token:
        await asyncio.sleep(0.01)
        try:
            given = await token(zoomgate)
        except grpc.aio.AioRpcError:  # the end of the test says which
            break
    if zoomgate.simulator.options.tolerance:
        assert (await token(zoomgate)).generation == 3
    else:
        assert await how_refused(zoomgate, "GetToken") == CONSENT
    assert await times_set_back(zoomgate)


async def test_many_callers_at_once_cost_one_refresh(place: Place, feed: None) -> None:
    """A store that was set back under an expired token does not make callers refresh one after another."""
    options = SimulatorOptions(port=0, tolerance=1, access_token_seconds=200)
    async with running(place.folder, simulator=options, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        backup = await place.record(MONICA)
        await refresh(zoomgate)
        await place.put(backup)
        zoomgate.simulator.zoom.options = TOLERANT
        spent = zoomgate.stat("token.refresh_token.issued")
        found = await asyncio.gather(*(token(zoomgate, seconds=300) for _ in range(20)))
        assert {given.generation for given in found} == {3}
        assert zoomgate.stat("token.refresh_token.issued") == spent + 1


async def test_an_earlier_consent_does_not_come_back(zoomgate: Harness, place: Place, feed: None) -> None:
    """A record from before the last consent is behind it, whatever its generation; a refusal asks for consent, which goes on above."""
    await zoomgate.connect()
    await refresh(zoomgate)
    backup = await place.record(MONICA)
    await zoomgate.connect()
    newest = await token(zoomgate)
    assert newest.generation == 3
    await place.put(backup)
    assert (await token(zoomgate)).access_token == newest.access_token
    assert (await how_refused(zoomgate))[:2] == CONSENT[:2]
    await zoomgate.connect()
    assert (await token(zoomgate)).generation == 4


@pytest.mark.parametrize("feed", [OFTEN], indirect=True)
async def test_a_consent_in_a_store_that_lost_everything_counts(
    zoomgate: Harness, place: Place, feed: None, tmp_path: Path
) -> None:
    """A consent that another service took, and that begins at the first generation again, is used here too."""
    await zoomgate.connect()
    await refresh(zoomgate)
    lost = await place.record(MONICA)
    assert await (await place.store()).delete(lost.key, lost.rev)
    async with serving(zoomgate.simulator, tmp_path / "other", place.elsewhere()) as other:
        await other.connect()
        given = await token(other)
    assert given.generation == 1
    while (await token(zoomgate)).access_token != given.access_token:
        await asyncio.sleep(0.01)
    assert (await refresh(zoomgate)).generation == 2
