"""An event of Zoom's that comes while a refresh runs, at every step of it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.test_journal_recovery import stored
from support.harness import MONICA, SECONDS, Harness, metadata, running
from support.zoom_events import ENVIRON, app_deauthorized, send
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.record import Cause, State
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.webhooks import receiver
from zoomgate_server.zoom.oauth import OAuthClient

STEPS = ((SqliteStore, "get"), (SqliteStore, "put"), (OAuthClient, "refresh"))
"""What a refresh waits for."""


class Interruption:
    """Does something once, before or after the step of a number; what it does itself takes no steps.

    Attributes:
        done: Whether it came to that.
    """

    def __init__(self, number: int, what: Callable[[], Awaitable[None]]) -> None:
        self._left = number
        self._what = what
        self._doing = False
        self.done = False

    async def step(self) -> None:
        """A step begins or has ended."""
        if self._doing or self.done:
            return
        if self._left == 0:
            self._doing = True
            await self._what()
            self._doing, self.done = False, True
        self._left -= 1


@contextmanager
def interrupted(interruption: Interruption) -> Iterator[None]:
    """Let an interruption happen."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, _around(interruption, getattr(owner, name)))
        yield


def _around(interruption: Interruption, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any) -> Any:
        await interruption.step()
        result = await real(*arguments)
        await interruption.step()
        return result

    return call


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zoom is not asked to come again because this machine is slow."""
    monkeypatch.setattr(receiver, "SETTLE_SECONDS", SECONDS)


@asynccontextmanager
async def service(data_dir: Path) -> AsyncIterator[Harness]:
    environ = ENVIRON | {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_MAX_PENDING_PER_USER": "1000"}
    async with running(data_dir, environ=environ) as harness:
        yield harness


async def test_a_refresh_brings_nobody_back(tmp_path: Path) -> None:
    """Before and after each read, each write and the call of Zoom: the connection has ended then, whatever Zoom answered, and stays so."""
    async with service(tmp_path) as zoomgate:
        refresh = pb.RefreshTokenRequest(user_email=MONICA)
        show = pb.GetConnectionRequest(user_email=MONICA)

        async def event() -> None:
            assert await send(zoomgate.http_url, app_deauthorized(MONICA)) == (204, b"")

        for number in count():
            await zoomgate.connect()
            interruption = Interruption(number, event)
            with interrupted(interruption):
                code = await zoomgate.auth.RefreshToken(refresh, metadata=metadata(), timeout=SECONDS).code()
            assert interruption.done or code is grpc.StatusCode.OK, number
            if not interruption.done:
                break
            shown = (await zoomgate.call(zoomgate.auth.GetConnection, show)).connection
            assert shown.state == Connection.STATE_DISCONNECTED, number
            assert shown.cause == Connection.CAUSE_APP_DEAUTHORIZED, number
            refused = await zoomgate.refusal(zoomgate.auth.RefreshToken, refresh)
            assert refused.reason == "ZOOM_NOT_CONNECTED", number
        assert number >= 8
        await send(zoomgate.http_url, app_deauthorized(MONICA))
    record = await stored(tmp_path, MONICA)
    assert (record.state, record.cause) == (State.DISCONNECTED, Cause.APP_DEAUTHORIZED)
    assert (record.tokens, record.alternate_pairs, record.revoking) == (None, (), None)
    assert list((tmp_path / "journal").iterdir()) == []


async def test_a_consent_is_not_ended_by_what_was_before_it(tmp_path: Path) -> None:
    """An event that Zoom sent before the consent and that comes at any step of storing it: the connection is there in the end."""
    async with service(tmp_path) as zoomgate:
        await zoomgate.connect()
        earlier = app_deauthorized(MONICA)

        async def event() -> None:
            assert await send(zoomgate.http_url, earlier | {"number": number}) == (204, b"")

        for number in count():
            interruption = Interruption(number, event)
            with interrupted(interruption):
                await zoomgate.connect()
            if not interruption.done:
                break
            shown = await zoomgate.call(
                zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA)
            )
            assert shown.connection.state == Connection.STATE_ACTIVE, number
        assert number >= 8
