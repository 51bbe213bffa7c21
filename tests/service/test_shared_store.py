"""Two services on one store, a SQLite file or a MongoDB database: what one changes the other does not go on using."""

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
    """Holds Zoom's answers to refreshes while it is not open."""

    answered: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Open at first; to be asked for before the services."""
    made, real = Gate(), OAuthClient.refresh
    made.open.set()

    async def refresh(self: OAuthClient, refresh_token: str) -> Any:
        outcome = await real(self, refresh_token)
        made.answered.set()
        await made.open.wait()
        return outcome

    monkeypatch.setattr(OAuthClient, "refresh", refresh)
    return made


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """What leads both services to one store."""
    return {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"} | store_environ


@pytest.fixture
async def zoomgate(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """A service."""
    async with running(tmp_path / "data", environ=environ) as first:
        yield first


@pytest.fixture
async def other(zoomgate: Harness, environ: dict[str, str]) -> AsyncIterator[Harness]:
    """A second service on the store of the first."""
    async with serving(zoomgate.simulator, zoomgate.data_dir, environ) as second:
        yield second


async def test_a_disconnect_ends_the_other_services_token(zoomgate: Harness, other: Harness) -> None:
    """What one service ends the other stops handing out within moments, although it had the token in memory."""
    await zoomgate.connect()
    await other.call(other.auth.GetToken, TOKEN)
    await zoomgate.call(zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
    async with asyncio.timeout(SECONDS):
        while await other.auth.GetToken(TOKEN, metadata=metadata()).code() is grpc.StatusCode.OK:
            await asyncio.sleep(0.01)
    assert (await other.refusal(other.auth.GetToken, TOKEN)).reason == "ZOOM_NOT_CONNECTED"


async def test_a_token_that_was_refreshed_before_the_disconnect_serves_nobody_after_it(
    zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh whose last step, tidying the journal, takes longer than others' changes are told does not bring its token into memory."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(change_feed, "OVERLAP_SECONDS", 0.0)  # for short: an end is told once
    monkeypatch.setattr(change_feed, "DEEP_SECONDS", 1e6)
    monkeypatch.setattr(access_tokens, "CHANGE_VISIBILITY_SECONDS", 0.0)
    await zoomgate.connect()
    stored, tidied = asyncio.Event(), asyncio.Event()
    forget = TokenJournal.delete

    async def forgetting(self: TokenJournal, entry_id: str) -> None:
        stored.set()
        await tidied.wait()
        await forget(self, entry_id)

    monkeypatch.setattr(TokenJournal, "delete", forgetting)
    refresh = asyncio.create_task(
        other.call(other.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
    )
    await stored.wait()
    await zoomgate.call(zoomgate.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
    told, follow = 0, ConnectionRepository.changes

    async def telling(self: ConnectionRepository, since: float, limit: int) -> tuple[list[Change], float]:
        nonlocal told
        found = await follow(self, since, limit)
        told += 1
        return found

    monkeypatch.setattr(ConnectionRepository, "changes", telling)
    while told < 5:
        await asyncio.sleep(0.01)
    tidied.set()
    with pytest.raises(grpc.aio.AioRpcError):
        await refresh
    assert (await other.refusal(other.auth.GetToken, TOKEN)).reason == "ZOOM_NOT_CONNECTED"


async def test_a_refresh_elsewhere_costs_no_second_one(zoomgate: Harness, other: Harness) -> None:
    """A token that another service replaced is refused by Zoom; the newer one is read and used, without a refresh."""
    await zoomgate.connect()
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await other.call(other.proxy.Get, me)
    await zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
    assert (await other.call(other.proxy.Get, me)).response.status == 200
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_a_token_that_was_replaced_twice_is_no_end_of_the_consent(
    zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another service replaces also the token that a refused call is repeated with, the caller is to come back, not the person."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 1e6)
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await zoomgate.connect()
    await other.call(other.proxy.Get, me)
    refresh = auth.RefreshTokenRequest(user_email=MONICA)
    real, sent = ZoomClient.send, 0

    async def send(self: ZoomClient, *arguments: Any, **named: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent <= 2:
            await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
        return await real(self, *arguments, **named)

    monkeypatch.setattr(ZoomClient, "send", send)
    refusal = await other.refusal(other.proxy.Get, me)
    assert (refusal.short, sent) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    assert refusal.retry_after
    assert (await other.call(other.proxy.Get, me)).response.status == 200


async def test_a_token_that_is_just_being_replaced_is_no_end_of_the_consent(
    gate: Gate, zoomgate: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while the other service has Zoom's answer, which ended the token at Zoom, and the store does not have it yet."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 1e6)
    me = proxy.GetRequest(user_email=MONICA, url="/users/me")
    await zoomgate.connect()
    await other.call(other.proxy.Get, me)
    refresh = auth.RefreshTokenRequest(user_email=MONICA)
    send, sent, refreshing = ZoomClient.send, 0, list[asyncio.Task[Any]]()

    async def send_late(self: ZoomClient, *arguments: Any, **named: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 1:
            await zoomgate.call(zoomgate.auth.RefreshToken, refresh)
            gate.open.clear()
            gate.answered.clear()
        if sent == 2:
            refreshing.append(asyncio.create_task(zoomgate.call(zoomgate.auth.RefreshToken, refresh)))
            await gate.answered.wait()
        return await send(self, *arguments, **named)

    monkeypatch.setattr(ZoomClient, "send", send_late)
    refusal = await other.refusal(other.proxy.Get, me)
    assert (refusal.short, sent) == (("UNAVAILABLE", "REFRESH_IN_PROGRESS"), 2)
    gate.open.set()
    await refreshing[0]
    assert (await other.call(other.proxy.Get, me)).response.status == 200


async def test_two_services_refresh_once(zoomgate: Harness, other: Harness) -> None:
    """Calls to both services with an expired token cost one refresh, and none fails."""
    await zoomgate.connect()
    create = meetings.CreateMeetingRequest(user_email=MONICA)
    zoomgate.simulator.zoom.expire(MONICA)
    calls = [
        harness.call(harness.meetings.CreateMeeting, create)
        for harness in (zoomgate, other)
        for _ in range(20)
    ]
    answers = await asyncio.gather(*calls)
    assert len({answer.meeting.id for answer in answers}) == 40
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_page_tokens_and_links_work_at_either(zoomgate: Harness, other: Harness) -> None:
    """No state lives in one process: a page token and an authorization of one service are the other's as well."""
    await zoomgate.connect()
    first = await zoomgate.call(
        zoomgate.auth.ListConnections, auth.ListConnectionsRequest(page_size=1), "admin"
    )
    rest = auth.ListConnectionsRequest(page_size=1, page_token=first.next_page_token)
    assert not (await other.call(other.auth.ListConnections, rest, "admin")).connections
    begun = await zoomgate.begin()
    start = other.http_url + URL(begun.authorization_url).raw_path_qs
    async with browser() as session:
        action, _ = await consent_form(session, start)
        assert action.startswith(zoomgate.simulator.url)
