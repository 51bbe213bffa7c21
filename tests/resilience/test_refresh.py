"""Tests for faults during a refresh, and their effects on callers, Zoom and the store."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from resilience.place import APP, Place
from support.clock import AdvancingClock
from support.faulty_store import Gate
from support.harness import MONICA, Harness, running, serving
from zoom_simulator import RefreshTokenReuse, Rules, Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, PendingAttempt
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.storage.record_store import Kind, Record, StoreError

REAUTH = ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
ZOOM = ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
IN_PROGRESS = ("UNAVAILABLE", "REFRESH_IN_PROGRESS")
REFRESH_REQUEST = pb.RefreshTokenRequest(user_email=MONICA)
DAY = 24 * 3600.0
MANY_USERS = tuple(f"user{number}@example.com" for number in range(500))


async def refresh(zoomgate: Harness) -> pb.Token:
    """Refresh Monica's token, and return the new token."""
    return (await zoomgate.call(zoomgate.auth.RefreshToken, REFRESH_REQUEST)).token


async def token(zoomgate: Harness, user: str = MONICA, seconds: int = 0) -> pb.Token:
    """Return a user's token, requesting that it remain valid for at least `seconds`."""
    request = pb.GetTokenRequest(user_email=user)
    request.min_validity.seconds = seconds
    return (await zoomgate.call(zoomgate.auth.GetToken, request, seconds=60.0)).token


async def state(zoomgate: Harness, user: str = MONICA) -> str:
    """Return the state of a user's connection."""
    response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
    return Connection.State.Name(response.connection.state).removeprefix("STATE_")


async def metric(zoomgate: Harness, name: str) -> float:
    """Return the value of a metric, or 0 if it does not exist."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
        match = re.search(rf"^{re.escape(name)} (\S+)$", await page.text(), re.MULTILINE)
    return float(match[1]) if match else 0.0


def refresh_calls(zoomgate: Harness) -> int:
    """Return the number of refresh calls that the Zoom simulator has received."""
    return zoomgate.stat("token.refresh_token.issued") + zoomgate.stat("token.refresh_token.refused")


async def change(place: Place, how: Callable[[ConnectionRecord], ConnectionRecord]) -> ConnectionRecord:
    """Change Monica's record directly in the store, as a different process would, and return the changed record."""
    envelope = Envelope(app=APP, keys=key_file.load(place.folder.parent / "keys.json"))
    stored = await place.record(MONICA)
    changed = how(connection_record.decode(envelope, stored))
    await place.put(connection_record.encode(envelope, changed))
    return changed


async def simulate_killed_process(zoomgate: Harness, place: Place) -> None:
    """Simulate a process that was killed after Zoom rotated the token: add a pending attempt, but no lease, to Monica's record."""
    grant = zoomgate.simulator.zoom.grants[MONICA]
    zoomgate.simulator.zoom.refresh(grant.refresh_token)
    attempt = PendingAttempt(epoch=1, started_at=time.time())
    await change(place, lambda record: replace(record, epoch=1, pending_attempts=(attempt,)))


async def test_thousand_concurrent_calls_share_one_refresh(place: Place) -> None:
    """All calls return the same new token. Zoom receives one refresh call, and one new generation is stored."""
    options = SimulatorOptions(port=0, access_token_seconds=90)
    async with running(place.folder, simulator=options, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.zoom.options = SimulatorOptions(port=0)
        tokens = await asyncio.gather(*(token(zoomgate, seconds=300) for _ in range(1000)))
        assert len({returned.access_token for returned in tokens}) == 1
        assert {returned.generation for returned in tokens} == {2}
        assert refresh_calls(zoomgate) == 1


@pytest.mark.slow
async def test_five_hundred_concurrent_users_are_served(place: Place) -> None:
    """If the tokens of all users expire at the same time, each token is refreshed once, and no call is rejected."""
    users = (*DEFAULT_USERS, *(SimulatedUser(email) for email in MANY_USERS))
    short = SimulatorOptions(port=0, users=users, access_token_seconds=90)
    async with running(place.folder, simulator=short, environ=place.environ) as zoomgate:
        zoom = zoomgate.simulator.zoom

        async def import_tokens(user: str) -> None:
            code = zoom.issue_code(zoom.users[user], "http://127.0.0.1/x")
            refresh_token = zoom.exchange(code, "http://127.0.0.1/x", "")["refresh_token"]
            request = pb.RequestTokenRequest(user_email=user, refresh_token=refresh_token)
            await zoomgate.call(zoomgate.auth.RequestToken, request, seconds=60.0)

        await asyncio.gather(*map(import_tokens, MANY_USERS))
        zoom.options = replace(short, access_token_seconds=3600)
        before = refresh_calls(zoomgate)
        tokens = await asyncio.gather(*(token(zoomgate, user, seconds=300) for user in MANY_USERS))
        assert {returned.generation for returned in tokens} == {2}
        assert refresh_calls(zoomgate) - before == len(MANY_USERS)


async def test_lost_refresh_of_a_killed_process_is_recovered_with_a_tolerant_zoom(place: Place) -> None:
    """If Zoom accepts the previous refresh token once more, the next process receives a new pair without a new consent."""
    options = SimulatorOptions(port=0, rules=Rules(refresh_token_reuse=RefreshTokenReuse.TOLERATED))
    async with running(place.folder, simulator=options, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        await simulate_killed_process(zoomgate, place)
        assert (await refresh(zoomgate)).generation == 2
        assert await state(zoomgate) == "ACTIVE"


async def test_ambiguous_rejection_is_not_final_and_costs_one_call(
    place: Place,
) -> None:
    """While the killed process could still store a result, calls fail with REFRESH_IN_PROGRESS and the record is unchanged."""
    # with 9.5 seconds reserved for the response, a call with a deadline of 10 seconds stops waiting for the refresh after 0.5 seconds
    timing = Timing(calls=authentication.Timing(response_margin=9.5))
    async with running(place.folder, environ=place.environ, timing=timing) as zoomgate:
        await zoomgate.connect()
        await simulate_killed_process(zoomgate, place)
        for _ in range(3):
            refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST, seconds=10.0)
            assert refusal.short == IN_PROGRESS
            assert refusal.retry_after
        assert await state(zoomgate) == "ACTIVE"
        assert refresh_calls(zoomgate) == 1
        aged = await change(
            place,
            lambda record: replace(
                record, lease=None, pending_attempts=(PendingAttempt(1, time.time() - 3600),)
            ),
        )
        refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)
        assert (*refusal.short, refusal.metadata["cause"]) == (*REAUTH, "OUTCOME_LOST")
        assert aged.generation == 1
        for _ in range(3):
            assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)).short == REAUTH
        assert refresh_calls(zoomgate) == 2


async def test_lost_responses_are_retried_twice_and_then_reported(place: Place) -> None:
    """All three responses to the first call are lost. Later calls report Zoom's rejection of the token as OUTCOME_LOST, counted once."""
    clock = AdvancingClock()
    async with running(place.folder, environ=place.environ, clock=clock) as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("token", "cut_after", times=3))
        assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)).short == ZOOM
        assert refresh_calls(zoomgate) == 3
        assert await state(zoomgate) == "ACTIVE"
        clock.ahead += protocol.Timing().first_backoff
        for _ in range(2):
            refusal = await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)
            assert (*refusal.short, refusal.metadata["cause"]) == (*REAUTH, "OUTCOME_LOST")
        assert refresh_calls(zoomgate) == 4
        assert await metric(zoomgate, "zoomgate_refresh_outcomes_lost_total") == 1


async def test_unambiguous_rejection_is_final(zoomgate: Harness) -> None:
    """Zoom is called once, and the rejection is counted once, regardless of later calls."""
    await zoomgate.connect()
    zoomgate.simulator.zoom.revoke_grant(zoomgate.simulator.zoom.grants[MONICA])
    for _ in range(3):
        assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)).short == REAUTH
    assert refresh_calls(zoomgate) == 1
    assert await metric(zoomgate, 'zoomgate_refreshes_total{outcome="reauth_required"}') == 1
    assert await state(zoomgate) == "REAUTH_REQUIRED"


@asynccontextmanager
async def without_rotation(simulator: Simulator, *, sent: bool) -> AsyncIterator[str]:
    """Run a token endpoint that accepts each refresh token again. Yield its URL.

    Args:
        sent: Whether responses contain the refresh token.
    """

    async def refresh(request: web.Request) -> web.Response:
        form = dict(await request.post())
        credentials = {"Authorization": request.headers["Authorization"]}
        async with (
            aiohttp.ClientSession(headers=credentials) as session,
            session.post(f"{simulator.oauth_url}{request.path}", data=form) as response,
        ):
            assert response.status == 200
            issued = await response.json() | {"refresh_token": form["refresh_token"]}
        simulator.zoom.grants[MONICA].refresh_token = issued["refresh_token"]
        if not sent:
            del issued["refresh_token"]
        return web.json_response(issued)

    app = web.Application()
    app.router.add_post("/{path:.*}", refresh)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.mark.parametrize("sent", [True, False])
async def test_refresh_token_that_is_not_rotated_is_reused(
    zoomgate: Harness, place: Place, sent: bool
) -> None:
    """If Zoom's response contains no refresh token, or the same one, the next refresh uses the previous refresh token."""
    await zoomgate.connect()
    async with without_rotation(zoomgate.simulator, sent=sent) as oauth_url:
        environ = place.elsewhere() | {"ZOOMGATE_ZOOM_OAUTH_URL": oauth_url}
        async with serving(zoomgate.simulator, place.folder.with_name("other"), environ) as other:
            assert [(await refresh(other)).generation for _ in range(3)] == [2, 3, 4]
    assert refresh_calls(zoomgate) == 3
    assert zoomgate.stat("token.refresh_token.refused") == 0


@pytest.mark.parametrize(("which", "after_effect"), [("lease", False), ("commit", False), ("commit", True)])
async def test_failed_write_loses_no_token(place: Place, which: str, after_effect: bool) -> None:
    """If the lease cannot be written, Zoom is not called. If the commit fails, the new pair is still stored, as one generation."""
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        writes = 0

        async def fail_once(put: Any, record: Record, if_rev: int) -> int | None:
            nonlocal writes
            writes += 1
            if writes == (1 if which == "lease" else 2):
                if after_effect:
                    await put(record, if_rev)
                raise StoreError("injected")
            rev: int | None = await put(record, if_rev)
            return rev

        with zoomgate.store.intercept("put", fail_once):
            assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, REFRESH_REQUEST)).short == STORE
            assert refresh_calls(zoomgate) == (0 if which == "lease" else 1)
            generation = 2
            if which == "commit":
                while not await metric(zoomgate, 'zoomgate_refreshes_total{outcome="refreshed"}'):
                    await asyncio.sleep(0.01)
                generation = 3
            assert (await refresh(zoomgate)).generation == generation
        assert refresh_calls(zoomgate) == generation - 1


async def test_lease_is_used_although_the_response_to_its_write_was_lost(place: Place) -> None:
    """Otherwise, no process would refresh the token until the lease expires."""
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        zoomgate.store.fail("put", 1, after_effect=True)
        assert (await refresh(zoomgate)).generation == 2
        assert refresh_calls(zoomgate) == 1


class JumpingClock(SystemClock):
    """The system clock, whose wall time a test can set forward or back.

    Attributes:
        offset: Seconds by which the wall time is set forward.
    """

    offset = 0.0

    def wall(self) -> float:
        return super().wall() + self.offset


@pytest.mark.parametrize("step", [-DAY, -300.0, 300.0, DAY])
async def test_clock_jump_during_a_refresh_loses_no_token(place: Place, step: float) -> None:
    """The token pair that Zoom issues is stored, the next refresh succeeds, and no expired token is returned.

    With SQLite, the store uses the clock of this process, which jumps; with MongoDB, it uses the clock of the database server.
    """
    clock = JumpingClock()
    async with running(place.folder, environ=place.environ, clock=clock) as zoomgate:
        await zoomgate.connect()

        async def jump_after_lease(put: Any, record: Record, if_rev: int) -> int | None:
            rev: int | None = await put(record, if_rev)
            clock.offset = step
            return rev

        with zoomgate.store.intercept("put", jump_after_lease):
            assert (await refresh(zoomgate)).generation == 2
        async with serving(zoomgate.simulator, place.folder, place.environ, clock=clock) as other:
            returned = await token(other)
            assert returned.generation == (2 if place.uri or step == 300.0 else 3)
            assert returned.access_token in zoomgate.simulator.zoom.access_tokens
            assert (await refresh(other)).generation == returned.generation + 1
        assert zoomgate.stat("token.refresh_token.refused") == 0


class SuspendedClock(SystemClock):
    """The clocks of a machine that a test can suspend. The timers of the event loop do not advance during the suspend.

    Attributes:
        suspended: Seconds for which the machine was suspended.
    """

    suspended = 0.0

    def wall(self) -> float:
        return super().wall() + self.suspended

    def monotonic(self) -> float:
        return super().monotonic() + self.suspended


async def test_token_that_expired_during_a_suspend_is_not_returned(tmp_path: Path) -> None:
    clock = SuspendedClock()
    async with running(tmp_path, clock=clock) as zoomgate:
        await zoomgate.connect()
        assert (await token(zoomgate)).generation == 1
        clock.suspended = 3700.0
        assert (await token(zoomgate)).generation == 2


async def test_lease_that_expired_during_a_suspend_is_not_used(tmp_path: Path) -> None:
    """A refresh that is suspended after acquiring its lease acquires a new lease before it sends the refresh token."""
    clock = SuspendedClock()
    writes_before_call = 0
    async with running(tmp_path, clock=clock) as zoomgate:
        await zoomgate.connect()

        async def suspend_after_lease(put: Any, record: Record, if_rev: int) -> int | None:
            nonlocal writes_before_call
            rev: int | None = await put(record, if_rev)
            writes_before_call += not refresh_calls(zoomgate)
            clock.suspended = 100.0
            return rev

        with zoomgate.store.intercept("put", suspend_after_lease):
            assert (await refresh(zoomgate)).generation == 2
        assert writes_before_call == 3  # the first lease, its release, and the second lease
        assert refresh_calls(zoomgate) == 1


def held_connection() -> Gate:
    """Return a gate that holds the writes of connections."""
    return Gate(after_effect=False, holds=lambda record, _: record.key.kind is Kind.USER)


@pytest.mark.parametrize("later_first", [False, True])
async def test_two_first_consents_create_one_connection(
    zoomgate: Harness, place: Place, later_first: bool
) -> None:
    """If two processes store the first consents of a user concurrently, one record with a valid token remains."""
    async with serving(zoomgate.simulator, place.folder, place.environ) as other:
        earlier, later = held_connection(), held_connection()
        with zoomgate.store.intercept("put", earlier), other.store.intercept("put", later):
            consents = {}
            for service, write in ((zoomgate, earlier), (other, later)):
                consents[write] = asyncio.create_task(service.connect())
                await write.reached.wait()
            for write in (later, earlier) if later_first else (earlier, later):
                write.opened.set()
                await consents[write]
        for service in (zoomgate, other):
            request = pb.ListConnectionsRequest()
            (connection,) = (await service.call(service.auth.ListConnections, request, "admin")).connections
            assert (connection.user_email, connection.state) == (MONICA, Connection.STATE_ACTIVE)
            access = (await token(service)).access_token
            assert access in zoomgate.simulator.zoom.access_tokens
