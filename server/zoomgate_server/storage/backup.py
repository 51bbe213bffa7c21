"""Backup and restore of a store.

A backup is an SQLite store in a single file. Its records are encrypted as in the original store; the keys are not included. A backup
can be made while the service runs, is verified, and never overwrites a file.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from zoomgate_server import private_file
from zoomgate_server.storage.record_store import (
    Record,
    RecordKey,
    RecordStore,
    StoreOpenError,
    UserEmailTaken,
)
from zoomgate_server.storage.scan import count_records, pages, process_each
from zoomgate_server.storage.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteStore
from zoomgate_server.storage.timing import SqliteTiming

_COMPANION_SUFFIXES = ("-wal", "-shm", "-journal")

_WRITE_ERRORS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)
"""The errors of a copy that concern the new file. SQLite does not report which of the two files failed."""


class BackupError(Exception):
    """A backup cannot be created or restored. The message is one sentence for the operator. No incomplete file is left behind."""


def count(path: Path) -> int:
    """Count the records of an SQLite store or a backup.

    Raises:
        BackupError: The file is not a store that this release can read.
    """
    with _readable(path) as connection:
        records: int = connection.execute("SELECT count(*) FROM record").fetchone()[0]
    return records


def copy_file(
    source: Path, target: Path, on_records: Callable[[int], None], pages_per_report: int = 1000
) -> int:
    """Copy a consistent snapshot of an SQLite store or a backup to a new file with mode 0600, and return the number of records.

    Other processes may write during the copy. Copying the file itself would lose committed transactions that are in the write-ahead log.

    Args:
        on_records: Called with the approximate number of records copied since the last call.
        pages_per_report: Number of database pages that are copied between two calls of `on_records`.

    Raises:
        BackupError: The source is not a store that this release can read, the target exists, or the copy cannot be written or verified.
    """
    records: int = 0
    reported = 0
    with _draft(target) as draft:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

        def report_progress(_: int, remaining: int, pages: int) -> None:
            nonlocal reported
            done = records - records * remaining // max(pages, 1)
            on_records(done - reported)
            reported = done

        with closing(sqlite3.connect(draft, isolation_level=None)) as copy, _readable(source) as connection:
            connection.execute("BEGIN")  # one snapshot for the count and the copy
            records = connection.execute("SELECT count(*) FROM record").fetchone()[0]
            try:
                connection.backup(copy, pages=pages_per_report, progress=report_progress)
            except sqlite3.Error as error:
                if error.sqlite_errorcode in _WRITE_ERRORS:
                    raise _not_written(target, error) from None
                raise
        _finish(draft, records)
    return records


async def copy_records(
    source: RecordStore, target: Path, wall: Callable[[], float], on_records: Callable[[int], None]
) -> int:
    """Copy a store of any type to a new file with mode 0600, record by record, and return the number of records.

    The copy is not a snapshot: its records may be from different moments during the copy.

    Args:
        on_records: Called with the number of records copied since the last call.

    Raises:
        BackupError: The target exists, or the copy cannot be written or verified.
        StoreError: The source or the copy failed.
    """
    with _draft(target) as draft:
        copy = await SqliteStore.open(draft, wall)
        try:
            await _copy_again(copy, source, await _fill(copy, source, on_records))
            records = await count_records(copy)
        finally:
            await copy.close()
        _finish(draft, records)
    return records


async def restore_records(
    backup: Path, target: RecordStore, wall: Callable[[], float], on_records: Callable[[int], None]
) -> int:
    """Write the records of a backup into an empty store, and return the number of records.

    Args:
        backup: A file created by `copy_file` or `copy_records`. The file is not changed.
        on_records: Called with the number of records copied since the last call.

    Raises:
        BackupError: The file is not a backup that this release can read, or the store is not empty.
        StoreError: The store failed.
    """
    if await target.apps():
        raise _not_empty()
    with TemporaryDirectory() as directory:
        copy = Path(directory) / "backup"
        copy_file(backup, copy, lambda _: None)
        source = await SqliteStore.open(copy, wall)
        try:
            if await _fill(target, source, on_records):
                raise _not_empty()
            return await count_records(source)
        finally:
            await source.close()


async def _fill(
    target: RecordStore, source: RecordStore, on_records: Callable[[int], None]
) -> list[RecordKey]:
    """Copy all records, and return the keys of those that were not copied because a record in the target has the same email address."""
    rejected: list[RecordKey] = []

    async def copy(record: Record) -> None:
        try:
            if await target.put(record, 0) is None:
                raise _not_empty()
        except UserEmailTaken:
            rejected.append(record.key)

    for app in await source.apps():
        async for page in pages(source, app):
            await process_each(page, copy, on_records)
    return rejected


async def _copy_again(target: RecordStore, source: RecordStore, keys: list[RecordKey]) -> None:
    """Copy records whose email addresses were moved between records during the copy."""
    while keys:
        key = keys.pop()
        record, _ = await source.get(key)
        try:
            if record is not None:
                await target.put(record, 0)
        except UserEmailTaken as taken:
            # the other record was copied before the address was moved
            other = replace(key, subject=taken.subject)
            outdated, _ = await target.get(other)
            if outdated is not None:
                await target.delete(other, outdated.rev)
            keys += [other, key]


def _not_empty() -> BackupError:
    return BackupError(
        "The store is not empty, but a backup can only be restored into an empty store; set ZOOMGATE_STORE to a"
        " different store, or move this store away"
    )


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Yield a temporary path, and durably move the file written there to the target. An existing file is never overwritten."""
    exists = BackupError(f"{target} already exists and is never overwritten; specify a different file")
    if target.exists() or target.is_symlink():
        raise exists
    for suffix in _COMPANION_SUFFIXES:
        companion = target.with_name(target.name + suffix)
        if companion.exists():  # SQLite would treat this file as the log of the new store
            raise BackupError(f"{companion} is left over from an earlier store; move this file away")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        os.link(draft, target)
        private_file.sync_folder(target.parent)
    except FileExistsError:
        raise exists from None
    except (StoreOpenError, sqlite3.Error, OSError) as error:
        raise _not_written(target, error) from None
    finally:
        for suffix in ("", *_COMPANION_SUFFIXES):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _not_written(target: Path, error: Exception) -> BackupError:
    reason = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None) or str(error)
    return BackupError(
        f"{target} could not be written ({reason}); check its directory and the free disk space"
    )


def _finish(draft: Path, records: int) -> None:
    """Turn a copy into a single file without a log, verify it, and sync it to disk."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        intact = copy.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        copied = copy.execute("SELECT count(*) FROM record").fetchone()[0]
    if not intact or copied != records:
        raise BackupError(
            f"The copy is corrupt or incomplete ({copied} of {records} records); check the disks of the store and of the copy"
        )
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _readable(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an SQLite store or a backup for reading."""
    if not path.is_file():
        raise BackupError(f"{path} does not exist; specify an existing file")
    try:
        # with mode=ro, SQLite would leave an empty log behind if no other process has the file open
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=SqliteTiming().busy_timeout,
        )
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise BackupError(f"{path} is not a Zoomgate store; specify a different file")
            if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
                raise BackupError(
                    f"{path} was written by a newer version of Zoomgate; upgrade this installation"
                )
            yield connection
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB:
            raise BackupError(
                f"{path} is not a backup made by `zoomgate store backup`; use a different file"
            ) from None
        raise BackupError(
            f"{path} cannot be read ({error.sqlite_errorname}); check its owner and permissions, or use a different backup"
        ) from None
