"""Refreshes ahead of need: whom they are for, whom not, and when they wait."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from model.loop import SeededLoop
from model.proactive_refresh_world import ADMIN, DAY, EPOCH, HOUR, Clock, Process, Zoom, connect, stored
from support.faulty_store import FaultyStore
from zoomgate_server.call_context import Call
from zoomgate_server.connections import proactive_refresh
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import ConnectionRecord, Lease, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import NotConnected, RefreshInProgress
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.zoom.token_outcome import AppRejected, BadResponse, NotSent, Rejected, TokenOutcome

MONICA, OMAR = "monica@example.com", "omar@example.com"


def history(live: Callable[[SeededLoop, RecordStore, Zoom], Any]) -> Any:
    """Run something on a loop with virtual time, over a store and a Zoom of its own."""
    loop, zoom = SeededLoop(random.Random(1)), Zoom()  # noqa: S311 - it only has to be the same every time
    store = MemoryStore(Clock(loop).wall)
    try:
        loop.run(live(loop, store, zoom))
        assert not loop.complaints
    finally:
        loop.end()


def test_the_day_is_the_users_own() -> None:
    """A pair is due 45 to 60 days after it was issued: always the same day for one user, and many days for many users."""
    pair = TokenPair("a", "r", "bearer", "s", "", HOUR, 0.0)
    days = [schedule.due_at(f"user{number}@example.com", pair, 0.0) or 0.0 for number in range(3000)]
    assert days == [schedule.due_at(f"user{number}@example.com", pair, 0.0) for number in range(3000)]
    per_day = Counter(int(day // DAY) for day in days)
    assert sorted(per_day) == list(range(45, 60))
    assert max(per_day.values()) < 300
    assert schedule.due_at(MONICA, replace(pair, refresh_token=""), 0.0) is None


def test_idle_grants_are_refreshed_before_they_die() -> None:
    """A grant that nobody uses is refreshed when it is due and not before; its next date is as far away again."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=0.0)
        await connect(process, zoom, OMAR, age=61 * DAY)
        process.start()
        await asyncio.sleep(1200.0)
        assert zoom.calls == {OMAR: 1}
        record = await stored(process, OMAR)
        assert record.due_at is not None
        assert record.tokens is not None
        assert record.tokens.refresh_token == zoom.living[OMAR]
        assert 44.9 * DAY < record.due_at - process.store.now() < 60 * DAY
        assert process.metric("zoomgate_proactive_refreshes_total", reason="idle") == 1
        assert process.metric("zoomgate_proactive_refreshes_due") == 0
        await process.stop()

    history(live)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": State.REAUTH_REQUIRED},
        {"state": State.DISCONNECTED},
        {"lease": Lease("somebody", 1, EPOCH + 60.0)},
        {"tokens": TokenPair("a", "", "bearer", "s", "", 0.0, 0.0)},
    ],
    ids=["needs a consent", "ended", "leased", "has no refresh token"],
)
def test_who_cannot_be_refreshed_is_left_alone(fields: dict[str, Any]) -> None:
    """Neither a connection that needs a consent or has ended nor one that somebody else refreshes just now costs a call of Zoom."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY, **fields)
        await process.proactive_refresh.refresh_idle()
        assert not zoom.asked

    history(live)


def test_records_without_a_date_get_one() -> None:
    """What an earlier release stored is dated and refreshed if it is due; a date that it left behind is put right without a refresh."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY, due_at=None)
        await connect(process, zoom, OMAR, age=DAY, due_at=EPOCH - DAY)
        process.start()
        await asyncio.sleep(1200.0)
        assert zoom.calls == {MONICA: 1}
        for user in (MONICA, OMAR):
            record = await stored(process, user)
            assert record.tokens is not None
            assert record.due_at == schedule.due_at(user, record.tokens, process.store.now())
        await process.stop()

    history(live)


def test_a_pair_of_the_future_does_not_die() -> None:
    """A clock that was two months ahead when a token was issued put its date behind its death: it is refreshed once the clock is right."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
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

    history(live)


def test_tokens_in_use_are_refreshed_before_they_expire() -> None:
    """Who calls all the time never waits for a refresh; who has not called since the latest one is not refreshed again."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=0.0)
        await connect(process, zoom, OMAR, age=0.0)
        process.start()
        await process.use(OMAR)
        for _ in range(24 * 6):
            asked = loop.time()
            await process.use(MONICA)
            assert loop.time() == asked, "a caller waited"
            await asyncio.sleep(600.0)
        assert 24 <= zoom.calls[MONICA] <= 27
        assert zoom.calls[OMAR] == 1
        assert process.metric("zoomgate_proactive_refreshes_total", reason="in_use") == len(zoom.asked)
        await process.stop()

    history(live)


def test_a_token_that_was_handed_out_lives_to_its_end() -> None:
    """Whoever got a token relies on it until it expires: the service alone does not end it earlier."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await connect(process, zoom, OMAR, age=HOUR - 200.0)
        for user in (MONICA, OMAR):
            await process.use(user)
        await process.hand_out(MONICA)
        process.start()
        await asyncio.sleep(199.0)
        assert zoom.calls == {OMAR: 1}
        await process.stop()

    history(live)


def test_a_token_that_is_handed_out_while_it_waits_for_its_turn_lives_to_its_end() -> None:
    """Many are due, and a look takes a while: whoever gets a token meanwhile relies on it as well."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom, per_minute=1)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await connect(process, zoom, OMAR, age=HOUR - 200.0)
        for user in (MONICA, OMAR):
            await process.use(user)
            await process.use(user)
        look = loop.create_task(process.proactive_refresh.refresh_used())
        while not zoom.asked:
            await asyncio.sleep(1.0)
        ((_, first),) = zoom.asked
        second = OMAR if first == MONICA else MONICA
        await process.hand_out(second)
        await look
        assert zoom.calls == {first: 1}

    history(live)


def test_a_token_of_a_connection_that_ended_meanwhile_does_not_come_back() -> None:
    """A refresh whose last step takes longer than the end of a connection is told brings no token into memory that is served then."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        await process.use(MONICA)
        await process.use(MONICA)
        forget = process.journal.delete

        async def forgetting(entry_id: str) -> None:
            record, now = await process.store.read(MONICA)
            assert record is not None
            assert await process.store.write(make_tombstone(record, now, revoke=False))
            await asyncio.sleep(80.0)
            await forget(entry_id)

        process.journal.delete = forgetting  # type: ignore[method-assign]
        process.start()
        await asyncio.sleep(300.0)
        assert zoom.calls == {MONICA: 1}
        with pytest.raises(NotConnected):
            await process.use(MONICA)
        await process.stop()

    history(live)


def test_a_defect_lets_nobody_elses_grant_die() -> None:
    """What nobody thought of costs a pause, not the upkeep of everybody until the next start."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        page, defects = store.page, 3

        async def paging(*arguments: Any, **named: Any) -> Any:
            nonlocal defects
            if defects:
                defects -= 1
                raise RuntimeError("a defect")
            return await page(*arguments, **named)

        store.page = paging  # type: ignore[method-assign]
        process.start()
        await asyncio.sleep(3 * HOUR)
        assert zoom.calls == {MONICA: 1}
        await process.stop()

    history(live)


def test_short_lived_tokens_are_left_to_calls() -> None:
    """Tokens that live for minutes would be refreshed all the time."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=HOUR - 200.0)
        record = await stored(process, MONICA)
        assert record.tokens is not None
        short = replace(record.tokens, obtained_at=record.tokens.access_expire_at - 250.0)
        assert await process.store.write(replace(record, tokens=short))
        await process.use(MONICA)
        await process.use(MONICA)
        await process.proactive_refresh.refresh_used()
        assert not zoom.asked

    history(live)


@pytest.mark.parametrize("seed", range(20))
def test_two_processes_refresh_once(seed: int) -> None:
    """However many processes find the same grants due, and the same token in use, at the same moment, each is refreshed once."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        processes = [Process(loop, store, zoom, seed=seed) for _ in range(2)]  # one seed: they move in step
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

    history(live)


def test_after_an_outage_there_is_no_storm() -> None:
    """However many are due at once, a process begins no more of them in a minute than it may."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
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
        minutes = Counter(int(when // 60) for when, _ in zoom.asked)
        assert max(minutes.values()) <= 31
        assert process.metric("zoomgate_proactive_refreshes_due") == 0
        await process.stop()

    history(live)


@pytest.mark.parametrize(
    "outage",
    [NotSent("down"), AppRejected("4702"), BadResponse("not a bearer token")],
    ids=["down", "refuses the app", "answers what nobody understands"],
)
def test_an_unwell_zoom_is_left_in_peace(outage: TokenOutcome) -> None:
    """While Zoom fails for everybody it hears of the upkeep every quarter of an hour, once; afterwards all goes on by itself."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        for number in range(100):
            await connect(process, zoom, f"user{number}@example.com", age=70 * DAY)
        zoom.outage = outage
        process.start()
        await asyncio.sleep(DAY)
        assert len(zoom.asked) < 150
        for number in range(100):
            assert (await stored(process, f"user{number}@example.com")).state is State.ACTIVE
        zoom.outage = None
        zoom.asked.clear()
        await asyncio.sleep(3 * HOUR)
        assert set(zoom.calls.values()) == {1}
        assert len(zoom.calls) == 100
        await process.stop()

    history(live)


def test_a_zoom_that_refuses_everybody_is_not_believed_for_long() -> None:
    """Hundreds who are refused one after another are rather Zoom's mistake: few have to consent again until it is over."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        users = [f"user{number}@example.com" for number in range(1000)]
        for user in users:
            await connect(process, zoom, user, age=70 * DAY)
        zoom.outage = Rejected("invalid_grant")
        process.start()
        await asyncio.sleep(2 * HOUR)
        zoom.outage = None
        refused = len(zoom.calls)
        assert refused < 250
        await asyncio.sleep(2 * HOUR)
        states = Counter([(await stored(process, user)).state for user in users])
        assert states == {State.ACTIVE: 1000 - refused, State.REAUTH_REQUIRED: refused}
        assert len(zoom.calls) == 1000
        await process.stop()

    history(live)


def test_a_store_that_fails_costs_no_token() -> None:
    """While the store fails nothing is refreshed, and the upkeep goes on when it is back."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        faulty = FaultyStore(store)
        process = Process(loop, faulty, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        faulty.fail("put", 3)
        process.start()
        await asyncio.sleep(1800.0)
        assert not zoom.asked
        await asyncio.sleep(6 * HOUR)
        assert zoom.calls == {MONICA: 1}
        await process.stop()

    history(live)


def test_one_that_fails_by_itself_holds_up_nobody() -> None:
    """A connection that cannot be opened, or whose refresh fails in a way of its own, is left for an hour; the others come."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        for user in ("a@example.com", MONICA, OMAR, "z@example.com"):
            await connect(process, zoom, user, age=70 * DAY)
        sealed = (await process.store.page(limit=1))[0]
        await store.put(replace(sealed, value=b"\x03"), sealed.rev)

        async def crash(user: str, **_: Any) -> ConnectionRecord:
            if user == OMAR:
                raise RuntimeError("a defect")
            if user == MONICA:
                raise RefreshInProgress("busy")
            return await refresh(user, **_)

        refresh, process.refresher.refresh = process.refresher.refresh, crash  # type: ignore[method-assign]
        await process.proactive_refresh.refresh_idle()
        assert zoom.calls == {"z@example.com": 1}

    history(live)


def test_a_drain_waits_for_what_was_begun() -> None:
    """A process that stops in the middle of a refresh ahead of need stores what Zoom answers."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        process.start()
        while not zoom.asked:
            await asyncio.sleep(0.1)
        await process.stop()
        record = await stored(process, MONICA)
        assert record.tokens is not None
        assert record.tokens.refresh_token == zoom.living[MONICA]

    history(live)


def test_a_forced_refresh_is_not_used_up() -> None:
    """A refresh ahead of need forces nothing: a person who wants a new token a minute later gets one."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        await connect(process, zoom, MONICA, age=70 * DAY)
        await process.proactive_refresh.refresh_idle()
        await asyncio.sleep(61.0)
        call = Call("r", ADMIN, loop.time() + 60.0, MONICA)
        assert (await process.connections.refresh_token(call, MONICA, "")).generation == 3

    history(live)


def test_it_can_be_turned_off() -> None:
    """With 0 a minute nothing goes on."""

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        assert not Process(loop, store, zoom, per_minute=0).proactive_refresh.background_tasks()

    history(live)


def test_a_look_is_worth_its_price() -> None:
    """A backlog that is larger than one look goes on behind where that one ended."""
    assert proactive_refresh.MAX_DUE % proactive_refresh.PAGE_SIZE == 0

    async def live(loop: SeededLoop, store: RecordStore, zoom: Zoom) -> None:
        process = Process(loop, store, zoom)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proactive_refresh, "MAX_DUE", 10)
            patch.setattr(proactive_refresh, "PAGE_SIZE", 5)
            for number in range(23):
                await connect(process, zoom, f"user{number:02}@example.com", age=70 * DAY)
            for expected in (10, 20, 23):
                await process.proactive_refresh.refresh_idle()
                assert len(zoom.calls) == expected

    history(live)
