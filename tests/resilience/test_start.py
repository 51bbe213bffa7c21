"""Tests for starts with an unusable store: transient problems are retried, and other problems fail the start immediately."""

import asyncio
import gc
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import MongoClient

from support.captured_logs import capture_logs
from support.harness import MONICA, running
from support.mongodb import MongoServer, OwnServer
from support.tcp_proxy import Mode, tcp_proxy
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server import settings
from zoomgate_server.app import lifecycle, stores
from zoomgate_server.app.stores import StartCancelled
from zoomgate_server.app.timing import Timing
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.startup import StartError
from zoomgate_server.storage.mongodb import META
from zoomgate_server.storage.timing import MongoTiming, SqliteTiming
from zoomgate_server.web import server as web_server

UNREACHABLE = "mongodb://monica:hunter2@127.0.0.1:1/zoomgate?appName=hunter2"
UNRESOLVABLE = "mongodb+srv://monica:hunter2@cluster0.invalid/zoomgate?appName=hunter2"

# if a PyMongo client is closed during a connection attempt, only the garbage collector closes the socket, with this warning
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


SHORT = Timing(
    store=stores.Timing(
        min_pause=0.05,
        max_pause=0.05,
        sqlite=SqliteTiming(busy_timeout=0.05),
        mongodb=MongoTiming(selection_timeout=0.2, connect_timeout=0.2),
    )
)


@pytest.fixture(autouse=True)
def unclosed_sockets() -> Iterator[None]:
    """Let the garbage collector close the sockets of interrupted connection attempts while its warning is ignored."""
    yield
    gc.collect()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environ_with_store_wait(folder: Path, uri: str, seconds: int) -> dict[str, str]:
    """Create a key ring, and return the settings of a service that waits for its store."""
    key_file.create(folder / "keys.json")
    return {
        "ZOOMGATE_KEYS": str(folder / "keys.json"),
        "ZOOMGATE_STORE": uri,
        "ZOOMGATE_STORE_WAIT": str(seconds),
    }


async def start_error(folder: Path, environ: dict[str, str], timing: Timing = SHORT) -> tuple[str, int]:
    """Return the error message of a failing start and the number of retries. The message must be one line without secrets."""
    with capture_logs() as lines, pytest.raises(StartError) as error:
        async with running(folder / "data", environ=environ, timing=timing):
            pass
    text = str(error.value)
    assert "\n" not in text
    assert "hunter2" not in text + str(lines)
    return text, len([line for line in lines if line["event"] == "store.unreachable"])


@pytest.mark.slow
async def test_start_waits_for_the_store(tmp_path: Path) -> None:
    """Until the store is available, no RPC is served, `/healthz` succeeds, and `/readyz` reports the store."""
    server = OwnServer(tmp_path)
    grpc_port, http_port = free_port(), free_port()
    environ = environ_with_store_wait(tmp_path, server.new_database(), 60) | {
        "ZOOMGATE_LISTEN": f"127.0.0.1:{grpc_port}",
        "ZOOMGATE_HTTP_LISTEN": f"127.0.0.1:{http_port}",
    }
    patient = replace(SHORT, web=web_server.Timing(open_timeout=60.0))  # longer than the store takes to start
    starting = running(tmp_path / "data", environ=environ, timing=patient)
    with capture_logs() as lines:
        started = asyncio.create_task(starting.__aenter__())
        while sum(line["event"] == "store.unreachable" for line in lines) < 2:
            await asyncio.sleep(0.01)
    assert {line["level"] for line in lines} == {"warning"}
    probe = health_pb2.HealthCheckRequest()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session,
    ):
        assert await fetch(session, "/healthz") == (200, "ok\n")
        assert await fetch(session, "/readyz") == (503, "not ready: store\n")
        assert "zoomgate_build_info" in (await fetch(session, "/metrics"))[1]
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(channel).Check(probe, timeout=0.2)
        # if a link is opened before the store is available, the page is served once the store is available
        early = asyncio.create_task(fetch(session, "/oauth/start?ticket=x"))
        await asyncio.to_thread(server.start)
        try:
            zoomgate = await started
            assert "This link no longer works" in (await early)[1]
            assert await fetch(session, "/readyz") == (200, "ready\n")
            await zoomgate.connect()
            await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
            response = await health_pb2_grpc.HealthStub(zoomgate.channel).Check(probe)
            assert response.status == health_pb2.HealthCheckResponse.SERVING
            await starting.__aexit__(None, None, None)
        finally:
            await asyncio.to_thread(server.close)


async def fetch(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    """Return the status code and the text of the page at a URL."""
    async with session.get(path) as page:
        return page.status, await page.text()


@pytest.mark.parametrize("open_timeout", [0.05, 600.0])
async def test_pages_wait_for_the_store_only_for_a_limited_time(tmp_path: Path, open_timeout: float) -> None:
    """After a timeout, or when the service stops, a waiting page asks the user to retry."""
    http_port, stop = free_port(), asyncio.Event()
    environ = environ_with_store_wait(tmp_path, UNREACHABLE, 60) | {
        "ZOOMGATE_HTTP_LISTEN": f"127.0.0.1:{http_port}"
    }
    timing = replace(SHORT, web=web_server.Timing(open_timeout=open_timeout))
    with capture_logs() as lines:
        starting = asyncio.create_task(start_until_stopped(tmp_path, environ, stop, timing))
        while not any(line["event"] == "store.unreachable" for line in lines):
            await asyncio.sleep(0.01)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session:
            if open_timeout < 1:
                status, text = await fetch(session, "/oauth/start?ticket=x")
                assert (status, "Please try again in a moment" in text) == (503, True)
                stop.set()
            else:
                page_request = asyncio.create_task(
                    session.get("/oauth/start?ticket=x", allow_redirects=False)
                )
                await asyncio.sleep(0.2)
                assert not page_request.done()
                stop.set()
                async with await page_request as page:
                    assert page.headers["Location"] == "/oauth/result?outcome=try_later"
        with pytest.raises(StartCancelled):
            await starting
    assert not [line for line in lines if line["level"] == "error"]
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


async def start_until_stopped(
    folder: Path, environ: dict[str, str], stop: asyncio.Event, timing: Timing = SHORT
) -> None:
    """Start a service that is stopped before it is ready."""
    loaded = settings.load(
        environ
        | {
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_DATA_DIR": str(folder / "data"),
            "ZOOMGATE_CLIENT_ID": "app",
            "ZOOMGATE_CLIENT_SECRET": "hush",
        }
    )
    async with lifecycle.run(loaded, stop=stop, timing=timing):
        raise AssertionError("the service became ready")


async def test_unresponsive_database_does_not_delay_the_stop(tmp_path: Path, mongodb: MongoServer) -> None:
    """Stopping the service cancels the current attempt to connect to the store."""
    endless = Timing(store=stores.Timing(mongodb=MongoTiming(selection_timeout=600.0, connect_timeout=600.0)))
    stop = asyncio.Event()
    async with tcp_proxy(mongodb.address) as proxy:
        proxy.set_mode(Mode.STALL)
        uri = f"mongodb://127.0.0.1:{proxy.port}/zoomgate?directConnection=true"
        environ = environ_with_store_wait(tmp_path, uri, 60) | {"ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0"}
        with capture_logs() as lines:
            starting = asyncio.create_task(start_until_stopped(tmp_path, environ, stop, endless))
            while not proxy.stalled:
                await asyncio.sleep(0.01)
            stop.set()
            with pytest.raises(StartCancelled):
                await starting
    assert "store.unreachable" not in [line["event"] for line in lines]


@pytest.mark.parametrize(("seconds", "repeated"), [(4, True), (0, False)])
@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        (UNREACHABLE, "could not be reached"),
        (UNRESOLVABLE, "cannot be resolved"),
    ],
    ids=["address", "srv"],
)
async def test_start_fails_after_the_store_wait(
    tmp_path: Path, uri: str, problem: str, seconds: int, repeated: bool
) -> None:
    """The start fails after ZOOMGATE_STORE_WAIT, or after one attempt if ZOOMGATE_STORE_WAIT is 0."""
    text, tries = await start_error(tmp_path, environ_with_store_wait(tmp_path, uri, seconds))
    assert problem in text
    assert (tries > 0) is repeated
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"], "no store may be created"


async def test_store_is_tried_once_more_at_the_end_of_the_wait(tmp_path: Path) -> None:
    """The wait is used completely, even if the pause between attempts is longer."""
    slow = replace(SHORT, store=replace(SHORT.store, min_pause=600.0, max_pause=600.0))
    _, tries = await start_error(tmp_path, environ_with_store_wait(tmp_path, UNRESOLVABLE, 1), slow)
    assert tries == 1


async def test_locked_file_fails_the_start(tmp_path: Path) -> None:
    """The failing start creates no files. After the lock is released, the start succeeds."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    with closing(sqlite3.connect(tmp_path / "data" / "zoomgate.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        text, _ = await start_error(tmp_path, {})
        assert "is locked by another process; stop that process, or wait until it exits" in text
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))


async def test_permanent_problem_fails_the_start_immediately(tmp_path: Path, mongodb_uri: str) -> None:
    """The test uses a database whose format belongs to a newer version of Zoomgate."""
    with MongoClient(mongodb_uri) as client:
        client.get_default_database()[META].insert_one({"_id": "schema", "version": 99})
    text, tries = await start_error(tmp_path, environ_with_store_wait(tmp_path, mongodb_uri, 60))
    assert "newer version" in text
    assert tries == 0


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
async def test_store_of_a_different_key_ring_is_rejected(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """If the key is missing or a different key has its ID, the start fails before any request is served or any record is written."""
    uri = f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else request.getfixturevalue("mongodb_uri")
    environ = environ_with_store_wait(tmp_path, uri, 60)
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.connect()
    path = tmp_path / "keys.json"
    original = path.read_bytes()
    path.unlink()
    key_file.create(path)
    text, _ = await start_error(tmp_path, environ)
    assert "is not in the key ring" in text
    other = key_file.load(path)
    path.write_bytes(path.read_bytes().replace(other.primary_id.encode(), _primary_id(original).encode()))
    text, _ = await start_error(tmp_path, environ)
    assert "corrupt" in text
    path.write_bytes(original)
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))


def _primary_id(ring: bytes) -> str:
    rest = ring.decode().partition('"id"')[2]
    return rest.split('"')[1]


def test_waiting_service_can_be_stopped(tmp_path: Path) -> None:
    """After SIGTERM, the service exits with code 0 and without a traceback."""
    environ = environ_with_store_wait(tmp_path, UNREACHABLE, 600) | {
        "ZOOMGATE_CALLERS": "callers.toml",
        "ZOOMGATE_CLIENT_ID": "app",
        "ZOOMGATE_CLIENT_SECRET": "hush",
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
    }
    (tmp_path / "callers.toml").write_text(
        f'[[callers]]\nname = "omar"\nrole = "member"\nemail = "omar@example.com"\nkey_sha256 = "{"a" * 64}"\n',
        encoding="utf-8",
    )
    (tmp_path / "callers.toml").chmod(0o600)
    with subprocess.Popen(
        [sys.executable, "-m", "zoomgate_server", "serve"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and "store.unreachable" not in line:
            line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 0, line + rest
    assert "Traceback" not in rest


async def test_key_ring_in_use_by_a_different_process_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two services start in an empty directory and one fails, the key ring of the other service is not deleted."""
    path = tmp_path / "data" / "zoomgate.db"
    create, connections = key_file.create, list[sqlite3.Connection]()

    def create_and_lock_store(ring: Path) -> KeyRing:
        created = create(ring)
        connections.append(sqlite3.connect(path, isolation_level=None))
        connections[0].execute("BEGIN EXCLUSIVE")
        return created

    monkeypatch.setattr(key_file, "create", create_and_lock_store)
    with pytest.raises(StartError, match="locked by another process"):
        async with running(tmp_path / "data", timing=SHORT):
            pass
    connections[0].close()
    assert (tmp_path / "data" / "keys.json").exists()
