"""What is particular to the MongoDB store: addresses, refusals to start, and what becomes of writes when connections break."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient
from structlog.testing import capture_logs

from support.mongodb import MongoServer, OwnServer, failing
from support.tcp_proxy import TcpProxy, Way, proxying
from zoomgate_server.storage import mongodb as mongodb_store
from zoomgate_server.storage.mongodb import META, RECORDS, Driver, MongoStore, examine
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError, StoreOpenError

# PyMongo's client, closed while it connects in vain, leaves the socket to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

KEY = RecordKey("app", Kind.USER, "monica@example.com")
RECORD = Record(key=KEY, value=b"1")
SECRET = "hunter2"


async def refusal(uri: str, driver: Driver = Driver.MOTOR) -> str:
    """Why a database is not used: one sentence with a remedy and without anything secret."""
    with pytest.raises(StoreOpenError) as error:
        await MongoStore.open(uri, driver)
    text = str(error.value)
    assert "\n" not in text
    assert ": " in text
    for secret in (SECRET, "127.0.0.1", "example.invalid", "monica", "authSource=", "directConnection"):
        assert secret not in text
    return text


@contextmanager
def beside(uri: str) -> Iterator[Any]:
    """The database as somebody else sees it."""
    with MongoClient(uri) as client:
        yield client.get_default_database()


# -- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://monica:hunter2@example.invalid", "names no database"),
        ("mongodb://monica:hunter2@example.invalid/", "names no database"),
        ("mongodb://monica:hunter2@example.invalid/?authSource=hunter2", "names no database"),
        ("mongodb://monica:hunter2@example.invalid/a.hunter2", "names no database"),
        ("mongodb://monica:p/hunter2@example.invalid/zoomgate", "names no database"),
        ("mongodb://monica:p/hunter2?x@example.invalid/zoomgate", "names no database"),
        ("mongodb://example.invalid/zoomgate?w=0", "w=0"),
        ("mongodb://example.invalid/zoomgate?authSource=hunter2&W=1", "w=1"),
        ("mongodb://example.invalid/zoomgate?%77=%31", "w=1"),
        ("mongodb://example.invalid/zoomgate?retryWrites=false", "retryWrites"),
        ("mongodb://example.invalid/zoomgate?x=y;retrywrites=False", "retryWrites"),
        ("mongodb+srv://example.invalid/zoomgate?readPreference=secondaryPreferred", "readPreference"),
        ("mongodb://monica:hunter2@example.invalid/zoomgate?hunter2=hunter2", "does not understand"),
        ("mongodb://example.invalid/zoomgate?authMechanismProperties=hunter2", "does not understand"),
        ("mongodb://monica:hun%ter2@example.invalid:port/zoomgate", "does not understand"),
        ("mongodb://monica:@hunter2@example.invalid/zoomgate", "does not understand"),
    ],
)
@pytest.mark.parametrize("driver", Driver)
async def test_addresses_that_lose_tokens_or_are_none_are_refused(
    uri: str, reason: str, driver: Driver
) -> None:
    """An address without a database, with weaker writes or reads, or that the driver does not take, is refused in one sentence."""
    assert reason in await refusal(uri, driver)


async def test_weak_concerns_in_the_address_do_not_count(mongodb: MongoServer) -> None:
    """Write and read concern are the store's own, whatever harmless else the address says."""
    uri = mongodb.new_database("journal=false&readConcernLevel=local&readPreference=primary&maxPoolSize=1000")
    store = await MongoStore.open(uri)
    assert store._records.write_concern.document == {"w": "majority", "wtimeout": 5000, "j": True}
    assert store._records.read_concern.level == "majority"
    await store.close()


def test_the_driver_is_imported_only_when_it_is_used() -> None:
    """The service without MongoDB, and the commands, load no driver."""
    code = (
        "import sys, zoomgate_server.app.lifecycle, zoomgate_server.cli.doctor;"
        "print(sorted({'pymongo', 'motor', 'bson'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# -- starting --------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short times, for tests in which they run out."""
    for name in ("SELECT_SECONDS", "CONNECT_SECONDS", "SOCKET_SECONDS"):
        monkeypatch.setattr(mongodb_store, name, 0.3)
    monkeypatch.setattr(mongodb_store, "WAIT_SECONDS", 0.1)
    yield
    gc.collect()  # here, where the warning above is expected


@pytest.mark.parametrize("driver", Driver)
async def test_a_database_that_is_not_there_is_refused(impatient: None, driver: Driver) -> None:
    """A start without a database ends after a bounded time."""
    assert "could not be reached" in await refusal(f"mongodb://u:{SECRET}@127.0.0.1:1/zoomgate", driver)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"version": 2}, "newer version"), ({"version": "1"}, "damaged"), ({}, "damaged")],
)
async def test_a_database_of_another_version_is_refused(
    mongodb_uri: str, schema: dict[str, Any], reason: str
) -> None:
    """What a newer version wrote is not touched."""
    with beside(mongodb_uri) as database:
        database[META].insert_one({"_id": "schema"} | schema)
        assert reason in await refusal(mongodb_uri)
        with pytest.raises(StoreOpenError, match=reason):
            await examine(mongodb_uri)
        assert database[META].find_one() == {"_id": "schema"} | schema
        assert database.list_collection_names() == [META]


async def test_users_need_the_right_password_and_the_right_to_write(tmp_path: Path) -> None:
    """A wrong password, no password, and a user who may only read are three refusals; one who may write is let in."""
    server = OwnServer(tmp_path)
    server.start()
    with closing(server), MongoClient(server.uri) as client:
        for user, role in (("writer", "readWrite"), ("monica", "read")):
            client["zoomgate"].command(
                "createUser", user, pwd=SECRET, roles=[{"role": role, "db": "zoomgate"}]
            )
    server = OwnServer(tmp_path, "--auth")
    server.start()
    with closing(server):
        host = f"127.0.0.1:{server.address[1]}"
        assert "user and password" in await refusal(f"mongodb://writer:{SECRET}-@{host}/zoomgate")
        assert "too few rights" in await refusal(f"mongodb://{host}/zoomgate")
        assert "too few rights" in await refusal(f"mongodb://monica:{SECRET}@{host}/zoomgate")
        store = await MongoStore.open(f"mongodb://writer:{SECRET}@{host}/zoomgate")
        assert await store.put(RECORD, 0)
        await store.close()


async def test_a_single_server_is_warned_about(tmp_path: Path) -> None:
    """A server that is no replica set is used, with a warning that it is one."""
    server = OwnServer(tmp_path, "--standalone")
    server.start()
    with closing(server):
        uri = server.new_database()
        with capture_logs() as lines:
            store = await MongoStore.open(uri)
        assert await store.put(RECORD, 0)
        await store.close()
        assert ("store.standalone", "warning") in [(line["event"], line["log_level"]) for line in lines]
        assert not (await examine(uri)).replicated


async def test_starts_at_the_same_time_all_succeed(mongodb_uri: str) -> None:
    """Several processes that start on an empty database at once all come up, with either driver."""
    stores = await asyncio.gather(*(MongoStore.open(mongodb_uri, driver) for driver in list(Driver) * 4))
    rev = await stores[0].put(RECORD, 0)
    for store in stores:
        assert (await store.get(KEY))[0] == replace(RECORD, rev=rev)
        await store.close()
    with beside(mongodb_uri) as database:
        assert database[META].find_one() == {"_id": "schema", "version": 1, "starts": 8}


async def test_looking_at_a_database_changes_nothing(mongodb_uri: str) -> None:
    """What `doctor` does leaves no collection behind, and counts connections."""
    assert (await examine(mongodb_uri)).users == 0
    with beside(mongodb_uri) as database:
        assert database.list_collection_names() == []
    store = await MongoStore.open(mongodb_uri)
    await store.put(RECORD, 0)
    await store.close()
    assert (await examine(mongodb_uri)).users == 1


async def test_expired_records_are_deleted_late(mongodb_uri: str) -> None:
    """MongoDB cleans up by a date an hour after a record's expiry."""
    store = await MongoStore.open(mongodb_uri)
    await store.put(replace(RECORD, expire_at=86400.5), 0)
    await store.close()
    with beside(mongodb_uri) as database:
        indexes = database[RECORDS].index_information()
        document = database[RECORDS].find_one({})
    assert set(indexes) == {"_id_", "key", "zoom_user", "changes", "due", "expire", "ttl"}
    assert indexes["ttl"]["expireAfterSeconds"] == 3600
    if document is not None:  # the server may have been quick
        assert document["expire_date"].isoformat() == "1970-01-02T00:00:00.500000"


# -- servers that can do less ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A server whose commands can be made to fail."""
    server = OwnServer(tmp_path_factory.mktemp("lab"), "--enable-test-commands")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("driver", Driver)
async def test_a_server_without_now_has_its_clock_read_otherwise(lab: MongoServer, driver: Driver) -> None:
    """Where `$$NOW` is unknown the same records come back with the server's clock all the same."""
    uri = lab.new_database()
    with failing(lab, {"times": 1}, ["aggregate"], errorCode=17276), capture_logs() as lines:
        store = await MongoStore.open(uri, driver)
    assert {"clock": "hello", "event": "store.opened"}.items() <= lines[-1].items()
    other = await MongoStore.open(uri, driver)
    rev = await store.put(RECORD, 0)
    for key in (KEY, replace(KEY, subject="nobody")):
        (mine, now), (theirs, later) = await store.get(key), await other.get(key)
        assert mine == theirs == (replace(RECORD, rev=rev) if key == KEY else None)
        assert abs(later - now) < 10
    await store.close()
    await other.close()


async def test_a_server_without_ttl_indexes_is_fine(lab: MongoServer) -> None:
    """Where the database deletes nothing the service does it, and the start says so."""
    uri = lab.new_database()
    with failing(lab, {"skip": 1}, ["createIndexes"], errorCode=67), capture_logs() as lines:
        store = await MongoStore.open(uri)
    assert lines[-1]["expired"] == "deleted by the service"
    rev = await store.put(replace(RECORD, expire_at=1.0), 0)
    assert [found.rev for found in await store.page("app", Kind.USER, expire_before=2.0, limit=10)] == [rev]
    await store.close()


@pytest.mark.parametrize("driver", Driver)
async def test_a_write_that_no_majority_confirms_is_no_success(lab: MongoServer, driver: Driver) -> None:
    """When the wait for the majority ends the outcome is unknown, at the start too."""
    uri = lab.new_database()
    late = {"code": 64, "errmsg": SECRET, "errInfo": {"wtimeout": True}}
    with failing(lab, "alwaysOn", ["insert", "update", "delete"], writeConcernError=late):
        assert "majority" in await refusal(uri, driver)
    store = await MongoStore.open(uri, driver)
    rev = await store.put(RECORD, 0)
    assert rev is not None
    with failing(lab, "alwaysOn", ["insert", "update", "delete"], writeConcernError=late):
        for write in (
            store.put(replace(RECORD, key=replace(KEY, subject="new")), 0),
            store.put(replace(RECORD, value=b"2"), rev),
            store.delete(KEY, rev),
        ):
            with pytest.raises(StoreError, match=r"majority|refused") as error:
                await write
            assert SECRET not in str(error.value)
    await store.close()


@pytest.mark.parametrize("code", [13, 189, 10107, 11600])
async def test_a_refusing_server_is_a_store_error(lab: MongoServer, impatient: None, code: int) -> None:
    """Rights that were taken away, a primary that stepped down and a server that shuts down are failures of the store."""
    store = await MongoStore.open(lab.new_database())
    with failing(lab, "alwaysOn", ["insert", "find", "aggregate"], errorCode=code):
        for call in (store.put(RECORD, 0), store.get(KEY), store.page("app", Kind.USER, limit=1)):
            await told(call)
    await store.close()


# -- broken connections ----------------------------------------------------------------------------------


@pytest.fixture
async def proxy(mongodb: MongoServer) -> AsyncIterator[TcpProxy]:
    """In front of the server."""
    async with proxying(mongodb.address) as running:
        yield running


@pytest.fixture(params=Driver)
async def store(
    request: pytest.FixtureRequest, mongodb: MongoServer, proxy: TcpProxy, impatient: None
) -> AsyncIterator[MongoStore]:
    """A store behind the proxy, with either driver."""
    host, port = mongodb.address
    uri = mongodb.new_database("directConnection=true").replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
    opened = await MongoStore.open(uri, request.param)
    yield opened
    await opened.close()


async def told(call: Any) -> str:
    """How the store failed, which names no host."""
    with pytest.raises(StoreError) as error:
        await call
    assert "127.0.0.1" not in str(error.value)
    return str(error.value)


async def readable(store: MongoStore) -> Record:
    """The record once the store answers again."""
    for _ in range(100):
        try:
            found, _ = await store.get(KEY)
        except StoreError:
            continue
        assert found is not None
        return found
    raise AssertionError("it never answered again")


async def test_a_connection_cut_before_the_write_leaves_what_was(store: MongoStore, proxy: TcpProxy) -> None:
    """What did not arrive was not written; the store answers again by itself and the old revision still counts."""
    rev = await store.put(RECORD, 0)
    assert rev is not None
    proxy.turn(Way.CUT)
    await told(store.put(replace(RECORD, value=b"2"), rev))
    await told(store.get(KEY))
    await told(store.changes("app", Kind.USER, 0.0))
    proxy.turn(Way.FORWARD)
    assert (await readable(store)).value == b"1"
    assert await store.put(replace(RECORD, value=b"2"), rev) is not None


async def test_a_connection_cut_after_the_write_hides_a_success(store: MongoStore, proxy: TcpProxy) -> None:
    """A write whose answer was lost is an error, is found written, and does not happen again."""
    rev = await store.put(RECORD, 0)
    assert rev is not None
    proxy.turn(Way.LOSE)
    await told(store.put(replace(RECORD, value=b"2"), rev))
    proxy.turn(Way.FORWARD)
    found = await readable(store)
    assert found.value == b"2"
    assert found.rev != rev
    assert await store.put(replace(RECORD, value=b"3"), rev) is None


async def test_a_stalled_store_is_an_error_in_time(store: MongoStore, proxy: TcpProxy) -> None:
    """A database that does not answer fails calls, and is used again when it does."""
    assert await store.put(RECORD, 0)
    proxy.turn(Way.STALL)
    await told(store.get(KEY))
    proxy.turn(Way.FORWARD)
    assert (await readable(store)).value == b"1"


async def test_a_caller_who_leaves_tears_no_write(store: MongoStore, proxy: TcpProxy) -> None:
    """A cancelled write goes on by itself and on its connection."""
    assert await store.put(RECORD, 0)
    found, _ = await store.get(KEY)
    assert found is not None
    proxy.turn(Way.STALL)
    writing = asyncio.create_task(store.put(replace(RECORD, value=b"2"), found.rev))
    while not store._tasks:
        await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    (running,) = store._tasks
    proxy.turn(Way.FORWARD)
    assert await running
    assert (await readable(store)).value == b"2"


async def test_an_exhausted_pool_is_an_error(
    monkeypatch: pytest.MonkeyPatch, mongodb: MongoServer, proxy: TcpProxy
) -> None:
    """When all connections wait for the database the next call fails soon, and its caller is not kept."""
    monkeypatch.setattr(mongodb_store, "POOL", 2)
    monkeypatch.setattr(mongodb_store, "WAIT_SECONDS", 0.1)
    uri = (
        f"mongodb://127.0.0.1:{proxy.port}/{mongodb.new_database().rpartition('/')[2]}?directConnection=true"
    )
    store = await MongoStore.open(uri)
    proxy.turn(Way.STALL)
    waiting = [asyncio.create_task(store.get(KEY)) for _ in range(2)]
    await asyncio.sleep(0)
    assert "all connections are in use" in await told(store.get(KEY))
    proxy.turn(Way.FORWARD)
    assert [found for found, _ in await asyncio.gather(*waiting)] == [None, None]
    await store.close()


@pytest.mark.parametrize("driver", Driver)
async def test_a_killed_server_comes_back_to_the_same_client(
    tmp_path: Path, impatient: None, driver: Driver
) -> None:
    """After a crash of the database calls fail; once it is back they work, and what was answered is there."""
    server = OwnServer(tmp_path)
    server.start()
    with closing(server):
        store = await MongoStore.open(server.new_database(), driver)
        rev = await store.put(RECORD, 0)
        assert rev is not None
        server.kill()
        await told(store.get(KEY))
        await told(store.put(replace(RECORD, value=b"2"), rev))
        server.start()
        assert await readable(store) == replace(RECORD, rev=rev)
        assert await store.put(replace(RECORD, value=b"2"), rev)
        await store.close()


# -- what others write -----------------------------------------------------------------------------------


async def test_a_damaged_document_is_not_absent(mongodb_uri: str) -> None:
    """Missing and wrong fields make a record whose value opens to nobody; pages and others' records stay readable."""
    store = await MongoStore.open(mongodb_uri)
    await store.put(replace(RECORD, key=replace(KEY, subject="whole")), 0)
    wrong = {"value": "text", "rev": "x", "state": 1, "zoom_user_id": 5, "changed_at": "never"}
    with beside(mongodb_uri) as database:
        for subject, fields in (("empty", {}), ("wrong", wrong)):
            name = {"_id": f"user:3:app:{subject}", "app": "app", "kind": "user", "subject": subject}
            database[RECORDS].insert_one(name | fields)
    page = await store.page("app", Kind.USER, limit=10)
    assert [(row.key.subject, row.value) for row in page] == [("empty", b""), ("whole", b"1"), ("wrong", b"")]
    assert (await store.get(replace(KEY, subject="wrong")))[0] == page[2]
    await store.close()


async def test_text_that_is_none_and_dates_of_no_calendar_are_read(mongodb_uri: str) -> None:
    """One such document would else fail every list, and every look at what changed. The server of the tests lets none in."""
    store = await MongoStore.open(mongodb_uri)
    document = {"_id": "user:3:app:monica@example.com", "app": "app", "kind": "user", "subject": KEY.subject}
    raw = bson.encode(document | {"state": "ACTIVE", "expire_date": DatetimeMS(10**17), "rev": 7})
    damaged = bson.decode(raw.replace(b"ACTIVE", b"ACTI\xff\xfe"), store._records.codec_options)
    found = mongodb_store._record(KEY, damaged)
    assert (found.rev, found.state) == (7, "ACTI\ufffd\ufffd")
    await store.close()


@pytest.mark.parametrize("driver", Driver)
async def test_no_object_reaches_a_filter(mongodb_uri: str, driver: Driver) -> None:
    """Whatever is no string is refused before it could be taken for an operator."""
    store = await MongoStore.open(mongodb_uri, driver)
    await store.put(RECORD, 0)
    operator: Any = {"$gt": ""}
    for call in (
        store.get(replace(KEY, subject=operator)),
        store.get(replace(KEY, app=operator)),
        store.put(replace(RECORD, zoom_user_id=operator), 0),
        store.page(operator, Kind.USER, limit=1),
        store.page("app", Kind.USER, after=operator, limit=1),
        store.page("app", Kind.USER, states=[operator], limit=1),
    ):
        with pytest.raises(TypeError):
            await call
    for text in ("$where", "a.b", "", "\x00", '{"$gt": ""}'):
        assert (await store.get(replace(KEY, subject=text)))[0] is None
    await store.close()


async def test_a_closed_store_refuses(mongodb_uri: str) -> None:
    """After close every call is an error of the store, and what ran has ended well."""
    store = await MongoStore.open(mongodb_uri)
    writing = asyncio.create_task(store.put(RECORD, 0))
    await asyncio.sleep(0)
    await store.close()
    assert await writing
    await told(store.get(KEY))


async def test_closing_does_not_hold_up_the_service(store: MongoStore, proxy: TcpProxy) -> None:
    """The event loop runs on while a store that does not answer is closed."""
    proxy.turn(Way.STALL)
    closing_down = asyncio.create_task(store.close())
    while not proxy.stalled:
        await asyncio.sleep(0)
    proxy.turn(Way.FORWARD)
    await closing_down
