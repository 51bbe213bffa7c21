"""The refresh as the service runs it: single flight, callers who leave, stores that fail."""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.faulty_store import FaultyStore
from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.record import (
    Attempt,
    Cause,
    ConnectionRecord,
    LastError,
    Lease,
    State,
)
from zoomgate_server.connections.refresh import protocol, refresher
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import (
    ReauthRequired,
    RefreshInProgress,
    ServerOverloaded,
    StoreUnavailable,
    ZoomUnavailable,
)
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, TokenOutcome, Unknown

USER = "monica@example.com"


class Zoom:
    """A token endpoint: rotates one refresh token, and waits where a test wants it to."""

    def __init__(self) -> None:
        self.living = "r1"
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self.lost = False
        self.seen_context: list[str] = []

    async def spend(self, token: str) -> TokenOutcome:
        self.calls += 1
        self.seen_context.append(WHO.get())
        await self.gate.wait()
        if self.down:
            return NotSent("injected")
        if self.lost:
            return Unknown("injected")
        if token != self.living:
            return Rejected("invalid_grant")
        self.living = f"r{self.calls + 1}"
        return Issued(f"a{self.calls + 1}", self.living, "bearer", "s", "", 3600.0)


WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class World:
    """A refresher with its store and Zoom."""

    def __init__(self, store: FaultyStore, folder: Path, max_refreshes: int = 100) -> None:
        self.store = store
        self.zoom = Zoom()
        self.discarded: list[TokenPair] = []
        self.audited: list[AuditEvent] = []
        self.metrics = Metrics("0", [])
        ring = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
        self.connections = ConnectionRepository(
            app="app",
            store=store,
            envelope=Envelope(app="app", keys=ring),
            clock=SystemClock(),
            on_read=lambda: None,
        )
        self.journal = TokenJournal(folder, app="app", ring=ring, observer=Metrics("0", []))
        self.refresher = Refresher(
            connections=self.connections,
            spend=self.zoom.spend,
            discard=self.discarded.append,
            journal=self.journal,
            clock=SystemClock(),
            metrics=self.metrics,
            audit=self.audited.append,
            forced_interval=60.0,
            max_refreshes=max_refreshes,
        )

    async def refresh(
        self, seconds: float = 10.0, seen: int = 1, *, forced: bool = False
    ) -> ConnectionRecord:
        deadline = time.monotonic() + seconds
        return await self.refresher.refresh(USER, seen_generation=seen, deadline=deadline, forced=forced)

    def told(self) -> list[tuple[str, str, int, str]]:
        """Action, outcome, generation and refresh token of each line of the audit trail: whatever Zoom issued is in one."""
        return [
            (event.action, event.outcome, event.generation, event.refresh_token.reveal())
            for event in self.audited
            if event.refresh_token is not None
        ]

    async def stored(self) -> ConnectionRecord:
        record, _ = await self.connections.read(USER)
        assert record is not None
        return record


async def make(folder: Path, max_refreshes: int = 100) -> World:
    world = World(FaultyStore(MemoryStore(time.time)), folder / "journal", max_refreshes)
    assert await world.journal.prepare()
    now = time.time()
    await world.connections.write(
        ConnectionRecord(
            user_email=USER,
            state=State.ACTIVE,
            grant="g1",
            generation=1,
            create_time=now,
            consent_time=now,
            update_time=now,
            refresh_time=now,
            tokens=TokenPair("a1", "r1", "bearer", "s", "", now, now),
            zoom_user_id="z",
        )
    )
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A connected user whose token has to be refreshed."""
    made = await make(tmp_path)
    yield made
    await made.journal.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait look again at once."""
    monkeypatch.setattr(refresher, "POLL_INTERVAL", 0.0)


async def until(condition: object) -> None:
    """Let others run until something holds."""
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0)


async def test_a_thousand_callers_cost_one_refresh(world: World) -> None:
    """Everybody gets the same new generation from one call of Zoom."""
    records = await asyncio.gather(*(world.refresh() for _ in range(1000)))
    assert {record.generation for record in records} == {2}
    assert world.zoom.calls == 1


async def test_a_refresh_outlives_every_caller(world: World) -> None:
    """When all callers are cancelled, the answer is stored all the same."""
    world.zoom.gate.clear()
    callers = [asyncio.create_task(world.refresh()) for _ in range(5)]
    await until(lambda: world.zoom.calls)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    world.zoom.gate.set()
    assert await world.refresher.drain(10)
    assert (await world.stored()).generation == 2


async def test_a_short_deadline_gets_an_answer_and_the_refresh_goes_on(world: World) -> None:
    """A caller with little time hears REFRESH_IN_PROGRESS; the next one finds the result."""
    world.zoom.gate.clear()
    with pytest.raises(RefreshInProgress):
        await world.refresh(seconds=0.01)
    world.zoom.gate.set()
    assert (await world.refresh()).generation == 2
    assert world.zoom.calls == 1


async def test_the_first_callers_context_stays_its_own(world: World) -> None:
    """The attempt belongs to nobody: what the first caller's task knows is not what it runs with."""
    WHO.set("the first caller")
    await world.refresh()
    assert world.zoom.seen_context == ["nobody"]


@pytest.mark.parametrize("after_effect", [False, True])
async def test_an_answer_survives_a_store_that_fails(world: World, after_effect: bool) -> None:
    """If the store fails between Zoom's answer and the write, callers hear of the store, and the token is written once it is back."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    world.store.fail("put", 3, after_effect=after_effect)
    world.store.fail("get", 2)
    world.zoom.gate.set()
    with pytest.raises(StoreUnavailable):
        await caller
    with pytest.raises(StoreUnavailable):
        await world.refresh(seconds=0.5)
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert stored.generation == 2
    assert stored.tokens is not None
    assert stored.tokens.refresh_token == world.zoom.living
    assert world.zoom.calls == 1


async def test_nothing_is_spent_while_the_store_is_down(world: World) -> None:
    """If the lease cannot be written, no refresh token leaves."""
    world.store.fail("put", 1)
    with pytest.raises(StoreUnavailable):
        await world.refresh()
    world.store.fail("get", 1)
    with pytest.raises(StoreUnavailable):
        await world.refresh()
    assert world.zoom.calls == 0


async def test_a_consent_meanwhile_wins(world: World) -> None:
    """A new consent that comes while Zoom answers stays; the late token is dropped and not revoked, since that could end the new grant."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    before = await world.stored()
    fresh = TokenPair("a9", "r9", "bearer", "s", "", time.time() + 3600, time.time())
    await world.connections.write(
        replace(before, grant="g2", generation=5, tokens=fresh, lease=None, pending=())
    )
    world.zoom.gate.set()
    assert (await caller).generation == 5
    stored = await world.stored()
    assert (stored.grant, stored.generation, stored.tokens) == ("g2", 5, fresh)
    assert world.discarded == []
    assert world.told() == [("connection.refreshed", "SUPERSEDED", 0, world.zoom.living)]


async def test_a_disconnect_meanwhile_wins_and_the_token_is_revoked(world: World) -> None:
    """A user who was disconnected while Zoom answered stays so, and the late pair is handed over for revoking."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    before = await world.stored()
    gone = replace(before, state=State.DISCONNECTED, generation=3, tokens=None, lease=None, pending=())
    await world.connections.write(gone)
    world.zoom.gate.set()
    with pytest.raises(Exception, match="not connected"):
        await caller
    assert (await world.stored()).state is State.DISCONNECTED
    assert [pair.refresh_token for pair in world.discarded] == [world.zoom.living]
    assert world.told() == [("connection.refreshed", "SUPERSEDED", 0, world.zoom.living)]


async def test_another_holders_lease_is_waited_for(world: World) -> None:
    """While another process has the lease nobody here spends; when its result is there, it serves."""
    record = await world.stored()
    held = replace(record, epoch=1, lease=Lease("somebody", 1, time.time() + 60))
    await world.connections.write(held)
    with pytest.raises(RefreshInProgress):
        await world.refresh(seconds=0.3)
    assert world.zoom.calls == 0
    waiting = asyncio.create_task(world.refresh())
    await until(lambda: world.refresher.running)
    done = replace(await world.stored(), lease=None, generation=2)
    await world.connections.write(done)
    assert (await waiting).generation == 2
    assert world.zoom.calls == 0


async def test_an_expired_lease_does_not_block(world: World) -> None:
    """A holder that died leaves a lease that ends by itself."""
    record = await world.stored()
    await world.connections.write(replace(record, epoch=1, lease=Lease("dead", 1, time.time() - 1)))
    assert (await world.refresh()).generation == 2


async def test_a_refusal_ends_in_consent_and_an_outage_does_not(world: World) -> None:
    """A refused token asks for consent; a Zoom that cannot be reached changes nothing but the last error."""
    world.zoom.down = True
    with pytest.raises(ZoomUnavailable):
        await world.refresh()
    stored = await world.stored()
    assert (stored.state, stored.lease, stored.pending) == (State.ACTIVE, None, ())
    assert stored.last_error is not None
    world.zoom.down = False
    world.zoom.living = "another"
    with pytest.raises(ReauthRequired) as refused:
        await world.refresh()
    assert refused.value.metadata["cause"] == "REJECTED"
    calls = world.zoom.calls
    with pytest.raises(ReauthRequired):
        await world.refresh()
    assert world.zoom.calls == calls


async def test_a_storm_of_refreshes_is_stopped(tmp_path: Path) -> None:
    """At most so many refreshes of one user in an hour."""
    world = await make(tmp_path, max_refreshes=3)
    for seen in range(1, 4):
        await world.refresh(seen=seen)
    with pytest.raises(ServerOverloaded) as stopped:
        await world.refresh(seen=4)
    assert stopped.value.retry_after is not None
    assert world.zoom.calls == 3
    await world.journal.close()


async def test_refreshes_are_counted_though_the_store_is_slow_to_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a refresh is reckoned from before its reading, and may be ahead of the store's clock: it counts all the same."""
    get = world.store.get

    async def slow(key: RecordKey) -> tuple[Record | None, float]:
        await asyncio.sleep(0.1)
        return await get(key)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "get", slow)
        assert (await world.refresh(forced=True)).generation == 2
    assert (await world.refresh(seen=2, forced=True)).generation == 2
    assert world.zoom.calls == 1


async def test_a_late_answer_heals_a_verdict_and_is_counted(world: World) -> None:
    """Tokens that come after their grant moved on and was refused make it active again, leave no error, and count as kept spares."""
    refused = LastError("ZOOM_REAUTH_REQUIRED", "Zoom refused the refresh token", time.time())
    await world.connections.write(
        replace(
            await world.stored(),
            state=State.REAUTH_REQUIRED,
            cause=Cause.REJECTED,
            last_error=refused,
            generation=2,
        )
    )
    late = TokenPair("a5", "r5", "bearer", "s", "", time.time() + 3600, time.time())
    world.refresher.resume(Entry("0" * 32, Origin.REFRESH, USER, "g1", 1, late))
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert (stored.state, stored.cause, stored.last_error) == (State.ACTIVE, None, None)
    assert stored.alternate_pairs == (late,)
    assert b"\nzoomgate_alternate_pairs_kept_total 1.0\n" in world.metrics.render()
    assert world.told() == [("connection.refreshed", "ok", 0, "r5")]


async def test_a_late_answer_that_was_stored_and_replaced_is_told_as_itself(world: World) -> None:
    """What the journal holds of a process that was killed is told with its own tokens, and not with those of a later refresh."""
    first = await world.refresh()
    await world.refresh(seen=2)
    assert first.tokens is not None
    world.audited.clear()
    world.refresher.resume(Entry(first.commit_id, Origin.REFRESH, USER, "g1", 1, first.tokens))
    assert await world.refresher.drain(10)
    assert (await world.stored()).generation == 3
    assert world.told() == [("connection.refreshed", "ok", 0, first.tokens.refresh_token)]


async def test_a_refusal_in_doubt_is_not_asked_for_again_and_again(world: World, impatient: None) -> None:
    """While somebody else may still bring the living token, a refusal changes nothing, and those who wait cost one call of Zoom."""
    doubt = Attempt(epoch=1, at=time.time())
    await world.connections.write(replace(await world.stored(), epoch=1, pending=(doubt,)))
    world.zoom.living = "what the other one got"
    for _ in range(3):
        with pytest.raises(RefreshInProgress):
            await world.refresh(seconds=0.1)
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert (stored.state, stored.generation, stored.pending) == (State.ACTIVE, 1, (doubt,))
    assert world.zoom.calls == 1


async def test_nothing_is_sent_again_once_the_service_drains(world: World) -> None:
    """After a lost answer Zoom is not asked again while the service ends: that could take longer than the service waits."""
    world.zoom.gate.clear()
    world.zoom.lost = True
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    drained = asyncio.create_task(world.refresher.drain(60))
    await asyncio.sleep(0)
    world.zoom.gate.set()
    assert await drained
    with pytest.raises(ZoomUnavailable):
        await caller
    stored = await world.stored()
    assert (stored.state, stored.generation, stored.lease) == (State.ACTIVE, 1, None)
    assert len(stored.pending) == 1
    assert world.zoom.calls == 1


def test_no_effect_shows_a_token() -> None:
    """What is printed of an effect, in a traceback for instance, holds no token."""
    tokens = TokenPair("canary-a", "canary-r", "bearer", "", "", 0.0, 0.0)
    won = protocol.IssuedTokens(USER, "attempt", "grant", 1, 1, tokens)
    assert "canary" not in repr(
        (protocol.ExchangeRefreshToken("canary-r"), protocol.AppendJournal(won), protocol.DeleteJournal(won))
    )
