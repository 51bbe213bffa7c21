"""What the faults of a refresh lead to, as callers, Zoom and the store see it: the same over a file and over a database."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from resilience.place import APP, Place
from support.harness import MONICA, Harness, running, serving
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import access_tokens
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import PendingAttempt, ConnectionRecord
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import TokenOutcome

REAUTH = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
ZOOM = ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
IN_PROGRESS = ("UNAVAILABLE", "REFRESH_IN_PROGRESS")
WANTED = pb.RefreshTokenRequest(user_email=MONICA)
DAY = 24 * 3600.0
CROWD = tuple(f"person{number}@example.com" for number in range(500))


async def refresh(zoomgate: Harness) -> pb.Token:
    """Refresh Monica's token."""
    return (await zoomgate.call(zoomgate.auth.RefreshToken, WANTED)).token


async def token(zoomgate: Harness, user: str = MONICA, seconds: int = 0) -> pb.Token:
    """Get a token that is valid for so many seconds."""
    wanted = pb.GetTokenRequest(user_email=user)
    wanted.min_validity.seconds = seconds
    return (await zoomgate.call(zoomgate.auth.GetToken, wanted, seconds=60.0)).token


async def state(zoomgate: Harness, user: str = MONICA) -> str:
    """The state that is shown of a person's connection."""
    shown = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
    return Connection.State.Name(shown.connection.state).removeprefix("STATE_")


async def metric(zoomgate: Harness, name: str) -> float:
    """The value of a metric; 0 if it is not there."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await page.text(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def asked(zoomgate: Harness) -> int:
    """How many refresh tokens reached Zoom."""
    return zoomgate.stat("token.refresh_token.issued") + zoomgate.stat("token.refresh_token.refused")


async def change(place: Place, how: Callable[[ConnectionRecord], ConnectionRecord]) -> ConnectionRecord:
    """Change Monica's record as another process does."""
    envelope = Envelope(app=APP, keys=key_file.load(place.folder.parent / "keys.json"))
    stored = await place.record(MONICA)
    changed = how(connection_record.decode(envelope, stored))
    await place.put(connection_record.encode(envelope, changed))
    return changed


async def left_by_the_dead(zoomgate: Harness, place: Place) -> None:
    """Zoom has rotated the token for a process that was killed then: its mark stays, its lease is over."""
    grant = zoomgate.simulator.zoom.grants[MONICA]
    zoomgate.simulator.zoom.refresh(grant.refresh_token)
    mark = PendingAttempt(epoch=1, started_at=time.time())
    await change(place, lambda record: replace(record, epoch=1, pending_attempts=(mark,)))


async def test_a_thousand_calls_at_once_cost_one_refresh(place: Place) -> None:
    """All get the same new token from one call of Zoom, and the store has it as one generation."""
    options = SimulatorOptions(port=0, access_token_seconds=90)
    async with running(place.folder, simulator=options, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.zoom.options = SimulatorOptions(port=0)
        answers = await asyncio.gather(*(token(zoomgate, seconds=300) for _ in range(1000)))
        assert len({answer.access_token for answer in answers}) == 1
        assert {answer.generation for answer in answers} == {2}
        assert asked(zoomgate) == 1


async def test_five_hundred_people_at_once_are_all_served(place: Place) -> None:
    """When everybody's token ends at the same time each costs one refresh, and nobody is turned away."""
    users = (*DEFAULT_USERS, *(SimulatedUser(email) for email in CROWD))
    short = SimulatorOptions(port=0, users=users, access_token_seconds=90)
    async with running(place.folder, simulator=short, environ=place.environ) as zoomgate:
        zoom = zoomgate.simulator.zoom

        async def bring(user: str) -> None:
            code = zoom.issue_code(zoom.users[user], "http://127.0.0.1/x")
            brought = zoom.exchange(code, "http://127.0.0.1/x", "")["refresh_token"]
            request = pb.RequestTokenRequest(user_email=user, refresh_token=brought)
            await zoomgate.call(zoomgate.auth.RequestToken, request, seconds=60.0)

        await asyncio.gather(*map(bring, CROWD))
        zoom.options = replace(short, access_token_seconds=3600)
        before = asked(zoomgate)
        answers = await asyncio.gather(*(token(zoomgate, user, seconds=300) for user in CROWD))
        assert {answer.generation for answer in answers} == {2}
        assert asked(zoomgate) - before == len(CROWD)


async def test_a_tolerant_zoom_makes_good_for_who_was_killed_with_its_answer(place: Place) -> None:
    """The token before the newest works once more, so the next process gets a new one, and the person notices nothing."""
    options = SimulatorOptions(port=0, tolerance=1)
    async with running(place.folder, simulator=options, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        await left_by_the_dead(zoomgate, place)
        assert (await refresh(zoomgate)).generation == 2
        assert await state(zoomgate) == "ACTIVE"


async def test_a_refusal_in_doubt_is_no_verdict_and_costs_one_call(
    zoomgate: Harness, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the killed one could still be about to store the answer, callers hear that it goes on, and the record stays as it is."""
    monkeypatch.setattr(access_tokens, "RESPONSE_MARGIN", 9.5)  # of ten: the answer has time for its way back
    await zoomgate.connect()
    await left_by_the_dead(zoomgate, place)
    for _ in range(3):
        refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED, seconds=10.0)
        assert refusal.short == IN_PROGRESS
        assert refusal.retry_after
    assert await state(zoomgate) == "ACTIVE"
    assert asked(zoomgate) == 1
    aged = await change(
        place,
        lambda record: replace(record, lease=None, pending_attempts=(PendingAttempt(1, time.time() - 3600),)),
    )
    refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)
    assert (*refusal.short, refusal.metadata["cause"]) == (*REAUTH, "OUTCOME_LOST")
    assert aged.generation == 1
    for _ in range(3):
        assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)).short == REAUTH
    assert asked(zoomgate) == 2


async def test_answers_that_are_lost_are_asked_for_thrice_and_told_of_in_the_end(zoomgate: Harness) -> None:
    """A strict Zoom whose answers are lost is asked 1 + 2 times; its later refusal means that the outcome was lost, counted once."""
    await zoomgate.connect()
    zoomgate.simulator.faults.add(Fault("token", "cut_after", times=3))
    assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)).short == ZOOM
    assert asked(zoomgate) == 3
    assert await state(zoomgate) == "ACTIVE"
    for _ in range(2):
        refusal = await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)
        assert (*refusal.short, refusal.metadata["cause"]) == (*REAUTH, "OUTCOME_LOST")
    assert asked(zoomgate) == 4
    assert await metric(zoomgate, "zoomgate_refresh_outcomes_lost_total") == 1


async def test_a_refusal_without_doubt_is_believed_at_once(zoomgate: Harness) -> None:
    """It costs one call, and is counted once however many ask afterwards."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    for _ in range(3):
        assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)).short == REAUTH
    assert asked(zoomgate) == 1
    assert await metric(zoomgate, 'zoomgate_refreshes_total{outcome="reauth_required"}') == 1
    assert await state(zoomgate) == "REAUTH_REQUIRED"


@pytest.mark.parametrize("sent", [True, False])
async def test_a_zoom_that_rotates_nothing_is_fine(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    """If the answer has the same refresh token, or none, the old one stays and is used again for the generation after it."""
    await zoomgate.connect()
    zoom = zoomgate.simulator.zoom
    real = zoom.refresh

    def keep(brought: str) -> dict[str, Any]:
        answer = real(brought) | {"refresh_token": brought}
        grant = zoom.grants[MONICA]
        grant.refresh_token, grant.used_refresh_tokens = brought, []
        if not sent:
            del answer["refresh_token"]
        return answer

    monkeypatch.setattr(zoom, "refresh", keep)
    assert [(await refresh(zoomgate)).generation for _ in range(3)] == [2, 3, 4]
    assert zoomgate.stat("token.refresh_token.refused") == 0


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("which", ["lease", "commit"])
async def test_a_write_that_fails_spends_and_loses_nothing(
    zoomgate: Harness, place: Place, monkeypatch: pytest.MonkeyPatch, which: str, after_effect: bool
) -> None:
    """A lease whose write fails keeps Zoom from being asked; a commit that fails is one generation all the same."""
    monkeypatch.setattr(protocol, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(protocol, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(protocol, "MARGIN_SECONDS", 0.0)
    await zoomgate.connect()
    real, failures = ConnectionRepository.write, [StoreError("injected")]

    async def write(self: ConnectionRepository, connection: ConnectionRecord) -> int | None:
        if failures and (connection.lease is not None) is (which == "lease"):
            failure = failures.pop()
            if after_effect:
                await real(self, connection)
            raise failure
        return await real(self, connection)

    monkeypatch.setattr(ConnectionRepository, "write", write)
    assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, WANTED)).short == STORE
    assert asked(zoomgate) == (0 if which == "lease" else 1)
    generation = 2
    if which == "commit":
        while not await metric(zoomgate, 'zoomgate_refreshes_total{outcome="refreshed"}'):
            await asyncio.sleep(0.01)
        generation = 3
    assert (await refresh(zoomgate)).generation == generation
    assert asked(zoomgate) == generation - 1


@pytest.mark.parametrize("step", [-DAY, -300.0, 300.0, DAY])
async def test_a_clock_that_jumps_during_a_refresh_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """The answer is stored, the next refresh works, and no token is handed out as valid for longer than Zoom issued it for.

    A database has a clock of its own, so there this machine's does not matter at all; with a file it is the store's.
    """
    offset, real_wall, real_refresh = [0.0], SystemClock.wall, OAuthClient.refresh

    async def refreshed(self: OAuthClient, refresh_token: str) -> TokenOutcome:
        outcome = await real_refresh(self, refresh_token)
        offset[0] = step
        return outcome

    monkeypatch.setattr(SystemClock, "wall", lambda self: real_wall(self) + offset[0])
    monkeypatch.setattr(OAuthClient, "refresh", refreshed)
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        assert (await refresh(zoomgate)).generation == 2
        monkeypatch.setattr(OAuthClient, "refresh", real_refresh)
        async with serving(zoomgate.simulator, place.folder, place.environ) as other:
            given = await token(other)
            assert given.generation == (2 if place.uri or step == 300.0 else 3)
            assert given.access_token in zoomgate.simulator.zoom.access_tokens
            assert (await refresh(other)).generation == given.generation + 1
        assert zoomgate.stat("token.refresh_token.refused") == 0


@pytest.mark.parametrize("later_first", [False, True])
async def test_two_first_consents_make_one_connection(
    zoomgate: Harness, place: Place, monkeypatch: pytest.MonkeyPatch, later_first: bool
) -> None:
    """Two processes that are about to store a person's first consent leave one record, with the later consent's living token."""
    real, arrived = ConnectionRepository.write, asyncio.Event()
    go_on = {"earlier": asyncio.Event(), "later": asyncio.Event()}
    waiting = list(go_on)

    async def write(self: ConnectionRepository, connection: ConnectionRecord) -> int | None:
        if waiting:
            name = waiting.pop(0)
            arrived.set()
            await go_on[name].wait()
        return await real(self, connection)

    monkeypatch.setattr(ConnectionRepository, "write", write)
    async with serving(zoomgate.simulator, place.folder, place.environ) as other:
        consents = {}
        for name, service in (("earlier", zoomgate), ("later", other)):
            arrived.clear()
            consents[name] = asyncio.create_task(service.connect())
            await arrived.wait()
        for name in ("later", "earlier") if later_first else ("earlier", "later"):
            go_on[name].set()
            await consents[name]
        for service in (zoomgate, other):
            request = pb.ListConnectionsRequest()
            (shown,) = (await service.call(service.auth.ListConnections, request, "admin")).connections
            assert (shown.user_email, shown.state) == (MONICA, Connection.STATE_ACTIVE)
            access = (await token(service)).access_token
            assert not zoomgate.simulator.zoom.access_tokens[access].grant.revoked
