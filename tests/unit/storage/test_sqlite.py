"""Tests for the SQLite store: files, permissions, errors of SQLite and of Python, and query plans."""

import asyncio
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.thread_limit import no_new_threads
from zoomgate_server.storage.record_store import (
    Kind,
    Order,
    Query,
    Record,
    RecordKey,
    RecordStore,
    StoreError,
    StoreOpenError,
    UserEmailTaken,
)
from zoomgate_server.storage.scan import encryption_state
from zoomgate_server.storage.sqlite import SqliteStore, check
from zoomgate_server.storage.sqlite_thread import SqliteThread
from zoomgate_server.storage.timing import SqliteTiming

RECORD = Record(key=RecordKey("app", Kind.META, "x"), value=b"v")
CONNECTION = Record(key=RecordKey("app", Kind.USER, "z"), value=b"v")


async def open_error(path: Path) -> str:
    """Open a file that must be rejected, check that the error message is a single line with a remedy, and return the message."""
    with pytest.raises(StoreOpenError) as error:
        await SqliteStore.open(path, time.time)
    text = str(error.value)
    assert "\n" not in text
    assert "; " in text
    return text


async def test_files_are_accessible_to_the_owner_only(tmp_path: Path) -> None:
    """A new store file and the additional files that SQLite creates have mode 0600."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    await store.put(RECORD, 0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    await store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


async def test_invalid_files_are_rejected_unchanged(tmp_path: Path) -> None:
    """A database of a different program, a file that is not a database, and a store of a newer version are rejected."""
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "a different program" in await open_error(foreign)
    text = tmp_path / "text.db"
    text.write_bytes(b"this is no database at all" * 100)
    assert "not a database" in await open_error(text)
    assert text.read_bytes() == b"this is no database at all" * 100
    newer = tmp_path / "newer.db"
    await (await SqliteStore.open(newer, time.time)).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "newer version" in await open_error(newer)


async def test_failed_open_leaves_no_files_behind(tmp_path: Path) -> None:
    assert "directory" in await open_error(tmp_path / "missing" / "s.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("linked", [False, True], ids=["direct", "symlink"])
async def test_network_file_system_is_rejected(tmp_path: Path, linked: bool) -> None:
    """No file is created on the network file system. The mount point contains a space, and the store may be a symbolic link."""
    share, mounts, path = tmp_path / "network share", tmp_path / "mounts", tmp_path / "link.db"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nnas:/x {str(share).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n"
    )
    share.mkdir()
    if linked:
        path.symlink_to(share / "zoomgate.db")
    with pytest.raises(
        StoreOpenError, match=r"network file system \(nfs4\), where SQLite loses data; use a local disk"
    ):
        await SqliteStore.open(path if linked else share / "zoomgate.db", time.time, mounts=mounts)
    assert list(share.iterdir()) == []


async def test_replaced_or_deleted_file_is_detected(tmp_path: Path) -> None:
    """Operations fail, since writes to a file that is no longer at its path would be lost."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time)
    await store.put(RECORD, 0)
    path.rename(tmp_path / "moved.db")
    with pytest.raises(StoreError, match="deleted"):
        await store.get(RECORD.key)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="replaced"):
        await store.get(RECORD.key)
    await store.close()


async def test_closed_store_raises_store_errors(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    await store.close()
    with pytest.raises(StoreError):
        await store.get(RECORD.key)


async def test_locked_file_raises_store_error(tmp_path: Path) -> None:
    """A write that does not acquire the lock in time fails and changes nothing."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time, SqliteTiming(busy_timeout=0.05))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="SQLITE_BUSY"):
        await store.put(RECORD, 0)
    other.execute("ROLLBACK")
    other.close()
    assert await store.put(RECORD, 0)
    await store.close()


def commits(path: Path) -> int:
    """Return the number of commits in the log of a store (https://www.sqlite.org/fileformat.html#the_write_ahead_log)."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    page_size = int.from_bytes(log[8:12], "big")
    frames = range(32, len(log), 24 + page_size)
    return sum(int.from_bytes(log[frame + 4 : frame + 8], "big") > 0 for frame in frames)


def records(count: int) -> list[Record]:
    return [replace(RECORD, key=RecordKey("app", Kind.USER, f"z{number}")) for number in range(count)]


async def test_waiting_writes_are_committed_together(tmp_path: Path) -> None:
    """A conflict or a taken address concerns only its own write."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time)
    before = commits(path)
    written = [replace(record, user_email=f"{record.key.subject}@example.com") for record in records(20)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writes = asyncio.gather(
            *(store.put(record, 0) for record in written),
            store.put(written[0], 7),
            store.put(replace(CONNECTION, user_email="z0@example.com"), 0),
            return_exceptions=True,
        )
        await asyncio.sleep(0)  # the writes are queued
        other.execute("ROLLBACK")
    *revisions, conflicted, rejected = await writes
    assert conflicted is None
    assert isinstance(rejected, UserEmailTaken)
    assert rejected.subject == "z0"
    assert commits(path) - before <= 2
    assert len(set(revisions)) == len(written)
    for record, rev in zip(written, revisions, strict=True):
        assert (await store.get(record.key))[0] == replace(record, rev=rev)
    await store.close()


class CountingExecutor(ThreadPoolExecutor):
    """An executor with one thread.

    Attributes:
        started: How often the thread was given work.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self.started = 0

    def submit(self, *args: Any, **options: Any) -> Any:
        """Start a function on the thread."""
        self.started += 1
        return super().submit(*args, **options)


async def test_results_of_writes_that_are_committed_together_are_returned_together(tmp_path: Path) -> None:
    """The event loop waits for the thread at most twice: for the first writes, and for those that were queued meanwhile."""
    path = tmp_path / "s.db"
    await (await SqliteStore.open(path, time.time)).close()
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    executor = CountingExecutor()
    thread = SqliteThread(connection, executor, queue_timeout=5.0)
    store = SqliteStore(path, reader=thread, writer=thread, wall=time.time)
    assert None not in await asyncio.gather(*(store.put(record, 0) for record in records(20)))
    assert executor.started <= 2
    await store.close()


async def test_failed_transaction_fails_all_its_writes(tmp_path: Path) -> None:
    """None of them is written later."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time, SqliteTiming(busy_timeout=0.05))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        errors = await asyncio.gather(
            *(store.put(record, 0) for record in records(5)), return_exceptions=True
        )
    assert [str(error) for error in errors] == ["SQLite failed (SQLITE_BUSY)"] * 5
    assert await store.put(RECORD, 0)
    assert not await store.page("app", Kind.USER, Query(limit=10))
    await store.close()


async def test_operations_fail_after_waiting_too_long_for_earlier_ones(tmp_path: Path) -> None:
    """An operation that has not started in time fails and is never executed. A running operation completes."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time, SqliteTiming(queue_timeout=0.05))
    async with blocked(store._reader) as release_reads, blocked(store._writer) as release_writes:
        for call in (store.get(RECORD.key), store.put(RECORD, 0)):
            with pytest.raises(StoreError, match="too slow"):
                await call
        release_reads()
        release_writes()
    assert await store.put(CONNECTION, 0)
    assert (await store.get(RECORD.key))[0] is None
    await store.close()


async def test_operations_of_canceled_callers_complete(tmp_path: Path) -> None:
    """Closing the store waits for operations that are still queued, even if their callers are canceled."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time)
    async with blocked(store._writer) as release:
        writing = asyncio.create_task(store.put(RECORD, 0))
        await asyncio.sleep(0)
        writing.cancel()
        closed = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        release()
    await closed
    reopened = await SqliteStore.open(path, time.time)
    assert (await reopened.get(RECORD.key))[0] is not None
    await reopened.close()


async def test_reads_are_not_delayed_by_a_write(tmp_path: Path) -> None:
    """They return while a write waits for the lock of another process, also if they are requested later."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time, SqliteTiming(busy_timeout=60.0, queue_timeout=60.0))
    await store.put(RECORD, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.put(replace(RECORD, key=replace(RECORD.key, subject="other")), 0))
        await asyncio.sleep(0)  # the write is queued
        records = await asyncio.gather(*(store.get(RECORD.key) for _ in range(3)))
        assert [record is not None for record, _ in records] == [True] * 3
        assert [len(page) for page in [await store.page("app", Kind.META, Query(limit=9))]] == [1]
        assert not writing.done()
        other.execute("ROLLBACK")
    assert await writing
    await store.close()


async def test_write_in_a_running_transaction_returns_its_result(tmp_path: Path) -> None:
    """It waits longer than the queue timeout, since it is committed with the transaction, and must not be reported as failed."""
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time, SqliteTiming(queue_timeout=0.5))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        async with blocked(store._writer) as release:
            other.execute("BEGIN IMMEDIATE")
            writes = asyncio.gather(*(store.put(record, 0) for record in records(3)))
            await asyncio.sleep(0)  # the writes are queued
            release()
        with pytest.raises(StoreError, match="too slow"):  # later than the timeouts of the writes
            await store.delete(RECORD.key, 1)
        other.execute("ROLLBACK")
    assert None not in await writes
    assert len(await store.page("app", Kind.USER, Query(limit=10))) == 3
    await store.close()


@pytest.mark.parametrize("column", ["user_email", "subject"])
async def test_row_with_a_corrupt_address_or_subject_is_omitted(tmp_path: Path, column: str) -> None:
    """Reads by email address find all other records, changes contain no corrupt address, and the user can be connected again."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    for name in ("a", "b"):
        key = replace(CONNECTION.key, subject=name)
        await store.put(replace(CONNECTION, key=key, user_email=f"{name}@example.com"), 0)
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
        connection.execute(f"UPDATE record SET {column} = x'7a' WHERE subject = 'a'")  # noqa: S608 - names come from the test
    page = await store.page("app", Kind.USER, Query(order=Order.EMAIL, limit=10))
    assert [record.user_email for record in page] == ["b@example.com"]
    assert (await store.find("app", "a@example.com"))[0] is None
    changes, _ = await store.changes("app", Kind.USER, 0.0)
    expected = [("a", None)] if column == "user_email" else []
    assert [(change.key.subject, change.user_email) for change in changes] == [
        *expected,
        ("b", "b@example.com"),
    ]
    assert await store.put(replace(CONNECTION, user_email="a@example.com"), 0)
    await store.close()


@asynccontextmanager
async def blocked(thread: SqliteThread) -> AsyncIterator[Callable[[], None]]:
    """Run an operation that ends when the returned function is called."""
    started, release = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> str:
        started.set()
        release.wait()
        return "done"

    waiting = asyncio.create_task(thread.run(wait))
    await asyncio.to_thread(started.wait)
    try:
        yield release.set
    finally:
        release.set()
    assert await waiting == "done"


class FailingConnection(sqlite3.Connection):
    """A connection whose statements raise an error that is not an SQLite error."""

    error: type[Exception] = MemoryError

    def execute(self, *_: Any) -> sqlite3.Cursor:
        """Raise the error."""
        raise self.error("SELECT value FROM record")


def opened(path: Path, factory: type[sqlite3.Connection]) -> SqliteStore:
    """Open an existing file with a connection of a different type."""
    connection = sqlite3.connect(path, factory=factory, check_same_thread=False, isolation_level=None)
    thread = SqliteThread(connection, ThreadPoolExecutor(max_workers=1), queue_timeout=5.0)
    return SqliteStore(path, reader=thread, writer=thread, wall=time.time)


CALLS: tuple[Callable[[RecordStore], Any], ...] = (
    lambda store: store.get(RECORD.key),
    lambda store: store.put(RECORD, 0),
    lambda store: store.delete(RECORD.key, 1),
    lambda store: store.page("app", Kind.META, Query(limit=1)),
    lambda store: store.find("app", "z"),
    lambda store: store.count("app", Kind.META),
    lambda store: store.key_ids("app", Kind.META),
    lambda store: store.apps(),
    lambda store: store.changes("app", Kind.META, 0.0),
)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, OverflowError])
async def test_any_error_of_the_driver_is_a_store_error(tmp_path: Path, error: type[Exception]) -> None:
    """The message does not contain the text of the error, which may contain values."""
    path = tmp_path / "s.db"
    await (await SqliteStore.open(path, time.time)).close()
    store = opened(path, type("Connection", (FailingConnection,), {"error": error}))
    for call in CALLS:
        with pytest.raises(StoreError, match=rf"^SQLite failed \({error.__name__}\)$"):
            await call(store)
    await store.close()


async def test_open_fails_if_no_thread_can_be_started(tmp_path: Path) -> None:
    with no_new_threads():
        assert "can't start new thread" in await open_error(tmp_path / "s.db")
    assert list(tmp_path.iterdir()) == []


async def add_connections(path: Path, count: int) -> None:
    """Add connections to a store. All of them are due, and each state has many more records than a page."""
    await (await SqliteStore.open(path, time.time)).close()
    states = ("ACTIVE", "ACTIVE", "REAUTH_REQUIRED", "DISCONNECTED")
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO record VALUES ('app', 'user', ?, ?, 1, ?, ?, ?, ?, ?, ?)",
            (
                (
                    f"z{n:05}",
                    bytes(2_000),
                    states[n % 4],
                    f"k{n % 2}",
                    f"u{n:05}",
                    float(n),
                    float(n),
                    float(n),
                )
                for n in range(count)
            ),
        )
    connection.close()


READS: dict[str, Callable[[SqliteStore], Any]] = {
    "start": lambda store: encryption_state(store, "app"),
    "apps": lambda store: store.apps(),
    "find": lambda store: store.find("app", "u00007"),
    "changes": lambda store: store.changes("app", Kind.USER, 10.0, limit=10),
    "count": lambda store: store.count_in_state("app", Kind.USER, "ACTIVE", after="u00001", limit=10),
    "subjects": lambda store: store.page("app", Kind.USER, Query(after="z00010", limit=10)),
    **{
        f"{order}, {' '.join(states)}": partial(
            SqliteStore.page,
            app="app",
            kind=Kind.USER,
            query=Query(order=order, states=states, since=10.0, after="u00010", limit=10),
        )
        for order in (Order.EMAIL, Order.CHANGED, Order.DUE, Order.EXPIRE)
        for states in (["ACTIVE"], ["DISCONNECTED"], ["ACTIVE", "REAUTH_REQUIRED"])
    },
}
"""Reads of the service, except for those that an operator requests."""


@pytest.mark.parametrize("name", READS)
async def test_reads_do_not_depend_on_the_number_of_connections(tmp_path: Path, name: str) -> None:
    """SQLite executes the same number of instructions, whether the store contains 200 connections or 4,000."""
    instructions = Counter[int]()
    for count in (200, 4_000):
        path = tmp_path / f"{count}.db"
        await add_connections(path, count)
        store = await SqliteStore.open(path, time.time)
        tick = partial(instructions.update, [count])
        for thread in (store._reader, store._writer):
            await thread.run(lambda connection, tick=tick: connection.set_progress_handler(tick, 1))
        await READS[name](store)
        await store.close()
    assert instructions[200] == instructions[4_000] > 0


async def test_start_does_not_read_all_records(tmp_path: Path) -> None:
    """A damaged page fails the operations that read it. `zoomgate doctor` reads the whole file."""
    path = tmp_path / "s.db"
    await add_connections(path, 1_000)
    content = bytearray(path.read_bytes())
    start = content.index(b"appuserz00500" + bytes(100))
    content[start - start % 4096 : start - start % 4096 + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    store = await SqliteStore.open(path, time.time)
    with pytest.raises(StoreError, match="SQLITE_CORRUPT"):
        await store.get(RecordKey("app", Kind.USER, "z00500"))
    assert (await store.get(RecordKey("app", Kind.USER, "z00010")))[0]
    await store.close()
    with pytest.raises(StoreOpenError, match="corrupt; restore it from a backup"):
        await check(path)
