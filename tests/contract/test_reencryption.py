"""Tests for the re-encryption of a store that other processes use."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from support.process import NEW, OLD, Process, RotatingZoom, ring, zoom_user_id
from zoomgate_server.encryption import key_check, key_usage, shared_secret
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore, StoreError
from zoomgate_server.storage.scan import pages
from zoomgate_server.storage.sqlite import SqliteStore

USERS = [f"user-{number}@example.com" for number in range(25)]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """Return an in-memory store, then an SQLite store."""
    created: RecordStore = (
        MemoryStore(time.time)
        if request.param == "memory"
        else await SqliteStore.open(tmp_path / "store.db", time.time)
    )
    yield created
    await created.close()


async def fill(store: RecordStore, zoom: RotatingZoom, apps: tuple[str, ...] = ("app",)) -> Process:
    """Store the key check, a shared secret and a connection for every user, encrypted with the old key."""
    for app in apps:
        envelope = Envelope(app=app, keys=ring(OLD))
        await key_check.verify(store, envelope)
        await shared_secret.obtain(store, envelope, "page-tokens")
        process = Process(store, envelope, zoom)
        for user in USERS:
            await process.connect(user)
    return process


def ignore_progress(_: int) -> None:
    """Ignore a progress report."""


async def count_encrypted_with(store: RecordStore, key_id: str) -> int:
    return (await key_usage.sealed_with(store, key_id, ignore_progress)).total()


class StoreWithConcurrentWrites:
    """A store wrapper that runs a concurrent operation before each write."""

    def __init__(self, store: RecordStore, before_put: Callable[[Record], Awaitable[None]]) -> None:
        self._store = store
        self._before_put = before_put

    async def put(self, record: Record, if_rev: int) -> int | None:
        await self._before_put(record)
        return await self._store.put(record, if_rev)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_every_record_is_reencrypted_and_otherwise_unchanged(store: RecordStore) -> None:
    """Records of all kinds and apps are re-encrypted. Columns, generation and content stay the same."""
    await fill(store, RotatingZoom(), ("app", "other-app"))
    before = {
        record.key: record
        for app in await store.apps()
        async for page in pages(store, app)
        for record in page
    }
    progress = []
    result = await reencrypt(store, ring(NEW), progress.append)
    assert (result.reencrypted, result.current, result.failed) == (len(before), 0, {})
    assert sum(progress) == len(before) == 2 * (len(USERS) + 2)
    assert await count_encrypted_with(store, OLD) == 0
    assert set(await key_usage.by_key(store)) == {NEW}
    for app in await store.apps():
        envelope = Envelope(app=app, keys=ring(NEW))
        async for page in pages(store, app):
            for record in page:
                original = before[record.key]
                assert replace(record, value=b"", rev=0, key_id="") == replace(
                    original, value=b"", rev=0, key_id=""
                )
                assert envelope.open(record) == envelope.open(original)
    repeated = await reencrypt(store, ring(NEW), ignore_progress)
    assert (repeated.reencrypted, repeated.current) == (0, len(before))


async def test_concurrent_refresh_is_not_overwritten(store: RecordStore) -> None:
    """If a token is refreshed between read and write, the record is read again, and the valid token is retained."""
    zoom = RotatingZoom()
    process = await fill(store, zoom)
    refreshed: set[str] = set()

    async def refresh(record: Record) -> None:
        user = record.user_email
        if user is not None and user not in refreshed:
            refreshed.add(user)
            await process.refresh(user)

    result = await reencrypt(StoreWithConcurrentWrites(store, refresh), ring(NEW), ignore_progress)
    assert not result.failed
    assert refreshed == set(USERS)
    assert await count_encrypted_with(store, OLD) == 0
    reader = Process(store, Envelope(app="app", keys=ring(NEW)), zoom)
    for user in USERS:
        record, _ = await reader.connections.find(user)
        assert record is not None
        assert record.generation == 2
        assert await reader.has_valid_token(user)


async def test_concurrently_deleted_record_is_not_recreated(store: RecordStore) -> None:
    envelope = Envelope(app="app", keys=ring(OLD))
    key = RecordKey("app", Kind.STATE, "s")
    value = envelope.seal(key, grant="", generation=0, header={}, secret={})
    await store.put(Record(key=key, value=value, key_id=OLD), 0)

    async def delete(record: Record) -> None:
        stored, _ = await store.get(key)
        if stored is not None:
            await store.delete(key, stored.rev)

    await reencrypt(StoreWithConcurrentWrites(store, delete), ring(NEW), ignore_progress)
    assert (await store.get(key))[0] is None


@pytest.mark.parametrize("after_effect", [False, True])
async def test_next_run_continues_after_a_store_failure(store: RecordStore, after_effect: bool) -> None:
    """Records that are already re-encrypted are skipped, and no token is lost."""
    zoom = RotatingZoom()
    await fill(store, zoom)
    faulty = FaultyStore(store)

    def fail_later(_: int) -> None:
        faulty.fail("put", 1, after_effect=after_effect)

    with pytest.raises(StoreError):
        await reencrypt(faulty, ring(NEW), fail_later)
    reencrypted = (await key_usage.by_key(store))[NEW].total()
    assert 0 < reencrypted < len(USERS) + 2
    result = await reencrypt(store, ring(NEW), ignore_progress)
    assert result.current >= reencrypted
    assert await count_encrypted_with(store, OLD) == 0
    reader = Process(store, Envelope(app="app", keys=ring(NEW)), zoom)
    assert all([await reader.has_valid_token(user) for user in USERS])


async def test_unreadable_records_are_reported_and_unchanged(store: RecordStore) -> None:
    """A corrupt record or a missing key does not prevent the re-encryption of other records."""
    await fill(store, RotatingZoom())
    other_ring = KeyRing([Key("0c0c0c0c", bytes(range(32)), primary=True)])
    corrupt, _ = await store.get(RecordKey("app", Kind.USER, zoom_user_id(USERS[3])))
    foreign, _ = await store.get(RecordKey("app", Kind.USER, zoom_user_id(USERS[7])))
    assert corrupt is not None
    assert foreign is not None
    await store.put(replace(corrupt, value=corrupt.value[:-1] + bytes([corrupt.value[-1] ^ 1])), corrupt.rev)
    value = Envelope(app="app", keys=other_ring).seal(
        foreign.key, grant="g", generation=1, header={}, secret={}
    )
    await store.put(replace(foreign, value=value, key_id="0c0c0c0c"), foreign.rev)
    before = [(await store.get(record.key))[0] for record in (corrupt, foreign)]
    result = await reencrypt(store, ring(NEW), ignore_progress)
    assert len(result.failed) == 2
    assert any("not in the key ring" in error for error in result.failed.values())
    assert [(await store.get(record.key))[0] for record in (corrupt, foreign)] == before
    assert result.reencrypted == len(USERS)


async def test_encryption_key_is_read_from_the_value_despite_a_wrong_column(store: RecordStore) -> None:
    await fill(store, RotatingZoom())
    await reencrypt(store, ring(NEW), ignore_progress)
    record, _ = await store.get(RecordKey("app", Kind.USER, zoom_user_id(USERS[0])))
    assert record is not None
    envelope = Envelope(app="app", keys=ring(OLD))
    value = envelope.seal(record.key, grant="g", generation=9, header={}, secret={})
    await store.put(replace(record, value=value), record.rev)
    assert await key_usage.sealed_with(store, OLD, ignore_progress) == {"user": 1}
    await reencrypt(store, ring(NEW), ignore_progress)
    assert await key_usage.sealed_with(store, OLD, ignore_progress) == {}


async def test_reencryption_loses_no_token_of_a_different_process(tmp_path: Path) -> None:
    """The other process continuously refreshes all users' tokens with the old key."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path, time.time)
    await fill(store, RotatingZoom())
    worker = subprocess.Popen(
        [sys.executable, "-m", "support.refreshing_process", str(path), *USERS],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    effective_runs = 0
    while effective_runs < 10:  # the number of runs that re-encrypted records written by the other process
        assert worker.poll() is None
        result = await reencrypt(store, ring(NEW), ignore_progress)
        assert not result.failed
        effective_runs += result.reencrypted > 0
    output, _ = worker.communicate()
    assert worker.returncode == 0
    living = set(json.loads(output.splitlines()[-1]))
    await reencrypt(store, ring(NEW), ignore_progress)
    assert await count_encrypted_with(store, OLD) == 0
    zoom = RotatingZoom()
    zoom.valid_tokens = living
    reader = Process(store, Envelope(app="app", keys=ring(NEW)), zoom)
    for user in USERS:
        record, _ = await reader.connections.find(user)
        assert record is not None
        assert record.generation > 1
        assert await reader.has_valid_token(user)
    await store.close()
