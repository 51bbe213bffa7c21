"""Tests for a store that fails while the service runs: tokens that Zoom has issued are not lost, and cached tokens are returned."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from pymongo import MongoClient
from yarl import URL

from resilience.place import APP, Place
from support.file_size_limit import file_size_limit
from support.harness import MONICA, OMAR, Harness, RpcError, running, serving
from support.mongodb import MongoServer, OwnServer, failing_commands
from support.tcp_proxy import Gate, Mode, TcpProxy, tcp_proxy
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app import stores
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import record
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.startup import StartError
from zoomgate_server.storage.mongodb import POOL_SIZE, RECORDS
from zoomgate_server.storage.timing import MongoTiming, SqliteTiming
from zoomgate_server.telemetry.metrics import Metrics

STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
NOT_FOUND = ("NOT_FOUND", "ZOOM_NOT_CONNECTED")

only_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
only_mongodb = pytest.mark.parametrize("place", ["mongodb"], indirect=True)


TIMING = Timing(
    store=stores.Timing(
        sqlite=SqliteTiming(busy_timeout=0.05),
        mongodb=MongoTiming(selection_timeout=0.3, connect_timeout=0.3),
    )
)


@dataclass(frozen=True)
class ProxiedZoom:
    """The Zoom simulator, whose OAuth endpoints the service calls through a proxy."""

    simulator: Simulator
    proxy: TcpProxy

    def hold_next_response(self) -> Gate:
        """Hold the next response of the OAuth endpoints."""
        return self.proxy.hold_next_response()

    @asynccontextmanager
    async def serving(
        self, folder: Path, environ: dict[str, str], timing: Timing = TIMING
    ) -> AsyncIterator[Harness]:
        """Run a service."""
        url = URL(self.simulator.oauth_url).with_port(self.proxy.port)
        environ = environ | {"ZOOMGATE_ZOOM_OAUTH_URL": str(url)}
        async with serving(self.simulator, folder, environ, timing=timing) as zoomgate:
            yield zoomgate


@pytest.fixture
async def zoom() -> AsyncIterator[ProxiedZoom]:
    """Run the simulator and the proxy."""
    async with Simulator(SimulatorOptions(port=0)) as simulator:
        url = URL(simulator.oauth_url)
        async with tcp_proxy((str(url.host), url.port or 0)) as proxy:
            yield ProxiedZoom(simulator, proxy)


@pytest.fixture
async def zoomgate(zoom: ProxiedZoom, place: Place) -> AsyncIterator[Harness]:
    """Run a service that uses the store and the proxied simulator."""
    async with zoom.serving(place.folder, place.environ) as harness:
        yield harness


async def refresh(zoomgate: Harness, user: str = MONICA) -> auth.Token:
    """Refresh the token of a user, and return the new token."""
    request = auth.RefreshTokenRequest(user_email=user)
    return (await zoomgate.call(zoomgate.auth.RefreshToken, request)).token


async def token(zoomgate: Harness, user: str = MONICA) -> auth.Token:
    """Return the token of a user."""
    return (await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=user))).token


async def assert_store_unavailable(zoomgate: Harness, *, used: int = 0) -> None:
    """Check that refreshes fail with a retry delay, and that the cached token is returned.

    Args:
        used: Number of refresh tokens that are used, because reads confirm their leases although the writes failed.
    """
    issued = zoomgate.stat("token.refresh_token.issued")
    for user in (MONICA, OMAR):
        refusal = await zoomgate.error_of(
            zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=user)
        )
        assert refusal.short == STORE
        assert refusal.retry_after
    assert (await token(zoomgate)).access_token
    assert zoomgate.stat("token.refresh_token.issued") == issued + used


@pytest.fixture
async def service(zoomgate: Harness) -> Harness:
    """Return a running service that has two connected users and has cached Monica's token."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    await token(zoomgate)
    return zoomgate


@only_sqlite
async def test_locked_file_fails_writes_only(service: Harness, place: Place) -> None:
    """Reads succeed and writes time out until the lock is released."""
    with closing(sqlite3.connect(place.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await assert_store_unavailable(service)
        await service.call(service.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
        other.execute("ROLLBACK")
    assert (await refresh(service)).generation == 2


@only_sqlite
@pytest.mark.parametrize("replaced", [False, True])
async def test_missing_or_replaced_file_is_detected(service: Harness, place: Place, replaced: bool) -> None:
    """Nothing is written to a file that is no longer at its path. Calls succeed again once the original file is restored."""
    moved = place.file.with_name("moved.db")
    place.file.rename(moved)
    if replaced:
        place.file.write_bytes(moved.read_bytes())
    await assert_store_unavailable(service)
    moved.replace(place.file)
    assert (await refresh(service)).generation == 2


@only_sqlite
async def test_full_disk_after_zoom_has_issued_tokens(
    zoom: ProxiedZoom, service: Harness, place: Place
) -> None:
    """Calls fail with STORE_UNAVAILABLE. The token pair is journaled, and is stored once disk space is available."""
    request = auth.RefreshTokenRequest(user_email=MONICA)
    gate = zoom.hold_next_response()
    waiting = asyncio.create_task(service.error_of(service.auth.RefreshToken, request))
    await gate.responded.wait()
    wal = place.file.with_name("zoomgate.db-wal")
    with file_size_limit(wal.stat().st_size):
        gate.open.set()
        assert (await waiting).short == STORE
        assert len(list((place.folder / "journal").glob("*.entry"))) == 1
        assert (await service.error_of(service.auth.RefreshToken, request)).short == STORE
    while list((place.folder / "journal").glob("*.entry")):
        await asyncio.sleep(0.01)
    assert (await refresh(service)).generation == 3
    assert service.stat("token.refresh_token.refused") == 0


@only_sqlite
async def test_corrupt_file_fails_the_start(place: Place) -> None:
    """The start fails with a one-line error and does not change the file."""
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
    content = bytearray(place.file.read_bytes())
    pages = len(content) // 4096
    content[4096 : 4096 * pages] = b"\xa5" * (4096 * (pages - 1))
    place.file.write_bytes(content)
    with pytest.raises(StartError, match="corrupt; restore it from a backup") as error:
        async with running(place.folder, environ=place.environ):
            pass
    assert "\n" not in str(error.value)
    assert place.file.read_bytes() == content


async def test_response_for_a_missing_record_is_stored_once_the_record_is_restored(
    zoom: ProxiedZoom, service: Harness, place: Place
) -> None:
    """Tombstones are retained, so a missing record means that the store is empty or was restored."""
    request = auth.RefreshTokenRequest(user_email=MONICA)
    gate = zoom.hold_next_response()
    waiting = asyncio.create_task(service.call(service.auth.RefreshToken, request))
    await gate.responded.wait()
    store = await place.store()
    record = await place.record(MONICA)
    assert await store.delete(record.key, record.rev)
    gate.open.set()
    while not list((place.folder / "journal").glob("*.entry")):
        await asyncio.sleep(0.01)
    assert await store.put(record, 0)
    assert (await waiting).token.generation == 2
    assert (await token(service)).generation == 2
    assert service.stat("revoke.known") + service.stat("revoke.unknown") == 0


@only_mongodb
async def test_dropped_collection_disconnects_all_users(service: Harness, place: Place) -> None:
    """After the collection is dropped, users can consent again, and the next start recreates the indexes."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        before = set(records.index_information())
        records.drop()
        for user in (MONICA, OMAR):
            request = auth.GetConnectionRequest(user_email=user)
            assert (await service.error_of(service.auth.GetConnection, request)).short == NOT_FOUND
        await service.connect()
        assert (await refresh(service)).generation > 1
        async with running(place.folder.with_name("next"), environ=place.environ):
            assert set(records.index_information()) == before


@only_mongodb
async def test_missing_indexes_are_recreated_at_the_next_start(service: Harness, place: Place) -> None:
    """A store without indexes is slower but returns the same results."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        before = set(records.index_information())
        records.drop_indexes()
        assert (await refresh(service)).generation == 2
        listed = await service.call(service.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
        assert [connection.user_email for connection in listed.connections] == [MONICA, OMAR]
        async with running(place.folder.with_name("next"), environ=place.environ):
            assert set(records.index_information()) == before


WRITE_FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no majority", {"writeConcernError": {"code": 64, "errmsg": "x", "errInfo": {"wtimeout": True}}}),
    ("missing privilege", {"errorCode": 13}),
    ("stepped down", {"errorCode": 189}),
    ("no primary", {"errorCode": 10107}),
    ("shutting down", {"errorCode": 91}),
    ("connection lost", {"closeConnection": True}),
)
"""Write failures of a reachable database. The test server has no replicas, so the failures are simulated with fail points."""


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Yield a MongoDB server whose commands can be made to fail."""
    server = OwnServer(tmp_path_factory.mktemp("faulty_server"), "--enable-test-commands")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("fault", [row[1] for row in WRITE_FAULTS], ids=[row[0] for row in WRITE_FAULTS])
async def test_failing_database_after_zoom_has_issued_tokens(
    faulty_server: OwnServer, tmp_path: Path, zoom: ProxiedZoom, fault: dict[str, Any]
) -> None:
    """An unconfirmed write is retried until it is confirmed. No refresh token is used until its lease has taken effect."""
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_STORE": faulty_server.new_database(),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    fail_point: dict[str, Any] = {"configureFailPoint": "failCommand"}
    writes = ["insert", "update", "delete", "findAndModify"]
    async with zoom.serving(tmp_path / "data", environ) as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
        await token(zoomgate)
        request = auth.RefreshTokenRequest(user_email=MONICA)
        gate = zoom.hold_next_response()
        waiting = asyncio.create_task(zoomgate.error_of(zoomgate.auth.RefreshToken, request))
        await gate.responded.wait()
        with MongoClient(faulty_server.uri) as client:
            client.admin.command(fail_point | {"mode": "alwaysOn", "data": {"failCommands": writes} | fault})
            try:
                gate.open.set()
                assert (await waiting).short == STORE
                journal = tmp_path / "data" / "journal"
                assert len(list(journal.glob("*.entry"))) == 1
                took_effect = "writeConcernError" in fault
                await assert_store_unavailable(zoomgate, used=1 if took_effect else 0)
            finally:
                client.admin.command(fail_point | {"mode": "off"})
        while list(journal.glob("*.entry")):
            await asyncio.sleep(0.01)
        assert (await refresh(zoomgate)).generation == 3
        if not took_effect:
            assert (await token(zoomgate, OMAR)).generation == 1
            await refresh(zoomgate, OMAR)
        while (await token(zoomgate, OMAR)).generation != 2:  # the change feed drops the cached token
            await asyncio.sleep(0.01)
        assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_exhausted_connection_pool_fails_calls_in_time(mongodb: MongoServer, tmp_path: Path) -> None:
    """A call that gets no database connection fails within the time limit. Calls that have one wait for the database and succeed."""
    key_file.create(tmp_path / "keys.json")
    database = mongodb.new_database()
    keys = {"ZOOMGATE_KEYS": str(tmp_path / "keys.json")}
    timing = Timing(store=stores.Timing(mongodb=MongoTiming(queue_timeout=0.5)))
    async with running(tmp_path / "data", environ=keys | {"ZOOMGATE_STORE": database}) as first:
        await first.connect()
        await first.connect(OMAR)
    async with tcp_proxy(mongodb.address) as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/{database.rpartition('/')[2]}?directConnection=true"
        environ = keys | {"ZOOMGATE_STORE": uri}
        async with running(tmp_path / "data", environ=environ, timing=timing) as zoomgate:
            await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
            proxy.set_mode(Mode.STALL)
            calls = [
                asyncio.create_task(
                    zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))
                )
                for user in (MONICA, OMAR) * POOL_SIZE
            ]
            done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
            errors = [call.exception() for call in done]
            assert {
                RpcError.of(error).short for error in errors if isinstance(error, grpc.aio.AioRpcError)
            } == {STORE}
            proxy.set_mode(Mode.FORWARD)
            responses = [
                task.result() for task in (await asyncio.wait(waiting))[0] if task.exception() is None
            ]
            assert {response.connection.user_email for response in responses} == {MONICA, OMAR}


@pytest.mark.parametrize("hours", [1, -1])
async def test_refresh_survives_a_jump_of_the_stores_clock(
    zoom: ProxiedZoom, service: Harness, hours: int
) -> None:
    """If the store's clock jumps by an hour, for example in a failover, the connection remains active and can be refreshed."""
    offset = 0.0

    async def read(proceed: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
        found, now = await proceed(*args, **kwargs)
        return found, now + offset

    with (
        service.store.intercept("get", read),
        service.store.intercept("find", read),
        service.store.intercept("changes", read),
    ):
        gate = zoom.hold_next_response()
        waiting = asyncio.create_task(refresh(service))
        await gate.responded.wait()
        offset = hours * 3600.0
        gate.open.set()
        assert (await waiting).generation == 2
        assert (await token(service)).access_token
        assert (await refresh(service)).generation >= 3
        offset = 0.0
        before = (await token(service)).generation
        assert (await refresh(service)).generation > before
        assert service.stat("token.refresh_token.refused") == 0


async def test_corrupt_journal_entries_are_counted_and_retained(place: Place) -> None:
    """An intact entry whose tokens are already stored is deleted without changing the record. Corrupt entries do not block the service."""
    ring = key_file.load(Path(place.environ["ZOOMGATE_KEYS"]))
    envelope = Envelope(app=APP, keys=ring)
    directory = place.folder / "journal"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, place.folder, place.environ) as zoomgate:
            await zoomgate.connect()
            before = record.decode(envelope, await place.record(MONICA))
            await refresh(zoomgate)
            after = record.decode(envelope, await place.record(MONICA))
        assert after.tokens is not None
        assert after.commit_id
        journal = TokenJournal(directory, app=APP, key_ring=ring, metrics=Metrics("0", []))
        entry = Entry(
            after.commit_id,
            Origin.REFRESH,
            MONICA,
            after.tokens,
            before.grant,
            before.generation,
            zoom_user_id=before.zoom_user_id,
            epoch=after.epoch,
        )
        for copy in (entry, replace(entry, entry_id="b" * 32), replace(entry, entry_id="c" * 32)):
            assert await journal.append(copy)
        await journal.close()
        corrupt = {directory / f"{letter * 32}.entry" for letter in "bc"}
        for path, length in zip(sorted(corrupt), (100, 0), strict=True):
            path.write_bytes(path.read_bytes()[:length])
        async with serving(zoom, place.folder, place.environ) as zoomgate:
            while set(directory.glob("*.entry")) != corrupt:
                await asyncio.sleep(0.01)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{zoomgate.http_url}/metrics") as page,
            ):
                assert "\nzoomgate_journal_corrupt_entries_total 2.0\n" in await page.text()
            assert (await token(zoomgate)).generation == 2
            assert (await refresh(zoomgate)).generation == 3
            assert set(directory.glob("*.entry")) == corrupt
            assert zoomgate.stat("token.refresh_token.refused") == 0


@pytest.mark.slow
async def test_killed_database_after_zoom_has_issued_tokens(tmp_path: Path, zoom: ProxiedZoom) -> None:
    """Cached tokens are returned, other calls fail, and the issued tokens are stored after the database restarts."""
    server = OwnServer(tmp_path)
    await asyncio.to_thread(server.start)
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_STORE": server.new_database(),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    try:
        async with zoom.serving(tmp_path / "data", environ) as zoomgate:
            await zoomgate.connect()
            await zoomgate.connect(OMAR)
            first = await token(zoomgate)
            request = auth.RefreshTokenRequest(user_email=MONICA)
            gate = zoom.hold_next_response()
            waiting = asyncio.create_task(zoomgate.error_of(zoomgate.auth.RefreshToken, request))
            await gate.responded.wait()
            server.kill()
            gate.open.set()
            assert (await waiting).short == STORE
            await assert_store_unavailable(zoomgate)
            await asyncio.to_thread(server.start)
            while (await token(zoomgate)).access_token == first.access_token:
                await asyncio.sleep(0.05)
            assert (await refresh(zoomgate)).generation == 3
            assert (await refresh(zoomgate, OMAR)).generation == 2
            assert zoomgate.stat("token.refresh_token.refused") == 0
    finally:
        await asyncio.to_thread(server.close)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"errorCode": 10107},
        {"closeConnection": True},
        {"writeConcernError": {"code": 64, "errmsg": "timeout", "errInfo": {"wtimeout": True}}},
    ],
    ids=["stepped down", "connection closed", "no majority"],
)
async def test_failing_primary_after_zoom_has_issued_tokens(
    tmp_path: Path, zoom: ProxiedZoom, fault: dict[str, Any]
) -> None:
    """Calls fail until writes succeed again. The token pair is stored once, whether or not the failed write took effect."""
    server = OwnServer(tmp_path, "--enable-test-commands")
    await asyncio.to_thread(server.start)
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_STORE": server.new_database(),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    request = auth.RefreshTokenRequest(user_email=MONICA)
    try:
        async with zoom.serving(tmp_path / "data", environ) as zoomgate:
            await zoomgate.connect()
            gate = zoom.hold_next_response()
            waiting = asyncio.create_task(zoomgate.error_of(zoomgate.auth.RefreshToken, request))
            await gate.responded.wait()
            with failing_commands(server, "alwaysOn", ["insert", "update", "findAndModify"], **fault):
                gate.open.set()
                assert (await waiting).short == STORE
                assert (await zoomgate.error_of(zoomgate.auth.RefreshToken, request)).short == STORE
            while list((tmp_path / "data" / "journal").glob("*.entry")):
                await asyncio.sleep(0.01)
            # the first token is still valid and may still be cached
            assert (await token(zoomgate)).generation in (1, 2)
            assert zoomgate.stat("token.refresh_token.issued") == 1
            assert (await refresh(zoomgate)).generation == 3
            assert zoomgate.stat("token.refresh_token.refused") == 0
    finally:
        await asyncio.to_thread(server.close)
