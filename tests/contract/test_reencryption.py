"""Sealing everything anew while others work on the same store."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.faulty_store import FaultyStore
from support.process import NEW, OLD, Process, RotatingZoom, ring
from zoomgate_server.encryption import key_check, key_usage, shared_secret
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore, StoreError
from zoomgate_server.storage.scan import pages
from zoomgate_server.storage.sqlite import SqliteStore

USERS = [f"user-{number}@example.com" for number in range(25)]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """Each implementation."""
    made: RecordStore = (
        MemoryStore(time.time)
        if request.param == "memory"
        else await SqliteStore.open(tmp_path / "store.db", time.time)
    )
    yield made
    await made.close()


async def fill(store: RecordStore, zoom: RotatingZoom, apps: tuple[str, ...] = ("app",)) -> Process:
    """Connect everybody with the old key, beside a canary and a shared secret."""
    for app in apps:
        envelope = Envelope(app=app, keys=ring(OLD))
        await key_check.verify(store, envelope)
        await shared_secret.obtain(store, envelope, "page-tokens")
        process = Process(app, store, envelope, zoom)
        for user in USERS:
            await process.connect(user)
    return process


def nothing(_: int) -> None:
    """Progress that nobody looks at."""


async def left(store: RecordStore, key_id: str) -> int:
    return (await key_usage.sealed_with(store, key_id, nothing)).total()


class Interrupted:
    """Lets somebody else write just before a write."""

    def __init__(self, store: RecordStore, meanwhile: Callable[[Record], Awaitable[None]]) -> None:
        self._store = store
        self._meanwhile = meanwhile

    async def put(self, record: Record, if_rev: int) -> int | None:
        await self._meanwhile(record)
        return await self._store.put(record, if_rev)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_everything_is_sealed_anew_and_nothing_else_changes(store: RecordStore) -> None:
    """Records of every kind and every app end under the new key, with columns, generation and contents as they were."""
    await fill(store, RotatingZoom(), ("app", "other-app"))
    before = {
        record.key: record
        for app in await store.apps()
        async for page in pages(store, app)
        for record in page
    }
    done = []
    swept = await reencrypt(store, ring(NEW), done.append)
    assert (swept.reencrypted, swept.current, swept.failed) == (len(before), 0, {})
    assert sum(done) == len(before) == 2 * (len(USERS) + 2)
    assert await left(store, OLD) == 0
    assert set(await key_usage.by_key(store)) == {NEW}
    for app in await store.apps():
        envelope = Envelope(app=app, keys=ring(NEW))
        async for page in pages(store, app):
            for record in page:
                was = before[record.key]
                assert replace(record, value=b"", rev=0, key_id="") == replace(
                    was, value=b"", rev=0, key_id=""
                )
                assert envelope.open(record) == envelope.open(was)
    again = await reencrypt(store, ring(NEW), nothing)
    assert (again.reencrypted, again.current) == (0, len(before))


async def test_a_refresh_that_is_faster_wins(store: RecordStore) -> None:
    """A refresh between the sweep's read and its write stays: the sweep reads again, and every living token is kept."""
    zoom = RotatingZoom()
    process = await fill(store, zoom)
    faster: set[str] = set()

    async def refresh(record: Record) -> None:
        user = record.key.subject
        if record.key.kind is Kind.USER and user not in faster:
            faster.add(user)
            await process.refresh(user)

    swept = await reencrypt(Interrupted(store, refresh), ring(NEW), nothing)
    assert not swept.failed
    assert faster == set(USERS)
    assert await left(store, OLD) == 0
    reader = Process("app", store, Envelope(app="app", keys=ring(NEW)), zoom)
    for user in USERS:
        record, _ = await reader.connections.read(user)
        assert record is not None
        assert record.generation == 2
        assert await reader.holds_living_token(user)


async def test_a_record_that_goes_away_meanwhile_stays_away(store: RecordStore) -> None:
    """A state that is used up between read and write is not brought back."""
    envelope = Envelope(app="app", keys=ring(OLD))
    key = RecordKey("app", Kind.STATE, "s")
    value = envelope.seal(key, grant="", generation=0, header={}, secret={})
    await store.put(Record(key=key, value=value, key_id=OLD), 0)

    async def use_up(record: Record) -> None:
        found, _ = await store.get(key)
        if found is not None:
            await store.delete(key, found.rev)

    await reencrypt(Interrupted(store, use_up), ring(NEW), nothing)
    assert (await store.get(key))[0] is None


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_sweep_goes_on_where_the_store_failed(store: RecordStore, after_effect: bool) -> None:
    """A store that fails ends the sweep; the next one skips what is done, and nothing is lost."""
    zoom = RotatingZoom()
    await fill(store, zoom)
    faulty = FaultyStore(store)

    def fail_later(_: int) -> None:
        faulty.fail("put", 1, after_effect=after_effect)

    with pytest.raises(StoreError):
        await reencrypt(faulty, ring(NEW), fail_later)
    done = (await key_usage.by_key(store))[NEW].total()
    assert 0 < done < len(USERS) + 2
    swept = await reencrypt(store, ring(NEW), nothing)
    assert swept.current >= done
    assert await left(store, OLD) == 0
    reader = Process("app", store, Envelope(app="app", keys=ring(NEW)), zoom)
    assert all([await reader.holds_living_token(user) for user in USERS])


async def test_what_cannot_be_opened_is_told_and_left(store: RecordStore) -> None:
    """A damaged record and one of a missing key neither stop the sweep nor are they changed."""
    await fill(store, RotatingZoom())
    stranger = KeyRing([Key("0c0c0c0c", bytes(range(32)), primary=True)])
    damaged, _ = await store.get(RecordKey("app", Kind.USER, USERS[3]))
    foreign, _ = await store.get(RecordKey("app", Kind.USER, USERS[7]))
    assert damaged is not None
    assert foreign is not None
    await store.put(replace(damaged, value=damaged.value[:-1] + b"x"), damaged.rev)
    value = Envelope(app="app", keys=stranger).seal(
        foreign.key, grant="g", generation=1, header={}, secret={}
    )
    await store.put(replace(foreign, value=value, key_id="0c0c0c0c"), foreign.rev)
    before = [(await store.get(record.key))[0] for record in (damaged, foreign)]
    swept = await reencrypt(store, ring(NEW), nothing)
    assert len(swept.failed) == 2
    assert any("not in the key ring" in why for why in swept.failed.values())
    assert [(await store.get(record.key))[0] for record in (damaged, foreign)] == before
    assert swept.reencrypted == len(USERS)


async def test_a_key_is_found_by_the_bytes_of_records(store: RecordStore) -> None:
    """A column that says another key does not hide the one that really sealed a record."""
    await fill(store, RotatingZoom())
    await reencrypt(store, ring(NEW), nothing)
    record, _ = await store.get(RecordKey("app", Kind.USER, USERS[0]))
    assert record is not None
    envelope = Envelope(app="app", keys=ring(OLD))
    value = envelope.seal(record.key, grant="g", generation=9, header={}, secret={})
    await store.put(replace(record, value=value), record.rev)
    assert await key_usage.sealed_with(store, OLD, nothing) == {"user": 1}
    await reencrypt(store, ring(NEW), nothing)
    assert await key_usage.sealed_with(store, OLD, nothing) == {}


async def test_a_sweep_beside_another_process_loses_nothing(tmp_path: Path) -> None:
    """While another process refreshes everybody again and again with the old key, sweeps keep every token that Zoom gave it."""
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
    beside = 0
    while beside < 10:  # sweeps that had something to do, since the other process had written meanwhile
        assert worker.poll() is None
        done = await reencrypt(store, ring(NEW), nothing)
        assert not done.failed
        beside += done.reencrypted > 0
    output, _ = worker.communicate()
    assert worker.returncode == 0
    living = set(json.loads(output.splitlines()[-1]))
    await reencrypt(store, ring(NEW), nothing)
    assert await left(store, OLD) == 0
    zoom = RotatingZoom()
    zoom.living = living
    reader = Process("app", store, Envelope(app="app", keys=ring(NEW)), zoom)
    for user in USERS:
        record, _ = await reader.connections.read(user)
        assert record is not None
        assert record.generation > 1
        assert await reader.holds_living_token(user)
    await store.close()
