"""A record store in a MongoDB database: shared by every process of every machine.

One document is one record, and every write is a compare-and-set of one document: no transactions, no upserts. What was answered is on
disk on a majority of the replica set and cannot be rolled back; what is read is such a state too. The calls are those that motor's
`AsyncIOMotorClient` and PyMongo's `AsyncMongoClient` share; `connect`, `_settled` and `_close` know the rest
(docs/adr/0006-motor-and-pymongo.md).
"""

import asyncio
import inspect
import re
import secrets
import warnings
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextvars import Context
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pymongo import ASCENDING, IndexModel, ReadPreference
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    KEYED,
    TOMBSTONE_STATE,
    Change,
    Column,
    Examined,
    Kind,
    Record,
    RecordKey,
    Sealed,
    StoreError,
    StoreOpenError,
    StoreUnreachableError,
    ZoomUserTaken,
)
from zoomgate_server.telemetry import logs

SCHEMA_VERSION = 1
RECORDS, META = "zoomgate_records", "zoomgate_meta"
"""The two collections. `META` has one document, `schema`: the version, and how many starts there were."""

POOL = 32
"""Operations at a time in one process, and connections in its pool."""

WAIT_SECONDS = 2.0
"""How long an operation waits for one of them to end."""

SELECT_SECONDS = 3.0
"""How long it waits for a primary: what the store does not answer in this time, it does not answer."""

CONNECT_SECONDS = 2.0
MAJORITY_SECONDS = 5.0
"""How long a write waits for the majority."""

SOCKET_SECONDS = 6.0
"""Longer than the wait for the majority, so that the server's own answer comes first."""

OPERATION_SECONDS = 8.0
"""How long a caller waits in all; the operation itself goes on, as the driver repeats what a lost connection interrupted."""

TTL_GRACE_SECONDS = 3600
"""How long after its `expire_at` the database may delete a record: never early, whatever its clock does."""

_ADDRESS = re.compile(
    # an @ behind the first slash means that a password has a slash: the rest of it must not be taken for a name
    r"(?P<scheme>mongodb(\+srv)?)://[^/]+/(?P<database>[A-Za-z0-9_-]{1,63})(\?(?P<query>[^@]*))?"
)
_LAST_DATE = 253402300799.0  # the end of the year 9999
_CLAIM_ATTEMPTS = 3
_NO_REV = -1
"""Revision of a document whose own is missing or damaged: it is replaced as long as that is so."""

_UNAUTHORIZED, _WRONG_PASSWORD = frozenset({13, 31}), frozenset({18, 11, 334})
_INDEXES = (
    IndexModel([("app", ASCENDING), ("kind", ASCENDING), ("subject", ASCENDING)], name="key"),
    IndexModel([("zoom_user_claim", ASCENDING)], name="zoom_user", unique=True, sparse=True),
    IndexModel([("app", ASCENDING), ("kind", ASCENDING), ("changed_at", ASCENDING)], name="changes"),
    IndexModel([("app", ASCENDING), ("kind", ASCENDING), ("due_at", ASCENDING)], name="due"),
    IndexModel([("app", ASCENDING), ("kind", ASCENDING), ("expire_at", ASCENDING)], name="expire"),
)
_TTL_INDEX = IndexModel([("expire_date", ASCENDING)], name="ttl", expireAfterSeconds=TTL_GRACE_SECONDS)

_T = TypeVar("_T")
_log = logs.get("store")


class Driver(StrEnum):
    """Whose client is used."""

    MOTOR = "motor"
    PYMONGO = "pymongo"


def connect(uri: str, driver: Driver = Driver.MOTOR) -> Any:
    """Make a client; only this, `_settled` and `_close` know whose it is.

    Args:
        uri: A MongoDB address. What it says of pool size and times is overridden.
        driver: Whose client.

    Raises:
        StoreOpenError: The driver does not understand the address.
    """
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": int(SELECT_SECONDS * 1000),
        "connectTimeoutMS": int(CONNECT_SECONDS * 1000),
        "socketTimeoutMS": int(SOCKET_SECONDS * 1000),
        "waitQueueTimeoutMS": int(WAIT_SECONDS * 1000),
        "maxPoolSize": POOL,
        "appname": "zoomgate",
    }
    # each is imported only where it is used: both take a while
    if driver is Driver.MOTOR:
        from motor.motor_asyncio import AsyncIOMotorClient as Client  # noqa: PLC0415
    else:
        from pymongo import AsyncMongoClient as Client  # type: ignore[assignment]  # noqa: PLC0415
    try:
        with warnings.catch_warnings():
            # they are about options that it does not know, and may quote their values
            warnings.simplefilter("error", UserWarning)
            return Client(uri, **options)
    except (PyMongoError, UserWarning, ValueError, TypeError, OSError):
        raise StoreOpenError(
            f"The store {_shown(uri)} has an address that the MongoDB driver does not understand or cannot resolve: check its"
            " hosts and options, and that user and password are percent-encoded"
        ) from None


async def examine(uri: str, driver: Driver = Driver.MOTOR) -> Examined:
    """Look at a database without changing anything.

    Raises:
        StoreOpenError: It cannot be used.
    """
    database = _database(uri)
    client = connect(uri, driver)
    try:
        hello = await client.admin.command("hello")
        found = _in_database(client, database)
        _check_version(await found[META].find_one({"_id": "schema"}), _shown(uri))
        users = await found[RECORDS].count_documents({"kind": Kind.USER.value})
        store = MongoStore(client, database, has_now=False)
        sealed = {app: await _sealed(store, app) for app in await store.apps()}
    except StoreError as error:
        raise StoreOpenError(f"The store {_shown(uri)} cannot be read: {error}") from None
    except PyMongoError as error:
        raise StoreOpenError(_explain(_shown(uri), error)) from None
    finally:
        await _close(client)
    return Examined(_shown(uri), users, sealed, _is_replicated(hello))


async def _sealed(store: "MongoStore", app: str) -> Sealed:
    canary, _ = await store.get(RecordKey(app, Kind.KEY_CHECK, KEY_CHECK))
    counted = [await store.count(app, kind, Column.KEY_ID) for kind in KEYED]
    return Sealed(canary, frozenset[str]().union(*counted))


class MongoStore:
    """Keeps records in one database. Use `open`.

    Args:
        client: A client of either driver; it is closed with the store.
        database: Name of the database.
        has_now: Whether the server knows `$$NOW` in an aggregation; else its clock is read by `hello`.
    """

    def __init__(self, client: Any, database: str, *, has_now: bool) -> None:
        self._client = client
        self._records = _in_database(client, database)[RECORDS]
        # why a write was refused is told by the latest state, which need not be a majority's yet
        self._latest = self._records.with_options(read_concern=ReadConcern("local"))
        self._has_now = has_now
        self._slots = asyncio.Semaphore(POOL)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, uri: str, driver: Driver = Driver.MOTOR) -> "MongoStore":
        """Connect, prove that writes reach a majority, and make the indexes that are missing.

        Raises:
            StoreNotReachedError: The database cannot be reached, or no majority of it.
            StoreOpenError: The address forbids what the store needs, the database cannot be written, or a newer version of Zoomgate
                uses it.
        """
        database, shown = _database(uri), _shown(uri)
        client = connect(uri, driver)
        try:
            hello = await client.admin.command("hello")
            if not _is_replicated(hello):
                # its majority is one disk
                _log.warning("store.standalone", store=shown)
            found = _in_database(client, database)
            await _prove_writes(found, shown)
            await found[RECORDS].create_indexes(list(_INDEXES))
            deletes = await _make_ttl_index(found[RECORDS])
            has_now = await _knows_now(found[META])
        except PyMongoError as error:
            await _close(client)
            passing = isinstance(error, ConnectionFailure | WTimeoutError)
            raise (StoreUnreachableError if passing else StoreOpenError)(_explain(shown, error)) from None
        except BaseException:
            await _close(client)
            raise
        _log.info(
            "store.opened",
            store=shown,
            driver=driver.value,
            clock="$$NOW" if has_now else "hello",
            expired="deleted by the database and the service" if deletes else "deleted by the service",
        )
        return cls(client, database, has_now=has_now)

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Read one record and the database's clock: one round trip if there is a record, else two."""
        name = _id(key)
        return await self._run(lambda: self._read({"_id": name}, key))

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record to a majority if its revision is still `if_rev`."""
        # random, so that one never comes back, not even after a delete, and without a second write for a counter
        rev = secrets.randbits(62) + 1
        document = _document(record, rev)
        return await self._run(lambda: self._put(document, if_rev))

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`."""
        name = _id(key)

        async def delete() -> bool:
            result = await self._records.delete_one(_at(name, if_rev))
            return bool(result.deleted_count == 1)

        return await self._run(delete)

    async def page(
        self,
        app: str,
        kind: Kind,
        *,
        states: Collection[str] = (),
        due_before: float | None = None,
        expire_before: float | None = None,
        after: str = "",
        limit: int,
    ) -> list[Record]:
        """Read records in the order of their subjects."""
        wanted: dict[str, Any] = {
            "app": _text(app),
            "kind": kind.value,
            "subject": {"$gt": _text(after)},
        }
        if states:
            wanted["state"] = {"$in": [_text(state) for state in states]}
        if due_before is not None:
            wanted["due_at"] = {"$lt": float(due_before)}
        if expire_before is not None:
            wanted["expire_at"] = {"$lt": float(expire_before)}

        async def read() -> list[Record]:
            most = limit
            while True:
                cursor = self._records.find(wanted, sort=[("subject", ASCENDING)], limit=most)
                documents = await cursor.to_list(None)
                found = [
                    _record(RecordKey(app, kind, document["subject"]), document)
                    for document in documents
                    if isinstance(document.get("subject"), str)  # an array of texts is found as well
                ]
                if len(documents) < most or len(found) == limit:
                    return found
                most = limit + len(documents) - len(found)

        return await self._run(read)

    async def find(self, app: str, zoom_user_id: str) -> tuple[Record | None, float]:
        """Read the living record of a Zoom user and the database's clock."""
        claim = _claim(app, zoom_user_id)
        return await self._run(lambda: self._read({"zoom_user_claim": claim}, None))

    async def count(self, app: str, kind: Kind, by: Column) -> dict[str, int]:
        """Count records by a column."""
        column = {Column.STATE: "$state", Column.KEY_ID: "$key_id"}[by]
        stages = [
            {"$match": {"app": _text(app), "kind": kind.value}},
            {"$group": {"_id": column, "records": {"$sum": 1}}},
        ]

        async def read() -> dict[str, int]:
            cursor = await _settled(self._records.aggregate(stages))
            found: dict[str, int] = {}
            for row in await cursor.to_list(None):
                value = row["_id"] if isinstance(row["_id"], str) else ""
                found[value] = found.get(value, 0) + row["records"]
            return found

        return await self._run(read)

    async def apps(self) -> list[str]:
        """Name the apps that have records."""

        async def read() -> list[str]:
            cursor = await _settled(self._records.aggregate([{"$group": {"_id": "$app"}}]))
            return sorted(row["_id"] for row in await cursor.to_list(None) if isinstance(row["_id"], str))

        return await self._run(read)

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[list[Change], float]:
        """List what changed."""
        wanted = {
            "app": _text(app),
            "kind": kind.value,
            "changed_at": {"$gte": float(since)},
        }

        async def read() -> tuple[list[Change], float]:
            now = await self._clock()
            most = limit or 0
            while True:
                cursor = self._records.find(
                    wanted, {"value": 0}, sort=[("changed_at", ASCENDING)], limit=most
                )
                documents = await cursor.to_list(None)
                found: dict[RecordKey, Change] = {}
                for document in documents:  # one that changes meanwhile may come twice
                    key = _key(document)
                    if key is not None:
                        record = _record(key, document)
                        found[key] = Change(key, record.rev, record.state, record.changed_at)
                if limit is None or len(documents) < most or len(found) >= limit:
                    return sorted(found.values(), key=lambda change: change.changed_at), now
                most += len(documents) - len(found)

        return await self._run(read)

    async def close(self) -> None:
        """Finish what is running, as far as MongoDB lets it, and close the client."""
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=OPERATION_SECONDS)
        await _close(self._client)

    async def _run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run an operation in a task of its own: a caller that leaves neither tears a write nor costs the connection."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreError("MongoDB is too slow: all connections are in use") from None
        if self._closed:
            self._slots.release()
            raise StoreError("the store is closed")
        task = asyncio.create_task(_guarded(work), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(OPERATION_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError:
            raise StoreError("MongoDB did not answer in time") from None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            task.exception()  # else one that nobody waits for any more is reported as forgotten

    async def _read(self, wanted: dict[str, str], key: RecordKey | None) -> tuple[Record | None, float]:
        """Read the one record that a filter matches, and the clock.

        Args:
            wanted: The filter.
            key: Whose record it must be; None for the one that the document says, if it is where it belongs.
        """

        def record(document: dict[str, Any] | None) -> Record | None:
            name = key or (None if document is None else _key(document))
            return None if document is None or name is None else _record(name, document)

        if not self._has_now:
            now = await self._clock()
            return record(await self._records.find_one(wanted)), now
        cursor = await _settled(self._records.aggregate([{"$match": wanted}, {"$set": {"now": "$$NOW"}}]))
        for document in await cursor.to_list(None):
            return record(document), _seconds(document["now"])
        return None, await self._clock()

    async def _put(self, document: dict[str, Any], if_rev: int) -> int | None:
        name, rev, claim = document["_id"], int(document["rev"]), document.get("zoom_user_claim")
        for _ in range(_CLAIM_ATTEMPTS):
            try:
                if if_rev == 0:
                    await self._records.insert_one(document)
                    return rev
                result = await self._records.replace_one(_at(name, if_rev), document)
                return rev if result.matched_count == 1 else None
            except DuplicateKeyError:
                if if_rev == 0 and await self._latest.find_one({"_id": name}, {"rev": 1}) is not None:
                    return None
                holder = await self._latest.find_one({"zoom_user_claim": claim}, {"subject": 1})
                if holder is not None:
                    raise ZoomUserTaken(str(holder.get("subject", ""))) from None
                # whoever was in the way is gone already
        raise StoreError("MongoDB kept refusing a record whose key is free")

    async def _clock(self) -> float:
        return _seconds((await self._client.admin.command("hello"))["localTime"])


async def _guarded(work: Callable[[], Awaitable[_T]]) -> _T:
    """Turn the driver's failures into ours: their texts name hosts and values."""
    try:
        return await work()
    except WTimeoutError:
        raise StoreError("MongoDB did not confirm a write by a majority in time") from None
    except OperationFailure as error:
        raise StoreError(f"MongoDB refused ({type(error).__name__}, code {error.code})") from None
    except (PyMongoError, BSONError, OSError) as error:
        raise StoreError(f"MongoDB failed ({type(error).__name__})") from None


async def _settled(answer: Any) -> Any:
    """Give the answer of `aggregate`, which only PyMongo's client wants awaited."""
    return await answer if inspect.isawaitable(answer) else answer


async def _close(client: Any) -> None:
    """Close a client of either driver. Motor's would keep the event loop waiting: it says goodbye to the server first."""
    if inspect.iscoroutinefunction(client.close):
        await client.close()
    else:
        await asyncio.to_thread(client.close)


# -- addresses -------------------------------------------------------------------------------------------


def _shown(uri: str) -> str:
    """The address without users, hosts and options."""
    found = _ADDRESS.fullmatch(uri)
    return f"{found['scheme']}://…/{found['database']}" if found else "mongodb://…"


def _database(uri: str) -> str:
    """Give the name of the database, if the address leaves the store what it needs.

    Raises:
        StoreOpenError: It does not.
    """
    found, shown = _ADDRESS.fullmatch(uri), _shown(uri)
    if found is None:
        raise StoreOpenError(
            f"The store {shown} names no database that can be used: write mongodb://HOSTS/zoomgate, or another name of letters,"
            " digits, _ and -, with user and password percent-encoded"
        )
    for part in re.split("[&;]", found["query"] or ""):
        name, _, text = (unquote_plus(piece).strip().lower() for piece in part.partition("="))
        if name == "w" and re.fullmatch(r"\+?0*[01]", text):
            raise StoreOpenError(
                f"The store {shown} has an address with w={text}, by which stored tokens get lost: leave w out"
            )
        if name == "retrywrites" and text != "true":
            raise StoreOpenError(f"The store {shown} has an address that turns off retryWrites: leave it out")
        if name == "readpreference" and text != "primary":
            raise StoreOpenError(
                f"The store {shown} has an address with a readPreference other than primary, which reads old tokens: leave it out"
            )
    return found["database"]


def _in_database(client: Any, database: str) -> Any:
    return client.get_database(
        database,
        # what is damaged is read as something else, which fits no sealed value, instead of failing everything that is read with it
        codec_options=CodecOptions(
            unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
        ),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority", wtimeout=int(MAJORITY_SECONDS * 1000), j=True),
    )


# -- opening ---------------------------------------------------------------------------------------------


def _is_replicated(hello: dict[str, Any]) -> bool:
    return "setName" in hello or hello.get("msg") == "isdbgrid"


def _check_version(schema: dict[str, Any] | None, shown: str) -> None:
    version = SCHEMA_VERSION if schema is None else schema.get("version")
    if not isinstance(version, int):
        raise StoreOpenError(f"The store {shown} is damaged: restore it from your backup")
    if version > SCHEMA_VERSION:
        raise StoreOpenError(
            f"The store {shown} was written by a newer version of Zoomgate: upgrade this one"
        )


async def _prove_writes(database: Any, shown: str) -> None:
    """Write the version, and show that a write reaches a majority."""
    meta = database[META].with_options(read_concern=ReadConcern("local"))
    schema = await meta.find_one({"_id": "schema"})
    _check_version(schema, shown)
    if schema is None:
        try:
            await meta.insert_one({"_id": "schema", "version": SCHEMA_VERSION, "starts": 0})
        except DuplicateKeyError:
            pass  # another process starts as well
    await meta.update_one({"_id": "schema"}, {"$inc": {"starts": 1}})


async def _make_ttl_index(records: Any) -> bool:
    """Let the database delete what has expired. False if it has no such index: the service deletes as well."""
    try:
        await records.create_indexes([_TTL_INDEX])
    except OperationFailure:
        return False
    return True


async def _knows_now(meta: Any) -> bool:
    try:
        cursor = await _settled(meta.aggregate([{"$match": {"_id": "schema"}}, {"$set": {"now": "$$NOW"}}]))
        rows = await cursor.to_list(None)
    except OperationFailure:
        return False
    return bool(rows) and isinstance(rows[0].get("now"), datetime)


def _explain(shown: str, error: PyMongoError) -> str:
    match error:
        case WTimeoutError():
            return f"The store {shown} did not confirm a write by a majority in {MAJORITY_SECONDS:.0f} seconds: check its replica set"
        case ServerSelectionTimeoutError():
            return (
                f"The store {shown} could not be reached in {SELECT_SECONDS:.0f} seconds, or has no primary:"
                " check its address, its TLS and the network"
            )
        case OperationFailure() if error.code in _WRONG_PASSWORD:
            return f"The store {shown} refuses user and password: check both, and authSource"
        case OperationFailure() if error.code in _UNAUTHORIZED:
            return (
                f"The store {shown} gives its user too few rights: grant the role readWrite on that database"
            )
        case OperationFailure():
            return f"The store {shown} cannot be used (MongoDB refused, code {error.code}): look at the code in MongoDB's documentation"
        case ConfigurationError():
            return f"The store {shown} is of a version or kind that the MongoDB driver cannot use: MongoDB 4.2 or newer is needed"
        case _:
            return f"The store {shown} cannot be used ({type(error).__name__}): check that it is up and can be written"


# -- documents -------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    """Let strings through and nothing else: an object in a filter would be an operator."""
    if not isinstance(value, str):
        raise TypeError("a key must be a string")
    return value


def _id(key: RecordKey) -> str:
    """The name of a document. It is a string, since not every compatible server finds objects by its index."""
    return f"{Kind(key.kind).value}:{len(_text(key.app))}:{key.app}:{_text(key.subject)}"


def _claim(app: str, zoom_user_id: str) -> str:
    """What the living record of a Zoom user has in `zoom_user_claim`."""
    return f"{len(_text(app))}:{app}:{_text(zoom_user_id)}"


def _document(record: Record, rev: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "_id": _id(record.key),
        "app": record.key.app,
        "kind": record.key.kind.value,
        "subject": record.key.subject,
        "value": record.value,
        "rev": rev,
        "state": _text(record.state),
        "key_id": _text(record.key_id),
        "changed_at": float(record.changed_at),
    }
    if record.zoom_user_id is not None:
        document["zoom_user_id"] = _text(record.zoom_user_id)
        if record.state != TOMBSTONE_STATE:
            # one field, since a sparse index of several takes in every document that has one of them
            document["zoom_user_claim"] = _claim(record.key.app, record.zoom_user_id)
    if record.due_at is not None:
        document["due_at"] = float(record.due_at)
    if record.expire_at is not None:
        document["expire_at"] = float(record.expire_at)
        document["expire_date"] = datetime.fromtimestamp(min(record.expire_at, _LAST_DATE), UTC)
    return document


def _key(document: dict[str, Any]) -> RecordKey | None:
    """Give the key of a document by its fields, or None if its name is another's: it is somewhere it does not belong."""
    app, kind, subject = (document.get(name) for name in ("app", "kind", "subject"))
    if not isinstance(app, str) or kind not in list(Kind) or not isinstance(subject, str):
        return None
    key = RecordKey(app, Kind(kind), subject)
    return key if document["_id"] == _id(key) else None


def _at(name: str, rev: int) -> dict[str, Any]:
    """Name a document at a revision, for a filter."""
    if rev == _NO_REV:
        return {"_id": name, "rev": {"$not": {"$type": ["int", "long"], "$gt": 0}}}
    return {"_id": name, "rev": int(rev)}


def _record(key: RecordKey, document: dict[str, Any]) -> Record:
    """Read the document of a key.

    A field that somebody else wrote with another type counts as empty, and so does the value of a document that says it is another
    record: what is sealed then does not open.
    """

    def column(name: str, kind: type | tuple[type, ...], absent: Any) -> Any:
        value = document.get(name, absent)
        return value if isinstance(value, kind) else absent

    rev = column("rev", int, _NO_REV)
    return Record(
        key=key,
        value=column("value", bytes, b"") if _key(document) == key else b"",
        rev=int(rev) if rev > 0 and rev is not True else _NO_REV,
        state=column("state", str, ""),
        key_id=column("key_id", str, ""),
        zoom_user_id=column("zoom_user_id", str, None),
        changed_at=column("changed_at", (float, int), 0.0),
        due_at=column("due_at", (float, int), None),
        expire_at=column("expire_at", (float, int), None),
    )


def _seconds(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
