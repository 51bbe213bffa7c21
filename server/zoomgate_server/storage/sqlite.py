"""A record store in one SQLite file, durable and shared by all processes on one machine.

Writes and reads have a connection and a thread each, so a read waits neither for a sync of the disk nor for the write lock of another
process, and the event loop waits for neither. The file uses WAL mode with `synchronous=FULL`: a
confirmed write survives a power failure (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import asyncio
import contextlib
import os
import re
import sqlite3
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zoomgate_server import file_system
from zoomgate_server.storage.record_store import (
    COLUMN_TYPES,
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
    UserEmailTaken,
)
from zoomgate_server.storage.scan import count_records, inspect
from zoomgate_server.storage.sqlite_thread import SqliteThread
from zoomgate_server.storage.timing import SqliteTiming

SCHEMA_VERSION = 1
APPLICATION_ID = 0x5A474154
"""SQLite application ID of a Zoomgate store (`ZGAT`). See https://www.sqlite.org/pragma.html#pragma_application_id."""

WAL_VERSIONS = b"\2\2"
"""Bytes 18 and 19 of a file in WAL mode. See https://www.sqlite.org/fileformat.html#file_format_version_numbers."""

_COLUMNS = ("rev", *COLUMN_TYPES)
_KEY = "app = ? AND kind = ? AND subject = ?"
_EMAIL = "app = ? AND user_email = ? AND typeof(subject) = 'text'"
_SELECT = f"SELECT kind, subject, {', '.join(_COLUMNS)} FROM record"  # noqa: S608 - constants
_INSERT = f"""
INSERT OR REPLACE INTO record (app, kind, subject, {", ".join(_COLUMNS)})
VALUES (?, ?, ?, {", ".join("?" * len(_COLUMNS))})
"""  # noqa: S608 - constants
_SCHEMA = f"""
CREATE TABLE revision (last INTEGER NOT NULL);
INSERT INTO revision VALUES (0);
CREATE TABLE record (
  app TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
  value BLOB NOT NULL, rev INTEGER NOT NULL, state TEXT NOT NULL, key_id TEXT NOT NULL, user_email TEXT,
  changed_at REAL NOT NULL, due_at REAL, expire_at REAL,
  PRIMARY KEY (app, kind, subject)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_email ON record (app, user_email) WHERE user_email IS NOT NULL;
CREATE INDEX record_changed ON record (app, changed_at);
CREATE INDEX record_state_email ON record (app, kind, state, user_email) WHERE user_email IS NOT NULL;
CREATE INDEX record_state_changed ON record (app, kind, state, changed_at, subject);
CREATE INDEX record_state_due ON record (app, kind, state, due_at, subject) WHERE due_at IS NOT NULL;
CREATE INDEX record_expire ON record (app, kind, expire_at, subject) WHERE expire_at IS NOT NULL;
CREATE INDEX record_key_id ON record (app, kind, key_id);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""  # noqa: S608 - constants

_CHANGES = """
SELECT subject, rev, state, changed_at, iif(typeof(user_email) = 'text', user_email, NULL) FROM record
WHERE app = ? AND changed_at >= ? AND kind = ? AND typeof(changed_at) = 'real' AND typeof(subject) = 'text'
ORDER BY changed_at LIMIT ?
"""
"""Query for changed records. The type conditions skip corrupt rows. SQLite sorts text and BLOBs
after all numbers, so a `changed_at` of such a type would always match."""

_PAGE_INDEXES = {
    Order.EMAIL: "record_state_email",
    Order.CHANGED: "record_state_changed",
    Order.DUE: "record_state_due",
    Order.EXPIRE: "record_expire",
}
_COUNT_IN_STATE = """
SELECT count(*), max(user_email) FROM (
  SELECT user_email FROM record INDEXED BY record_state_email
  WHERE app = ? AND kind = ? AND state = ? AND user_email > ? AND typeof(user_email) = 'text' ORDER BY user_email LIMIT ?
)
"""
_DISTINCT = """
WITH RECURSIVE found (latest) AS (
  SELECT min({column}) FROM record WHERE {condition}
  UNION ALL
  SELECT (SELECT min({column}) FROM record WHERE {condition} AND {column} > latest) FROM found WHERE latest IS NOT NULL
)
SELECT latest FROM found WHERE latest IS NOT NULL
"""
_APPS = _DISTINCT.format(column="app", condition="TRUE")
_KEY_IDS = _DISTINCT.format(column="key_id", condition="app = ?1 AND kind = ?2")
"""Queries for distinct values that search an index once per value. `SELECT DISTINCT` would read the whole index."""

_T = TypeVar("_T")


async def examine(path: Path) -> StoreInspection:
    """Inspect a store without changing its file or creating other files. Raise `StoreOpenError` if it is not a readable store."""
    async with _read_only(path) as (store, _):
        return await inspect(store, str(path))


async def check(path: Path) -> StoreHealth:
    """Read a complete store without changing its file. Raise `StoreOpenError` if it is not a readable store, or is corrupt."""
    async with _read_only(path) as (store, connection):
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreOpenError(_corrupt(path))
        existing = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        problems = [
            f"{path} has no index {name}, without which the service fails; create it with `sqlite3 {path} '{statement}'`"
            for name, statement in re.findall(r"^(?=CREATE \w* ?INDEX (\w+))(.*;)$", _SCHEMA, re.MULTILINE)
            if name not in existing
        ]
        # a connection that cannot write reports a different mode than the one of the file
        with path.open("rb") as file:
            is_wal = file.read(20)[18:] == WAL_VERSIONS
        if not is_wal:
            problems.append(f"{path} is not in WAL mode; restart the service, which changes the mode")
        return StoreHealth(await count_records(store, [Kind.USER]), tuple(problems))


@contextlib.asynccontextmanager
async def _read_only(path: Path) -> AsyncIterator[tuple["SqliteStore", sqlite3.Connection]]:
    """Open a store for reading, and close it afterwards."""
    try:
        connection = _open_read_only(path)
        thread = SqliteThread(connection, ThreadPoolExecutor(max_workers=1), SqliteTiming().queue_timeout)
        store = SqliteStore(path, reader=thread, writer=thread, wall=time.time)
        try:
            _check_store(connection, path)
            yield store, connection
        finally:
            await store.close()
    except (sqlite3.Error, StoreError) as error:
        reason = str(error) if isinstance(error, StoreError) else _error_name(error)
        raise StoreOpenError(
            f"The store {path} cannot be read ({reason}); check its owner and permissions, or restore the store from a backup"
        ) from None
    except OSError as error:
        raise StoreOpenError(
            f"The store {path} cannot be read ({error.strerror}); check its owner and permissions"
        ) from None


class SqliteStore:
    """A record store in one file, created with `open`.

    Args:
        reader: The thread that reads. Its connection sees what the writer has committed.
        writer: The thread that writes.
        wall: The clock of the local machine, which is used as the store's clock.
    """

    def __init__(
        self, path: Path, *, reader: SqliteThread, writer: SqliteThread, wall: Callable[[], float]
    ) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._wall = wall
        self._queue: deque[_Write] = deque()
        self._inode = path.stat().st_ino

    @classmethod
    async def open(
        cls,
        path: Path,
        wall: Callable[[], float],
        timing: SqliteTiming = SqliteTiming(),
        mounts: Path = file_system.MOUNTS,
    ) -> "SqliteStore":
        """Open the file, creating it with mode 0600 if needed.

        Raises:
            StoreOpenError: The file is not a Zoomgate store, is corrupt, was written by a newer version, is on a network file system,
                or cannot be written. A file created by this call is deleted again.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                opening = partial(_open, path, timing.busy_timeout, mounts)
                writer = await SqliteThread.start(opening, timing.queue_timeout)
                stack.push_async_callback(writer.close)
                opening = partial(_open_reader, path, timing.busy_timeout)
                reader = await SqliteThread.start(opening, timing.queue_timeout)
            except RuntimeError as error:  # raised by Python if no thread can be started
                raise StoreOpenError(
                    f"The store {path} cannot be opened ({error}); raise the limit of threads, or free some memory"
                ) from None
            stack.pop_all()
        return cls(path, reader=reader, writer=writer, wall=wall)

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record and the store's current time."""
        return await self._read_one(f"{_SELECT} WHERE {_KEY}", *_key_values(key))

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record durably if its revision is still `if_rev`.

        Writes that are requested while others are running are committed together, with one sync of the disk.
        """
        write = _Write(record, if_rev)
        self._queue.append(write)
        try:
            # once an earlier transaction contains the write, nothing is left to do
            await self._run(self._writer, self._commit_queued, is_quick=write.done.done)
        except StoreError:
            try:
                self._queue.remove(write)  # not to be committed later
            except ValueError:  # the transaction of an earlier write contains this one
                await asyncio.shield(asyncio.wrap_future(write.done))
            else:
                raise
        if write.error is not None:
            raise write.error
        return write.rev

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`."""
        statement = f"DELETE FROM record WHERE {_KEY} AND rev = ?"  # noqa: S608 - constants
        values = (*_key_values(key), if_rev)
        return await self._run(
            self._writer, lambda connection: connection.execute(statement, values).rowcount == 1
        )

    async def page(self, app: str, kind: Kind, query: Query) -> list[Record]:
        """Return a page of records in the order of the query."""
        statement, values = _page_query(app, kind, query)
        return [_record(app, row) for row in await self._rows(statement, *values)]

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        """Return the record with an email address and the store's current time."""
        return await self._read_one(f"{_SELECT} WHERE {_EMAIL}", app, user_email)

    async def count(self, app: str, kind: Kind) -> dict[str, int]:
        """Count the records of a kind by key ID."""
        statement = "SELECT key_id, count(*) FROM record WHERE app = ? AND kind = ? GROUP BY key_id"
        counts: Counter[str] = Counter()
        for value, records in await self._rows(statement, app, kind):
            counts[value if isinstance(value, str) else ""] += records
        return dict(counts)

    async def count_in_state(
        self, app: str, kind: Kind, state: str, *, after: str, limit: int
    ) -> tuple[int, str | None]:
        """Count records in a state that have an email address, in the order of the addresses."""
        ((count, last),) = await self._rows(_COUNT_IN_STATE, app, kind, state, after, limit)
        return count, last if count == limit else None

    async def key_ids(self, app: str, kind: Kind) -> set[str]:
        """Return the key IDs of the records of a kind."""
        rows = await self._rows(_KEY_IDS, app, kind)
        return {value if isinstance(value, str) else "" for (value,) in rows}

    async def apps(self) -> list[str]:
        """List the apps that have records."""
        rows = await self._rows(_APPS)
        return [app for (app,) in rows]

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[list[Change], float]:
        """Return changed records and the store's current time."""
        values = (app, since, kind, -1 if limit is None else limit)
        now, rows = await self._run(
            self._reader, lambda connection: (self._wall(), connection.execute(_CHANGES, values).fetchall())
        )
        return [Change(RecordKey(app, kind, subject), *columns) for subject, *columns in rows], now

    async def close(self) -> None:
        """Wait for running operations, merge the log into the file, and close the file."""
        await self._reader.close()
        await self._writer.close()

    async def _read_one(self, statement: str, *values: str) -> tuple[Record | None, float]:
        """Return the record that a query finds, and the store's current time."""
        row, now = await self._run(
            self._reader,
            lambda connection: (connection.execute(statement, values).fetchone(), self._wall()),
            is_quick=lambda: True,
        )
        return None if row is None else _record(values[0], row), now

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._run(
            self._reader, lambda connection: connection.execute(statement, values).fetchall()
        )

    async def _run(
        self,
        thread: SqliteThread,
        operation: Callable[[sqlite3.Connection], _T],
        is_quick: Callable[[], bool] = lambda: False,
    ) -> _T:
        return await thread.run(partial(self._translate_errors, operation), is_quick)

    def _translate_errors(
        self, operation: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection
    ) -> _T:
        """Run an operation, and convert SQLite errors to `StoreError`, since their messages may contain paths and values."""
        try:
            if self._path.stat().st_ino != self._inode:
                raise StoreError("the store's file was replaced while it was open; restart the service")
            return operation(connection)
        except sqlite3.Error as error:
            raise StoreError(f"SQLite failed ({_error_name(error)})") from None
        except FileNotFoundError:
            raise StoreError("the store's file was deleted while it was open; restart the service") from None
        except OSError:
            raise StoreError("the store's file is not accessible") from None
        except (StoreError, UserEmailTaken):
            raise
        except Exception as error:  # noqa: BLE001 - for example MemoryError
            raise StoreError(f"SQLite failed ({type(error).__name__})") from None

    def _commit_queued(self, connection: sqlite3.Connection) -> None:
        """Perform all queued writes in one transaction. An error of SQLite fails all of them."""
        writes: list[_Write] = []
        try:
            with contextlib.suppress(IndexError):  # `put` may remove writes at the same time
                while True:
                    writes.append(self._queue.popleft())
            if not writes:
                return
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back on an error
                for write in writes:
                    _put(connection, write)
        except Exception as error:  # noqa: BLE001 - for example MemoryError
            for write in writes:
                write.error = StoreError(f"SQLite failed ({_error_name(error)})")
        for write in writes:
            write.done.set_result(None)


@dataclass(slots=True, eq=False)
class _Write:
    """A write to be committed, and its result.

    Attributes:
        rev: The new revision, or None on conflict.
        error: Why the record was not written.
        done: Completes when `rev` and `error` are final.
    """

    record: Record
    if_rev: int
    rev: int | None = None
    error: StoreError | UserEmailTaken | None = None
    done: Future[None] = field(default_factory=Future)


def _put(connection: sqlite3.Connection, write: _Write) -> None:
    """Perform a write within a transaction."""
    execute, record, key = connection.execute, write.record, write.record.key
    stored = execute(
        f"SELECT rev, user_email IS ? FROM record WHERE {_KEY}",  # noqa: S608 - constants
        (record.user_email, *_key_values(key)),
    )
    stored_rev, has_email = stored.fetchone() or (0, False)
    if stored_rev != write.if_rev:
        return
    if record.user_email is not None and not has_email:
        other = execute(f"SELECT subject FROM record WHERE {_EMAIL}", (key.app, record.user_email)).fetchone()  # noqa: S608 - constants
        if other is not None:
            write.error = UserEmailTaken(other[0])
            return
    (rev,) = execute("UPDATE revision SET last = last + 1 RETURNING last").fetchone()
    execute(_INSERT, (*_key_values(key), rev, *record.columns().values()))
    write.rev = int(rev)


def _key_values(key: RecordKey) -> tuple[str, str, str]:
    return key.app, key.kind, key.subject


def _page_query(app: str, kind: Kind, query: Query) -> tuple[str, list[Any]]:
    """Return the statement for a page of records, and its values."""
    order, index, states = query.order, _PAGE_INDEXES.get(query.order), list(query.states)
    if order is Order.EMAIL and not states:
        index = "record_email"
    where = "app = ? AND kind = ? AND typeof(subject) = 'text'"
    values: list[Any] = [app, kind]
    if order in (Order.SUBJECT, Order.EMAIL):
        where += f" AND {order} > ? AND typeof({order}) = 'text'"
        values.append(query.after)
    else:
        where += f" AND ({order}, subject) > (?, ?) AND {order} < ?"
        values += [query.since, query.after, query.before]
    select = f"{_SELECT}{f' INDEXED BY {index}' if index else ''} WHERE {where}"
    # one search per state, merged by SQLite, since an index is in order only within a state
    selects = " UNION ALL ".join(f"{select} AND state = ?" for _ in states) or select
    statement = f"{selects} ORDER BY {order}, subject LIMIT ?"
    all_values = [value for state in states for value in (*values, state)] or values
    return statement, [*all_values, query.limit]


def _record(app: str, row: tuple[Any, ...]) -> Record:
    kind, subject, rev, *values = row
    columns = dict(zip(COLUMN_TYPES, values, strict=True))
    return Record.from_columns(RecordKey(app, Kind(kind), subject), rev, columns)


def _open(path: Path, busy_timeout: float, mounts: Path) -> sqlite3.Connection:
    """Open or create the file. Runs on the store's thread."""
    network = file_system.network_type(path, mounts)
    if network:
        raise StoreOpenError(
            f"The store {path} is on a network file system ({network}), where SQLite loses data; use a local disk"
        )
    created = False
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        created = True
    except FileExistsError:
        # otherwise SQLite would open the file read-only and leave a log behind
        if not os.access(path, os.R_OK | os.W_OK):
            raise StoreOpenError(_not_writable(path)) from None
    except OSError as error:
        raise StoreOpenError(
            f"The store {path} cannot be created ({error.strerror}); check that its directory exists and is writable"
        ) from None
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path, busy_timeout)
        _prepare_with_retries(connection, path, busy_timeout)
    except (sqlite3.Error, StoreOpenError) as error:
        if connection is not None:
            connection.close()
        if created and not _is_busy(error):  # a file locked by another process is in use
            for leftover in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                leftover.unlink(missing_ok=True)
        if isinstance(error, StoreOpenError):
            raise
        raise StoreOpenError(_open_error_text(path, error)) from None
    return connection


def _open_reader(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Open a connection that only reads."""
    connection = _connect(path, busy_timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=64)
    connection.text_factory = _text
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    # without a log, no process has the file open; mode=ro would then leave an empty log behind
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, check_same_thread=False)
    connection.text_factory = _text
    return connection


def _prepare_with_retries(connection: sqlite3.Connection, path: Path, busy_timeout: float) -> None:
    """Prepare the file, retrying while another process prepares it. SQLite itself does not wait for a change of the journal mode."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            _prepare(connection, path)
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a writable Zoomgate store, without reading all of it. Create the schema in an empty file."""
    # in this order, since another process may create the schema and the ID, in one transaction, between the two reads
    if not _is_empty(connection):
        _check_store(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back on an error
        if _is_empty(connection):
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
        else:
            connection.execute("UPDATE revision SET last = last + 1")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check_store(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a file is a Zoomgate store that this release can read."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreOpenError(
            f"The store {path} is a database of a different program; set ZOOMGATE_STORE to a different file"
        )
    if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
        raise StoreOpenError(
            f"The store {path} was written by a newer version of Zoomgate; upgrade this installation"
        )


def _corrupt(path: Path) -> str:
    return f"The store {path} is corrupt; restore it from a backup"


def _not_writable(path: Path) -> str:
    return (
        f"The store {path} cannot be written; check the owner and permissions of the file and its directory"
    )


def _open_error_text(path: Path, error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"The store {path} is not a database or is corrupt; restore it from a backup"
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"The store {path} cannot be written (the disk is full or failing); free some space or check the disk, then start again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return _not_writable(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"The store {path} is locked by another process; stop that process, or wait until it exits"
        case _:
            return f"The store {path} cannot be opened ({_error_name(error)}); see the result codes in SQLite's documentation"


def _error_name(error: Exception) -> str:
    """Return SQLite's name of an error, or the class name if Python raised it. The message may contain paths and values."""
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _text(raw: bytes) -> str:
    """Decode text. Invalid UTF-8 is replaced, so that only the decryption of that record fails and not the whole query."""
    return raw.decode("utf-8", "replace")
