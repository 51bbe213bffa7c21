"""A store that fails under a running service: what was answered by Zoom survives, valid tokens are served, callers hear of the store."""

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from pymongo import MongoClient

from resilience.place import APP, Place
from support.harness import MONICA, OMAR, Harness, Refusal, running, serving
from support.mongodb import MongoServer, OwnServer, failing
from support.tcp_proxy import Way, proxying
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.app import stores
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import record
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.startup import StartError
from zoomgate_server.storage import mongodb as mongodb_store
from zoomgate_server.storage import sqlite
from zoomgate_server.storage.mongodb import RECORDS
from zoomgate_server.storage.record_store import Kind, RecordKey
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch import change_feed
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import TokenOutcome

STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
NOT_CONNECTED = ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")
NOT_FOUND = ("NOT_FOUND", "ZOOM_NOT_CONNECTED")

only_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
only_mongodb = pytest.mark.parametrize("place", ["mongodb"], indirect=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times for what runs out here."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    for name in ("SELECT_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(mongodb_store, name, 0.3)


@dataclass
class Gate:
    """Holds Zoom's answer to a refresh until the test lets it go."""

    answered: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Zoom has answered a refresh, and the service does not know yet; to be asked for before the service."""
    made, real = Gate(), OAuthClient.refresh

    async def refresh(self: OAuthClient, refresh_token: str) -> TokenOutcome:
        outcome = await real(self, refresh_token)
        made.answered.set()
        await made.open.wait()
        return outcome

    monkeypatch.setattr(OAuthClient, "refresh", refresh)
    return made


async def refresh(zoomgate: Harness, user: str = MONICA) -> auth.Token:
    """Refresh a person's token."""
    request = auth.RefreshTokenRequest(user_email=user)
    return (await zoomgate.call(zoomgate.auth.RefreshToken, request)).token


async def token(zoomgate: Harness, user: str = MONICA) -> auth.Token:
    """Get a person's token."""
    return (await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=user))).token


async def must_be_unavailable(zoomgate: Harness) -> None:
    """Whoever needs the store hears of it, with a delay to come back after; nothing is spent; the token in memory is served."""
    issued = zoomgate.stat("token.refresh_token.issued")
    for user in (MONICA, OMAR):
        refusal = await zoomgate.refusal(
            zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=user)
        )
        assert refusal.short == STORE
        assert refusal.retry_after
    assert (await token(zoomgate)).access_token
    assert zoomgate.stat("token.refresh_token.issued") == issued


@pytest.fixture
async def people(zoomgate: Harness) -> Harness:
    """The service with two people, and the token of one in memory."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    await token(zoomgate)
    return zoomgate


@only_sqlite
async def test_a_file_that_somebody_holds_locked(people: Harness, place: Place) -> None:
    """Reads go on, writes fail after their time, and all is well once the lock is gone."""
    with closing(sqlite3.connect(place.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await must_be_unavailable(people)
        await people.call(people.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
        other.execute("ROLLBACK")
    assert (await refresh(people)).generation == 2


@only_sqlite
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_gone(people: Harness, place: Place, replaced: bool) -> None:
    """Nothing is written into a file that nobody will find again; when the right one is back, it goes on."""
    elsewhere = place.file.with_name("elsewhere.db")
    place.file.rename(elsewhere)
    if replaced:
        place.file.write_bytes(elsewhere.read_bytes())
    await must_be_unavailable(people)
    elsewhere.replace(place.file)
    assert (await refresh(people)).generation == 2


@contextmanager
def no_room_beyond(limit: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@only_sqlite
async def test_a_disk_that_is_full_when_zoom_has_answered(gate: Gate, people: Harness, place: Place) -> None:
    """Callers hear of the store, the answer is in the journal, and it is stored once there is room."""
    request = auth.RefreshTokenRequest(user_email=MONICA)
    waiting = asyncio.create_task(people.refusal(people.auth.RefreshToken, request))
    await gate.answered.wait()
    log = place.file.with_name("zoomgate.db-wal")
    with no_room_beyond(log.stat().st_size):
        gate.open.set()
        assert (await waiting).short == STORE
        assert len(list((place.folder / "journal").glob("*.entry"))) == 1
        assert (await people.refusal(people.auth.RefreshToken, request)).short == STORE
    while list((place.folder / "journal").glob("*.entry")):
        await asyncio.sleep(0.01)
    assert (await refresh(people)).generation == 3
    assert people.stat("token.refresh_token.refused") == 0


@only_sqlite
async def test_a_page_that_is_damaged(place: Place) -> None:
    """The start checks the file, refuses in one sentence, and leaves it as it is."""
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
    content = bytearray(place.file.read_bytes())
    pages = len(content) // 4096
    content[4096 : 4096 * pages] = b"\xa5" * (4096 * (pages - 1))
    place.file.write_bytes(content)
    with pytest.raises(StartError, match="damaged: restore it from your backup") as error:
        async with running(place.folder, environ=place.environ):
            pass
    assert "\n" not in str(error.value)
    assert place.file.read_bytes() == content


@only_sqlite
@pytest.mark.parametrize("linked", [False, True], ids=["there", "linked"])
async def test_a_network_file_system_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """In one sentence, and nothing is left there; also where its name has a blank, and where only a link leads to it."""
    share = tmp_path / "their share"
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nnas:/x {str(share).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n"
    )
    monkeypatch.setattr(sqlite, "MOUNTS", mounts)
    folder = tmp_path / "data" if linked else share
    if linked:
        for each in (folder, share):
            each.mkdir(mode=0o700)
        (folder / "zoomgate.db").symlink_to(share / "zoomgate.db")
    with pytest.raises(StartError, match="network file system, where SQLite loses data: use a local disk"):
        async with running(folder, environ=place.environ):
            pass
    assert not (share / "zoomgate.db").exists()
    assert share.exists() is linked


async def test_a_tombstone_that_went_too_early(gate: Gate, people: Harness, place: Place) -> None:
    """A late answer of Zoom brings nobody back whose record is gone altogether: its tokens are revoked."""
    request = auth.RefreshTokenRequest(user_email=MONICA)
    waiting = asyncio.create_task(people.refusal(people.auth.RefreshToken, request))
    await gate.answered.wait()
    await people.call(people.auth.DeleteConnection, auth.DeleteConnectionRequest(user_email=MONICA))
    store = await place.store()
    while True:  # the service writes to it as well, once the revocation is done
        tombstone = await place.record(MONICA)
        if await store.delete(tombstone.key, tombstone.rev):
            break
    revoked = people.stat("revoke.known") + people.stat("revoke.unknown")
    gate.open.set()
    assert (await waiting).short == NOT_CONNECTED
    while people.stat("revoke.known") + people.stat("revoke.unknown") < revoked + 2:
        await asyncio.sleep(0.01)
    assert (await store.get(RecordKey(APP, Kind.USER, MONICA)))[0] is None
    await people.connect()
    assert (await token(people)).generation > 1


@only_mongodb
async def test_a_collection_that_is_dropped(people: Harness, place: Place) -> None:
    """People are not connected then, and can be again; the indexes are back after the next start."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        before = set(records.index_information())
        records.drop()
        for user in (MONICA, OMAR):
            wanted = auth.GetConnectionRequest(user_email=user)
            assert (await people.refusal(people.auth.GetConnection, wanted)).short == NOT_FOUND
        await people.connect()
        assert (await refresh(people)).generation > 1
        async with running(place.folder.with_name("next"), environ=place.environ):
            assert set(records.index_information()) == before


@only_mongodb
async def test_an_index_that_is_missing(people: Harness, place: Place) -> None:
    """Costs time and nothing else, and the next start makes it again."""
    with MongoClient(place.uri) as client:
        records = client.get_default_database()[RECORDS]
        before = set(records.index_information())
        records.drop_indexes()
        assert (await refresh(people)).generation == 2
        listed = await people.call(people.auth.ListConnections, auth.ListConnectionsRequest(), "admin")
        assert [shown.user_email for shown in listed.connections] == [MONICA, OMAR]
        async with running(place.folder.with_name("next"), environ=place.environ):
            assert set(records.index_information()) == before


REFUSALS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no majority", {"writeConcernError": {"code": 64, "errmsg": "x", "errInfo": {"wtimeout": True}}}),
    ("no right", {"errorCode": 13}),
    ("stepped down", {"errorCode": 189}),
    ("no primary", {"errorCode": 10107}),
    ("shutting down", {"errorCode": 91}),
    ("connection lost", {"closeConnection": True}),
)
"""Ways in which a database that is there does not take a write; the server of the tests has no replicas: its own switch plays them."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server whose commands can be made to fail."""
    server = OwnServer(tmp_path_factory.mktemp("lab"), "--enable-test-commands")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("refusal", [row[1] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_a_database_that_takes_no_writes_when_zoom_has_answered(
    lab: OwnServer, tmp_path: Path, gate: Gate, refusal: dict[str, Any]
) -> None:
    """A write that was not confirmed is no success, even if it took effect: it is tried until it is, and nothing is spent meanwhile."""
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_STORE": lab.new_database(),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    point: dict[str, Any] = {"configureFailPoint": "failCommand"}
    writes = ["insert", "update", "delete", "findAndModify"]
    async with running(tmp_path / "data", environ=environ) as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
        await token(zoomgate)
        request = auth.RefreshTokenRequest(user_email=MONICA)
        waiting = asyncio.create_task(zoomgate.refusal(zoomgate.auth.RefreshToken, request))
        await gate.answered.wait()
        with MongoClient(lab.uri) as client:
            client.admin.command(point | {"mode": "alwaysOn", "data": {"failCommands": writes} | refusal})
            try:
                gate.open.set()
                assert (await waiting).short == STORE
                journal = tmp_path / "data" / "journal"
                assert len(list(journal.glob("*.entry"))) == 1
                await must_be_unavailable(zoomgate)
            finally:
                client.admin.command(point | {"mode": "off"})
        while list(journal.glob("*.entry")):
            await asyncio.sleep(0.01)
        assert (await refresh(zoomgate)).generation == 3
        assert (await token(zoomgate, OMAR)).generation == 1
        if (
            "writeConcernError" not in refusal
        ):  # that of a lease took effect, so the next refresh comes when it has ended
            assert (await refresh(zoomgate, OMAR)).generation == 2
        assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_all_connections_to_the_database_are_in_use(
    mongodb: MongoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that finds no free connection is told in time, while those that have one wait for the database, and are served in the end."""
    monkeypatch.setattr(mongodb_store, "POOL", 1)
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 1e6)
    key_file.create(tmp_path / "keys.json")
    database = mongodb.new_database()
    keys = {"ZOOMGATE_KEYS": str(tmp_path / "keys.json")}
    async with running(tmp_path / "data", environ=keys | {"ZOOMGATE_STORE": database}) as first:
        await first.connect()
        await first.connect(OMAR)
    async with proxying(mongodb.address) as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/{database.rpartition('/')[2]}?directConnection=true"
        async with running(tmp_path / "data", environ=keys | {"ZOOMGATE_STORE": uri}) as zoomgate:
            for _ in range(2):  # behind what a start looks at
                await zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA))
            monkeypatch.setattr(mongodb_store, "WAIT_SECONDS", 0.1)
            proxy.turn(Way.STALL)
            calls = [
                asyncio.create_task(
                    zoomgate.call(zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=user))
                )
                for user in (MONICA, OMAR)
            ]
            (told,), (waiting,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            error = told.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            assert Refusal.of(error).short == STORE
            proxy.turn(Way.FORWARD)
            assert (await waiting).connection.user_email in (MONICA, OMAR)


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_store_whose_clock_jumps(
    gate: Gate, place: Place, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """An hour forth or back, as when another server takes over, in the middle of a refresh: nobody is lost, and refreshes go on."""
    ahead = 0.0
    seconds, wall = mongodb_store._seconds, SystemClock.wall
    monkeypatch.setattr(mongodb_store, "_seconds", lambda date: seconds(date) + ahead)

    class Jumping(SystemClock):
        def wall(self) -> float:
            return wall(self) + ahead

    monkeypatch.setattr(stores, "SystemClock", Jumping)
    async with running(place.folder, environ=place.environ) as zoomgate:
        await zoomgate.connect()
        waiting = asyncio.create_task(refresh(zoomgate))
        await gate.answered.wait()
        ahead = hours * 3600.0
        gate.open.set()
        assert (await waiting).generation == 2
        assert (await token(zoomgate)).access_token
        assert (await refresh(zoomgate)).generation >= 3
        ahead = 0.0
        before = (await token(zoomgate)).generation
        assert (await refresh(zoomgate)).generation > before
        assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_a_journal_with_damaged_files(place: Place) -> None:
    """What cannot be opened is counted and left; what is whole and in the store already changes nothing, and holds up nobody."""
    ring = key_file.load(Path(place.environ["ZOOMGATE_KEYS"]))
    envelope = Envelope(app=APP, keys=ring)
    folder = place.folder / "journal"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, place.folder, place.environ) as zoomgate:
            await zoomgate.connect()
            before = record.decode(envelope, await place.record(MONICA))
            await refresh(zoomgate)
            after = record.decode(envelope, await place.record(MONICA))
        assert after.tokens is not None
        assert after.commit_id
        journal = TokenJournal(folder, app=APP, key_ring=ring, observer=Metrics("0", []))
        entry = Entry(
            after.commit_id,
            Origin.REFRESH,
            MONICA,
            before.grant,
            before.generation,
            after.tokens,
            after.epoch,
        )
        for each in (entry, replace(entry, entry_id="b" * 32), replace(entry, entry_id="c" * 32)):
            assert await journal.append(each)
        await journal.close()
        damaged = {folder / f"{letter * 32}.entry" for letter in "bc"}
        for path, length in zip(sorted(damaged), (100, 0), strict=True):
            path.write_bytes(path.read_bytes()[:length])
        async with serving(zoom, place.folder, place.environ) as zoomgate:
            while set(folder.iterdir()) != damaged:
                await asyncio.sleep(0.01)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{zoomgate.http_url}/metrics") as page,
            ):
                assert "\nzoomgate_journal_corrupt_entries_total 2.0\n" in await page.text()
            assert (await token(zoomgate)).generation == 2
            assert (await refresh(zoomgate)).generation == 3
            assert set(folder.iterdir()) == damaged
            assert zoomgate.stat("token.refresh_token.refused") == 0


async def test_a_database_that_is_killed_when_zoom_has_answered(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens in memory are served, everybody else hears of the store, and what Zoom answered is stored once it is back."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.05)
    server = OwnServer(tmp_path)
    await asyncio.to_thread(server.start)
    key_file.create(tmp_path / "keys.json")
    environ = {
        "ZOOMGATE_KEYS": str(tmp_path / "keys.json"),
        "ZOOMGATE_STORE": server.new_database(),
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    try:
        async with running(tmp_path / "data", environ=environ) as zoomgate:
            await zoomgate.connect()
            await zoomgate.connect(OMAR)
            first = await token(zoomgate)
            request = auth.RefreshTokenRequest(user_email=MONICA)
            waiting = asyncio.create_task(zoomgate.refusal(zoomgate.auth.RefreshToken, request))
            await gate.answered.wait()
            server.kill()
            gate.open.set()
            assert (await waiting).short == STORE
            await must_be_unavailable(zoomgate)
            await asyncio.to_thread(server.start)
            while (await token(zoomgate)).access_token == first.access_token:
                await asyncio.sleep(0.05)
            assert (await refresh(zoomgate)).generation == 3
            assert (await refresh(zoomgate, OMAR)).generation == 2
            assert zoomgate.stat("token.refresh_token.refused") == 0
    finally:
        await asyncio.to_thread(server.close)


@pytest.mark.parametrize(
    "fault",
    [
        {"errorCode": 10107},
        {"closeConnection": True},
        {"writeConcernError": {"code": 64, "errmsg": "late", "errInfo": {"wtimeout": True}}},
    ],
    ids=["stepped down", "connection closed", "no majority"],
)
async def test_a_primary_that_fails_when_zoom_has_answered(
    tmp_path: Path, gate: Gate, fault: dict[str, Any]
) -> None:
    """Callers hear of the store until it takes writes again; whether the write had its effect or not, it is one generation."""
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
        async with running(tmp_path / "data", environ=environ) as zoomgate:
            await zoomgate.connect()
            waiting = asyncio.create_task(zoomgate.refusal(zoomgate.auth.RefreshToken, request))
            await gate.answered.wait()
            with failing(server, "alwaysOn", ["insert", "update", "findAndModify"], **fault):
                gate.open.set()
                assert (await waiting).short == STORE
                assert (await zoomgate.refusal(zoomgate.auth.RefreshToken, request)).short == STORE
            while list((tmp_path / "data" / "journal").glob("*.entry")):
                await asyncio.sleep(0.01)
            assert (await token(zoomgate)).generation in (
                1,
                2,
            )  # the first one is valid, and may be in memory still
            assert zoomgate.stat("token.refresh_token.issued") == 1
            assert (await refresh(zoomgate)).generation == 3
            assert zoomgate.stat("token.refresh_token.refused") == 0
    finally:
        await asyncio.to_thread(server.close)
