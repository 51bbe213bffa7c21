"""What is particular to the SQLite store: files, modes, refusals."""

import asyncio
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest

from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError, StoreOpenError
from zoomgate_server.storage.sqlite import FEW, SqliteStore

RECORD = Record(key=RecordKey("app", Kind.META, "x"), value=b"v")


async def refusal(path: Path) -> str:
    with pytest.raises(StoreOpenError) as error:
        await SqliteStore.open(path, time.time)
    text = str(error.value)
    assert "\n" not in text
    assert ": " in text
    return text


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """A new file has mode 0600, and so have those beside it."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    await store.put(RECORD, 0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    await store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


async def test_foreign_and_damaged_files_are_refused_untouched(tmp_path: Path) -> None:
    """Another program's database, no database and a newer version are refused in one sentence, and stay as they were."""
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "another program" in await refusal(foreign)
    text = tmp_path / "text.db"
    text.write_bytes(b"this is no database at all" * 100)
    assert "no database" in await refusal(text)
    assert text.read_bytes() == b"this is no database at all" * 100
    newer = tmp_path / "newer.db"
    await (await SqliteStore.open(newer, time.time)).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "newer version" in await refusal(newer)


async def test_a_refused_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """If the file cannot be made, nothing is there afterwards."""
    assert "folder" in await refusal(tmp_path / "missing" / "s.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_replaced_or_deleted_file_is_noticed(tmp_path: Path) -> None:
    """Writing into a file that nobody can find any more would lose tokens, so it fails."""
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


async def test_a_closed_store_fails(tmp_path: Path) -> None:
    """After close every call is a store error."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    await store.close()
    with pytest.raises(StoreError):
        await store.get(RECORD.key)


async def test_a_locked_file_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that does not get the lock in time fails, and writes nothing."""
    monkeypatch.setattr("zoomgate_server.storage.sqlite.BUSY_SECONDS", 0.05)
    path = tmp_path / "s.db"
    store = await SqliteStore.open(path, time.time)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="SQLITE_BUSY"):
        await store.put(RECORD, 0)
    other.execute("ROLLBACK")
    other.close()
    assert await store.put(RECORD, 0)
    await store.close()


async def test_who_waits_behind_others_for_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that has not begun in time fails and never begins; the one that has begun goes on."""
    store = await SqliteStore.open(tmp_path / "s.db", time.time)
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go_on.wait()
        return "done"

    first = asyncio.create_task(store._run(slow))
    await asyncio.to_thread(began.wait)
    with monkeypatch.context() as patch:  # only while nothing can begin
        patch.setattr("zoomgate_server.storage.sqlite.WAIT_SECONDS", 0.05)
        for call in (store.get(RECORD.key), store.put(RECORD, 0)):
            with pytest.raises(StoreError, match="too slow"):
                await call
    go_on.set()
    assert await first == "done"
    assert (await store.get(RECORD.key))[0] is None
    await store.close()


async def test_few_and_many_that_are_due_are_read_in_the_same_order(tmp_path: Path) -> None:
    """Whether the due ones are found by their index or among all records, the pages are the same."""
    store = await SqliteStore.open(tmp_path / "zoomgate.db", lambda: 0.0)
    subjects = [f"{(number * 7919) % (2 * FEW):05}" for number in range(2 * FEW)]
    with sqlite3.connect(tmp_path / "zoomgate.db") as connection:
        connection.executemany(
            "INSERT INTO record VALUES ('app', 'user', ?, x'', 1, ?, '', NULL, 0.0, ?, ?)",
            (
                (subject, "ACTIVE" if number % 3 else "DISCONNECTED", float(number), float(number))
                for number, subject in enumerate(subjects)
            ),
        )
    for before in (0, 1, FEW - 1, FEW, FEW + 1, 2 * FEW):
        expected = sorted(
            subject for number, subject in enumerate(subjects) if number < before and number % 3
        )
        for column in ("due_before", "expire_before"):
            found: list[str] = []
            while page := await store.page(
                "app",
                Kind.USER,
                states=["ACTIVE"],
                after=found[-1] if found else "",
                limit=300,
                **{column: before},
            ):
                found += [record.key.subject for record in page]
            assert found == expected
    await store.close()
