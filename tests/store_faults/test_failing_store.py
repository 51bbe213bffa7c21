"""A store that fails under a running service: what was answered by Zoom survives, valid tokens are served, callers hear of the store."""

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pymongo import MongoClient

from harness import MONICA, OMAR, Harness, running
from mongodb import OwnServer
from store_faults.place import APP, Place
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server import change_feed
from zoomgate_server.start import StartError
from zoomgate_server.tokens import keyfile, mongo, sqlite
from zoomgate_server.tokens.mongo import RECORDS
from zoomgate_server.tokens.store import Kind, RecordKey
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
        monkeypatch.setattr(mongo, name, 0.3)


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
async def test_a_network_file_system_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, and nothing is left there."""
    monkeypatch.setattr(sqlite, "_file_system", lambda _: "nfs4")
    with pytest.raises(StartError, match="network file system, where SQLite loses data: use a local disk"):
        async with running(place.folder, environ=place.environ):
            pass
    assert not place.folder.exists()


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


async def test_a_database_that_is_killed_when_zoom_has_answered(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens in memory are served, everybody else hears of the store, and what Zoom answered is stored once it is back."""
    monkeypatch.setattr(change_feed, "FEED_SECONDS", 0.05)
    server = OwnServer(tmp_path)
    await asyncio.to_thread(server.start)
    keyfile.create(tmp_path / "keys.json")
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
