"""Copies of a store in a file: made beside a running service, verified before they count, never written over anything.

A backup is an SQLite store of its own, whole in one file. What it holds is sealed as in the store; the keys are not in it.
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
from zoomgate_server.storage.record_store import Record, RecordStore, StoreOpenError, ZoomUserTaken
from zoomgate_server.storage.scan import each, pages, total
from zoomgate_server.storage.sqlite import (
    APPLICATION_ID,
    BUSY_SECONDS,
    SCHEMA_VERSION,
    SqliteStore,
)

_PAGES = 1000
"""Of a database, that are copied between two looks at the progress."""

_ATTEMPTS = 5
_BESIDE = ("-wal", "-shm", "-journal")


class BackupError(Exception):
    """A backup cannot be made or restored. The text is one sentence for the operator; nothing was left behind."""


def count(path: Path) -> int:
    """Count the records of an SQLite store or a backup.

    Raises:
        BackupError: It is none that this release can read.
    """
    with _readable(path) as connection:
        found: int = connection.execute("SELECT count(*) FROM record").fetchone()[0]
    return found


def copy_file(source: Path, target: Path, on_records: Callable[[int], None]) -> int:
    """Copy an SQLite store or a backup as it is at one moment, whoever writes meanwhile, and give the number of its records.

    Copying the file itself would lose what is committed and still in the log beside it.

    Args:
        source: The store, or a backup.
        target: Where the copy goes; it gets mode 0600.
        on_records: Told how many more records are done, about.

    Raises:
        BackupError: The source is no store that this release can read, the target exists, or it cannot be written or verified.
    """
    with _draft(target) as draft, _readable(source) as connection:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection.execute("BEGIN")  # one moment, held to the end
        records: int = connection.execute("SELECT count(*) FROM record").fetchone()[0]
        told = 0

        def tell(_: int, left: int, pages: int) -> None:
            nonlocal told
            done = records - records * left // max(pages, 1)
            on_records(done - told)
            told = done

        with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
            connection.backup(copy, pages=_PAGES, progress=tell)
        _finish(draft, records)
    return records


async def copy_records(
    source: RecordStore, target: Path, wall: Callable[[], float], on_records: Callable[[int], None]
) -> int:
    """Copy any store record by record, and give their number. Each is as it was at some moment while the copy was made.

    Args:
        source: The store.
        target: Where the copy goes; it gets mode 0600.
        wall: Seconds since 1970.
        on_records: Told how many more records are done.

    Raises:
        BackupError: The target exists, or it cannot be written or verified.
        StoreError: A store failed.
    """
    with _draft(target) as draft:
        copy = await SqliteStore.open(draft, wall)
        try:
            await _fill(copy, source, on_records)
            records = await total(copy)
        finally:
            await copy.close()
        _finish(draft, records)
    return records


async def restore_records(
    backup: Path, target: RecordStore, wall: Callable[[], float], on_records: Callable[[int], None]
) -> int:
    """Write the records of a backup into an empty store, and give their number.

    Args:
        backup: What `copy_file` or `copy_records` made; it stays as it is.
        target: The store.
        wall: Seconds since 1970.
        on_records: Told how many more records are done.

    Raises:
        BackupError: The file is no backup that this release can read, or the store is not empty.
        StoreError: The store failed.
    """
    if await target.apps():
        raise _not_empty()
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "backup"
        copy_file(backup, copy, lambda _: None)
        source = await SqliteStore.open(copy, wall)
        try:
            await _fill(target, source, on_records)
            return await total(source)
        finally:
            await source.close()


async def _fill(target: RecordStore, source: RecordStore, on_records: Callable[[int], None]) -> None:
    async def copy(record: Record) -> None:
        await _copy(target, source, record)

    for app in await source.apps():
        async for page in pages(source, app):
            await each(page, copy, on_records)


async def _copy(target: RecordStore, source: RecordStore, record: Record) -> None:
    """Copy a record. If its Zoom user belonged to another record when that one was copied, that one is copied again first."""
    latest: Record | None = record
    for _ in range(_ATTEMPTS):
        try:
            if latest is not None and await target.put(latest, 0) is None:
                raise _not_empty()
        except ZoomUserTaken as taken:
            other = replace(record.key, subject=taken.subject)
            outdated, _ = await target.get(other)
            fresh, _ = await source.get(other)
            if outdated is not None and fresh is None:
                await target.delete(other, outdated.rev)
            elif outdated is not None and fresh is not None:
                await target.put(fresh, outdated.rev)
            latest, _ = await source.get(record.key)
        else:
            return
    raise BackupError("Two records of the store claim one Zoom user again and again: try once more")


def _not_empty() -> BackupError:
    return BackupError(
        "The store is not empty, and a backup is restored into an empty one only: name another in ZOOMGATE_STORE, or move this one away"
    )


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Give a path beside the target; what is there in the end becomes the target, durably, unless something is there already."""
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists already and is never overwritten: name another file")
    for suffix in _BESIDE:
        beside = target.with_name(target.name + suffix)
        if beside.exists():  # SQLite would take it for the log of the new file
            raise BackupError(f"{beside} is left over from a store that was here: move it away")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        os.link(draft, target)
        private_file.sync_folder(target.parent)
    except FileExistsError:
        raise BackupError(f"{target} exists already and is never overwritten: name another file") from None
    except (StoreOpenError, sqlite3.Error, OSError) as error:
        why = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None) or str(error)
        raise BackupError(
            f"{target} could not be written ({why}): check its folder and the room on the disk"
        ) from None
    finally:
        for suffix in ("", *_BESIDE):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _finish(draft: Path, records: int) -> None:
    """Make a copy one file without a log, and look whether it is whole."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        whole = copy.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        found = copy.execute("SELECT count(*) FROM record").fetchone()[0]
    if not whole or found != records:
        raise BackupError(
            f"The copy is not whole ({found} of {records} records): look at the disk of the store"
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
        raise BackupError(f"{path} does not exist: name a file that is there")
    try:
        # not mode=ro, which leaves an empty log behind where nobody else has the file open
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
        )
        with closing(connection):
            connection.execute("PRAGMA query_only = ON")
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise BackupError(f"{path} is no store of Zoomgate: name another file")
            if connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
                raise BackupError(f"{path} was written by a newer version of Zoomgate: upgrade this one")
            yield connection
    except sqlite3.Error as error:
        raise BackupError(
            f"{path} cannot be read ({error.sqlite_errorname}): check its owner and mode, or take another backup"
        ) from None
