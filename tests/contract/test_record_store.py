"""Tests for the record store interface, with every implementation."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from support.mongodb import MongoServer
from zoomgate_server.storage.instrumented import instrumented
from zoomgate_server.storage.mongodb import Driver, MongoStore
from zoomgate_server.storage.record_store import (
    Change,
    Kind,
    Order,
    Query,
    Record,
    RecordKey,
    RecordStore,
    StoreError,
    UserEmailTaken,
)
from zoomgate_server.storage.scan import pages_of
from zoomgate_server.storage.sqlite import SqliteStore

APP = "zoom.us|client"


async def open_store(kind: str, location: str) -> RecordStore:
    """Open a store of the given implementation."""
    match kind:
        case "memory":
            return MemoryStore(time.time)
        case "sqlite":
            return await SqliteStore.open(Path(location), time.time)
        case "mongodb-motor":
            return await MongoStore.open(location, Driver.MOTOR)
        case "mongodb-pymongo":
            return await MongoStore.open(location, Driver.PYMONGO)
        case "instrumented":
            return instrumented(MemoryStore(time.time), lambda: None)
    raise AssertionError(kind)


def new_location(kind: str, request: pytest.FixtureRequest, directory: Path) -> str:
    """Return the path or address of a new store."""
    if kind.startswith("mongodb"):
        server: MongoServer = request.getfixturevalue("mongodb")
        return server.new_database()
    return str(directory / "store.db")


async def test_failed_calls_are_counted_except_the_close() -> None:
    """When the service stops, an error of the store is no longer of interest to the operator."""
    faulty, errors = FaultyStore(MemoryStore(time.time)), Counter[str]()
    store = instrumented(faulty, lambda: errors.update(["errors"]))

    async def fail(_proceed: object, *_arguments: object) -> None:
        raise StoreError("injected")

    for method in ("apps", "close"):
        with faulty.intercept(method, fail), pytest.raises(StoreError):
            await getattr(store, method)()
    assert errors["errors"] == 1


STORES = ["memory", "instrumented", "sqlite", "mongodb-motor", "mongodb-pymongo"]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """Return a store of each implementation in turn."""
    opened = await open_store(request.param, new_location(request.param, request, tmp_path))
    yield opened
    await opened.close()


def key(subject: str = "monica", kind: Kind = Kind.USER, app: str = APP) -> RecordKey:
    return RecordKey(app, kind, subject)


def record(subject: str = "monica", value: bytes = b"v", **columns: object) -> Record:
    return replace(Record(key=key(subject), value=value), **columns)  # type: ignore[arg-type]


async def test_written_record_is_read_back(store: RecordStore) -> None:
    """`get` returns all columns unchanged, a revision, and the store's current time."""
    written = record(
        value=bytes(range(256)),
        state="ACTIVE",
        key_id="0a0b0c0d",
        user_email="monica@example.com",
        changed_at=12.5,
        due_at=13.25,
        expire_at=14.125,
    )
    before = time.time()
    rev = await store.put(written, 0)
    assert rev is not None
    assert rev > 0
    found, now = await store.get(written.key)
    assert found == replace(written, rev=rev)
    assert abs(now - before) < 60


async def test_absent_record_is_none(store: RecordStore) -> None:
    """Records with a different app, kind or subject are separate records."""
    await store.put(record(), 0)
    for other in (key("omar"), key(kind=Kind.STATE), key(app="zoom.us|other")):
        assert (await store.get(other))[0] is None


async def test_put_requires_the_current_revision(store: RecordStore) -> None:
    """If the expected revision is wrong, nothing is written."""
    assert await store.put(record(), 1) is None
    rev = await store.put(record(value=b"1"), 0)
    assert rev is not None
    assert await store.put(record(value=b"2"), 0) is None
    assert await store.put(record(value=b"2"), rev + 1) is None
    next_rev = await store.put(record(value=b"2"), rev)
    assert next_rev not in (None, rev)
    assert await store.put(record(value=b"3"), rev) is None
    found, _ = await store.get(key())
    assert found is not None
    assert found.value == b"2"


async def test_delete_requires_the_current_revision(store: RecordStore) -> None:
    """A delete with a different revision, or a second delete, has no effect."""
    rev = await store.put(record(), 0)
    assert rev is not None
    assert not await store.delete(key(), rev + 1)
    assert not await store.delete(key(), 0)
    assert await store.delete(key(), rev)
    assert not await store.delete(key(), rev)
    assert (await store.get(key()))[0] is None


async def test_revision_is_never_reused(store: RecordStore) -> None:
    """A record that is recreated after a delete has a new revision, so a writer with the old revision cannot overwrite the record."""
    first = await store.put(record(), 0)
    assert first is not None
    await store.delete(key(), first)
    second = await store.put(record(), 0)
    assert second is not None
    assert second != first
    assert await store.put(record(value=b"x"), first) is None


async def test_one_of_many_concurrent_writers_succeeds(store: RecordStore) -> None:
    """Exactly one of several writers with the same revision succeeds, for inserts and updates."""
    for _ in range(2):
        found, _ = await store.get(key())
        rev = found.rev if found else 0
        written = await asyncio.gather(*(store.put(record(value=b"%d" % index), rev) for index in range(20)))
        assert sum(result is not None for result in written) == 1


async def test_email_address_belongs_to_one_record(store: RecordStore) -> None:
    """A record with the address of another record, even of a tombstone, is rejected, and the other record's subject is returned."""
    await store.put(record(user_email="monica@example.com", state="DISCONNECTED"), 0)
    for rev in (0, await store.put(record("omar", user_email="omar@example.com", value=b"1"), 0)):
        other = "omar" if rev else "new"
        with pytest.raises(UserEmailTaken) as error:
            await store.put(record(other, user_email="monica@example.com", value=b"2"), rev or 0)
        assert error.value.subject == "monica"
    assert (await store.get(key("new")))[0] is None
    found, _ = await store.find(APP, "omar@example.com")
    assert found is not None
    assert found.value == b"1"
    assert await store.put(record(user_email="monica@example.com", key=key(app="zoom.us|other")), 0)


async def test_changed_revision_is_reported_before_a_taken_email_address(store: RecordStore) -> None:
    await store.put(record(user_email="monica@example.com"), 0)
    rev = await store.put(record("omar"), 0)
    assert rev is not None
    for outdated in (0, rev + 1):
        assert await store.put(record("omar", user_email="monica@example.com"), outdated) is None


async def test_records_without_an_email_address_are_not_compared(store: RecordStore) -> None:
    """Any number of records of any kind can be without an address."""
    for subject in ("a", "b"):
        for kind in (Kind.USER, Kind.STATE):
            assert await store.put(record(key=key(subject, kind)), 0)


async def test_email_address_can_be_reused_after_it_is_changed_removed_or_deleted(store: RecordStore) -> None:
    """An address that a record keeps or gives up is no conflict."""
    rev = await store.put(record(user_email="old@example.com"), 0)
    for user_email in ("old@example.com", "new@example.com", None, "last@example.com"):
        assert rev is not None
        rev = await store.put(record(user_email=user_email), rev)
        found, _ = await store.get(key())
        assert found == record(user_email=user_email, rev=rev)
    assert rev is not None
    await store.delete(key(), rev)
    for name in ("old", "new", "last"):
        assert await store.put(record(f"next-{name}", user_email=f"{name}@example.com"), 0)


async def test_one_of_many_concurrent_writers_takes_an_email_address(store: RecordStore) -> None:
    """All other writers learn which record has the address."""

    async def take(number: int) -> str:
        try:
            await store.put(record(f"user-{number}", user_email="monica@example.com"), 0)
        except UserEmailTaken as error:
            return error.subject
        return f"user-{number}"

    (winner,) = set(await asyncio.gather(*map(take, range(20))))
    found, _ = await store.find(APP, "monica@example.com")
    assert found is not None
    assert found.key.subject == winner
    assert len(await store.page(APP, Kind.USER, Query(limit=100))) == 1


async def test_find_returns_the_record_with_an_email_address(store: RecordStore) -> None:
    """Tombstones are found. A record without an address, or with the address in another app, does not match."""
    before = time.time()
    await store.put(record("none"), 0)
    await store.put(record(user_email="monica@example.com", key=key(app="zoom.us|other")), 0)
    found, now = await store.find(APP, "monica@example.com")
    assert found is None
    assert abs(now - before) < 60
    rev: int | None = 0
    for state in ("ACTIVE", "DISCONNECTED"):
        written = record(user_email="monica@example.com", state=state, expire_at=14.5, changed_at=3.0)
        assert rev is not None
        rev = await store.put(written, rev)
        assert rev is not None
        found, now = await store.find(APP, "monica@example.com")
        assert found == replace(written, rev=rev)
        assert abs(now - before) < 60
    for other in ("omar@example.com", "", "monica", "MONICA@example.com"):
        assert (await store.find(APP, other))[0] is None
    await store.put(record(user_email="new@example.com"), rev or 0)
    assert (await store.find(APP, "monica@example.com"))[0] is None


async def test_pages_are_ordered_by_subject(store: RecordStore) -> None:
    """Subjects are compared by code point. Pages start after the given subject and contain only records that match the filters."""
    names = ["a@x.com", "b@x.com", "ab@x.com", "B", "ä", "\uff21", "\U0001f600"]
    for index, name in enumerate(names):
        state = "ACTIVE" if index % 2 else "REAUTH_REQUIRED"
        await store.put(record(name, state=state), 0)
    await store.put(record("zz", state="ACTIVE"), 0)
    all_records = await store.page(APP, Kind.USER, Query(limit=1000))
    assert [found.key.subject for found in all_records] == sorted([*names, "zz"])
    first = await store.page(APP, Kind.USER, Query(limit=2))
    rest = await store.page(APP, Kind.USER, Query(after=first[-1].key.subject, limit=1000))
    assert [*first, *rest] == list(all_records)
    active = await store.page(APP, Kind.USER, Query(states=["ACTIVE"], limit=10))
    assert {found.key.subject for found in active} == {"b@x.com", "B", "\uff21", "zz"}
    assert not await store.page(APP, Kind.STATE, Query(limit=10))


async def test_pages_by_email_are_ordered_by_email_address(store: RecordStore) -> None:
    """Addresses are compared by code point. Records without an address, of another kind or of another app are left out."""
    emails = ["a@x.com", "b@x.com", "ab@x.com", "B", "ä", "\uff21", "\U0001f600"]
    for index, email in enumerate(emails):
        state = "ACTIVE" if index % 2 else "DISCONNECTED"
        await store.put(record(f"z{9 - index}", user_email=email, state=state), 0)
    await store.put(record("none", state="ACTIVE"), 0)
    for app in ("zoom.us|clien", "zoom.us|client2"):
        await store.put(record(key=key(app=app), user_email="c@x.com", state="ACTIVE"), 0)

    async def emails_of(query: Query) -> list[str | None]:
        return [found.user_email for found in await store.page(APP, Kind.USER, query)]

    assert await emails_of(Query(order=Order.EMAIL, limit=1000)) == sorted(emails)
    assert await emails_of(Query(order=Order.EMAIL, after="ab@x.com", limit=2)) == ["b@x.com", "ä"]
    assert await emails_of(Query(order=Order.EMAIL, after="\U0001f600", limit=2)) == []
    active = Query(order=Order.EMAIL, states=["ACTIVE"], limit=1000)
    assert await emails_of(active) == ["B", "b@x.com", "\uff21"]
    assert await emails_of(replace(active, after="B", limit=1)) == ["b@x.com"]
    both = replace(active, states=["DISCONNECTED", "ACTIVE"])
    assert await emails_of(both) == sorted(emails)
    assert await emails_of(replace(both, after="B", limit=3)) == ["a@x.com", "ab@x.com", "b@x.com"]
    assert not await store.page(APP, Kind.STATE, Query(order=Order.EMAIL, limit=10))


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_all_pages_by_email_contain_each_record_once(store: RecordStore, limit: int) -> None:
    """The order of the subjects is the opposite of the order of the addresses."""
    for number in range(7):
        await store.put(record(f"z{9 - number}", user_email=f"user-{number}@example.com"), 0)
    query = Query(order=Order.EMAIL, limit=limit)
    found = [row async for page in pages_of(store, APP, Kind.USER, query) for row in page]
    assert [row.user_email for row in found] == [f"user-{number}@example.com" for number in range(7)]
    assert found == [(await store.get(row.key))[0] for row in found]


@pytest.mark.parametrize("order", [Order.CHANGED, Order.DUE, Order.EXPIRE])
async def test_pages_by_time_are_ordered_by_time(store: RecordStore, order: Order) -> None:
    """Records with the same time are ordered by subject. The time is not earlier than `since`, and earlier than `before`."""
    times = {"a": 3.0, "b": 1.0, "ab": 3.0, "ä": 2.0, "B": 3.0, "c": 5.0}
    for index, (name, time_) in enumerate(times.items()):
        state = "ACTIVE" if index % 2 else "DISCONNECTED"
        await store.put(record(name, state=state, **{order: time_}), 0)
    await store.put(record("x", state="GONE"), 0)
    for other in (key("x", app="zoom.us|other"), key("x", kind=Kind.STATE)):
        await store.put(replace(record(state="ACTIVE", **{order: 3.0}), key=other), 0)

    async def subjects(states: str = "ACTIVE DISCONNECTED", limit: int = 10, **fields: Any) -> list[str]:
        query = Query(order=order, states=states.split(), limit=limit, **fields)
        return [found.key.subject async for page in pages_of(store, APP, Kind.USER, query) for found in page]

    for limit in (1, 2, 10):
        assert await subjects(limit=limit) == ["b", "ä", "B", "a", "ab", "c"]
        assert await subjects("ACTIVE", limit=limit) == ["b", "ä", "c"]
        assert await subjects(limit=limit, before=3.0) == ["b", "ä"]
        assert await subjects(limit=limit, since=3.0) == ["B", "a", "ab", "c"]
        assert await subjects(limit=limit, since=3.0, after="a", before=5.0) == ["ab"]
    assert await subjects("") == (["x"] if order is Order.CHANGED else []) + ["b", "ä", "B", "a", "ab", "c"]
    assert await subjects(before=1.0) == []


async def test_records_in_a_state_are_counted_in_steps(store: RecordStore) -> None:
    """Records without an address, in another state, of another kind or of another app are left out."""
    for number in range(5):
        await store.put(record(f"z{9 - number}", state="ACTIVE", user_email=f"u{number}@x.com"), 0)
    await store.put(record("other", state="GONE", user_email="u9@x.com"), 0)
    await store.put(record("none", state="ACTIVE"), 0)
    await store.put(record(key=key(app="zoom.us|clien"), state="ACTIVE", user_email="u9@x.com"), 0)
    steps, after = list[int](), ""
    while True:
        count, following = await store.count_in_state(APP, Kind.USER, "ACTIVE", after=after, limit=2)
        steps.append(count)
        if following is None:
            break
        after = following
    assert steps == [2, 2, 1]
    assert await store.count_in_state(APP, Kind.USER, "ACTIVE", after="", limit=9) == (5, None)
    assert await store.count_in_state(APP, Kind.USER, "ACTIVE", after="", limit=5) == (5, "u4@x.com")
    assert await store.count_in_state(APP, Kind.USER, "ACTIVE", after="u4@x.com", limit=5) == (0, None)


async def test_records_are_counted_by_key_id(store: RecordStore) -> None:
    """`count` and `key_ids` select the records of one app and one kind."""
    for index in range(5):
        await store.put(record(f"u{index}", state="ACTIVE" if index else "GONE", key_id=f"k{index % 2}"), 0)
    assert await store.count(APP, Kind.USER) == {"k0": 3, "k1": 2}
    assert await store.count("other", Kind.USER) == {}
    assert set(await store.key_ids(APP, Kind.USER)) == {"k0", "k1"}
    assert set(await store.key_ids(APP, Kind.STATE)) == set()


async def test_apps_with_records_are_listed(store: RecordStore) -> None:
    """Apps are sorted and unique. Apps without records are not listed."""
    assert list(await store.apps()) == []
    for app in ("zoom.us|b", "zoom.us|a"):
        for kind in (Kind.USER, Kind.STATE):
            await store.put(Record(key=key(app=app, kind=kind), value=b"v"), 0)
    assert list(await store.apps()) == ["zoom.us|a", "zoom.us|b"]
    for record in [
        row for kind in (Kind.USER, Kind.STATE) for row in await store.page("zoom.us|b", kind, Query(limit=9))
    ]:
        await store.delete(record.key, record.rev)
    assert list(await store.apps()) == ["zoom.us|a"]


async def test_each_change_is_listed_once(store: RecordStore) -> None:
    """Changes since a time are sorted oldest first. Each record is returned with its latest revision and email address."""
    revs = {}
    for name, changed_at in (("a", 5.0), ("b", 3.0), ("c", 1.0)):
        written = record(name, state="ACTIVE", changed_at=changed_at, user_email=f"{name}@example.com")
        revs[name] = await store.put(written, 0)
    assert revs["c"] is not None
    latest = await store.put(record("c", state="GONE", changed_at=6.0), revs["c"])
    await store.put(Record(key=key(kind=Kind.STATE), value=b"v", changed_at=7.0), 0)
    changes, now = await store.changes(APP, Kind.USER, 5.0)
    assert list(changes) == [
        Change(key("a"), revs["a"] or 0, "ACTIVE", 5.0, "a@example.com"),
        Change(key("c"), latest or 0, "GONE", 6.0, None),
    ]
    assert abs(now - time.time()) < 60


async def test_changes_are_limited_to_the_oldest(store: RecordStore) -> None:
    """Fewer changes than the limit are returned only if there are no more."""
    for number in range(5):
        await store.put(record(f"u{number}", changed_at=float(number)), 0)
    for limit, expected in ((2, ["u1", "u2"]), (4, ["u1", "u2", "u3", "u4"]), (9, ["u1", "u2", "u3", "u4"])):
        changes, _ = await store.changes(APP, Kind.USER, 1.0, limit=limit)
        assert [change.key.subject for change in changes] == expected


async def test_close_is_idempotent(store: RecordStore) -> None:
    await store.close()
    await store.close()


@pytest.mark.parametrize("kind", STORES)
def test_any_sequence_of_writes_matches_a_dictionary(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any sequence of writes and deletes, the store has the same content as a dictionary with revisions."""
    steps = st.lists(
        st.tuples(st.sampled_from(["put", "stale", "delete"]), st.integers(0, 3), st.binary(max_size=8)),
        max_size=25,
    )

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(steps)
    def check(history: list[tuple[str, int, bytes]]) -> None:
        asyncio.run(replay(history, new_location(kind, request, tmp_path_factory.mktemp("history"))))

    async def replay(history: list[tuple[str, int, bytes]], location: str) -> None:
        store = await open_store(kind, location)
        model: dict[str, tuple[int, bytes]] = {}
        try:
            for action, number, value in history:
                name = f"user-{number}"
                rev, _ = model.get(name, (0, b""))
                if action == "put":
                    written = await store.put(record(name, value), rev)
                    assert written is not None
                    model[name] = (written, value)
                elif action == "stale":
                    assert await store.put(record(name, value), rev + 1) is None
                else:
                    assert await store.delete(key(name), rev) is (name in model)
                    model.pop(name, None)
            found = await store.page(APP, Kind.USER, Query(limit=100))
            assert {item.key.subject: (item.rev, item.value) for item in found} == model
        finally:
            await store.close()

    check()


COUNTER = """
import asyncio, json, sys, time
from dataclasses import replace
from pathlib import Path
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), time.time)
    key, done, conflicts = RecordKey("app", Kind.META, "counter"), 0, 0
    while done < int(sys.argv[2]):
        found, _ = await store.get(key)
        value = int(found.value) if found else 0
        if await store.put(Record(key=key, value=b"%d" % (value + 1)), found.rev if found else 0) is None:
            conflicts += 1
        else:
            done += 1
    await store.close()
    print(json.dumps({"conflicts": conflicts}))

asyncio.run(main())
"""


async def test_processes_share_a_file_without_lost_updates(tmp_path: Path) -> None:
    """If two processes increment a counter concurrently, no increment is lost."""
    path = tmp_path / "shared.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNTER, str(path), "60"], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all("conflicts" in json.loads(output) for output in outputs)
    store = await SqliteStore.open(path, time.time)
    found, _ = await store.get(RecordKey("app", Kind.META, "counter"))
    await store.close()
    assert found is not None
    assert found.value == b"120"


async def test_processes_can_create_the_file_concurrently(tmp_path: Path) -> None:
    """If several processes start in an empty directory at the same time, all succeed, and none deletes another process's file."""
    for number in range(3):
        path = tmp_path / f"new-{number}.db"
        processes = [subprocess.Popen([sys.executable, "-c", COUNTER, str(path), "2"]) for _ in range(6)]
        assert [process.wait(timeout=60) for process in processes] == [0] * 6
        store = await SqliteStore.open(path, time.time)
        found, _ = await store.get(RecordKey("app", Kind.META, "counter"))
        await store.close()
        assert found is not None
        assert found.value == b"12"
