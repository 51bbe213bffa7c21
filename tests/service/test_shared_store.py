"""Tests for two services on one store, SQLite or MongoDB. Neither uses outdated tokens after the other has changed a connection."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from yarl import URL

from support.harness import MONICA, SECONDS, Harness, browser, consent_form, metadata, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import access_tokens
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.storage.record_store import Change
from zoomgate_server.watch import change_feed
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient

TOKEN = auth.GetTokenRequest(user_email=MONICA)


@dataclass
class Gate:
    """A gate that, while it is closed, delays Zoom's responses to refreshes.

    Attributes:
        responded: Event that is set when Zoom has responded.
        open: Event that is set while the gate is open.
    """

    responded: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return an open gate. A test must request this fixture before the fixtures of the services."""
    gate, original = Gate(), OAuthClient.refresh
    gate.open.set()

    async def refresh(self: OAuthClient, refresh_token: str) -> Any:
        outcome = await original(self, refresh_token)
        gate.responded.set()
        await gate.open.wait()
        return outcome

    monkeypatch.setattr(OAuthClient, "refresh", refresh)
    return gate


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
    [Timing(feed=change_feed.Timing(poll_interval=0.01, overlap=0.0, full_poll_interval=1e6))],
    indirect=True,
)
async def test_token_refreshed_before_a_disconnection_is_not_cached_afterwards(
    zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of the refresh, deleting the journal entry, ends only after the change feed has reported the disconnection."""
    monkeypatch.setattr(access_tokens, "CHANGE_VISIBILITY_SECONDS", 0.0)
    await zoomgate.connect()
    stored, may_delete = asyncio.Event(), asyncio.Event()
    delete = TokenJournal.delete

    async def delayed_delete(self: TokenJournal, entry_id: str) -> None:
        stored.set()
        await may_delete.wait()
        await delete(self, entry_id)

    monkeypatch.setattr(TokenJournal, "delete", delayed_delete)
    refresh = asyncio.create_task(
        other.call(other.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
    )
    await stored.wait()
    await zoomgate.call(zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
    polls, changes = 0, ConnectionRepository.changes

    async def counted_changes(
        self: ConnectionRepository, since: float, limit: int
    ) -> tuple[list[Change], float]:
        nonlocal polls
        result = await changes(self, since, limit)
        polls += 1
        return result

    monkeypatch.setattr(ConnectionRepository, "changes", counted_changes)
    while polls < 5:
        await asyncio.sleep(0.01)
    may_delete.set()
    with pytest.raises(grpc.aio.AioRpcError):
        await refresh
    assert (await other.error_of(other.auth.GetToken, TOKEN)).reason == "ZOOM_NOT_CONNECTED"


async def test_token_refreshed_by_the_other_service_is_read_instead_of_refreshed_again(
    zoomgate: Harness, other: Harness
) -> None:
    await zoomgate.connect()
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await other.call(other.proxy.Get, me)
    await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
    assert (await other.call(other.proxy.Get, me)).response.status == 200
    assert zoomgate.stat("token.refresh_token.issued") == 1


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=1e6))], indirect=True)
async def test_token_replaced_twice_during_a_call_does_not_require_consent(
    zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first service refreshes before the call and again before its retry, so the caller of the second receives REFRESH_IN_PROGRESS."""
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await zoomgate.connect()
    await other.call(other.proxy.Get, me)
    refresh = auth.RefreshTokenRequest(user_email=MONICA)
    original, sent = ZoomClient.send, 0

    async def send(self: ZoomClient, *arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent <= 2:
            await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
        return await original(self, *arguments, **options)

    monkeypatch.setattr(ZoomClient, "send", send)
    failure = await other.error_of(other.proxy.Get, me)
    assert (failure.short, sent) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    assert failure.retry_after
    assert (await other.call(other.proxy.Get, me)).response.status == 200


@pytest.mark.parametrize("timing", [Timing(feed=change_feed.Timing(poll_interval=1e6))], indirect=True)
async def test_token_being_refreshed_during_a_call_does_not_require_consent(
    gate: Gate, zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first service has received a new token, which invalidates the old one, but has not stored it when the second retries its call."""
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await zoomgate.connect()
    await other.call(other.proxy.Get, me)
    refresh = auth.RefreshTokenRequest(user_email=MONICA)
    original, sent, refreshes = ZoomClient.send, 0, list[asyncio.Task[Any]]()

    async def send(self: ZoomClient, *arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 1:
            await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
            gate.open.clear()
            gate.responded.clear()
        if sent == 2:
            refreshes.append(asyncio.create_task(zoomgate.call(zoomgate.auth.RefreshToken, refresh)))
            await gate.responded.wait()
        return await original(self, *arguments, **options)

    monkeypatch.setattr(ZoomClient, "send", send)
    failure = await other.error_of(other.proxy.Get, me)
    assert (failure.short, sent) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    gate.open.set()
    await refreshes[0]
    assert (await other.call(other.proxy.Get, me)).response.status == 200


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
