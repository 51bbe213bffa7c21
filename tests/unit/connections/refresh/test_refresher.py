"""Tests for the refresher: single flight, canceled callers, failing stores, leases and audit records."""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.effect_driver import KEY_RING, create_driver, create_repository
from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.audit.event import ZOOMGATE, AuditEvent
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.lifecycle import decisions, effects
from zoomgate_server.connections.record import (
    Cause,
    ConnectionRecord,
    LastError,
    Lease,
    PendingAttempt,
    State,
)
from zoomgate_server.connections.refresh.protocol import Config, Timing
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    ReauthRequired,
    RefreshInProgress,
    ServerOverloaded,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Kind, RecordKey, StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, TokenOutcome, Unknown

USER = "monica@example.com"
ZOOM_USER, OTHER = "z1", "z2"


class Zoom:
    """A token endpoint for one user, whose responses a test can delay."""

    def __init__(self) -> None:
        self.valid = "r1"
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self.loses_responses = False
        self.contexts: list[str] = []

    async def refresh(self, token: str) -> TokenOutcome:
        self.calls += 1
        self.contexts.append(CALLER.get())
        down = self.down
        await self.gate.wait()
        if down:
            return NotSent("injected")
        if self.loses_responses:
            return Unknown("injected")
        if token != self.valid:
            return Rejected("invalid_grant")
        self.valid = f"r{self.calls + 1}"
        return Issued(f"a{self.calls + 1}", self.valid, "s", 3600.0)


CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="none")


class World:
    """A refresher with its store, journal and token endpoint."""

    def __init__(
        self, store: FaultyStore, folder: Path, max_refreshes: int, timing: Timing, slots: int
    ) -> None:
        self.store = store
        self.folder = folder
        self.zoom = Zoom()
        self.audited: list[AuditEvent] = []
        self.metrics = Metrics("0", [])
        clock = SystemClock()
        self.connections = create_repository(store, clock)
        self.journal = TokenJournal(folder, app="app", key_ring=KEY_RING, metrics=Metrics("0", []))
        self.refresher = Refresher(
            driver=create_driver(store, clock, self.zoom, journal=self.journal),
            clock=clock,
            metrics=self.metrics,
            audit=self.audited.append,
            limit=ConcurrencyLimit(Limit.REFRESHES, slots, clock, self.metrics),
            config=Config(forced_interval=60.0, max_refreshes=max_refreshes, timing=timing),
        )

    async def refresh(
        self, seconds: float = 10.0, seen: int = 1, *, forced: bool = False, user: str = ZOOM_USER
    ) -> ConnectionRecord:
        deadline = SystemClock().monotonic() + seconds
        return await self.refresher.refresh(user, seen_generation=seen, deadline=deadline, forced=forced)

    def audited_tokens(self) -> list[tuple[str, str, int, str]]:
        """Return action, outcome, generation and refresh token of each audit event with tokens."""
        return [
            (event.action, event.outcome, event.generation, event.refresh_token.reveal())
            for event in self.audited
            if event.refresh_token is not None
        ]

    def journal_entries(self) -> list[Path]:
        """Return the files of the journal entries."""
        return list(self.folder.rglob("*.entry"))

    async def stored(self, user: str = ZOOM_USER) -> ConnectionRecord:
        record, _ = await self.connections.read(user)
        assert record is not None
        return record


async def create_world(
    folder: Path, max_refreshes: int = 100, timing: Timing = Timing(), slots: int = 100
) -> World:
    world = World(FaultyStore(MemoryStore(time.time)), folder / "journal", max_refreshes, timing, slots)
    assert await world.journal.prepare()
    now = time.time()
    for zoom_user_id, user_email in ((ZOOM_USER, USER), (OTHER, "omar@example.com")):
        await world.connections.write(
            ConnectionRecord(
                zoom_user_id=zoom_user_id,
                user_email=user_email,
                state=State.ACTIVE,
                grant="g1",
                generation=1,
                create_time=now,
                consent_time=now,
                update_time=now,
                refresh_time=now,
                tokens=TokenPair("a1", "r1", "s", now, now),
            )
        )
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Return a world with connected users whose tokens must be refreshed."""
    world = await create_world(tmp_path)
    yield world
    await world.journal.close()


async def until(condition: object) -> None:
    """Run other tasks until a condition holds."""
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0)


async def test_thousand_concurrent_callers_share_one_refresh(world: World) -> None:
    records = await asyncio.gather(*(world.refresh() for _ in range(1000)))
    assert {record.generation for record in records} == {2}
    assert world.zoom.calls == 1


async def test_issued_tokens_are_stored_after_all_callers_were_canceled(world: World) -> None:
    world.zoom.gate.clear()
    callers = [asyncio.create_task(world.refresh()) for _ in range(5)]
    await until(lambda: world.zoom.calls)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    world.zoom.gate.set()
    assert await world.refresher.drain(10)
    assert (await world.stored()).generation == 2


async def test_refresh_continues_after_the_deadline_of_its_caller(world: World) -> None:
    """The caller receives REFRESH_IN_PROGRESS, and the next caller receives the result."""
    world.zoom.gate.clear()
    with pytest.raises(RefreshInProgress):
        await world.refresh(seconds=0.01)
    world.zoom.gate.set()
    assert (await world.refresh()).generation == 2
    assert world.zoom.calls == 1


async def test_attempt_does_not_inherit_the_context_of_its_first_caller(world: World) -> None:
    CALLER.set("the first caller")
    await world.refresh()
    assert world.zoom.contexts == ["none"]


@pytest.mark.parametrize("after_effect", [False, True])
async def test_issued_tokens_are_stored_once_a_failing_store_recovers(
    world: World, after_effect: bool
) -> None:
    """If the store fails after Zoom's response, callers receive STORE_UNAVAILABLE immediately."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    world.store.fail("put", 3, after_effect=after_effect)
    world.store.fail("get", 2)
    world.zoom.gate.set()
    with pytest.raises(StoreError):
        await caller
    with pytest.raises(StoreError):
        await world.refresh(seconds=0.5)
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert stored.generation == 2
    assert stored.tokens is not None
    assert stored.tokens.refresh_token == world.zoom.valid
    assert world.zoom.calls == 1


async def test_no_refresh_token_is_sent_while_the_store_is_down(world: World) -> None:
    """Zoom is not called without a lease."""
    world.store.fail("put", 1)
    with pytest.raises(StoreError):
        await world.refresh()
    world.store.fail("get", 1)
    with pytest.raises(StoreError):
        await world.refresh()
    assert world.zoom.calls == 0


async def test_consent_during_a_refresh_takes_precedence(world: World) -> None:
    """The late pair is retained until a disconnection, since a revocation could invalidate the new grant."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    before = await world.stored()
    new_tokens = TokenPair("a9", "r9", "s", time.time() + 3600, time.time())
    await world.connections.write(
        replace(before, grant="g2", generation=5, tokens=new_tokens, lease=None, pending_attempts=())
    )
    world.zoom.gate.set()
    assert (await caller).generation == 5
    stored = await world.stored()
    assert (stored.grant, stored.generation, stored.pairs) == ("g2", 5, (new_tokens,))
    assert [pair.refresh_token for pair in stored.superseded_pairs] == [world.zoom.valid]
    assert not world.journal_entries()
    assert world.audited_tokens() == [("connection.refreshed", "SUPERSEDED", 0, world.zoom.valid)]


async def test_disconnection_during_a_refresh_takes_precedence_and_late_tokens_are_to_be_revoked(
    world: World,
) -> None:
    """Besides the late pair, the exchanged pair remains to be revoked, since its revocation may end the whole grant."""
    world.zoom.gate.clear()
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    before = await world.stored()
    await world.connections.write(decisions.end(before, Cause.REVOKED, time.time()))
    world.zoom.gate.set()
    with pytest.raises(Exception, match="not connected"):
        await caller
    stored = await world.stored()
    assert (stored.state, stored.pairs) == (State.DISCONNECTED, ())
    assert [pair.refresh_token for pair in stored.pairs_to_revoke] == [world.zoom.valid, "r1"]
    assert stored.due_at is not None
    assert not world.journal_entries()
    assert world.audited_tokens() == [("connection.refreshed", "SUPERSEDED", 0, world.zoom.valid)]


async def test_result_of_another_process_is_awaited_while_it_holds_the_lease(world: World) -> None:
    """While another process holds the lease, this process does not call Zoom."""
    record = await world.stored()
    leased = replace(record, epoch=1, lease=Lease("other", 1, time.time() + 60))
    await world.connections.write(leased)
    with pytest.raises(RefreshInProgress):
        await world.refresh(seconds=0.3)
    assert world.zoom.calls == 0
    waiting = asyncio.create_task(world.refresh())
    await until(lambda: world.refresher.running)
    refreshed = replace(await world.stored(), lease=None, generation=2)
    await world.connections.write(refreshed)
    assert (await waiting).generation == 2
    assert world.zoom.calls == 0


async def test_waiting_for_the_lease_of_another_process_uses_no_slot(tmp_path: Path) -> None:
    """The leases of a killed process would otherwise block the refreshes of all users."""
    world = await create_world(tmp_path, slots=1)
    leased = replace(await world.stored(OTHER), epoch=1, lease=Lease("killed", 1, time.time() + 60))
    await world.connections.write(leased)
    waiting = asyncio.create_task(world.refresh(seconds=60.0, user=OTHER))
    await until(lambda: world.refresher.running)
    assert (await world.refresh()).generation == 2
    waiting.cancel()
    assert await world.refresher.drain(10)
    await world.journal.close()


async def test_attempt_without_a_slot_ends_when_its_callers_give_up(tmp_path: Path) -> None:
    """Its token is not sent once a slot is free, and a later caller starts a new attempt."""
    world = await create_world(tmp_path, slots=1)
    world.zoom.gate.clear()
    running = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    with pytest.raises(ServerOverloaded):
        await world.refresh(seconds=0.01, user=OTHER)
    world.zoom.gate.set()
    assert (await running).generation == 2
    assert await world.refresher.drain(10)
    assert (await world.stored(OTHER)).epoch == 0
    assert world.zoom.calls == 1
    world.zoom.valid = "r1"
    assert (await world.refresh(user=OTHER)).generation == 2
    await world.journal.close()


async def test_expired_lease_of_a_crashed_process_does_not_block(world: World) -> None:
    record = await world.stored()
    await world.connections.write(replace(record, epoch=1, lease=Lease("crashed", 1, time.time() - 1)))
    assert (await world.refresh()).generation == 2


async def test_rejected_token_requires_consent_and_an_outage_does_not(tmp_path: Path) -> None:
    """An outage changes only the last error in the record."""
    world = await create_world(tmp_path, timing=Timing(first_backoff=0.0, longest_backoff=0.0))
    world.zoom.down = True
    with pytest.raises(ZoomUnavailable):
        await world.refresh()
    stored = await world.stored()
    assert (stored.state, stored.lease, stored.pending_attempts) == (State.ACTIVE, None, ())
    assert stored.last_error is not None
    world.zoom.down = False
    world.zoom.valid = "another"
    with pytest.raises(ReauthRequired) as rejected:
        await world.refresh()
    assert rejected.value.metadata["cause"] == "REJECTED"
    calls = world.zoom.calls
    with pytest.raises(ReauthRequired):
        await world.refresh()
    assert world.zoom.calls == calls
    await world.journal.close()


async def test_refreshes_per_user_and_hour_are_limited(tmp_path: Path) -> None:
    world = await create_world(tmp_path, max_refreshes=3)
    for seen in range(1, 4):
        await world.refresh(seen=seen)
    with pytest.raises(ServerOverloaded) as limited:
        await world.refresh(seen=4)
    assert limited.value.retry_after is not None
    assert world.zoom.calls == 3
    await world.journal.close()


async def test_refreshes_are_counted_when_the_store_is_slow_to_read(world: World) -> None:
    """A slow read can cause a refresh to be recorded with a time later than the store's. The refresh still counts towards the limit."""

    async def slow(get: Any, key: RecordKey) -> Any:
        await asyncio.sleep(0.1)
        return await get(key)

    with world.store.intercept("get", slow):
        assert (await world.refresh(forced=True)).generation == 2
    assert (await world.refresh(seen=2, forced=True)).generation == 2
    assert world.zoom.calls == 1


async def test_late_tokens_reactivate_a_rejected_grant_as_alternate_pair(world: World) -> None:
    """The last error is cleared, and the metric counts an alternate pair."""
    error = LastError("ZOOM_REAUTH_REQUIRED", "Zoom rejected the refresh token", time.time())
    await world.connections.write(
        replace(
            await world.stored(),
            state=State.REAUTH_REQUIRED,
            cause=Cause.REJECTED,
            last_error=error,
            generation=2,
        )
    )
    late = TokenPair("a5", "r5", "s", time.time() + 3600, time.time())
    world.refresher.resume(Entry("0" * 32, Origin.REFRESH, USER, late, "g1", 1, ZOOM_USER))
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert (stored.state, stored.cause, stored.last_error) == (State.ACTIVE, None, None)
    assert stored.alternate_pairs == (late,)
    assert b"\nzoomgate_alternate_pairs_kept_total 1.0\n" in world.metrics.render()
    assert world.audited_tokens() == [("connection.refreshed", "ok", 0, "r5")]


async def test_resumed_entry_that_was_already_stored_is_audited_with_its_own_tokens(world: World) -> None:
    """The audit event does not contain the tokens of a later refresh."""
    first = await world.refresh()
    await world.refresh(seen=2)
    assert first.tokens is not None
    world.audited.clear()
    world.refresher.resume(Entry(first.commit_id, Origin.REFRESH, USER, first.tokens, "g1", 1, ZOOM_USER))
    assert await world.refresher.drain(10)
    assert (await world.stored()).generation == 3
    assert world.audited_tokens() == [("connection.refreshed", "ok", 0, first.tokens.refresh_token)]


async def journaled_late_tokens(world: World, age: float) -> TokenPair:
    """Resume the journal entry of a refresh whose record is missing, and return the tokens of the entry.

    Args:
        age: Time since Zoom issued the tokens, in seconds.
    """
    missing = await world.stored()
    assert await world.store.delete(RecordKey("app", Kind.USER, ZOOM_USER), missing.rev)
    obtained_at = time.time() - age
    late = TokenPair("a5", "r5", "s", obtained_at + 3600, obtained_at)
    entry = Entry("0" * 32, Origin.REFRESH, USER, late, "g1", 1, ZOOM_USER)
    assert await world.journal.append(entry)
    world.refresher.resume(entry)
    return late


async def test_tokens_without_a_record_wait_until_the_store_is_restored(world: World) -> None:
    """Tombstones are retained, so a missing record means that the store is empty or was restored."""
    before = await world.stored()
    late = await journaled_late_tokens(world, age=3 * 24 * 3600.0)
    assert not await world.refresher.drain(0.2)
    assert world.journal_entries()
    assert await world.connections.write(replace(before, rev=0))
    assert await world.refresher.drain(10)
    assert (await world.stored()).tokens == late
    assert world.audited_tokens() == [("connection.refreshed", "ok", 2, "r5")]
    assert not world.journal_entries()


async def test_tokens_without_a_record_are_discarded_after_30_days(world: World) -> None:
    """Zoom may still accept them, so the audit event contains their fingerprints."""
    await journaled_late_tokens(world, age=31 * 24 * 3600.0)
    assert await world.refresher.drain(10)
    assert world.audited_tokens() == [("connection.refreshed", "SUPERSEDED", 0, "r5")]
    assert not world.journal_entries()


async def test_inconclusive_rejection_causes_one_call_to_zoom(tmp_path: Path) -> None:
    """While another attempt may still deliver the valid token, a rejection does not change the state."""
    world = await create_world(tmp_path, timing=Timing(lease_poll_interval=0.0))
    in_doubt = PendingAttempt(epoch=1, started_at=time.time())
    await world.connections.write(replace(await world.stored(), epoch=1, pending_attempts=(in_doubt,)))
    world.zoom.valid = "issued to the other attempt"
    for _ in range(3):
        with pytest.raises(RefreshInProgress):
            await world.refresh(seconds=0.1)
    assert await world.refresher.drain(10)
    stored = await world.stored()
    assert (stored.state, stored.generation, stored.pending_attempts) == (State.ACTIVE, 1, (in_doubt,))
    assert world.zoom.calls == 1
    await world.journal.close()


async def test_lost_response_is_recorded_if_its_retry_is_not_sent(world: World) -> None:
    """During a shutdown, the OAuth client sends nothing that could take longer than the drain; see tests/service/test_shutdown.py."""
    world.zoom.gate.clear()
    world.zoom.loses_responses = True
    caller = asyncio.create_task(world.refresh())
    await until(lambda: world.zoom.calls)
    drained = asyncio.create_task(world.refresher.drain(60))
    await asyncio.sleep(0)
    world.zoom.down = True
    world.zoom.gate.set()
    assert await drained
    with pytest.raises(ZoomUnavailable):
        await caller
    stored = await world.stored()
    assert (stored.state, stored.generation, stored.lease) == (State.ACTIVE, 1, None)
    assert len(stored.pending_attempts) == 1


async def test_lost_response_ends_the_attempt_if_the_lease_does_not_cover_a_retry(tmp_path: Path) -> None:
    """The token is not sent again until a caller asks for the next attempt."""
    world = await create_world(tmp_path, timing=Timing(lease=Timing().call + Timing().margin + 1.0))
    world.zoom.loses_responses = True
    with pytest.raises(ZoomUnavailable):
        await world.refresh()
    assert world.zoom.calls == 1
    await world.journal.close()


def test_repr_of_effects_contains_no_token() -> None:
    tokens = TokenPair("canary-a", "canary-r", "", 0.0, 0.0)
    entry = Entry("attempt", Origin.REFRESH, USER, tokens, "grant", 1, ZOOM_USER, epoch=1)
    assert "canary" not in repr(
        (
            effects.ExchangeCode("canary-code", "canary-verifier"),
            effects.ExchangeRefreshToken("canary-r"),
            effects.ReadZoomUser("canary-a"),
            effects.Revoke(tokens),
            effects.AppendJournal(entry),
            effects.DeleteJournal(entry),
            effects.ReleaseJournal(entry),
            effects.Audit(AuditEvent("a", "ok", USER, ZOOMGATE).with_tokens(1, "canary-a", "canary-r")),
        )
    )
