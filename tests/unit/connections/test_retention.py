"""Tests for retention: what is deleted or disconnected, and what is preserved."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace

import pytest

from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.audit.event import ZOOMGATE, AuditEvent
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.record import Cause, ConnectionRecord, State, decode, encode
from zoomgate_server.connections.retention import EXPIRING, Overdue, RetentionPolicy
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Query, Record, RecordKey, RecordStore, StoreError

ENVELOPE = Envelope(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))
NOW = time.time()
DAY = 24 * 3600.0
MONICA = "monica@example.com"
PAIR = TokenPair("a", "r", "", NOW, NOW)


def connection(state: State, expire_at: float | None = None, age: float = 0.0) -> ConnectionRecord:
    """Return a connection whose state last changed `age` seconds ago."""
    return ConnectionRecord(
        zoom_user_id="z1",
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
        expire_at=expire_at,
    )


class RetentionSetup:
    """A retention policy with an in-memory store, and the audit events and counts that the policy reports."""

    def __init__(self, reauth_days: int = 90) -> None:
        self._reauth_days = reauth_days
        self.audited: list[AuditEvent] = []
        self.counted: Counter[str] = Counter()
        self.use(MemoryStore(time.time))

    def use(self, store: RecordStore) -> None:
        """Replace the store."""
        self.store = store
        self.retention = RetentionPolicy(
            app="app",
            store=store,
            envelope=ENVELOPE,
            clock=SystemClock(),
            reauth_days=self._reauth_days,
            audit=self.audited.append,
            on_pruned=lambda kind: self.counted.update([kind]),
            rng=random.Random(1),  # noqa: S311 - only reproducibility matters
        )

    async def find(self) -> list[Overdue]:
        overdue_reauth = [overdue async for overdue in self.retention.find_overdue_reauth()]
        return overdue_reauth + [overdue async for overdue in self.retention.find_expired()]

    async def prune_all(self) -> None:
        for overdue in await self.find():
            await self.retention.prune(overdue)

    async def stored(self, record: Record) -> Record | None:
        return (await self.store.get(record.key))[0]


@pytest.mark.parametrize(
    ("record", "is_preserved"),
    [
        (encode(ENVELOPE, connection(State.DISCONNECTED, NOW - 1)), False),
        (encode(ENVELOPE, connection(State.DISCONNECTED, NOW + DAY)), True),
        (encode(ENVELOPE, connection(State.ACTIVE)), True),
        (replace(encode(ENVELOPE, connection(State.ACTIVE)), expire_at=NOW - 1), True),
        (
            replace(
                encode(ENVELOPE, connection(State.ACTIVE)), expire_at=NOW - 1, state=State.DISCONNECTED.value
            ),
            True,
        ),
        (replace(encode(ENVELOPE, connection(State.DISCONNECTED, NOW - 1)), value=b"\x03"), True),
    ],
    ids=[
        "expired tombstone",
        "recent tombstone",
        "active",
        "active, modified column",
        "forged state",
        "corrupt",
    ],
)
async def test_only_expired_tombstones_are_deleted(record: Record, is_preserved: bool) -> None:
    """A record encrypted as active is preserved even if its database columns contain a different state."""
    setup = RetentionSetup()
    await setup.store.put(record, 0)
    await setup.prune_all()
    assert (await setup.stored(record) is not None) == is_preserved
    assert setup.counted == ({} if is_preserved else {"disconnected": 1})
    assert [event.action for event in setup.audited] == ([] if is_preserved else ["connection.pruned"])


async def test_connection_needing_consent_for_90_days_is_disconnected() -> None:
    """The tombstone contains no tokens except those to revoke, since Zoom may still accept one of them."""
    setup = RetentionSetup()
    record = encode(ENVELOPE, connection(State.REAUTH_REQUIRED, age=91 * DAY))
    await setup.store.put(record, 0)
    await setup.prune_all()
    remaining = await setup.stored(record)
    assert remaining is not None
    tombstone = decode(ENVELOPE, remaining)
    assert (tombstone.state, tombstone.pairs, tombstone.pairs_to_revoke) == (State.DISCONNECTED, (), (PAIR,))
    assert tombstone.due_at is not None, "the sweep would not find the pair"
    assert tombstone.expire_at is not None
    assert tombstone.generation == 2
    assert tombstone.update_time > NOW - DAY, "the change feed would miss the change"
    assert setup.counted == {"reauth_required": 1}
    assert setup.audited == [AuditEvent("connection.expired", "ok", MONICA, ZOOMGATE, generation=1)]
    assert not await setup.find(), "a new tombstone is not expired"


@pytest.mark.parametrize(
    ("days", "record"),
    [
        (90, encode(ENVELOPE, connection(State.REAUTH_REQUIRED, age=89 * DAY))),
        (0, encode(ENVELOPE, connection(State.REAUTH_REQUIRED, age=900 * DAY))),
        (1, encode(ENVELOPE, connection(State.ACTIVE, age=900 * DAY))),
        (90, replace(encode(ENVELOPE, connection(State.REAUTH_REQUIRED)), changed_at=1.0)),
        (90, replace(encode(ENVELOPE, connection(State.ACTIVE, age=900 * DAY)), state="REAUTH_REQUIRED")),
    ],
    ids=["not yet due", "disabled", "active", "modified column", "forged state"],
)
async def test_connection_is_not_disconnected_early_or_by_a_modified_column(
    days: int, record: Record
) -> None:
    """With 0 days, no connection is disconnected."""
    setup = RetentionSetup(days)
    await setup.store.put(record, 0)
    await setup.prune_all()
    remaining = await setup.stored(record)
    assert remaining is not None
    assert remaining.value == record.value
    assert not setup.audited


@pytest.mark.parametrize("state", [State.REAUTH_REQUIRED, State.DISCONNECTED])
async def test_concurrent_consent_is_preserved(state: State) -> None:
    """A record is pruned only if its revision has not changed since it was found."""
    setup = RetentionSetup()
    record = encode(ENVELOPE, connection(state, NOW - 1, age=91 * DAY))
    rev = await setup.store.put(record, 0)
    assert rev is not None
    (overdue,) = await setup.find()
    consented = replace(connection(State.ACTIVE), grant="g2", generation=2)
    assert await setup.store.put(encode(ENVELOPE, consented), rev)
    assert not await setup.retention.prune(overdue)
    remaining = await setup.stored(record)
    assert remaining is not None
    assert decode(ENVELOPE, remaining).grant == "g2"
    assert not setup.audited
    assert not setup.counted


@pytest.mark.parametrize("kind", EXPIRING)
async def test_only_expired_records_of_the_app_are_deleted(kind: Kind) -> None:
    setup = RetentionSetup()
    for number in range(450):
        key = RecordKey("app", kind, f"{number:03}")
        await setup.store.put(Record(key=key, value=b"x", expire_at=NOW + (-1 if number % 2 else DAY)), 0)
    other = RecordKey("a different app", kind, "1")
    await setup.store.put(Record(key=other, value=b"x", expire_at=NOW - 1), 0)
    await setup.prune_all()
    remaining = await setup.store.page("app", kind, Query(limit=1000))
    assert [record.key.subject for record in remaining] == [f"{number:03}" for number in range(0, 450, 2)]
    assert (await setup.store.get(other))[0] is not None
    assert setup.counted == {kind.value: 225}


class UnconfirmedStore(MemoryStore):
    """A store that applies a write or delete of a connection, and then blocks or reports a failure.

    Attributes:
        applied: Set once a change has been applied.
        resume: Unblocks the change when set.
        fails: Whether the change reports a failure.
        unreadable: Whether reads fail from then on.
    """

    def __init__(self) -> None:
        super().__init__(time.time)
        self.applied, self.resume = asyncio.Event(), asyncio.Event()
        self.fails = self.unreadable = False

    async def put(self, record: Record, if_rev: int) -> int | None:
        rev = await super().put(record, if_rev)
        await self._block_or_fail(blocks=if_rev != 0)
        return rev

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        done = await super().delete(key, if_rev)
        await self._block_or_fail(blocks=True)
        return done

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        if self.unreadable and self.applied.is_set():
            raise StoreError("injected")
        return await super().get(key)

    async def _block_or_fail(self, *, blocks: bool) -> None:
        if not blocks:
            return
        self.applied.set()
        if self.fails:
            raise StoreError("injected")
        await self.resume.wait()


BOTH_OPERATIONS = pytest.mark.parametrize(
    ("state", "action"),
    [(State.REAUTH_REQUIRED, "connection.expired"), (State.DISCONNECTED, "connection.pruned")],
)


@BOTH_OPERATIONS
async def test_canceled_prune_is_audited(state: State, action: str) -> None:
    """The service or command stops while the store is processing the change."""
    setup, store = RetentionSetup(), UnconfirmedStore()
    setup.use(store)
    assert await store.put(encode(ENVELOPE, connection(state, NOW - 1, age=91 * DAY)), 0)
    (overdue,) = await setup.find()
    work = asyncio.create_task(setup.retention.prune(overdue))
    await store.applied.wait()
    work.cancel()
    await asyncio.wait({work})
    store.resume.set()
    await setup.retention.tasks.drain()
    assert [(event.action, event.outcome) for event in setup.audited] == [(action, "ok")]


@BOTH_OPERATIONS
@pytest.mark.parametrize("readable", [True, False])
async def test_unconfirmed_change_is_audited(state: State, action: str, readable: bool) -> None:
    """If the store also cannot be read, the audit event reports that the change may have happened."""
    setup, store = RetentionSetup(), UnconfirmedStore()
    setup.use(store)
    assert await store.put(encode(ENVELOPE, connection(state, NOW - 1, age=91 * DAY)), 0)
    (overdue,) = await setup.find()
    store.fails, store.unreadable = True, not readable
    if readable:
        assert await setup.retention.prune(overdue)
    else:
        with pytest.raises(StoreError):
            await setup.retention.prune(overdue)
    outcome = "ok" if readable else "STORE_UNAVAILABLE"
    assert [(event.action, event.outcome) for event in setup.audited] == [(action, outcome)]


async def test_failed_change_is_not_audited() -> None:
    """A read-only store must not cause an audit event per minute."""
    setup = RetentionSetup()
    faulty = FaultyStore(setup.store)
    setup.use(faulty)
    assert await setup.store.put(encode(ENVELOPE, connection(State.REAUTH_REQUIRED, age=91 * DAY)), 0)
    (overdue,) = await setup.find()
    faulty.fail("put", 1)
    with pytest.raises(StoreError):
        await setup.retention.prune(overdue)
    assert not setup.audited
