"""Tests for two services on one store, SQLite or MongoDB. Neither uses outdated tokens after the other has changed a connection."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from yarl import URL

from support.faulty_store import Gate
from support.harness import MONICA, SECONDS, Harness, browser, consent_form, metadata, running, serving
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import access_tokens
from zoomgate_server.watch import change_feed

TOKEN = auth.GetTokenRequest(user_email=MONICA)
REFRESH = auth.RefreshTokenRequest(user_email=MONICA)
ME = proxy.GetRequest(user_email=MONICA, url="/users/me")


class HeldRequests:
    """Requests for the user's profile, which the Zoom simulator holds until they are released."""

    def __init__(self, zoomgate: Harness) -> None:
        self._zoomgate = zoomgate
        self._hold(600.0)

    @property
    def count(self) -> int:
        """The number of requests."""
        return self._zoomgate.stat("faults.delay")

    async def wait_for(self, number: int) -> None:
        """Wait for a request, counted from 1."""
        async with asyncio.timeout(SECONDS):
            while self.count < number:
                await asyncio.sleep(0.01)

    def release(self, *, hold_next: bool) -> None:
        """Let the simulator process the held request."""
        self._zoomgate.simulator.faults.clear()
        self._hold(600.0 if hold_next else 0.0)

    def _hold(self, seconds: float) -> None:
        self._zoomgate.simulator.faults.add(Fault("users_me", "delay", times=-1, seconds=seconds))


def held_commit(*, after_effect: bool) -> Gate:
    """Return a gate that holds the write of a refreshed token, which follows the write of the lease."""
    writes = itertools.count()
    return Gate(after_effect=after_effect, holds=lambda *_: next(writes) > 0)


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """Return settings with which both services use the same store."""
    return {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"} | store_environ


@pytest.fixture
def timing(request: pytest.FixtureRequest) -> Timing:
    """Return the timing of both services, which tests can set with a parameter."""
    return getattr(request, "param", Timing())


@pytest.fixture
async def zoomgate(environ: dict[str, str], tmp_path: Path, timing: Timing) -> AsyncIterator[Harness]:
    """Run the first service."""
    async with running(tmp_path / "data", environ=environ, timing=timing) as first:
        yield first


@pytest.fixture
async def other(zoomgate: Harness, environ: dict[str, str], timing: Timing) -> AsyncIterator[Harness]:
    """Run the second service, on the store of the first service."""
    async with serving(zoomgate.simulator, zoomgate.data_dir, environ, timing=timing) as second:
        yield second


async def test_disconnection_removes_the_token_from_the_cache_of_the_other_service(
    zoomgate: Harness, other: Harness
) -> None:
    await zoomgate.connect()
    await other.call(other.auth.GetToken, TOKEN)
    await zoomgate.call(zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
    async with asyncio.timeout(SECONDS):
        while await other.auth.GetToken(TOKEN, metadata=metadata()).code() is grpc.StatusCode.OK:
            await asyncio.sleep(0.01)
    assert (await other.error_of(other.auth.GetToken, TOKEN)).reason == "ZOOM_NOT_CONNECTED"


@pytest.mark.parametrize(
    "timing",
    # without an overlap between polls, each change is reported only once
    [
        Timing(
            feed=change_feed.Timing(poll_interval=0.01, overlap=0.0, full_poll_interval=1e6),
            tokens=access_tokens.Timing(change_visibility=0.0),
        )
    ],
    indirect=True,
)
async def test_token_refreshed_before_a_disconnection_is_not_cached_afterwards(
    zoomgate: Harness, other: Harness
) -> None:
    """The refresh ends only after the change feed has reported the disconnection."""
    await zoomgate.connect()
    polls = 0

    async def count_polls(changes: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal polls
        result = await changes(*arguments, **options)
        polls += 1
        return result

    commit = held_commit(after_effect=True)
    with other.store.intercept("put", commit), other.store.intercept("changes", count_polls):
        refresh = asyncio.create_task(other.call(other.auth.RefreshToken, REFRESH))
        await commit.reached.wait()
        await zoomgate.call(zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
        polls = 0
        while polls < 5:
            await asyncio.sleep(0.01)
        commit.opened.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await refresh
    assert (await other.error_of(other.auth.GetToken, TOKEN)).reason == "ZOOM_NOT_CONNECTED"


async def test_token_refreshed_by_the_other_service_is_read_instead_of_refreshed_again(
    zoomgate: Harness, other: Harness
) -> None:
    await zoomgate.connect()
    await other.call(other.proxy.Get, ME)
    await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
    assert (await other.call(other.proxy.Get, ME)).response.status == 200
    assert zoomgate.stat("token.refresh_token.issued") == 1


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=1e6))], indirect=True)
async def test_token_replaced_twice_during_a_call_does_not_require_consent(
    zoomgate: Harness, other: Harness
) -> None:
    """The first service refreshes before the call and again before its retry, so the caller of the second receives REFRESH_IN_PROGRESS."""
    await zoomgate.connect()
    await other.call(other.proxy.Get, ME)
    requests = HeldRequests(zoomgate)
    call = asyncio.create_task(other.error_of(other.proxy.Get, ME))
    for number in (1, 2):
        await requests.wait_for(number)
        await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
        requests.release(hold_next=number == 1)
    failure = await call
    assert (failure.short, requests.count) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    assert failure.retry_after
    assert (await other.call(other.proxy.Get, ME)).response.status == 200


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=1e6))], indirect=True)
async def test_token_being_refreshed_during_a_call_does_not_require_consent(
    zoomgate: Harness, other: Harness
) -> None:
    """The first service has received a new token, which invalidates the old one, but has not stored it when the second retries its call."""
    await zoomgate.connect()
    await other.call(other.proxy.Get, ME)
    requests = HeldRequests(zoomgate)
    call = asyncio.create_task(other.error_of(other.proxy.Get, ME))
    await requests.wait_for(1)
    await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH)
    requests.release(hold_next=True)
    await requests.wait_for(2)
    commit = held_commit(after_effect=False)
    with zoomgate.store.intercept("put", commit):
        refresh = asyncio.create_task(zoomgate.call(zoomgate.auth.RefreshToken, REFRESH))
        await commit.reached.wait()
        requests.release(hold_next=False)
        failure = await call
        commit.opened.set()
        await refresh
    assert (failure.short, requests.count) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    assert (await other.call(other.proxy.Get, ME)).response.status == 200


async def test_two_services_refresh_an_expired_token_once(zoomgate: Harness, other: Harness) -> None:
    await zoomgate.connect()
    create = meetings.CreateMeetingRequest(user_email=MONICA)
    zoomgate.simulator.zoom.expire(MONICA)
    calls = [
        harness.call(harness.meetings.CreateMeeting, create)
        for harness in (zoomgate, other)
        for _ in range(20)
    ]
    responses = await asyncio.gather(*calls)
    assert len({response.meeting.id for response in responses}) == 40
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_page_tokens_and_authorization_links_are_valid_in_both_services(
    zoomgate: Harness, other: Harness
) -> None:
    await zoomgate.connect()
    first_page = await zoomgate.call(
        zoomgate.auth.ListConnections, auth.ListConnectionsRequest(page_size=1), "admin"
    )
    next_page = auth.ListConnectionsRequest(page_size=1, page_token=first_page.next_page_token)
    assert not (await other.call(other.auth.ListConnections, next_page, "admin")).connections
    authorization = await zoomgate.begin_authorization()
    start_url = other.http_url + URL(authorization.authorization_url).raw_path_qs
    async with browser() as session:
        action, _ = await consent_form(session, start_url)
        assert action.startswith(zoomgate.simulator.url)
