"""Tests for proactive refresh in services that share a store, SQLite or MongoDB, with the Zoom simulator."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.harness import BASIL, MONICA, OMAR, Harness, issued, running, serving
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import proactive_refresh
from zoomgate_server.connections.record import ConnectionRecord, State, decode, encode
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.mongodb import MongoStore
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.storage.sqlite import SqliteStore

USERS = (MONICA, OMAR, BASIL)
DAY = 24 * 3600.0


FREQUENT_POLLS = Timing(
    proactive_refreshes=proactive_refresh.Timing(
        first_poll_delay=0.2, used_poll_interval=0.2, idle_poll_interval=0.2, correction_interval=0.2
    )
)


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """Return settings with which all services use the same store."""
    return {"ZOOMGATE_PROACTIVE_REFRESHES_PER_MINUTE": "6000"} | store_environ


@pytest.fixture
async def zoomgate(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service with all users connected."""
    async with running(tmp_path / "data", environ=environ, timing=FREQUENT_POLLS) as harness:
        for user in USERS:
            await harness.connect(user)
        yield harness


@pytest.fixture
async def store(zoomgate: Harness, environ: dict[str, str]) -> AsyncIterator[RecordStore]:
    """Open the store of the service."""
    opened: RecordStore
    if "ZOOMGATE_STORE" in environ:
        opened = await MongoStore.open(environ["ZOOMGATE_STORE"])
    else:
        opened = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    yield opened
    await opened.close()


class Records:
    """Direct access to the connections in a store."""

    def __init__(self, store: RecordStore, app: str, path: Path) -> None:
        self._store = store
        self._app = app
        self._envelope = Envelope(app=app, keys=key_file.load(path))

    async def read(self, user: str) -> ConnectionRecord:
        record, _ = await self._store.find(self._app, user)
        assert record is not None
        return decode(self._envelope, record)

    async def make_idle(self, user: str) -> None:
        """Make a user's token pair 70 days old."""
        record = await self.read(user)
        assert record.tokens is not None
        old = issued(record, record.tokens.obtained_at - 70 * DAY)
        assert await self._store.put(encode(self._envelope, old), record.rev)


@pytest.fixture
async def records(zoomgate: Harness, store: RecordStore, environ: dict[str, str]) -> Records:
    """Return the connections in the service's store."""
    (app,) = await store.apps()
    return Records(store, app, Path(environ.get("ZOOMGATE_KEYS", zoomgate.data_dir / "keys.json")))


async def test_several_services_refresh_each_idle_grant_once(
    zoomgate: Harness, records: Records, environ: dict[str, str]
) -> None:
    """Three services poll the same three idle grants repeatedly."""
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, environ, timing=FREQUENT_POLLS) as second,
        serving(zoomgate.simulator, zoomgate.data_dir, environ, timing=FREQUENT_POLLS) as third,
    ):
        for user in USERS:
            await records.make_idle(user)
        while [(await records.read(user)).generation for user in USERS] != [2, 2, 2]:
            await asyncio.sleep(0.05)
        for harness in (zoomgate, second, third):
            await harness.call(harness.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
        for user in USERS:
            record = await records.read(user)
            assert record.state is State.ACTIVE
            assert record.due_at is not None
            assert record.due_at > time.time() + 44 * DAY
    assert zoomgate.stat("token.refresh_token.issued") == 3
    assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_proactive_refreshes_are_counted_by_reason(zoomgate: Harness, records: Records) -> None:
    await records.make_idle(MONICA)
    async with aiohttp.ClientSession() as session:
        metrics = ""
        while 'zoomgate_proactive_refreshes_total{reason="idle"} 1.0' not in metrics:
            async with session.get(f"{zoomgate.http_url}/metrics") as response:
                metrics = await response.text()
    assert 'zoomgate_proactive_refreshes_total{reason="in_use"} 0.0' in metrics
