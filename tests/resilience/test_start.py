"""A store that cannot be used when the service starts: what time heals is waited for, anything else is said at once."""

import asyncio
import gc
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pymongo import MongoClient
from structlog.testing import capture_logs

from support.harness import MONICA, running
from support.mongodb import MongoServer, OwnServer
from support.tcp_proxy import Way, proxying
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server import settings
from zoomgate_server.app import lifecycle, stores
from zoomgate_server.app.stores import StartCancelled
from zoomgate_server.authorization.flow import Authorizations
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.startup import StartError
from zoomgate_server.storage import mongodb as mongodb_store
from zoomgate_server.storage import sqlite
from zoomgate_server.web import server as web_server

NOWHERE = "mongodb://monica:hunter2@127.0.0.1:1/zoomgate?appName=hunter2"

# PyMongo's client, closed while it connects in vain, leaves the socket to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short times, as all of them run out here."""
    for name in ("SELECT_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(mongodb_store, name, 0.2)
    for name in ("MIN_STORE_PAUSE", "MAX_STORE_PAUSE"):
        monkeypatch.setattr(stores, name, 0.05)
    yield
    gc.collect()  # here, where the warning above is expected


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environ(folder: Path, uri: str, seconds: int) -> dict[str, str]:
    """Settings of a service that waits for its store."""
    key_file.create(folder / "keys.json")
    return {
        "ZOOMGATE_KEYS": str(folder / "keys.json"),
        "ZOOMGATE_STORE": uri,
        "ZOOMGATE_STORE_WAIT": str(seconds),
    }


async def start_fails(folder: Path, given: dict[str, str]) -> tuple[str, int]:
    """Why a start fails, in one sentence without secrets, and after how many tries that were to be repeated."""
    with capture_logs() as lines, pytest.raises(StartError) as error:
        async with running(folder / "data", environ=given):
            pass
    text = str(error.value)
    assert "\n" not in text
    assert "hunter2" not in text + str(lines)
    return text, len([line for line in lines if line["event"] == "store.unreachable"])


async def test_a_store_that_comes_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is there nobody is served; `/healthz` says that the process is well, `/readyz` what it waits for. Then all work."""
    monkeypatch.setattr(web_server, "OPEN_SECONDS", 60.0)  # for as long as the store may take to come
    server = OwnServer(tmp_path)
    grpc_port, http_port = free_port(), free_port()
    given = environ(tmp_path, server.new_database(), 60) | {
        "ZOOMGATE_LISTEN": f"127.0.0.1:{grpc_port}",
        "ZOOMGATE_HTTP_LISTEN": f"127.0.0.1:{http_port}",
    }
    starting = running(tmp_path / "data", environ=given)
    with capture_logs() as lines:
        started = asyncio.create_task(starting.__aenter__())
        while sum(line["event"] == "store.unreachable" for line in lines) < 2:
            await asyncio.sleep(0.01)
    assert {line["log_level"] for line in lines} == {"warning"}
    probe = health_pb2.HealthCheckRequest()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session,
    ):
        assert await shown(session, "/healthz") == (200, "ok\n")
        assert await shown(session, "/readyz") == (503, "not ready: store\n")
        assert "zoomgate_build_info" in (await shown(session, "/metrics"))[1]
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(channel).Check(probe, timeout=0.2)
        # who clicks now is served once the store is there
        early = asyncio.create_task(shown(session, "/oauth/start?ticket=x"))
        await asyncio.to_thread(server.start)
        try:
            zoomgate = await started
            assert "This link no longer works" in (await early)[1]
            assert await shown(session, "/readyz") == (200, "ready\n")
            await zoomgate.connect()
            await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
            answer = await health_pb2_grpc.HealthStub(zoomgate.channel).Check(probe)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            await starting.__aexit__(None, None, None)
        finally:
            await asyncio.to_thread(server.close)


async def shown(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    """Status and text of a page."""
    async with session.get(path) as page:
        return page.status, await page.text()


async def test_a_page_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who clicks on a link while the store is away is told to come back, in time and when the service is stopped; no trace is left."""
    monkeypatch.setattr(web_server, "OPEN_SECONDS", 0.05)
    http_port, stop = free_port(), asyncio.Event()
    given = environ(tmp_path, NOWHERE, 60) | {"ZOOMGATE_HTTP_LISTEN": f"127.0.0.1:{http_port}"}
    with capture_logs() as lines:
        starting = asyncio.create_task(started_with(tmp_path, given, stop))
        while not any(line["event"] == "store.unreachable" for line in lines):
            await asyncio.sleep(0.01)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session:
            status, text = await shown(session, "/oauth/start?ticket=x")
            assert (status, "Please try again in a moment" in text) == (503, True)
            monkeypatch.setattr(web_server, "OPEN_SECONDS", 600.0)
            waits, when_open = asyncio.Event(), web_server.WebServer._when_open

            async def waiting(self: web_server.WebServer) -> Authorizations:
                waits.set()
                return await when_open(self)

            monkeypatch.setattr(web_server.WebServer, "_when_open", waiting)
            clicked = asyncio.create_task(session.get("/oauth/start?ticket=x", allow_redirects=False))
            await waits.wait()
            stop.set()
            async with await clicked as page:
                assert page.headers["Location"] == "/oauth/result?outcome=try_later"
        with pytest.raises(StartCancelled):
            await starting
    assert not [line for line in lines if line["log_level"] == "error"]
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


async def started_with(folder: Path, given: dict[str, str], stop: asyncio.Event) -> None:
    """Start a service that may be told to stop before it serves."""
    loaded = settings.load(
        given
        | {
            "ZOOMGATE_LISTEN": "127.0.0.1:0",
            "ZOOMGATE_DATA_DIR": str(folder / "data"),
            "ZOOMGATE_CLIENT_ID": "app",
            "ZOOMGATE_CLIENT_SECRET": "hush",
        }
    )
    async with lifecycle.run(loaded, stop=stop):
        raise AssertionError("it serves")


async def test_a_database_that_does_not_answer_does_not_hold_up_the_end(
    tmp_path: Path, mongodb: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is told to stop gives up the try to reach its store that is under way."""
    for name in ("SELECT_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(mongodb_store, name, 600.0)  # the try does not end by itself
    stop = asyncio.Event()
    async with proxying(mongodb.address) as proxy:
        proxy.turn(Way.STALL)
        uri = f"mongodb://127.0.0.1:{proxy.port}/zoomgate?directConnection=true"
        given = environ(tmp_path, uri, 60) | {"ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0"}
        with capture_logs() as lines:
            starting = asyncio.create_task(started_with(tmp_path, given, stop))
            while not proxy.stalled:
                await asyncio.sleep(0.01)
            stop.set()
            with pytest.raises(StartCancelled):
                await starting
    assert "store.unreachable" not in [line["event"] for line in lines]


@pytest.mark.parametrize(("seconds", "repeated"), [(4, True), (0, False)])
async def test_a_start_gives_up_in_the_end(tmp_path: Path, seconds: int, repeated: bool) -> None:
    """When the time is over, and after one try where none is given, a sentence says what to look at."""
    text, tries = await start_fails(tmp_path, environ(tmp_path, NOWHERE, seconds))
    assert "could not be reached" in text
    assert (tries > 0) is repeated
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"], "no store of another kind instead"


async def test_a_file_that_is_locked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start says so in one sentence, makes no other store, and works once the lock is gone."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    with closing(sqlite3.connect(tmp_path / "data" / "zoomgate.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        text, _ = await start_fails(tmp_path, {})
        assert "is locked by another process: stop that one, or wait until it is done" in text
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == names
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))


async def test_what_waiting_does_not_heal_is_said_at_once(tmp_path: Path, mongodb_uri: str) -> None:
    """A database of a newer version, for one."""
    with MongoClient(mongodb_uri) as client:
        client.get_default_database()[mongodb_store.META].insert_one({"_id": "schema", "version": 99})
    text, tries = await start_fails(tmp_path, environ(tmp_path, mongodb_uri, 60))
    assert "newer version" in text
    assert tries == 0


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
async def test_a_store_of_another_key_ring_is_refused(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """A ring that does not open what is stored, or has the right id and the wrong key, is refused before anything is served or written."""
    uri = f"sqlite:///{tmp_path}/s.db" if kind == "sqlite" else request.getfixturevalue("mongodb_uri")
    given = environ(tmp_path, uri, 60)
    async with running(tmp_path / "data", environ=given) as zoomgate:
        await zoomgate.connect()
    path = tmp_path / "keys.json"
    right = path.read_bytes()
    path.unlink()
    key_file.create(path)
    text, _ = await start_fails(tmp_path, given)
    assert "is not in the key ring" in text
    wrong = key_file.load(path)
    path.write_bytes(path.read_bytes().replace(wrong.primary_id.encode(), _primary_id(right).encode()))
    text, _ = await start_fails(tmp_path, given)
    assert "damaged" in text
    path.write_bytes(right)
    async with running(tmp_path / "data", environ=given) as zoomgate:
        await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))


def _primary_id(ring: bytes) -> str:
    scratch = ring.decode().partition('"id"')[2]
    return scratch.split('"')[1]


@pytest.mark.e2e
def test_a_service_that_waits_may_be_stopped(tmp_path: Path) -> None:
    """SIGTERM ends the waiting, with exit code 0 and no traceback."""
    given = environ(tmp_path, NOWHERE, 600) | {
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
        env=given,
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


async def test_a_ring_that_somebody_else_uses_already_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two services that start in an empty folder, one that fails does not take away the key ring that the other seals with."""
    path = tmp_path / "data" / "zoomgate.db"
    create, others = key_file.create, list[sqlite3.Connection]()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)

    def overtaken(ring: Path) -> KeyRing:
        made = create(ring)
        others.append(sqlite3.connect(path, isolation_level=None))
        others[0].execute("BEGIN EXCLUSIVE")
        return made

    monkeypatch.setattr(key_file, "create", overtaken)
    with pytest.raises(StartError, match="locked by another process"):
        async with running(tmp_path / "data"):
            pass
    others[0].close()
    assert (tmp_path / "data" / "keys.json").exists()
