"""Tests for the MongoDB store: addresses, errors on opening, and writes over broken connections."""

import asyncio
import gc
import os
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
from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from support.captured_logs import capture_logs
from support.mongodb import MongoServer, OwnServer, failing_commands
from support.tcp_proxy import Mode, TcpProxy, tcp_proxy
from zoomgate_server.storage import mongodb as mongodb_store
from zoomgate_server.storage.mongodb import _INDEXES, META, RECORDS, Driver, MongoStore, check, examine
from zoomgate_server.storage.record_store import (
    Kind,
    Order,
    Query,
    Record,
    RecordKey,
    StoreError,
    StoreOpenError,
    StoreUnreachableError,
    UserEmailTaken,
)
from zoomgate_server.storage.scan import encryption_state
from zoomgate_server.storage.timing import MongoTiming

# if a PyMongo client is closed while a connection attempt is pending, its socket is closed by the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

KEY = RecordKey("app", Kind.USER, "monica")
RECORD = Record(key=KEY, value=b"1")
SECRET = "hunter2"
TESTS = Path(__file__).parents[2]


async def open_error(uri: str, driver: Driver = Driver.MOTOR, timing: MongoTiming = MongoTiming()) -> str:
    """Return the error message of opening a database, and check that the message is one line with a remedy and without secrets."""
    with pytest.raises(StoreOpenError) as error:
        await MongoStore.open(uri, driver, timing)
    text = str(error.value)
    assert "\n" not in text
    assert "; " in text
    for secret in (SECRET, "127.0.0.1", "example.invalid", "monica", "authSource=", "directConnection"):
        assert secret not in text
    return text


@contextmanager
def raw_database(uri: str) -> Iterator[Any]:
    """Open the database directly, without the store."""
    with MongoClient(uri) as client:
        yield client.get_default_database()


# -- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://monica:hunter2@example.invalid", "no valid database name"),
        ("mongodb://monica:hunter2@example.invalid/", "no valid database name"),
        ("mongodb://monica:hunter2@example.invalid/?authSource=hunter2", "no valid database name"),
        ("mongodb://monica:hunter2@example.invalid/a.hunter2", "no valid database name"),
        ("mongodb://monica:p/hunter2@example.invalid/zoomgate", "no valid database name"),
        ("mongodb://monica:p/hunter2?x@example.invalid/zoomgate", "no valid database name"),
        ("mongodb://example.invalid/zoomgate?w=0", "w=0"),
        ("mongodb://example.invalid/zoomgate?authSource=hunter2&W=1", "w=1"),
        ("mongodb://example.invalid/zoomgate?%77=%31", "w=1"),
        ("mongodb://example.invalid/zoomgate?retryWrites=false", "retryWrites"),
        ("mongodb://example.invalid/zoomgate?x=y;retrywrites=False", "retryWrites"),
        ("mongodb+srv://example.invalid/zoomgate?readPreference=secondaryPreferred", "readPreference"),
        (
            "mongodb://monica:hunter2@example.invalid/zoomgate?hunter2=hunter2",
            "invalid or cannot be resolved",
        ),
        (
            "mongodb://example.invalid/zoomgate?authMechanismProperties=hunter2",
            "invalid or cannot be resolved",
        ),
        ("mongodb://monica:hun%ter2@example.invalid:port/zoomgate", "invalid or cannot be resolved"),
        ("mongodb://monica:@hunter2@example.invalid/zoomgate", "invalid or cannot be resolved"),
    ],
)
@pytest.mark.parametrize("driver", Driver)
async def test_invalid_or_unsafe_addresses_are_rejected(uri: str, reason: str, driver: Driver) -> None:
    """An address without a database, with weaker read or write settings, or with options that the driver rejects cannot be used."""
    assert reason in await open_error(uri, driver)


async def test_concerns_in_the_address_are_overridden(mongodb: MongoServer) -> None:
    """The store's own write and read concerns take precedence."""
    uri = mongodb.new_database("journal=false&readConcernLevel=local&readPreference=primary&maxPoolSize=1000")
    store = await MongoStore.open(uri)
    assert store._records.write_concern.document == {"w": "majority", "wtimeout": 5000, "j": True}
    assert store._records.read_concern.level == "majority"
    await store.close()


def test_driver_is_imported_only_when_used() -> None:
    """Commands, and services without MongoDB, do not import a MongoDB driver."""
    code = (
        "import sys, zoomgate_server.app.lifecycle, zoomgate_server.cli.doctor;"
        "print(sorted({'pymongo', 'motor', 'bson'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# -- opening --------------------------------------------------------------------------------------------


SHORT = MongoTiming(selection_timeout=0.3, connect_timeout=0.3, socket_timeout=0.3, queue_timeout=0.1)


@pytest.fixture
def unclosed_sockets() -> Iterator[None]:
    """Let the garbage collector close the sockets of interrupted connection attempts while its warning is ignored."""
    yield
    gc.collect()


@pytest.mark.parametrize("driver", Driver)
async def test_open_fails_if_the_database_is_unreachable(unclosed_sockets: None, driver: Driver) -> None:
    """Opening the store fails after a bounded time."""
    uri = f"mongodb://u:{SECRET}@127.0.0.1:1/zoomgate"
    assert "could not be reached" in await open_error(uri, driver, SHORT)


@pytest.mark.parametrize("driver", Driver)
async def test_open_fails_if_the_name_cannot_be_resolved(driver: Driver) -> None:
    """DNS may be unavailable only for a moment, so the store is reported as unreachable."""
    uri = f"mongodb+srv://monica:{SECRET}@example.invalid/zoomgate"
    assert "cannot be resolved" in await open_error(uri, driver, SHORT)
    with pytest.raises(StoreUnreachableError):
        await MongoStore.open(uri, driver, SHORT)
    with pytest.raises(StoreOpenError, match="cannot be resolved"):
        await examine(uri, driver, SHORT)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"version": 2}, "newer version"), ({"version": "1"}, "corrupt"), ({}, "corrupt")],
)
async def test_database_of_a_different_schema_version_is_rejected(
    mongodb_uri: str, schema: dict[str, Any], reason: str
) -> None:
    """A database of a newer version is not changed."""
    with raw_database(mongodb_uri) as database:
        database[META].insert_one({"_id": "schema"} | schema)
        assert reason in await open_error(mongodb_uri)
        with pytest.raises(StoreOpenError, match=reason):
            await examine(mongodb_uri)
        assert database[META].find_one() == {"_id": "schema"} | schema
        assert database.list_collection_names() == [META]


@pytest.mark.slow
async def test_user_needs_the_password_and_write_privileges(tmp_path: Path) -> None:
    """A wrong password, no password and a read-only user are rejected. A user with write privileges is accepted."""
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
        assert "username and password" in await open_error(f"mongodb://writer:{SECRET}-@{host}/zoomgate")
        assert "required privileges" in await open_error(f"mongodb://{host}/zoomgate")
        assert "required privileges" in await open_error(f"mongodb://monica:{SECRET}@{host}/zoomgate")
        store = await MongoStore.open(f"mongodb://writer:{SECRET}@{host}/zoomgate")
        assert await store.put(RECORD, 0)
        await store.close()


@pytest.mark.slow
async def test_standalone_server_is_used_with_a_warning(tmp_path: Path) -> None:
    server = OwnServer(tmp_path, "--standalone")
    server.start()
    with closing(server):
        uri = server.new_database()
        with capture_logs() as lines:
            store = await MongoStore.open(uri)
        assert await store.put(RECORD, 0)
        await store.close()
        assert ("store.standalone", "warning") in [(line["event"], line["level"]) for line in lines]
        assert "is a single server" in (await check(uri)).problems[0]


async def test_concurrent_opens_of_an_empty_database_succeed(mongodb_uri: str) -> None:
    """Stores with different drivers can use the same database."""
    stores = await asyncio.gather(*(MongoStore.open(mongodb_uri, driver) for driver in list(Driver) * 4))
    rev = await stores[0].put(RECORD, 0)
    for store in stores:
        assert (await store.get(KEY))[0] == replace(RECORD, rev=rev)
        await store.close()
    with raw_database(mongodb_uri) as database:
        assert database[META].find_one() == {"_id": "schema", "version": 1, "starts": 8}


async def test_examine_and_check_change_nothing(mongodb_uri: str) -> None:
    """`check` counts the connections. Neither creates a collection."""
    assert (await examine(mongodb_uri)).encryption == {}
    assert (await check(mongodb_uri)).connections == 0
    with raw_database(mongodb_uri) as database:
        assert database.list_collection_names() == []
    store = await MongoStore.open(mongodb_uri)
    await store.put(RECORD, 0)
    await store.close()
    with raw_database(mongodb_uri) as database:
        before = [list(database[name].find()) for name in sorted(database.list_collection_names())]
        assert set((await examine(mongodb_uri)).encryption) == {"app"}
        assert (await check(mongodb_uri)).connections == 1
        assert before == [list(database[name].find()) for name in sorted(database.list_collection_names())]


async def test_check_requires_writes_to_a_majority(faulty_server: MongoServer) -> None:
    """The writes of the service would fail in the same way."""
    uri = faulty_server.new_database()
    await (await MongoStore.open(uri)).close()
    with (
        failing_commands(
            faulty_server,
            "alwaysOn",
            ["update"],
            writeConcernError={"code": 64, "errmsg": "late", "errInfo": {"wtimeout": True}},
        ),
        pytest.raises(StoreOpenError, match="did not confirm a write by a majority"),
    ):
        await check(uri)


class Commands(CommandListener):
    """The read commands that drivers have sent."""

    def __init__(self) -> None:
        self.reads: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Record a command."""
        if (
            event.command_name in ("find", "aggregate", "distinct")
            and event.command.get(event.command_name) == RECORDS
        ):
            self.reads.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Ignore the response."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Ignore the response."""


def is_indexed(read: dict[str, Any]) -> bool:
    """Return whether an index contains the fields that a command compares for equality, and then those by which it sorts."""
    stages = {name: stage for row in read.get("pipeline", ()) for name, stage in row.items()}
    conditions = stages.get("$match", read.get("filter", read.get("query", {})))
    sort = list(stages.get("$sort", read.get("sort", {}))) or [name for name in [read.get("key")] if name]
    ranges = {name for name, value in conditions.items() if isinstance(value, dict) and "$in" not in value}
    assert ranges - {"$or"} <= set(sort)
    equal = set(conditions) - ranges - {"$or"}
    keys = [list(index.document["key"]) for index in _INDEXES] + [["_id"]]
    return any(set(key[: len(equal)]) == equal and key[len(equal) :][: len(sort)] == sort for key in keys)


async def test_every_read_has_an_index(mongodb_uri: str) -> None:
    """MongoDB can stop at the limit of every read. The server of the tests cannot, so the commands are compared with the indexes."""
    commands = Commands()
    client: Any = AsyncMongoClient(mongodb_uri, event_listeners=[commands])
    store = MongoStore(client.get_default_database(), MongoTiming(), 1, has_now=True)
    await store.put(replace(RECORD, user_email="monica@example.com"), 0)
    await store.get(KEY)
    await store.find("app", "monica@example.com")
    await encryption_state(store, "app")
    await store.apps()
    await store.changes("app", Kind.USER, 0.0, limit=10)
    await store.count_in_state("app", Kind.USER, "ACTIVE", after="", limit=10)
    for order in Order:
        for states in (
            [["ACTIVE"], ["ACTIVE", "REAUTH_REQUIRED"]]
            if order not in (Order.SUBJECT, Order.EXPIRE)
            else [[]]
        ):
            query = Query(order=order, states=states, since=1.0, after="a", before=2.0, limit=10)
            await store.page("app", Kind.USER, query)
    await store.close()
    assert len(commands.reads) >= 13
    assert [read for read in commands.reads if not is_indexed(read)] == []


async def test_database_deletes_expired_records_after_the_grace_period(mongodb_uri: str) -> None:
    """The TTL index deletes a record one hour after its expiry."""
    store = await MongoStore.open(mongodb_uri)
    await store.put(replace(RECORD, expire_at=86400.5), 0)
    await store.close()
    with raw_database(mongodb_uri) as database:
        indexes = database[RECORDS].index_information()
        document = database[RECORDS].find_one({})
    assert set(indexes) == {"_id_", "ttl"} | {index.document["name"] for index in _INDEXES}
    assert indexes["ttl"]["expireAfterSeconds"] == 3600
    if document is not None:  # the server may already have deleted the document
        assert document["expire_date"].isoformat() == "1970-01-02T00:00:00.500000"


# -- servers with fewer features -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """Return a server whose commands can be made to fail."""
    server = OwnServer(tmp_path_factory.mktemp("faulty_server"), "--enable-test-commands")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("driver", Driver)
async def test_clock_is_read_with_hello_if_now_is_not_supported(
    faulty_server: MongoServer, driver: Driver
) -> None:
    """Without `$$NOW`, reads return the same records and the server's current time."""
    uri = faulty_server.new_database()
    with (
        failing_commands(faulty_server, {"times": 1}, ["aggregate"], errorCode=17276),
        capture_logs() as lines,
    ):
        store = await MongoStore.open(uri, driver)
    assert {"clock": "hello", "event": "store.opened"}.items() <= lines[-1].items()
    other = await MongoStore.open(uri, driver)
    rev = await store.put(RECORD, 0)
    for key in (KEY, replace(KEY, subject="absent")):
        (mine, now), (theirs, later) = await store.get(key), await other.get(key)
        assert mine == theirs == (replace(RECORD, rev=rev) if key == KEY else None)
        assert abs(later - now) < 10
    await store.close()
    await other.close()


async def test_server_without_ttl_indexes_is_supported(faulty_server: MongoServer) -> None:
    """The log states that only the service deletes expired records."""
    uri = faulty_server.new_database()
    with (
        failing_commands(faulty_server, {"skip": 1}, ["createIndexes"], errorCode=67),
        capture_logs() as lines,
    ):
        store = await MongoStore.open(uri)
    assert lines[-1]["expired"] == "deleted by the service"
    rev = await store.put(replace(RECORD, expire_at=1.0), 0)
    assert [
        record.rev
        for record in await store.page("app", Kind.USER, Query(order=Order.EXPIRE, before=2.0, limit=10))
    ] == [rev]
    await store.close()


async def test_insert_is_repeated_if_the_conflicting_record_is_gone(faulty_server: MongoServer) -> None:
    """An insert without an email address never conflicts with the address of an unrelated record."""
    store = await MongoStore.open(faulty_server.new_database())
    await store.put(RECORD, 0)
    for user_email in (None, "monica@example.com"):
        added = replace(RECORD, key=replace(KEY, subject=f"added {user_email}"), user_email=user_email)
        # an older code of duplicate keys, since fail points do not support 11000
        with failing_commands(faulty_server, {"times": 1}, ["insert"], errorCode=12582):
            assert await store.put(added, 0)
    await store.close()


@pytest.mark.parametrize("driver", Driver)
async def test_write_without_majority_confirmation_fails(faulty_server: MongoServer, driver: Driver) -> None:
    """A write whose majority confirmation times out has an unknown outcome. Opening the store fails in the same way."""
    uri = faulty_server.new_database()
    timeout = {"code": 64, "errmsg": SECRET, "errInfo": {"wtimeout": True}}
    with failing_commands(
        faulty_server, "alwaysOn", ["insert", "update", "delete"], writeConcernError=timeout
    ):
        assert "majority" in await open_error(uri, driver)
    store = await MongoStore.open(uri, driver)
    rev = await store.put(RECORD, 0)
    assert rev is not None
    with failing_commands(
        faulty_server, "alwaysOn", ["insert", "update", "delete"], writeConcernError=timeout
    ):
        for write in (
            store.put(replace(RECORD, key=replace(KEY, subject="new")), 0),
            store.put(replace(RECORD, value=b"2"), rev),
            store.delete(KEY, rev),
        ):
            with pytest.raises(StoreError, match=r"majority|rejected") as error:
                await write
            assert SECRET not in str(error.value)
    await store.close()


@pytest.mark.parametrize("code", [13, 189, 10107, 11600])
async def test_rejected_operations_are_store_errors(
    faulty_server: MongoServer, unclosed_sockets: None, code: int
) -> None:
    """The codes stand for missing privileges, a primary that stepped down, no primary, and a server that is shutting down."""
    store = await MongoStore.open(faulty_server.new_database(), timing=SHORT)
    with failing_commands(faulty_server, "alwaysOn", ["insert", "find", "aggregate"], errorCode=code):
        for call in (store.put(RECORD, 0), store.get(KEY), store.page("app", Kind.USER, Query(limit=1))):
            await store_error_text(call)
    await store.close()


async def test_record_without_a_zoom_user_is_never_rejected_as_taken(mongodb_uri: str) -> None:
    """If the server reports a duplicate but there is no conflicting record, no unrelated record is named as the holder."""
    store = await MongoStore.open(mongodb_uri)
    assert await store.put(RECORD, 0)
    with raw_database(mongodb_uri) as database:
        database[RECORDS].create_index("value", unique=True)
    with pytest.raises(StoreError, match="no conflicting record"):
        await store.put(replace(RECORD, key=replace(KEY, subject="omar@example.com")), 0)
    await store.close()


class FailingDriver:
    """A database whose operations fail with an error that is not an error of the driver, as motor's do if no thread can be started."""

    def __init__(self) -> None:
        self.client = self.admin = self

    def __getitem__(self, _name: str) -> "FailingDriver":
        return self

    def __getattr__(self, _operation: str) -> Any:
        def fail(*_: object, **__: object) -> Any:
            raise RuntimeError("can't start new thread for 127.0.0.1")

        return fail

    def with_options(self, **_: object) -> "FailingDriver":
        """Return the database or collection with other options."""
        return self

    def find(self, *_: object, **__: object) -> "FailingDriver":
        """Return a cursor, whose operations fail, too."""
        return self

    aggregate = find


async def test_any_error_of_the_driver_is_a_store_error() -> None:
    store = MongoStore(FailingDriver(), SHORT, 1, has_now=True)
    for call in (
        store.get(KEY),
        store.put(RECORD, 0),
        store.put(RECORD, 1),
        store.delete(KEY, 1),
        store.page("app", Kind.USER, Query(limit=1)),
        store.find("app", "z"),
        store.count("app", Kind.USER),
        store.key_ids("app", Kind.USER),
        store.apps(),
        store.changes("app", Kind.USER, 0.0),
    ):
        assert await store_error_text(call) == "MongoDB failed (RuntimeError)"


# in a new process, because motor keeps idle threads
OPEN_WITHOUT_THREADS = """
import asyncio
from support.thread_limit import no_new_threads
from zoomgate_server.storage.mongodb import Driver, MongoStore
from zoomgate_server.storage.record_store import StoreOpenError
async def main():
    with no_new_threads():
        await MongoStore.open("mongodb://127.0.0.1:1/zoomgate", Driver.MOTOR)
try:
    asyncio.run(main())
except StoreOpenError as error:
    print(error)
"""


def test_open_fails_if_no_thread_can_be_started() -> None:
    result = subprocess.run(
        [sys.executable, "-c", OPEN_WITHOUT_THREADS],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be used (RuntimeError); " in result.stdout


# -- broken connections ----------------------------------------------------------------------------------


@pytest.fixture
async def proxy(mongodb: MongoServer) -> AsyncIterator[TcpProxy]:
    """Return a proxy in front of the server."""
    async with tcp_proxy(mongodb.address) as running:
        yield running


@pytest.fixture(params=Driver)
async def store(
    request: pytest.FixtureRequest, mongodb: MongoServer, proxy: TcpProxy, unclosed_sockets: None
) -> AsyncIterator[MongoStore]:
    """Return a store that connects through the proxy. Each test runs with each driver."""
    host, port = mongodb.address
    uri = mongodb.new_database("directConnection=true").replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
    opened = await MongoStore.open(uri, request.param, SHORT)
    yield opened
    await opened.close()


async def store_error_text(call: Any) -> str:
    """Return the message of a `StoreError`, and check that the message does not contain the host."""
    with pytest.raises(StoreError) as error:
        await call
    assert "127.0.0.1" not in str(error.value)
    return str(error.value)


async def read_when_available(store: MongoStore) -> Record:
    """Return the record as soon as the store responds again."""
    for _ in range(100):
        try:
            record, _ = await store.get(KEY)
        except StoreError:
            continue
        assert record is not None
        return record
    raise AssertionError("the store does not respond")


async def test_connection_lost_before_a_write_leaves_the_record_unchanged(
    store: MongoStore, proxy: TcpProxy
) -> None:
    """The write did not reach the database. The store reconnects automatically, and the old revision is still current."""
    rev = await store.put(RECORD, 0)
    assert rev is not None
    proxy.set_mode(Mode.CUT)
    await store_error_text(store.put(replace(RECORD, value=b"2"), rev))
    await store_error_text(store.get(KEY))
    await store_error_text(store.changes("app", Kind.USER, 0.0))
    proxy.set_mode(Mode.FORWARD)
    assert (await read_when_available(store)).value == b"1"
    assert await store.put(replace(RECORD, value=b"2"), rev) is not None


async def test_connection_lost_after_a_successful_write_raises_an_error(
    store: MongoStore, proxy: TcpProxy
) -> None:
    """A write whose response was lost raises an error although the record was changed. The write is not repeated."""
    rev = await store.put(RECORD, 0)
    assert rev is not None
    proxy.set_mode(Mode.LOSE)
    await store_error_text(store.put(replace(RECORD, value=b"2"), rev))
    proxy.set_mode(Mode.FORWARD)
    found = await read_when_available(store)
    assert found.value == b"2"
    assert found.rev != rev
    assert await store.put(replace(RECORD, value=b"3"), rev) is None


async def test_stalled_database_raises_store_errors(store: MongoStore, proxy: TcpProxy) -> None:
    """Calls fail while the database does not respond, and succeed once the database responds again."""
    assert await store.put(RECORD, 0)
    proxy.set_mode(Mode.STALL)
    await store_error_text(store.get(KEY))
    proxy.set_mode(Mode.FORWARD)
    assert (await read_when_available(store)).value == b"1"


async def test_canceled_write_completes(store: MongoStore, proxy: TcpProxy) -> None:
    """The write continues after its caller was canceled."""
    assert await store.put(RECORD, 0)
    found, _ = await store.get(KEY)
    assert found is not None
    proxy.set_mode(Mode.STALL)
    writing = asyncio.create_task(store.put(replace(RECORD, value=b"2"), found.rev))
    while not store._tasks:
        await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert len(store._tasks) == 1
    proxy.set_mode(Mode.FORWARD)
    assert await store._tasks.drain(5.0)
    assert (await read_when_available(store)).value == b"2"


async def test_exhausted_pool_raises_store_error(mongodb: MongoServer, proxy: TcpProxy) -> None:
    """While all connections are waiting for the database, the next call fails after a short wait."""
    uri = (
        f"mongodb://127.0.0.1:{proxy.port}/{mongodb.new_database().rpartition('/')[2]}?directConnection=true"
    )
    store = await MongoStore.open(uri, timing=MongoTiming(queue_timeout=0.1), pool_size=2)
    proxy.set_mode(Mode.STALL)
    waiting = [asyncio.create_task(store.get(KEY)) for _ in range(2)]
    await asyncio.sleep(0)
    assert "all connections are in use" in await store_error_text(store.get(KEY))
    proxy.set_mode(Mode.FORWARD)
    assert [record for record, _ in await asyncio.gather(*waiting)] == [None, None]
    await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("driver", Driver)
async def test_client_reconnects_after_a_server_crash(
    tmp_path: Path, unclosed_sockets: None, driver: Driver
) -> None:
    """Calls fail while the database is down. After the restart, calls succeed, and confirmed writes are preserved."""
    server = OwnServer(tmp_path)
    server.start()
    with closing(server):
        store = await MongoStore.open(server.new_database(), driver, SHORT)
        rev = await store.put(RECORD, 0)
        assert rev is not None
        server.kill()
        await store_error_text(store.get(KEY))
        await store_error_text(store.put(replace(RECORD, value=b"2"), rev))
        server.start()
        assert await read_when_available(store) == replace(RECORD, rev=rev)
        assert await store.put(replace(RECORD, value=b"2"), rev)
        await store.close()


# -- invalid documents -------------------------------------------------------------------------


async def test_corrupt_document_is_returned_with_an_empty_value(mongodb_uri: str) -> None:
    """Missing fields and fields of a wrong type neither cause errors nor hide other records."""
    store = await MongoStore.open(mongodb_uri)
    await store.put(replace(RECORD, key=replace(KEY, subject="whole")), 0)
    wrong = {"value": "text", "rev": "x", "state": 1, "email_key": 5, "changed_at": "never"}
    with raw_database(mongodb_uri) as database:
        for subject, fields in (("empty", {}), ("wrong", wrong)):
            name = {"_id": f"user:3:app:{subject}", "app": "app", "kind": "user", "subject": subject}
            database[RECORDS].insert_one(name | fields)
    page = await store.page("app", Kind.USER, Query(limit=10))
    assert [(row.key.subject, row.value) for row in page] == [("empty", b""), ("whole", b"1"), ("wrong", b"")]
    assert (await store.get(replace(KEY, subject="wrong")))[0] == page[2]
    await store.close()


@pytest.mark.parametrize(
    "fields", [{"subject": None}, {"subject": "omar"}, {"app": "other"}, {"app": 7}], ids=str
)
async def test_misplaced_document_is_found_by_email_with_an_empty_value(
    mongodb_uri: str, fields: dict[str, Any]
) -> None:
    """The record has the key in the document's `_id`, so that the document can be replaced."""
    store = await MongoStore.open(mongodb_uri)
    rev = await store.put(replace(RECORD, user_email="monica@example.com"), 0)
    assert rev is not None
    with raw_database(mongodb_uri) as database:
        database[RECORDS].update_one({}, {"$set": fields})
    expected = replace(RECORD, value=b"", rev=rev, user_email="monica@example.com")
    assert (await store.find("app", "monica@example.com"))[0] == expected
    assert await store.page("app", Kind.USER, Query(order=Order.EMAIL, limit=10)) == [expected]
    with pytest.raises(UserEmailTaken) as error:
        await store.put(replace(expected, key=replace(KEY, subject="other")), 0)
    assert error.value.subject == KEY.subject
    await store.close()


@pytest.mark.parametrize(
    "value", [5, ["3:app:a@x", "3:app:z@x"], {"a": "3:app:a@x"}, "a@x", "5:other:a@x"], ids=str
)
async def test_document_with_a_corrupt_email_key_is_found_by_its_key_only(
    mongodb_uri: str, value: object
) -> None:
    """Its user sees no connection, and other records are found and listed."""
    store = await MongoStore.open(mongodb_uri)
    for name in ("corrupt", "whole"):
        await store.put(replace(RECORD, key=replace(KEY, subject=name), user_email=f"{name}@x"), 0)
    with raw_database(mongodb_uri) as database:
        database[RECORDS].update_one({"subject": "corrupt"}, {"$set": {"email_key": value}})
    assert (await store.find("app", "corrupt@x"))[0] is None
    page = await store.page("app", Kind.USER, Query(order=Order.EMAIL, limit=10))
    assert [record.user_email for record in page] == ["whole@x"]
    record, _ = await store.get(replace(KEY, subject="corrupt"))
    assert record is not None
    assert record.user_email != "corrupt@x"
    await store.close()


async def test_invalid_utf8_and_out_of_range_dates_are_decoded(mongodb_uri: str) -> None:
    """Invalid values must not cause queries to fail. The document is decoded directly, since the test server rejects such values."""
    store = await MongoStore.open(mongodb_uri)
    document = {"_id": "user:3:app:monica", "app": "app", "kind": "user", "subject": KEY.subject}
    raw = bson.encode(document | {"state": "ACTIVE", "expire_date": DatetimeMS(10**17), "rev": 7})
    corrupt = bson.decode(raw.replace(b"ACTIVE", b"ACTI\xff\xfe"), store._records.codec_options)
    record = mongodb_store._record(KEY, corrupt)
    assert (record.rev, record.state) == (7, "ACTI\ufffd\ufffd")
    await store.close()


@pytest.mark.parametrize("driver", Driver)
async def test_query_operators_cannot_be_injected(mongodb_uri: str, driver: Driver) -> None:
    """A value that is not a string is rejected, since an object would act as a query operator."""
    store = await MongoStore.open(mongodb_uri, driver)
    await store.put(RECORD, 0)
    operator: Any = {"$gt": ""}
    for call in (
        store.get(replace(KEY, subject=operator)),
        store.get(replace(KEY, app=operator)),
        store.put(replace(RECORD, user_email=operator), 0),
        store.find("app", operator),
        store.find(operator, "monica@example.com"),
        store.page(operator, Kind.USER, Query(limit=1)),
        store.page("app", Kind.USER, Query(after=operator, limit=1)),
        store.page("app", Kind.USER, Query(order=Order.EMAIL, after=operator, limit=1)),
        store.page("app", Kind.USER, Query(states=[operator], limit=1)),
    ):
        with pytest.raises(TypeError):
            await call
    for text in ("$where", "a.b", "", "\x00", '{"$gt": ""}'):
        assert (await store.get(replace(KEY, subject=text)))[0] is None
    await store.close()


async def test_closed_store_raises_store_errors(mongodb_uri: str) -> None:
    """After `close`, every call fails, but running operations complete."""
    store = await MongoStore.open(mongodb_uri)
    writing = asyncio.create_task(store.put(RECORD, 0))
    await asyncio.sleep(0)
    await store.close()
    assert await writing
    await store_error_text(store.get(KEY))


async def test_close_does_not_block_the_event_loop(store: MongoStore, proxy: TcpProxy) -> None:
    """The event loop keeps running while an unresponsive store is closed."""
    proxy.set_mode(Mode.STALL)
    closing_down = asyncio.create_task(store.close())
    while not proxy.stalled:
        await asyncio.sleep(0)
    proxy.set_mode(Mode.FORWARD)
    await closing_down
