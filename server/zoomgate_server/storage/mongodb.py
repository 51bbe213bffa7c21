"""A record store in a MongoDB database, shared by all processes on all machines.

One document is one record, and every write is a compare-and-set of one document, without transactions or upserts. A confirmed write is
on the disks of a majority of the replica set and cannot be rolled back. Reads return only confirmed writes. The store uses the methods that
motor's `AsyncIOMotorClient` and PyMongo's `AsyncMongoClient` have in common. Only `connect`, `_aggregate` and `_close` handle the
differences (docs/adr/0006-motor-and-pymongo.md).
"""

import asyncio
import re
import secrets
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from inspect import isawaitable, iscoroutinefunction
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from bson.codec_options import CodecOptions, DatetimeConversion
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
    Change,
    Kind,
    Order,
    Query,
    Record,
    RecordKey,
    StoreError,
    StoreHealth,
    StoreInspection,
    StoreOpenError,
    StoreUnreachableError,
    UserEmailTaken,
)
from zoomgate_server.storage.scan import count_records, inspect
from zoomgate_server.storage.timing import MongoTiming
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskSet, retrieve_exception

SCHEMA_VERSION = 1
RECORDS, META = "zoomgate_records", "zoomgate_meta"
"""Names of the two collections. `META` contains one document, `schema`, with the schema version and the number of starts."""

POOL_SIZE = 32
"""Maximum number of concurrent operations in one process, and of connections in its pool."""

TTL_GRACE_SECONDS = 3600
"""Time between `expire_at` and the deletion by the database. The margin prevents early deletion if the database's clock is wrong."""

_ADDRESS = re.compile(
    # an @ after the first slash means that the password contains a slash: the rest of the password must not be mistaken for the name
    r"(?P<scheme>mongodb(\+srv)?)://[^/]+/(?P<database>[A-Za-z0-9_-]{1,63})(\?(?P<query>[^@]*))?"
)
_UNSAFE_OPTIONS = {
    "w": (r"\+?0*[01]", "sets w={}, which can lose stored tokens; remove w"),
    "retrywrites": ("(?!true$).*", "disables retryWrites; remove that option"),
    "readpreference": (
        "(?!primary$).*",
        "sets a readPreference other than primary, which can return old tokens; remove that option",
    ),
}
"""Options in an address that weaken reads or writes: a pattern of the unsafe values, and the problem."""

_LAST_DATE = 253402300799.0  # the end of the year 9999
_LAST_CHARACTER = "\U0010ffff"
_INSERT_ATTEMPTS = 3
_NO_REV = -1
"""Revision returned for a document without a valid revision. A write with this revision requires that the document still has none."""

_UNAUTHORIZED, _WRONG_PASSWORD = frozenset({13, 31}), frozenset({18, 11, 334})
_INDEXES = (
    IndexModel([("email_key", ASCENDING)], name="email", unique=True, sparse=True),
    *(
        IndexModel([(field, ASCENDING) for field in ("app", "kind", *fields)], name=name)
        for name, fields in {
            "key": ("subject",),
            "changes": ("changed_at",),
            "state_email": ("state", "email_key"),
            "state_changed": ("state", "changed_at", "subject"),
            "state_due": ("state", "due_at", "subject"),
            "expire": ("expire_at", "subject"),
            "key_id": ("key_id",),
        }.items()
    ),
)
"""Indexes in which the fields that a query compares for equality precede those by which it sorts, so that no query reads more documents
than it returns (https://www.mongodb.com/docs/manual/tutorial/equality-sort-range-guideline/)."""

_TTL_INDEX = IndexModel([("expire_date", ASCENDING)], name="ttl", expireAfterSeconds=TTL_GRACE_SECONDS)

_T = TypeVar("_T")
_log = logs.get("store")


class Driver(StrEnum):
    """A driver that provides the client."""

    MOTOR = "motor"
    PYMONGO = "pymongo"


def connect(uri: str, driver: Driver, timing: MongoTiming, pool_size: int) -> Any:
    """Create a client, and return its database. The pool size, the timeouts and the concerns in the address are overridden.

    Raises:
        StoreOpenError: The driver rejects the address, or the address has an option that the store does not allow.
    """
    name = _database_name(uri)
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": int(timing.selection_timeout * 1000),
        "connectTimeoutMS": int(timing.connect_timeout * 1000),
        "socketTimeoutMS": int(timing.socket_timeout * 1000),
        "waitQueueTimeoutMS": int(timing.queue_timeout * 1000),
        "maxPoolSize": pool_size,
        "appname": "zoomgate",
    }
    # imported only when used, since importing either driver is slow
    if driver is Driver.MOTOR:
        from motor.motor_asyncio import AsyncIOMotorClient as Client  # noqa: PLC0415
    else:
        from pymongo import AsyncMongoClient as Client  # type: ignore[assignment]  # noqa: PLC0415
    try:
        with warnings.catch_warnings():
            # the driver warns about unknown options, and may quote their values
            warnings.simplefilter("error", UserWarning)
            client = Client(uri, **options)
    except (PyMongoError, UserWarning, ValueError, TypeError, OSError):
        raise StoreOpenError(
            f"The address of the store {_redacted(uri)} is invalid or cannot be resolved; check its hosts and options, and percent-encode"
            " the username and password"
        ) from None
    return client.get_database(
        name,
        # replace invalid UTF-8, so that only the decryption of that record fails and not the whole query
        codec_options=CodecOptions(
            unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
        ),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority", wtimeout=int(timing.majority_timeout * 1000), j=True),
    )


async def examine(
    uri: str, driver: Driver = Driver.MOTOR, timing: MongoTiming = MongoTiming()
) -> StoreInspection:
    """Inspect a database without changing it. Raise `StoreOpenError` if the database cannot be used."""
    async with _unchanged(uri, driver, timing) as database:
        return await inspect(MongoStore(database, timing, POOL_SIZE, has_now=False), _redacted(uri))


async def check(uri: str, driver: Driver = Driver.MOTOR, timing: MongoTiming = MongoTiming()) -> StoreHealth:
    """Check the writes and the indexes of a database without changing it. Raise `StoreOpenError` if the database cannot be used."""
    async with _unchanged(uri, driver, timing) as database:
        hello = await database.client.admin.command("hello")
        problems = []
        if not _is_replicated(hello) or len([*hello.get("hosts", "."), *hello.get("passives", ())]) == 1:
            problems.append(
                f"{_redacted(uri)} is a single server; if its disk fails, all connections are lost"
            )
        if await database[META].find_one({"_id": "schema"}) is not None:
            # changes nothing, but waits for the journals of a majority like every write, and needs the same privileges
            await database[META].update_one({"_id": "none"}, {"$set": {"starts": 0}})
            existing = await database[RECORDS].index_information()
            expected = {index.document["name"]: index.document for index in (*_INDEXES, _TTL_INDEX)}
            problems += [
                f"{_redacted(uri)} has no index {name} of {RECORDS}, or a different one, so operations read all records;"
                f" {'drop it, and ' if name in existing else ''}restart the service, which creates it"
                for name, index in expected.items()
                if not _is_same_index(index, existing.get(name, {}))
            ]
        store = MongoStore(database, timing, POOL_SIZE, has_now=False)
        return StoreHealth(await count_records(store, [Kind.USER]), tuple(problems))


def _is_same_index(expected: dict[str, Any], existing: dict[str, Any]) -> bool:
    options = ("unique", "sparse", "expireAfterSeconds")
    return list(expected["key"].items()) == existing.get("key") and all(
        expected.get(option) == existing.get(option) for option in options
    )


@asynccontextmanager
async def _unchanged(uri: str, driver: Driver, timing: MongoTiming) -> AsyncIterator[Any]:
    """Connect to a database that will not be changed, and disconnect afterwards."""
    address = _redacted(uri)
    database = connect(uri, driver, timing, POOL_SIZE)
    try:
        _check_version(await database[META].find_one({"_id": "schema"}), address)
        yield database
    except StoreError as error:
        raise StoreOpenError(
            f"The store {address} cannot be read ({error}); check the server and the privileges of its user"
        ) from None
    except StoreOpenError:
        raise
    except Exception as error:  # noqa: BLE001 - see `_translate_errors`
        raise StoreOpenError(_open_error_text(address, error, timing)) from None
    finally:
        await _close(database.client)


class MongoStore:
    """A record store in one database, created with `open`.

    Args:
        database: A database of either driver. The store closes the database's client.
        has_now: Whether the server supports `$$NOW` in an aggregation. If not, the server's time is read with `hello`.
    """

    def __init__(self, database: Any, timing: MongoTiming, pool_size: int, *, has_now: bool) -> None:
        self._client = database.client
        self._records = database[RECORDS]
        # finds the cause of a rejected write even if the conflicting document has not reached a majority yet
        self._latest = self._records.with_options(read_concern=ReadConcern("local"))
        self._timing = timing
        self._has_now = has_now
        self._slots = asyncio.Semaphore(pool_size)
        self._tasks = TaskSet()
        self._closed = False

    @classmethod
    async def open(
        cls,
        uri: str,
        driver: Driver = Driver.MOTOR,
        timing: MongoTiming = MongoTiming(),
        pool_size: int = POOL_SIZE,
    ) -> "MongoStore":
        """Connect, verify that writes reach a majority, and create missing indexes.

        Raises:
            StoreUnreachableError: The database, or a majority of its replica set, cannot be reached.
            StoreOpenError: The address has an option that the store does not allow, the database is not writable, or was written
                by a newer version of Zoomgate.
        """
        address = _redacted(uri)
        database = connect(uri, driver, timing, pool_size)
        try:
            hello = await database.client.admin.command("hello")
            if not _is_replicated(hello):
                # without a replica set, a confirmed write is on one disk only
                _log.warning("store.standalone", store=address)
            await _verify_writes(database, address)
            await database[RECORDS].create_indexes(list(_INDEXES))
            has_ttl = await _create_ttl_index(database[RECORDS])
            has_now = await _supports_now(database[META])
        except BaseException as error:
            await _close(database.client)
            if isinstance(error, StoreOpenError) or not isinstance(error, Exception):
                raise
            is_unreachable = isinstance(error, ConnectionFailure | WTimeoutError) or _is_unresolved(error)
            raise (StoreUnreachableError if is_unreachable else StoreOpenError)(
                _open_error_text(address, error, timing)
            ) from None
        _log.info(
            "store.opened",
            store=address,
            driver=driver.value,
            clock="$$NOW" if has_now else "hello",
            expired="deleted by the database and the service" if has_ttl else "deleted by the service",
        )
        return cls(database, timing, pool_size, has_now=has_now)

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record and the database's current time, in one round trip if possible."""
        name = _id(key)
        document, now = await self._run(lambda: self._read({"_id": name}))
        return None if document is None else _record(key, document), now

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record to a majority if its revision is still `if_rev`."""
        # a random revision is never reused, not even after a delete, and needs no second write for a counter
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

    async def page(self, app: str, kind: Kind, query: Query) -> list[Record]:
        """Return a page of records in the order of the query."""
        conditions: dict[str, Any] = {"app": _text(app), "kind": kind.value}
        order: str = query.order
        match query.order:
            case Order.SUBJECT:
                position: dict[str, Any] = {"$gt": _text(query.after)}
            case Order.EMAIL:
                order = "email_key"
                position = {"$gt": _email_key(app, query.after), "$lt": _email_key(app, _LAST_CHARACTER)}
                if not query.states:
                    del conditions["app"]  # part of `email_key`, and not of its index
            case _:
                position = {"$gte": query.since, "$lt": query.before}
                later = [{order: {"$gt": query.since}}, {"subject": {"$gt": _text(query.after)}}]
                conditions["$or"] = later
        # without the last condition, the others would match an array that contains such a value
        conditions[order] = position | {"$not": {"$type": "array"}}
        if query.states:
            conditions["state"] = {"$in": [_text(state) for state in query.states]}
        sort = [(order, ASCENDING)]
        if query.order not in (Order.SUBJECT, Order.EMAIL):
            sort.append(("subject", ASCENDING))
        cursor = self._records.find(conditions, sort=sort, limit=query.limit)
        documents = await self._run(lambda: cursor.to_list(None))
        if query.order is Order.EMAIL:
            return [_record(_connection_key(app, document), document) for document in documents]
        return [_record(RecordKey(app, kind, document["subject"]), document) for document in documents]

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        """Return the record with an email address and the database's current time."""
        email_key = _email_key(app, user_email)
        document, now = await self._run(lambda: self._read({"email_key": email_key}))
        return None if document is None else _record(_connection_key(app, document), document), now

    async def count(self, app: str, kind: Kind) -> dict[str, int]:
        """Count the records of a kind by key ID."""
        stages: list[dict[str, Any]] = [
            {"$match": {"app": _text(app), "kind": kind.value}},
            {"$group": {"_id": "$key_id", "records": {"$sum": 1}}},
        ]
        counts: Counter[str] = Counter()
        for row in await self._run(lambda: _aggregate(self._records, stages)):
            counts[row["_id"] if isinstance(row["_id"], str) else ""] += row["records"]
        return dict(counts)

    async def count_in_state(
        self, app: str, kind: Kind, state: str, *, after: str, limit: int
    ) -> tuple[int, str | None]:
        """Count records in a state that have an email address, in the order of the addresses."""
        position = {"$gt": _email_key(app, after), "$lt": _email_key(app, _LAST_CHARACTER)}
        stages: list[dict[str, Any]] = [
            {"$match": {"app": _text(app), "kind": kind.value, "state": _text(state), "email_key": position}},
            {"$sort": {"email_key": ASCENDING}},
            {"$limit": limit},
            {"$group": {"_id": None, "records": {"$sum": 1}, "last": {"$max": "$email_key"}}},
        ]
        for row in await self._run(lambda: _aggregate(self._records, stages)):
            last = row["last"].removeprefix(_email_key(app, ""))
            return row["records"], last if row["records"] == limit else None
        return 0, None

    async def key_ids(self, app: str, kind: Kind) -> set[str]:
        """Return the key IDs of the records of a kind."""
        query = {"app": _text(app), "kind": kind.value}
        values = await self._run(lambda: self._records.distinct("key_id", query))
        return {value if isinstance(value, str) else "" for value in values}

    async def apps(self) -> list[str]:
        """List the apps that have records."""
        values = await self._run(lambda: self._records.distinct("app"))
        return sorted(value for value in values if isinstance(value, str))

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[list[Change], float]:
        """Return changed records and the database's current time."""
        query = {"app": _text(app), "kind": kind.value, "changed_at": {"$gte": since}}

        async def read() -> tuple[list[Change], float]:
            now = await self._clock()
            fetch_limit = limit or 0
            while True:
                cursor = self._records.find(
                    query, {"value": 0}, sort=[("changed_at", ASCENDING)], limit=fetch_limit
                )
                documents = await cursor.to_list(None)
                changes: dict[RecordKey, Change] = {}
                for document in documents:  # a document that changes during the query may be returned twice
                    key = _key(document)
                    if key is not None:
                        record = _record(key, document)
                        changes[key] = Change(
                            key, record.rev, record.state, record.changed_at, record.user_email
                        )
                if limit is None or len(documents) < fetch_limit or len(changes) >= limit:
                    return sorted(changes.values(), key=lambda change: change.changed_at), now
                fetch_limit += len(documents) - len(changes)

        return await self._run(read)

    async def close(self) -> None:
        """Wait a limited time for running operations, and close the client."""
        if self._closed:
            return
        self._closed = True
        await self._tasks.drain(self._timing.operation_timeout)
        await _close(self._client)

    async def _run(self, operation: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run an operation in a separate task, so that canceling the caller neither interrupts a write nor closes the connection."""
        try:
            async with asyncio.timeout(self._timing.queue_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreError("MongoDB is too slow; all connections are in use") from None
        if self._closed:
            self._slots.release()
            raise StoreError("the store is closed")
        task = self._tasks.spawn(_translate_errors(operation))
        task.add_done_callback(lambda _: self._slots.release())
        task.add_done_callback(retrieve_exception)
        try:
            async with asyncio.timeout(self._timing.operation_timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise StoreError("MongoDB did not respond in time") from None

    async def _read(self, query: dict[str, str]) -> tuple[dict[str, Any] | None, float]:
        """Return the document that a query matches, and the database's current time."""
        if not self._has_now:
            now = await self._clock()
            return await self._records.find_one(query), now
        for document in await _aggregate(self._records, [{"$match": query}, {"$set": {"now": "$$NOW"}}]):
            return document, _seconds(document["now"])
        return None, await self._clock()

    async def _put(self, document: dict[str, Any], if_rev: int) -> int | None:
        name, rev, email_key = document["_id"], int(document["rev"]), document.get("email_key")
        for _ in range(_INSERT_ATTEMPTS):
            try:
                if if_rev == 0:
                    await self._records.insert_one(document)
                    return rev
                result = await self._records.replace_one(_at(name, if_rev), document)
                return rev if result.matched_count == 1 else None
            except DuplicateKeyError:
                if if_rev == 0 and await self._latest.find_one({"_id": name}, {"_id": 1}) is not None:
                    return None
                if email_key is not None:
                    query = {"email_key": email_key, "_id": {"$ne": name}}
                    other = await self._latest.find_one(query, {"_id": 1})
                    if other is not None:
                        raise UserEmailTaken(_connection_key(document["app"], other).subject) from None
                # the conflicting record has been deleted since
        raise StoreError(
            "MongoDB repeatedly rejected a record as a duplicate, but there is no conflicting record"
        )

    async def _clock(self) -> float:
        return _seconds((await self._client.admin.command("hello"))["localTime"])


async def _translate_errors(operation: Callable[[], Awaitable[_T]]) -> _T:
    """Run an operation, and convert driver errors to `StoreError`, since their messages contain hosts and values."""
    try:
        return await operation()
    except WTimeoutError:
        raise StoreError("MongoDB did not confirm a write by a majority in time") from None
    except OperationFailure as error:
        raise StoreError(
            f"MongoDB rejected the operation ({type(error).__name__}, code {error.code})"
        ) from None
    except (StoreError, UserEmailTaken):
        raise
    except Exception as error:  # noqa: BLE001 - a driver also raises others, such as RuntimeError if no thread can be started
        raise StoreError(f"MongoDB failed ({type(error).__name__})") from None


async def _aggregate(collection: Any, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents of an aggregation with either driver. Only PyMongo's client returns an awaitable cursor."""
    cursor = collection.aggregate(stages)
    documents: list[dict[str, Any]] = await (await cursor if isawaitable(cursor) else cursor).to_list(None)
    return documents


async def _close(client: Any) -> None:
    """Close a client of either driver. Motor's `close` runs in a thread, since it waits for the server and would block the event loop."""
    if iscoroutinefunction(client.close):
        await client.close()
    else:
        with suppress(
            RuntimeError
        ):  # no thread can be started; the connections are closed when the process exits
            await asyncio.to_thread(client.close)


def _redacted(uri: str) -> str:
    """Return the address without credentials, hosts, or options."""
    match = _ADDRESS.fullmatch(uri)
    return f"{match['scheme']}://…/{match['database']}" if match else "mongodb://…"


def _database_name(uri: str) -> str:
    """Return the name of the database in an address without options that weaken reads or writes."""
    match, address = _ADDRESS.fullmatch(uri), _redacted(uri)
    if match is None:
        raise StoreOpenError(
            f"The address of the store {address} has no valid database name; use mongodb://HOSTS/zoomgate or a different name of"
            " letters, digits, _ and -, and percent-encode the username and password"
        )
    for part in re.split("[&;]", match["query"] or ""):
        name, _, text = (unquote_plus(piece).strip().lower() for piece in part.partition("="))
        unsafe, problem = _UNSAFE_OPTIONS.get(name, (None, ""))
        if unsafe is not None and re.fullmatch(unsafe, text):
            raise StoreOpenError(f"The address of the store {address} {problem.format(text)}")
    return match["database"]


def _is_replicated(hello: dict[str, Any]) -> bool:
    return "setName" in hello or hello.get("msg") == "isdbgrid"


def _check_version(schema: dict[str, Any] | None, address: str) -> None:
    version = SCHEMA_VERSION if schema is None else schema.get("version")
    if not isinstance(version, int):
        raise StoreOpenError(f"The store {address} is corrupt; restore it from a backup")
    if version > SCHEMA_VERSION:
        raise StoreOpenError(
            f"The store {address} was written by a newer version of Zoomgate; upgrade this installation"
        )


async def _verify_writes(database: Any, address: str) -> None:
    """Write the schema version, and verify that a write reaches a majority."""
    meta = database[META].with_options(read_concern=ReadConcern("local"))
    schema = await meta.find_one({"_id": "schema"})
    _check_version(schema, address)
    if schema is None:
        with suppress(DuplicateKeyError):  # another process may be starting at the same time
            await meta.insert_one({"_id": "schema", "version": SCHEMA_VERSION, "starts": 0})
    await meta.update_one({"_id": "schema"}, {"$inc": {"starts": 1}})


async def _create_ttl_index(records: Any) -> bool:
    """Create the TTL index for expired records, and return whether the server supports TTL indexes."""
    try:
        await records.create_indexes([_TTL_INDEX])
    except OperationFailure:
        return False
    return True


async def _supports_now(meta: Any) -> bool:
    try:
        rows = await _aggregate(meta, [{"$match": {"_id": "schema"}}, {"$set": {"now": "$$NOW"}}])
    except OperationFailure:
        return False
    return bool(rows) and isinstance(rows[0].get("now"), datetime)


def _open_error_text(address: str, error: Exception, timing: MongoTiming) -> str:
    match error:
        case WTimeoutError():
            return (
                f"The store {address} did not confirm a write by a majority in {timing.majority_timeout:.0f} seconds;"
                " check its replica set"
            )
        case ServerSelectionTimeoutError():
            return (
                f"The store {address} could not be reached in {timing.selection_timeout:.0f} seconds, or has no primary;"
                " check its address, its TLS settings and the network"
            )
        case OperationFailure() if error.code in _WRONG_PASSWORD:
            return f"The store {address} rejects the username and password; check both, and authSource"
        case OperationFailure() if error.code in _UNAUTHORIZED:
            return f"The store {address} does not grant its user the required privileges; grant the readWrite role on that database"
        case OperationFailure():
            return f"The store {address} cannot be used (MongoDB error {error.code}); see the error codes in the MongoDB documentation"
        case ConfigurationError() if _is_unresolved(error):
            return (
                f"The name of the store {address} cannot be resolved to servers (a DNS lookup of its SRV record failed);"
                " check the name and the DNS servers"
            )
        case ConfigurationError():
            return f"The store {address} has a version or type that the MongoDB driver does not support; use MongoDB 4.4 or later"
        case _:
            return f"The store {address} cannot be used ({type(error).__name__}); check that it is running and writable"


def _is_unresolved(error: Exception) -> bool:
    """Return whether the driver could not resolve the name in a mongodb+srv address. It chains errors of the DNS lookup only."""
    return isinstance(error, ConfigurationError) and error.__cause__ is not None


def _text(value: str) -> str:
    """Return a string unchanged, and reject any other value, since an object would act as a query operator."""
    if not isinstance(value, str):
        raise TypeError("a key must be a string")
    return value


def _id(key: RecordKey) -> str:
    """Return the `_id` of a document. A string is used because some compatible servers do not use the index to look up objects."""
    return f"{Kind(key.kind).value}:{len(_text(key.app))}:{key.app}:{_text(key.subject)}"


def _email_key(app: str, user_email: str) -> str:
    """Return the `email_key` of a record with an email address.

    The field is unique, and is the only one that contains the address. The app is part of the field because a sparse compound index would
    also include documents without an address.
    """
    return f"{len(_text(app))}:{app}:{_text(user_email)}"


def _document(record: Record, rev: int) -> dict[str, Any]:
    columns = record.columns()
    user_email = columns.pop("user_email")
    if user_email is not None:
        columns["email_key"] = _email_key(record.key.app, user_email)
    document: dict[str, Any] = {
        "_id": _id(record.key),
        "app": record.key.app,
        "kind": record.key.kind.value,
        "subject": record.key.subject,
        "rev": rev,
        **{name: value for name, value in columns.items() if value is not None},
    }
    if record.expire_at is not None:
        document["expire_date"] = datetime.fromtimestamp(min(record.expire_at, _LAST_DATE), UTC)
    return document


def _key(document: dict[str, Any]) -> RecordKey | None:
    """Return the key in the fields of a document, or None if the document is misplaced, that is, its `_id` does not match."""
    app, kind, subject = (document.get(name) for name in ("app", "kind", "subject"))
    if not isinstance(app, str) or kind not in list(Kind) or not isinstance(subject, str):
        return None
    key = RecordKey(app, Kind(kind), subject)
    return key if document["_id"] == _id(key) else None


def _connection_key(app: str, document: dict[str, Any]) -> RecordKey:
    """Return the key in the `_id` of a connection's document. Its other fields may be corrupt."""
    key = RecordKey(app, Kind.USER, "")
    return replace(key, subject=str(document["_id"]).removeprefix(_id(key)))


def _at(name: str, rev: int) -> dict[str, Any]:
    """Return a query for a document at a revision."""
    if rev == _NO_REV:
        return {"_id": name, "rev": {"$not": {"$type": ["int", "long"], "$gt": 0}}}
    return {"_id": name, "rev": int(rev)}


def _record(key: RecordKey, document: dict[str, Any]) -> Record:
    """Convert the document of a key. The value is treated as empty if the document contains a different key: decryption then fails."""
    rev = document.get("rev")
    valid_rev = int(rev) if isinstance(rev, int) and rev is not True and rev > 0 else _NO_REV
    email_key, value = document.get("email_key"), document.get("value")
    columns = {
        "user_email": email_key.removeprefix(_email_key(key.app, "")) if isinstance(email_key, str) else None,
        "value": value if _key(document) == key else b"",
    }
    return Record.from_columns(key, valid_rev, document | columns)


def _seconds(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
