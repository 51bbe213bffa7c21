"""What is taken away when its time is over, and what stays."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace

import pytest

from support.faulty_store import FaultyStore
from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.record import Cause, ConnectionRecord, State, decode, encode
from zoomgate_server.connections.retention import EXPIRING, Overdue, RetentionPolicy
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore, StoreError

VAULT = Envelope(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))
NOW = time.time()
DAY = 24 * 3600.0
MONICA = "monica@example.com"
PAIR = TokenPair("a", "r", "bearer", "", "", NOW, NOW)


def connection(state: State, expire_at: float | None = None, age: float = 0.0) -> ConnectionRecord:
    """A connection that has been in a state for so many seconds."""
    return ConnectionRecord(
        user_email=MONICA,
        state=state,
        cause=Cause.REJECTED if state is State.REAUTH_REQUIRED else None,
        grant="g",
        generation=1,
        create_time=NOW - age,
        consent_time=NOW - age,
        update_time=NOW - age,
        refresh_time=NOW - age,
        tokens=None if state is State.DISCONNECTED else PAIR,
        alternate_pairs=(PAIR,) if state is State.REAUTH_REQUIRED else (),
        zoom_user_id="z1",
        expire_at=expire_at,
    )


class Reaping:
    """A reaper over a store in memory, with what it said."""

    def __init__(self, reauth_days: int = 90) -> None:
        self._reauth_days = reauth_days
        self.audited: list[AuditEvent] = []
        self.counted: Counter[str] = Counter()
        self.use(MemoryStore(time.time))

    def use(self, store: RecordStore) -> None:
        """Work on another store."""
        self.store = store
        self.retention = RetentionPolicy(
            app="app",
            store=store,
            envelope=VAULT,
            clock=SystemClock(),
            reauth_days=self._reauth_days,
            audit=self.audited.append,
            on_pruned=lambda kind: self.counted.update([kind]),
            chance=random.Random(1),  # noqa: S311 - it only has to be the same every time
        )

    async def find(self) -> list[Overdue]:
        found = [overdue async for overdue in self.retention.find_waiting()]
        return found + [overdue async for overdue in self.retention.find_expired()]

    async def reap(self) -> None:
        for overdue in await self.find():
            await self.retention.prune(overdue)

    async def stored(self, record: Record) -> Record | None:
        return (await self.store.get(record.key))[0]


@pytest.mark.parametrize(
    ("record", "stays"),
    [
        (encode(VAULT, connection(State.DISCONNECTED, NOW - 1)), False),
        (encode(VAULT, connection(State.DISCONNECTED, NOW + DAY)), True),
        (encode(VAULT, connection(State.ACTIVE)), True),
        (replace(encode(VAULT, connection(State.ACTIVE)), expire_at=NOW - 1), True),
        (
            replace(
                encode(VAULT, connection(State.ACTIVE)), expire_at=NOW - 1, state=State.DISCONNECTED.value
            ),
            True,
        ),
        (replace(encode(VAULT, connection(State.DISCONNECTED, NOW - 1)), value=b"\x03"), True),
    ],
    ids=["ended long ago", "ended lately", "active", "active, a column changed", "state forged", "damaged"],
)
async def test_what_ended_long_ago_is_deleted_and_nothing_else(record: Record, stays: bool) -> None:
    """The columns that anybody can write who can write the database delete nothing that is sealed as active."""
    reaping = Reaping()
    await reaping.store.put(record, 0)
    await reaping.reap()
    assert (await reaping.stored(record) is not None) == stays
    assert reaping.counted == ({} if stays else {"disconnected": 1})
    assert [event.action for event in reaping.audited] == ([] if stays else ["connection.pruned"])


async def test_who_never_came_back_is_ended() -> None:
    """A connection that has needed a consent for 90 days becomes an ended one: no token stays, and nothing is to be revoked."""
    reaping = Reaping()
    record = encode(VAULT, connection(State.REAUTH_REQUIRED, age=91 * DAY))
    await reaping.store.put(record, 0)
    await reaping.reap()
    left = await reaping.stored(record)
    assert left is not None
    ended = decode(VAULT, left)
    assert (ended.state, ended.tokens, ended.alternate_pairs, ended.revoking) == (
        State.DISCONNECTED,
        None,
        (),
        None,
    )
    assert ended.due_at is None
    assert ended.expire_at is not None
    assert ended.generation == 2
    assert ended.update_time > NOW - DAY, "other processes would not hear of it"
    assert reaping.counted == {"reauth_required": 1}
    told = AuditEvent.unattended("connection.expired", "ok", MONICA, principal="zoomgate")
    assert reaping.audited == [told._replace(generation=1)]
    assert not await reaping.find(), "it is a young one among those that ended"


@pytest.mark.parametrize(
    ("days", "record"),
    [
        (90, encode(VAULT, connection(State.REAUTH_REQUIRED, age=89 * DAY))),
        (0, encode(VAULT, connection(State.REAUTH_REQUIRED, age=900 * DAY))),
        (1, encode(VAULT, connection(State.ACTIVE, age=900 * DAY))),
        (90, replace(encode(VAULT, connection(State.REAUTH_REQUIRED)), changed_at=1.0)),
        (90, replace(encode(VAULT, connection(State.ACTIVE, age=900 * DAY)), state="REAUTH_REQUIRED")),
    ],
    ids=["not yet", "never", "works", "a column was changed", "state forged"],
)
async def test_who_may_come_back_is_not_ended(days: int, record: Record) -> None:
    """Neither before its time nor by a column that anybody wrote is a connection ended; with 0 days none ever is."""
    reaping = Reaping(days)
    await reaping.store.put(record, 0)
    await reaping.reap()
    left = await reaping.stored(record)
    assert left is not None
    assert left.value == record.value
    assert not reaping.audited


@pytest.mark.parametrize("state", [State.REAUTH_REQUIRED, State.DISCONNECTED])
async def test_a_consent_at_the_same_moment_stays(state: State) -> None:
    """What was found is taken away only as it was found: who consents in between is connected, and nobody says otherwise."""
    reaping = Reaping()
    record = encode(VAULT, connection(state, NOW - 1, age=91 * DAY))
    rev = await reaping.store.put(record, 0)
    assert rev is not None
    (overdue,) = await reaping.find()
    consented = replace(connection(State.ACTIVE), grant="g2", generation=2)
    assert await reaping.store.put(encode(VAULT, consented), rev)
    assert not await reaping.retention.prune(overdue)
    left = await reaping.stored(record)
    assert left is not None
    assert decode(VAULT, left).grant == "g2"
    assert not reaping.audited
    assert not reaping.counted


@pytest.mark.parametrize("kind", EXPIRING)
async def test_what_has_expired_is_deleted(kind: Kind) -> None:
    """States, requests and webhooks go when they have expired, however many there are, and not before."""
    reaping = Reaping()
    for number in range(450):
        key = RecordKey("app", kind, f"{number:03}")
        await reaping.store.put(Record(key=key, value=b"x", expire_at=NOW + (-1 if number % 2 else DAY)), 0)
    other = RecordKey("another app", kind, "1")
    await reaping.store.put(Record(key=other, value=b"x", expire_at=NOW - 1), 0)
    await reaping.reap()
    left = await reaping.store.page("app", kind, limit=1000)
    assert [record.key.subject for record in left] == [f"{number:03}" for number in range(0, 450, 2)]
    assert (await reaping.store.get(other))[0] is not None
    assert reaping.counted == {kind.value: 225}


class UnsureStore(MemoryStore):
    """A store that takes a write or delete of a connection and then waits, or says that it failed.

    Attributes:
        taken: Set once it has done so.
        go_on: What it waits for.
        fails: Whether it says that it failed.
        silent: Whether it cannot be read from then on.
    """

    def __init__(self) -> None:
        super().__init__(time.time)
        self.taken, self.go_on = asyncio.Event(), asyncio.Event()
        self.fails = self.silent = False

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write."""
        rev = await super().put(record, if_rev)
        await self._answer(waits=if_rev != 0)
        return rev

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete."""
        done = await super().delete(key, if_rev)
        await self._answer(waits=True)
        return done

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Read."""
        if self.silent and self.taken.is_set():
            raise StoreError("injected")
        return await super().get(key)

    async def _answer(self, *, waits: bool) -> None:
        if not waits:
            return
        self.taken.set()
        if self.fails:
            raise StoreError("injected")
        await self.go_on.wait()


ENDS = pytest.mark.parametrize(
    ("state", "action"),
    [(State.REAUTH_REQUIRED, "connection.expired"), (State.DISCONNECTED, "connection.pruned")],
)


@ENDS
async def test_who_is_stopped_tells_what_was_begun(state: State, action: str) -> None:
    """A service or a command that ends while the store is asked to take a connection away writes its line."""
    reaping, store = Reaping(), UnsureStore()
    reaping.use(store)
    assert await store.put(encode(VAULT, connection(state, NOW - 1, age=91 * DAY)), 0)
    (overdue,) = await reaping.find()
    work = asyncio.create_task(reaping.retention.prune(overdue))
    await store.taken.wait()
    work.cancel()
    await asyncio.wait({work})
    store.go_on.set()
    await reaping.retention.drain()
    assert [(event.action, event.outcome) for event in reaping.audited] == [(action, "ok")]


@ENDS
@pytest.mark.parametrize("readable", [True, False])
async def test_what_the_store_did_not_confirm_is_told(state: State, action: str, readable: bool) -> None:
    """It is not found again, so it is looked for at once; where that fails too, the line says that it may have happened."""
    reaping, store = Reaping(), UnsureStore()
    reaping.use(store)
    assert await store.put(encode(VAULT, connection(state, NOW - 1, age=91 * DAY)), 0)
    (overdue,) = await reaping.find()
    store.fails, store.silent = True, not readable
    if readable:
        assert await reaping.retention.prune(overdue)
    else:
        with pytest.raises(StoreError):
            await reaping.retention.prune(overdue)
    outcome = "ok" if readable else "STORE_UNAVAILABLE"
    assert [(event.action, event.outcome) for event in reaping.audited] == [(action, outcome)]


async def test_what_the_store_refused_is_not_told() -> None:
    """A store that takes no writes brings no line each minute."""
    reaping = Reaping()
    faulty = FaultyStore(reaping.store)
    reaping.use(faulty)
    assert await reaping.store.put(encode(VAULT, connection(State.REAUTH_REQUIRED, age=91 * DAY)), 0)
    (overdue,) = await reaping.find()
    faulty.fail("put", 1)
    with pytest.raises(StoreError):
        await reaping.retention.prune(overdue)
    assert not reaping.audited
