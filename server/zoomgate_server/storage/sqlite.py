"""A record store in one SQLite file, durable and shared by all processes on one machine.

All statements run on a dedicated thread, so the event loop never waits for a disk. The file uses WAL mode with `synchronous=FULL`: a
confirmed write survives a power failure (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    KEY_REQUIRED_KINDS,
    TOMBSTONE_STATE,
    Change,
    Column,
    EncryptionState,
    Kind,
    Record,
    RecordKey,
    StoreError,
    StoreInspection,
    StoreOpenError,
    ZoomUserTaken,
)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x5A474154
"""SQLite application ID of a Zoomgate store (`ZGAT`). See https://www.sqlite.org/pragma.html#pragma_application_id."""

BUSY_SECONDS = 5.0
"""Maximum time that a statement waits for the write lock of another process."""

WAIT_SECONDS = 5.0
"""Maximum time that an operation waits for earlier operations. An operation that has not started by then fails."""

MOUNTS = Path("/proc/mounts")
"""List of mounted file systems. See proc_pid_mounts(5)."""

MAX_INDEX_RECORDS = 1000
"""If at least this many records are due or expired, all records are read in key order; otherwise, they are found with an index."""

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "fuse.glusterfs"}
)
_COLUMNS = "subject, value, rev, state, key_id, zoom_user_id, changed_at, due_at, expire_at"
_SCHEMA = f"""
CREATE TABLE revision (last INTEGER NOT NULL);
INSERT INTO revision VALUES (0);
CREATE TABLE record (
  app TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
  value BLOB NOT NULL, rev INTEGER NOT NULL, state TEXT NOT NULL, key_id TEXT NOT NULL, zoom_user_id TEXT,
  changed_at REAL NOT NULL, due_at REAL, expire_at REAL,
  PRIMARY KEY (app, kind, subject)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_zoom_user ON record (app, zoom_user_id)
  WHERE zoom_user_id IS NOT NULL AND state <> '{TOMBSTONE_STATE}';
CREATE INDEX record_changed ON record (app, changed_at);
CREATE INDEX record_due ON record (app, kind, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX record_expire ON record (app, kind, expire_at) WHERE expire_at IS NOT NULL;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""  # noqa: S608 - constants

_CHANGES = """
SELECT subject, rev, state, changed_at FROM record
WHERE app = ? AND changed_at >= ? AND kind = ? AND typeof(changed_at) = 'real' AND typeof(subject) = 'text'
ORDER BY changed_at LIMIT ?
"""
"""Query for changed records. The type conditions skip corrupt rows. SQLite sorts text and BLOBs
after all numbers, so a `changed_at` of such a type would always match."""

_OF_ZOOM_USER = f"""
SELECT kind, {_COLUMNS} FROM record
WHERE app = ? AND zoom_user_id = ? AND state <> '{TOMBSTONE_STATE}'
"""  # noqa: S608 - constants; with the state as a parameter, SQLite would not use the index

_T = TypeVar("_T")


def examine(path: Path) -> StoreInspection:
    """Inspect a store without changing its file or creating other files.

    Raises:
        StoreOpenError: The file cannot be read or is not a Zoomgate store.
    """
    try:
        # without a log, no process has the file open; mode=ro would then leave an empty log behind
        mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)) as connection:
            connection.text_factory = _text
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreOpenError(
                    f"The store {path} is a database of a different program; set ZOOMGATE_STORE to a different file"
                )
            _check_version(connection, path)
            users = connection.execute("SELECT count(*) FROM record WHERE kind = 'user'").fetchone()[0]
            apps = [app for (app,) in connection.execute("SELECT DISTINCT app FROM record")]
            encryption = {app: _encryption_state(connection, app) for app in apps}
    except sqlite3.Error as error:
        raise StoreOpenError(
            f"The store {path} cannot be read ({_error_name(error)}); check its owner and permissions, or restore the store from a backup"
        ) from None
    except OSError as error:
        raise StoreOpenError(
            f"The store {path} cannot be read ({error.strerror}); check its owner and permissions"
        ) from None
    return StoreInspection(str(path), users, encryption)


def _encryption_state(connection: sqlite3.Connection, app: str) -> EncryptionState:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM record WHERE app = ? AND kind = ? AND subject = ?",  # noqa: S608 - constants
        (app, Kind.KEY_CHECK.value, KEY_CHECK),
    ).fetchone()
    ids = connection.execute(
        f"SELECT DISTINCT key_id FROM record WHERE app = ? AND kind IN ({','.join('?' * len(KEY_REQUIRED_KINDS))})",  # noqa: S608 - constants
        (app, *KEY_REQUIRED_KINDS),
    )
    samples = (
        (
            kind,
            connection.execute(
                f"SELECT {_COLUMNS} FROM record WHERE app = ? AND kind = ? LIMIT 1",  # noqa: S608 - constants
                (app, kind.value),
            ).fetchone(),
        )
        for kind in Kind
        if kind is not Kind.KEY_CHECK
    )
    return EncryptionState(
        None if row is None else _record(app, Kind.KEY_CHECK, row),
        frozenset(key_id for (key_id,) in ids if isinstance(key_id, str)),
        tuple(_record(app, kind, sample) for kind, sample in samples if sample is not None),
    )


class SqliteStore:
    """A record store in one file, created with `open`.

    Args:
        connection: An open connection that belongs to the thread of `executor`.
        executor: The executor of all statements, with a single thread.
        wall: The clock of the local machine, which is used as the store's clock.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        executor: ThreadPoolExecutor,
        wall: Callable[[], float],
    ) -> None:
        self._path = path
        self._connection = connection
        self._executor = executor
        self._wall = wall
        self._inode = path.stat().st_ino
        self._closed = False

    @classmethod
    async def open(cls, path: Path, wall: Callable[[], float]) -> "SqliteStore":
        """Open the file, creating it with mode 0600 if needed.

        Raises:
            StoreOpenError: The file is not a Zoomgate store, is corrupt, was written by a newer version, is on a network file system,
                or cannot be written. A file created by this call is deleted again.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(executor, _open, path)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(path, connection, executor, wall)

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record and the store's current time."""

        def read() -> tuple[Record | None, float]:
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM record WHERE app = ? AND kind = ? AND subject = ?",  # noqa: S608 - constants
                (key.app, key.kind.value, key.subject),
            ).fetchone()
            return (None if row is None else _record(key.app, key.kind, row)), self._wall()

        return await self._run(read)

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record durably if its revision is still `if_rev`."""
        return await self._run(lambda: self._transact(lambda: self._put(record, if_rev)))

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`."""

        def delete() -> bool:
            cursor = self._connection.execute(
                "DELETE FROM record WHERE app = ? AND kind = ? AND subject = ? AND rev = ?",
                (key.app, key.kind.value, key.subject, if_rev),
            )
            return cursor.rowcount == 1

        return await self._run(lambda: self._transact(delete))

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
        """Return a page of records, sorted by subject."""
        conditions = ["app = ?", "kind = ?", "subject > ?", "typeof(subject) = 'text'"]
        values = [app, kind.value, after]
        numbers: list[Any] = []
        if states:
            conditions.append(f"state IN ({','.join('?' * len(states))})")
            values.extend(states)
        if due_before is not None:
            conditions.append("due_at < ?")
            numbers.append(due_before)
        if expire_before is not None:
            conditions.append("expire_at < ?")
            numbers.append(expire_before)
        where = " AND ".join(conditions)

        def read() -> list[Record]:
            index = ""
            if due_before is not None and self._selects_few("due", app, kind, due_before):
                index = "INDEXED BY record_due"
            elif expire_before is not None and self._selects_few("expire", app, kind, expire_before):
                index = "INDEXED BY record_expire"
            statement = f"SELECT {_COLUMNS} FROM record {index} WHERE {where} ORDER BY subject LIMIT ?"  # noqa: S608 - constants
            rows = self._connection.execute(statement, (*values, *numbers, limit)).fetchall()
            return [_record(app, kind, row) for row in rows]

        return await self._run(read)

    async def find(self, app: str, zoom_user_id: str) -> tuple[Record | None, float]:
        """Return the store's current time and the record of a Zoom user. Tombstones are ignored."""

        def read() -> tuple[Record | None, float]:
            row = self._connection.execute(_OF_ZOOM_USER, (app, zoom_user_id)).fetchone()
            return (None if row is None else _record(app, Kind(row[0]), row[1:])), self._wall()

        return await self._run(read)

    async def count(self, app: str, kind: Kind, by: Column) -> dict[str, int]:
        """Count the records of a kind by the values of a column."""
        column = {Column.STATE: "state", Column.KEY_ID: "key_id"}[by]

        def read() -> dict[str, int]:
            rows = self._connection.execute(
                f"SELECT {column}, count(*) FROM record WHERE app = ? AND kind = ? GROUP BY {column}",  # noqa: S608 - constants
                (app, kind.value),
            )
            counts: dict[str, int] = {}
            for value, records in rows:
                text = value if isinstance(value, str) else ""
                counts[text] = counts.get(text, 0) + records
            return counts

        return await self._run(read)

    async def apps(self) -> list[str]:
        """List the apps that have records."""

        def read() -> list[str]:
            rows = self._connection.execute("SELECT DISTINCT app FROM record ORDER BY app")
            return [app for (app,) in rows]

        return await self._run(read)

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[list[Change], float]:
        """Return changed records and the store's current time."""

        def read() -> tuple[list[Change], float]:
            now = self._wall()
            max_rows = -1 if limit is None else limit
            rows = self._connection.execute(_CHANGES, (app, since, kind.value, max_rows)).fetchall()
            return [
                Change(RecordKey(app, kind, subject), rev, state, changed_at)
                for subject, rev, state, changed_at in rows
            ], now

        return await self._run(read)

    async def close(self) -> None:
        """Wait for running operations, merge the log into the file, and close the file."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(self._executor, self._connection.close))
        self._executor.shutdown(wait=True)

    async def _run(self, operation: Callable[[], _T]) -> _T:
        """Run an operation on the store's thread. The operation continues if the caller is canceled."""
        if self._closed:
            raise StoreError("the store is closed")
        queued = self._executor.submit(self._translate_errors, operation)
        done = asyncio.wrap_future(queued)
        done.add_done_callback(_retrieve_exception)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.shield(done)
        except TimeoutError:
            if queued.cancel():
                raise StoreError(
                    "SQLite is too slow; earlier operations are still waiting for its file"
                ) from None
        return await asyncio.shield(done)  # the operation has started and will complete

    def _translate_errors(self, operation: Callable[[], _T]) -> _T:
        """Run an operation, and convert SQLite errors to `StoreError`, since their messages may contain paths and values."""
        try:
            if self._path.stat().st_ino != self._inode:
                raise StoreError("the store's file was replaced while it was open; restart the service")
            return operation()
        except sqlite3.Error as error:
            raise StoreError(f"SQLite failed ({_error_name(error)})") from None
        except FileNotFoundError:
            raise StoreError("the store's file was deleted while it was open; restart the service") from None
        except OSError:
            raise StoreError("the store's file is not accessible") from None

    def _transact(self, operation: Callable[[], _T]) -> _T:
        """Run an operation in one transaction that acquires the write lock at its start."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = operation()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back after some errors
                self._connection.execute("ROLLBACK")
            raise
        return result

    def _selects_few(self, column: str, app: str, kind: Kind, before: float) -> bool:
        """Return whether an index selects so few records that sorting them is faster than reading all records in key order."""
        row = self._connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM record INDEXED BY record_{column}"  # noqa: S608 - constants
            f" WHERE app = ? AND kind = ? AND {column}_at < ? LIMIT ?)",
            (app, kind.value, before, MAX_INDEX_RECORDS),
        ).fetchone()
        return bool(row[0] < MAX_INDEX_RECORDS)

    def _put(self, record: Record, if_rev: int) -> int | None:
        key = record.key
        row = self._connection.execute(
            "SELECT rev FROM record WHERE app = ? AND kind = ? AND subject = ?",
            (key.app, key.kind.value, key.subject),
        ).fetchone()
        if (0 if row is None else row[0]) != if_rev:
            return None
        if record.zoom_user_id is not None and record.state != TOMBSTONE_STATE:
            other = self._connection.execute(
                "SELECT subject FROM record WHERE app = ? AND zoom_user_id = ? AND state <> ? AND (kind <> ? OR subject <> ?)",
                (key.app, record.zoom_user_id, TOMBSTONE_STATE, key.kind.value, key.subject),
            ).fetchone()
            if other is not None:
                raise ZoomUserTaken(other[0])
        rev: int = self._connection.execute("UPDATE revision SET last = last + 1 RETURNING last").fetchone()[
            0
        ]
        self._connection.execute(
            f"INSERT OR REPLACE INTO record (app, kind, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                key.app,
                key.kind.value,
                key.subject,
                record.value,
                rev,
                record.state,
                record.key_id,
                record.zoom_user_id,
                record.changed_at,
                record.due_at,
                record.expire_at,
            ),
        )
        return rev


def _record(app: str, kind: Kind, row: tuple[Any, ...]) -> Record:
    """Convert a row. A column of an unexpected type is treated as empty. If the encryption authenticates it, decryption then fails."""
    subject, value, rev, state, key_id, zoom_user_id, changed_at, due_at, expire_at = row
    return Record(
        key=RecordKey(app, kind, subject),
        value=value if isinstance(value, bytes) else b"",
        rev=rev,
        state=state if isinstance(state, str) else "",
        key_id=key_id if isinstance(key_id, str) else "",
        zoom_user_id=zoom_user_id if isinstance(zoom_user_id, str) else None,
        changed_at=changed_at if isinstance(changed_at, float) else 0.0,
        due_at=due_at if isinstance(due_at, float) else None,
        expire_at=expire_at if isinstance(expire_at, float) else None,
    )


def _retrieve_exception(done: "asyncio.Future[_T]") -> None:
    """Mark an exception as retrieved even if its caller was canceled. Otherwise asyncio would log the exception as never retrieved."""
    if not done.cancelled():
        done.exception()


def _open(path: Path) -> sqlite3.Connection:
    """Open or create the file. Runs on the store's thread."""
    if _file_system(path) in _NETWORK_FILE_SYSTEMS:
        raise StoreOpenError(
            f"The store {path} is on a network file system, where SQLite loses data; use a local disk"
        )
    created = False
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        created = True
    except FileExistsError:
        if not os.access(
            path, os.R_OK | os.W_OK
        ):  # SQLite would open the file read-only and leave a log behind
            raise StoreOpenError(_not_writable(path)) from None
    except OSError as error:
        raise StoreOpenError(
            f"The store {path} cannot be created ({error.strerror}); check that its directory exists and is writable"
        ) from None
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=64)
        connection.text_factory = _text
        _prepare_with_retries(connection, path)
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


def _prepare_with_retries(connection: sqlite3.Connection, path: Path) -> None:
    """Prepare the file, retrying while another process prepares it. SQLite itself does not wait for a change of the journal mode."""
    deadline = time.monotonic() + BUSY_SECONDS
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
    """Return whether an error means that the file is locked by another process."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is an intact, writable Zoomgate store. Create the schema in an empty file."""
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    # read the ID after the schema: another process may create both in one transaction between these two reads
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID and not empty:
        raise StoreOpenError(
            f"The store {path} is a database of a different program; set ZOOMGATE_STORE to a different file"
        )
    _check_version(connection, path)
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise StoreOpenError(f"The store {path} is corrupt; restore it from a backup")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        else:
            connection.execute("UPDATE revision SET last = last + 1")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _not_writable(path: Path) -> str:
    return (
        f"The store {path} cannot be written; check the owner and permissions of the file and its directory"
    )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
        raise StoreOpenError(
            f"The store {path} was written by a newer version of Zoomgate; upgrade this installation"
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


def _error_name(error: sqlite3.Error) -> str:
    """Return SQLite's name of an error, or the class name if Python raised it. The message may contain paths and values."""
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _text(raw: bytes) -> str:
    """Decode text. Invalid UTF-8 is replaced, so that only the decryption of that record fails and not the whole query."""
    return raw.decode("utf-8", "replace")


def _file_system(path: Path) -> str:
    """Return the type of the file system of a path, or an empty string if it is unknown."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
        directory = str(path.resolve().parent)
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(
            r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]
        )  # spaces and similar characters are escaped in octal
        if len(point) >= len(best) and (directory == point or directory.startswith(point.rstrip("/") + "/")):
            best, kind = point, fields[2]
    return kind
