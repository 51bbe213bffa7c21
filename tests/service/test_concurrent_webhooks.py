"""Tests for webhooks that arrive during a refresh or a consent, at each step."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import grpc

from service.test_journal_recovery import stored
from support.harness import MONICA, SECONDS, Harness, metadata, running
from support.zoom_events import ENVIRON, PATIENT, app_deauthorized, send
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections import disconnection
from zoomgate_server.connections.record import Cause, State

STEPS = ("get", "find", "put")
"""The methods with which a refresh or a consent accesses the store. A call to Zoom lies between two of these steps."""


class Interruption:
    """An action that runs once, at the start or end of a call in `STEPS`, selected by number. Calls made by the action are not counted.

    Attributes:
        done: Whether the action has run.
    """

    def __init__(self, number: int, action: Callable[[], Awaitable[None]]) -> None:
        self._remaining = number
        self._action = action
        self._running = False
        self.done = False

    async def step(self) -> None:
        """Count the start or end of a call, and run the action at the configured step."""
        if self._running or self.done:
            return
        if self._remaining == 0:
            self._running = True
            await self._action()
            self._running, self.done = False, True
        self._remaining -= 1


@contextmanager
def interrupted(zoomgate: Harness, interruption: Interruption) -> Iterator[None]:
    """Run the interruption's action when its step is reached within the block."""

    async def step_around(real: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        await interruption.step()
        result = await real(*arguments)
        await interruption.step()
        return result

    with ExitStack() as stack:
        for name in STEPS:
            stack.enter_context(zoomgate.store.intercept(name, step_around))
        yield


@asynccontextmanager
async def service(data_dir: Path) -> AsyncIterator[Harness]:
    environ = ENVIRON | {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_MAX_PENDING_PER_USER": "1000"}
    timing = replace(PATIENT, disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(data_dir, environ=environ, timing=timing) as harness:
        yield harness


async def test_refresh_does_not_reconnect_a_user(tmp_path: Path) -> None:
    """An event before or after any store access or Zoom call of a refresh disconnects the user permanently."""
    async with service(tmp_path) as zoomgate:
        refresh = pb.RefreshTokenRequest(user_email=MONICA)
        get_connection = pb.GetConnectionRequest(user_email=MONICA)

        async def event() -> None:
            assert await send(zoomgate.http_url, app_deauthorized(MONICA)) == (204, b"")

        for number in count():
            await zoomgate.connect()
            interruption = Interruption(number, event)
            with interrupted(zoomgate, interruption):
                code = await zoomgate.auth.RefreshToken(refresh, metadata=metadata(), timeout=SECONDS).code()
            assert interruption.done or code is grpc.StatusCode.OK, number
            if not interruption.done:
                break
            connection = (await zoomgate.call(zoomgate.auth.GetConnection, get_connection)).connection
            assert connection.state == Connection.STATE_DISCONNECTED, number
            assert connection.cause == Connection.CAUSE_APP_DEAUTHORIZED, number
            rejection = await zoomgate.error_of(zoomgate.auth.RefreshToken, refresh)
            assert rejection.reason == "ZOOM_NOT_CONNECTED", number
        assert number >= 8
        await send(zoomgate.http_url, app_deauthorized(MONICA))
    record = await stored(tmp_path, MONICA)
    assert (record.state, record.cause) == (State.DISCONNECTED, Cause.APP_DEAUTHORIZED)
    assert (record.pairs, record.pairs_to_revoke) == ((), ())
    assert list((tmp_path / "journal").glob("*.entry")) == []


async def test_refresh_whose_request_is_in_flight_does_not_reconnect_a_user(tmp_path: Path) -> None:
    """An event while Zoom processes the refresh disconnects the user permanently, and the new tokens are revoked."""
    async with service(tmp_path) as zoomgate:
        await zoomgate.connect()
        faults = zoomgate.simulator.faults
        faults.add(Fault("token", "delay", seconds=SECONDS))
        refresh = pb.RefreshTokenRequest(user_email=MONICA)
        call = zoomgate.auth.RefreshToken(refresh, metadata=metadata(), timeout=SECONDS)
        code = asyncio.ensure_future(call.code())
        while faults.active():
            await asyncio.sleep(0.005)
        assert await send(zoomgate.http_url, app_deauthorized(MONICA)) == (204, b"")
        faults.clear()
        assert await code is grpc.StatusCode.FAILED_PRECONDITION
        async with asyncio.timeout(SECONDS):
            while (await stored(tmp_path, MONICA)).pairs_to_revoke:
                await asyncio.sleep(0.005)
        assert zoomgate.simulator.zoom.grants[MONICA].revoked
    record = await stored(tmp_path, MONICA)
    assert (record.state, record.tokens) == (State.DISCONNECTED, None)
    assert list((tmp_path / "journal").glob("*.entry")) == []


async def test_earlier_event_does_not_disconnect_after_a_new_consent(tmp_path: Path) -> None:
    """An event older than the consent, arriving at any step of storing the consent, leaves the user connected."""
    async with service(tmp_path) as zoomgate:
        await zoomgate.connect()
        old_event = app_deauthorized(MONICA, time.time())

        async def event() -> None:
            assert await send(zoomgate.http_url, old_event | {"number": number}) == (204, b"")

        for number in count():
            interruption = Interruption(number, event)
            with interrupted(zoomgate, interruption):
                await zoomgate.connect()
            if not interruption.done:
                break
            response = await zoomgate.call(
                zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)
            )
            assert response.connection.state == Connection.STATE_ACTIVE, number
        assert number >= 8
