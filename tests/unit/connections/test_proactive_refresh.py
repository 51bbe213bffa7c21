"""Tests for proactive refresh: which tokens are refreshed or skipped, and when refreshes pause."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from model.loop import SeededLoop
from model.proactive_refresh_world import (
    ADMIN,
    DAY,
    EPOCH,
    HOUR,
    Clock,
    Process,
    Zoom,
    connect,
    stored,
    zoom_user_id,
)
from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.call_context import Call
from zoomgate_server.connections import proactive_refresh, refresh_schedule
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.record import Cause, ConnectionRecord, Lease, State
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import NotConnected, RefreshInProgress
from zoomgate_server.storage.record_store import Query, Record, RecordStore
from zoomgate_server.zoom.token_outcome import AppRejected, BadResponse, NotSent, Rejected, TokenOutcome

MONICA, OMAR = "monica@example.com", "omar@example.com"


def run_simulation(scenario: Callable[[SeededLoop, RecordStore, Zoom], Any]) -> Any:
    """Run a scenario on an event loop with virtual time, with a new store and Zoom simulator."""
    loop, zoom = SeededLoop(random.Random(1)), Zoom()  # noqa: S311 - only reproducibility matters
    store = MemoryStore(Clock(loop).wall)
    try:
        loop.run(scenario(loop, store, zoom))
        assert not loop.unhandled_errors
    finally:
        loop.abandon()


def test_due_day_is_stable_per_user_and_spread_over_users() -> None:
    """A token pair is due for a refresh 45 to 60 days after it was issued. The number of days is fixed for each user."""
    pair = TokenPair("a", "r", "s", HOUR, 0.0)
    days = [refresh_schedule.due_at(f"user{number}@example.com", pair, 0.0) or 0.0 for number in range(3000)]
    assert days == [refresh_schedule.due_at(f"user{number}@example.com", pair, 0.0) for number in range(3000)]
    per_day = Counter(int(day // DAY) for day in days)
    assert sorted(per_day) == list(range(45, 60))
    assert max(per_day.values()) < 300
    assert refresh_schedule.due_at(MONICA, replace(pair, refresh_token=""), 0.0) is None


def test_idle_grants_are_refreshed_when_due() -> None:
    """A grant is not refreshed before it is due. The next due date is again 45 to 60 days after the refresh."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=0.0)
        await connect(process, zoom, OMAR, age=61 * DAY)
        process.start()
        await asyncio.sleep(1200.0)
        assert zoom.calls == {OMAR: 1}
        record = await stored(process, OMAR)
        assert record.due_at is not None
        assert record.tokens is not None
        assert record.tokens.refresh_token == zoom.valid[OMAR]
        assert 44.9 * DAY < record.due_at - process.store.now() < 60 * DAY
        assert process.metric("zoomgate_proactive_refreshes_total", reason="idle") == 1
        assert process.metric("zoomgate_proactive_refreshes_due") == 0
        await process.stop()

    run_simulation(scenario)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": State.REAUTH_REQUIRED},
        {"state": State.DISCONNECTED},
        {"lease": Lease("another process", 1, EPOCH + 60.0)},
        {"tokens": TokenPair("a", "", "s", 0.0, 0.0)},
    ],
    ids=["needs consent", "disconnected", "leased", "no refresh token"],
)
def test_unrefreshable_connection_is_skipped(fields: dict[str, Any]) -> None:
    """A connection that needs a consent, is disconnected, or is leased by another process causes no call to Zoom."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY, **fields)
        await process.proactive_refresh.refresh_idle()
        assert not zoom.requests

    run_simulation(scenario)


def test_outdated_due_date_of_a_recent_token_is_corrected() -> None:
    """Zoom is not called."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=DAY, due_at=EPOCH - DAY)
        process.start()
        await asyncio.sleep(1200.0)
        assert not zoom.calls
        record = await stored(process, MONICA)
        assert record.tokens is not None
        assert record.due_at == refresh_schedule.due_at(
            record.zoom_user_id, record.tokens, process.store.now()
        )
        await process.stop()

    run_simulation(scenario)


def test_pair_with_future_issue_time_is_refreshed() -> None:
    """A due date computed from a clock that is two months ahead would be later than the expiry of the token."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=-60 * DAY)
        await connect(process, zoom, OMAR, age=-10 * DAY)
        process.start()
        await asyncio.sleep(1200.0)
        assert zoom.calls == {MONICA: 1}
        record = await stored(process, MONICA)
        assert record.due_at is not None
        assert record.due_at < process.store.now() + 60 * DAY
        await process.stop()

    run_simulation(scenario)


def test_tokens_in_use_are_refreshed_before_they_expire() -> None:
    """A frequent caller never waits for a refresh; a token that has not been used since its latest refresh is not refreshed again."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=0.0)
        await connect(process, zoom, OMAR, age=0.0)
        process.start()
        await process.use(OMAR)
        for _ in range(24 * 6):
            called_at = loop.time()
            await process.use(MONICA)
            assert loop.time() == called_at, "the caller had to wait"
            await asyncio.sleep(600.0)
        assert 24 <= zoom.calls[MONICA] <= 27
        assert zoom.calls[OMAR] == 1
        assert process.metric("zoomgate_proactive_refreshes_total", reason="in_use") == len(zoom.requests)
        await process.stop()

    run_simulation(scenario)


def test_token_returned_to_a_caller_is_not_refreshed_early() -> None:
    """The caller relies on the token until it expires."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await connect(process, zoom, OMAR, age=HOUR - 200.0)
        for user in (MONICA, OMAR):
            await process.use(user)
        await process.return_token(MONICA)
        process.start()
        await asyncio.sleep(199.0)
        assert zoom.calls == {OMAR: 1}
        await process.stop()

    run_simulation(scenario)


def test_token_returned_while_waiting_for_a_slot_is_not_refreshed() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom, per_minute=1)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await connect(process, zoom, OMAR, age=HOUR - 200.0)
        for user in (MONICA, OMAR):
            await process.use(user)
            await process.use(user)
        poll = loop.create_task(process.proactive_refresh.refresh_used())
        while not zoom.requests:
            await asyncio.sleep(1.0)
        ((_, first),) = zoom.requests
        second = OMAR if first == MONICA else MONICA
        await process.return_token(second)
        await poll
        assert zoom.calls == {first: 1}

    run_simulation(scenario)


def test_token_of_a_connection_deleted_during_the_refresh_is_not_served() -> None:
    """The change feed reports the disconnection before the store responds to the last write of the refresh."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        faulty = FaultyStore(store)
        process = Process(loop, faulty, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await process.use(MONICA)
        await process.use(MONICA)
        writes = 0

        async def disconnect_after_commit(put: Any, sealed: Record, if_rev: int) -> int | None:
            nonlocal writes
            writes += 1
            rev: int | None = await put(sealed, if_rev)
            if writes == 2:  # after the lease
                record, now = await process.store.find(MONICA)
                assert record is not None
                assert await process.store.write(decisions.end(record, Cause.REVOKED, now))
                await asyncio.sleep(80.0)
            return rev

        with faulty.intercept("put", disconnect_after_commit):
            process.start()
            await asyncio.sleep(300.0)
        assert (zoom.calls, writes) == ({MONICA: 1}, 3)
        with pytest.raises(NotConnected):
            await process.use(MONICA)
        await process.stop()

    run_simulation(scenario)


def test_unexpected_exception_does_not_stop_proactive_refresh() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        faulty = FaultyStore(store)
        process = Process(loop, faulty, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        remaining_failures = 3

        async def failing_page(page: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal remaining_failures
            if remaining_failures:
                remaining_failures -= 1
                raise RuntimeError("injected")
            return await page(*arguments, **named)

        with faulty.intercept("page", failing_page):
            process.start()
            await asyncio.sleep(3 * HOUR)
        assert (zoom.calls, remaining_failures) == ({MONICA: 1}, 0)
        await process.stop()

    run_simulation(scenario)


def test_short_lived_tokens_are_not_refreshed_proactively() -> None:
    """Tokens with a lifetime of minutes would be refreshed constantly."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        record = await stored(process, MONICA)
        assert record.tokens is not None
        short = replace(record.tokens, obtained_at=record.tokens.access_expire_at - 250.0)
        assert await process.store.write(replace(record, tokens=short))
        await process.use(MONICA)
        await process.use(MONICA)
        await process.proactive_refresh.refresh_used()
        assert not zoom.requests

    run_simulation(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_two_processes_refresh_each_token_once(seed: int) -> None:
    """Both processes find the same due grants and the same expiring token at the same time."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        processes = [
            Process(loop, store, zoom, seed=seed) for _ in range(2)
        ]  # the same seed, so both poll at the same times
        for number in range(20):
            await connect(processes[0], zoom, f"user{number}@example.com", age=70 * DAY)
        await connect(processes[0], zoom, MONICA, age=HOUR - 200.0)
        for process in processes:
            await process.use(MONICA)
            await process.use(MONICA)
            process.start()
        await asyncio.sleep(1800.0)
        assert set(zoom.calls.values()) == {1}
        assert len(zoom.calls) == 21
        for process in processes:
            await process.stop()

    run_simulation(scenario)


def test_backlog_is_refreshed_at_the_configured_rate() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom, per_minute=30)
        for number in range(300):
            await connect(process, zoom, f"user{number}@example.com", age=80 * DAY)
        process.start()
        await asyncio.sleep(300.0)
        assert process.metric("zoomgate_proactive_refreshes_due") > 100
        assert process.metric("zoomgate_proactive_refresh_max_overdue_seconds") > 20 * DAY
        await asyncio.sleep(1200.0)
        assert set(zoom.calls.values()) == {1}
        assert len(zoom.calls) == 300
        minutes = Counter(int(when // 60) for when, _ in zoom.requests)
        assert max(minutes.values()) <= 31
        assert process.metric("zoomgate_proactive_refreshes_due") == 0
        await process.stop()

    run_simulation(scenario)


@pytest.mark.parametrize(
    "outage",
    [NotSent("down"), AppRejected("4702"), BadResponse("not a bearer token")],
    ids=["unreachable", "app rejected", "unreadable response"],
)
def test_refreshes_pause_while_zoom_fails_and_resume_afterwards(outage: TokenOutcome) -> None:
    """During the outage, Zoom is called about once every 15 minutes."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        for number in range(100):
            await connect(process, zoom, f"user{number}@example.com", age=70 * DAY)
        zoom.outage = outage
        process.start()
        await asyncio.sleep(DAY)
        assert len(zoom.requests) < 150
        for number in range(100):
            assert (await stored(process, f"user{number}@example.com")).state is State.ACTIVE
        zoom.outage = None
        zoom.requests.clear()
        await asyncio.sleep(3 * HOUR)
        assert set(zoom.calls.values()) == {1}
        assert len(zoom.calls) == 100
        await process.stop()

    run_simulation(scenario)


def test_refreshes_pause_after_many_consecutive_rejections() -> None:
    """Hundreds of consecutive rejections indicate an error in Zoom; as few users as possible should have to consent again."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        users = [f"user{number}@example.com" for number in range(1000)]
        for user in users:
            await connect(process, zoom, user, age=70 * DAY)
        zoom.outage = Rejected("invalid_grant")
        process.start()
        await asyncio.sleep(2 * HOUR)
        zoom.outage = None
        sent = len(zoom.calls)
        assert sent < 250
        await asyncio.sleep(2 * HOUR)
        states = Counter([(await stored(process, user)).state for user in users])
        rejected = states[State.REAUTH_REQUIRED]
        assert sent - rejected in (0, 1)  # one request may be running when the outage ends
        assert states[State.ACTIVE] == 1000 - rejected
        assert len(zoom.calls) == 1000
        await process.stop()

    run_simulation(scenario)


def test_no_token_is_used_while_the_store_fails() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        faulty = FaultyStore(store)
        process = Process(loop, faulty, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        faulty.fail("put", 3)
        process.start()
        await asyncio.sleep(1800.0)
        assert not zoom.requests
        await asyncio.sleep(6 * HOUR)
        assert zoom.calls == {MONICA: 1}
        await process.stop()

    run_simulation(scenario)


class FailingRefresher(Refresher):
    """A refresher that fails for two users."""

    async def refresh(self, user: str, **options: Any) -> ConnectionRecord:
        if user == zoom_user_id(OMAR):
            raise RuntimeError("injected")
        if user == zoom_user_id(MONICA):
            raise RefreshInProgress("injected")
        return await super().refresh(user, **options)


def test_failing_connection_does_not_block_the_others() -> None:
    """A connection that cannot be read or refreshed is skipped for an hour."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom, refresher=FailingRefresher)
        for user in ("a@example.com", MONICA, OMAR, "z@example.com"):
            await connect(process, zoom, user, age=70 * DAY)
        sealed = (await process.store.page(Query(limit=1)))[0]
        await store.put(replace(sealed, value=b"\x03"), sealed.rev)
        await process.proactive_refresh.refresh_idle()
        assert zoom.calls == {"z@example.com": 1}

    run_simulation(scenario)


def test_drain_waits_for_a_running_refresh() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        process.start()
        while not zoom.requests:
            await asyncio.sleep(0.1)
        await process.stop()
        record = await stored(process, MONICA)
        assert record.tokens is not None
        assert record.tokens.refresh_token == zoom.valid[MONICA]

    run_simulation(scenario)


def test_proactive_refresh_is_not_treated_as_forced_refresh() -> None:
    """One minute after a proactive refresh, a caller can force another refresh."""

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        await process.proactive_refresh.refresh_idle()
        await asyncio.sleep(61.0)
        call = Call("r", ADMIN, loop.time() + 60.0, MONICA)
        assert (await process.connections.refresh_token(call, MONICA, "")).generation == 3

    run_simulation(scenario)


def test_zero_refreshes_per_minute_disables_proactive_refresh() -> None:
    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        assert not Process(loop, store, zoom, per_minute=0).proactive_refresh.background_tasks()

    run_simulation(scenario)


def test_poll_continues_after_the_previous_one() -> None:
    """A backlog larger than one poll is processed across several polls."""
    assert proactive_refresh.MAX_DUE % proactive_refresh.PAGE_SIZE == 0

    async def scenario(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom, max_due=10, page_size=5)
        for number in range(23):
            await connect(process, zoom, f"user{number:02}@example.com", age=70 * DAY)
        for expected in (10, 20, 23):
            await process.proactive_refresh.refresh_idle()
            assert len(zoom.calls) == expected

    run_simulation(scenario)
