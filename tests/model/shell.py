"""A simulated world for the refresher: one process, its store, its journal and a Zoom simulator, on the event loop of `model.loop`.

A seed determines one history: callers with various deadlines that are canceled at arbitrary steps; a store that is slow and fails before
or after its writes take effect; a Zoom simulator that is slow, rejects calls with a rate limit, or is unreachable. A history ends with a
drain at an arbitrary time, or with a kill of the process at an arbitrary step, after which another process resumes the journal.
"""

import asyncio
import contextlib
import contextvars
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from model.loop import Killed, SeededLoop
from support.effect_driver import KEY_RING, create_driver, create_repository
from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import refresher
from zoomgate_server.connections.refresh.protocol import Config
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    ReauthRequired,
    RefreshInProgress,
    ServerOverloaded,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Record, RecordKey, StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, Throttled, TokenOutcome, Unknown

USERS = ("z-monica", "z-omar")
"""The IDs of the Zoom users."""

EPOCH = 1_750_000_000.0
"""The store's time when the loop's time is 0."""

DRAIN_SECONDS = 600.0
_MAX_CLOCK_READS_PER_STEP = 2_000
_DOCUMENTED = (
    AppCredentialsRejected,
    RefreshInProgress,
    ServerOverloaded,
    StoreError,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
_METRICS = Metrics("0", [])
_CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="none")


class EndlessLoop(AssertionError):
    """A task loops endlessly within one step of the event loop."""


class Clock:
    """The loop's clock, which detects a task that reads the time endlessly within one step."""

    def __init__(self, loop: SeededLoop) -> None:
        self._loop = loop
        self._step, self._reads = 0, 0

    def wall(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        if self._loop.steps != self._step:
            self._step, self._reads = self._loop.steps, 0
        self._reads += 1
        if self._reads > _MAX_CLOCK_READS_PER_STEP:
            raise EndlessLoop("a task reads the clock endlessly within one step")
        return self._loop.time()


class Zoom:
    """A token endpoint that accepts each refresh token once.

    Attributes:
        valid: The valid refresh token of each user.
        delivered: The latest refresh token of each user that the process received, if any.
    """

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.valid = {user: f"{user} 1" for user in USERS}
        self.delivered: dict[str, str] = {}
        self._world = world
        self._rng = rng
        self._numbers = Counter(dict.fromkeys(USERS, 1))
        self._calls: Counter[str] = Counter()
        self._failing = rng.random() < 0.3

    async def refresh(self, token: str) -> TokenOutcome:
        """Respond after a delay, and check that at most one call per user is in progress."""
        user = token.partition(" ")[0]
        self._world.check(_CALLER.get() == "none", "a caller's context reached Zoom")
        self._calls[user] += 1
        self._world.check(self._calls[user] == 1, f"two concurrent calls to Zoom for {user}")
        try:
            await asyncio.sleep(self._rng.choice((0.0, 0.1, 3.0, 14.0)))
            outcome = self._respond(user, token)
            await asyncio.sleep(self._rng.choice((0.0, 0.1, 3.0, 14.0)))
        finally:
            self._calls[user] -= 1
        if isinstance(outcome, Issued):
            self.delivered[user] = outcome.refresh_token or ""
        return outcome

    def stop_failing(self) -> None:
        """Stop injecting failures."""
        self._failing = False

    def _respond(self, user: str, token: str) -> TokenOutcome:
        if self._failing and self._rng.random() < 0.4:
            return self._rng.choice((NotSent("injected"), Unknown("injected"), Throttled(5.0)))
        if token != self.valid[user]:
            return Rejected("invalid_grant")
        self._numbers[user] += 1
        self.valid[user] = f"{user} {self._numbers[user]}"
        return Issued(f"a{self._numbers[user]}", self.valid[user], "s", 3600.0)


class SlowStore:
    """A store that delays each call before and after its effect, and detects concurrent attempts for one user."""

    def __init__(self, world: "World", store: FaultyStore, rng: random.Random) -> None:
        self._world = world
        self._store = store
        self._rng = rng
        self._calls: Counter[str] = Counter()

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        async with self._one_at_a_time(key.subject):
            return await self._store.get(key)

    async def put(self, record: Record, if_rev: int) -> int | None:
        self._world.check_journaled(record.key.subject)
        async with self._one_at_a_time(record.key.subject):
            return await self._store.put(record, if_rev)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, user: str) -> Any:
        self._world.check(not self._world.drained, "the store was called after the drain")
        self._world.check(_CALLER.get() == "none", "a caller's context reached the store")
        self._calls[user] += 1
        self._world.check(self._calls[user] == 1, f"two concurrent attempts for {user}")
        try:
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.01, 1.0)))
            try:
                yield
            finally:
                await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.01, 1.0)))
        finally:
            self._calls[user] -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class WatchedJournal(TokenJournal):
    """A journal that records the refresh tokens that were written to the disk."""

    journaled: set[str]

    def _write_queued(self) -> None:
        batch = list(self._queue)
        super()._write_queued()
        self.journaled.update(write.entry.tokens.refresh_token for write in batch if write.durable)


class World:
    """The state of one history. The store, Zoom and the journal's directory survive a kill of the process."""

    def __init__(self, seed: int, shell: ModuleType, folder: Path | None) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - deterministic on purpose
        self.shell = shell
        self.folder = folder
        self.journaled: set[str] = set()
        self.violation = ""
        self.drained = False
        self.memory = MemoryStore(lambda: EPOCH + self.loop.time())
        self.faulty = FaultyStore(self.memory)
        self.zoom = Zoom(self, self.rng)
        self.seen = dict.fromkeys(USERS, 1)
        self.callers: list[asyncio.Task[None]] = []
        self._start_process(0.0)

    def _start_process(self, now: float) -> None:
        self.drained = False
        self.loop = SeededLoop(self.rng, now)
        self.clock = Clock(self.loop)
        folder = self.folder or Path("/nowhere")
        self.journal = WatchedJournal(folder, app="app", key_ring=KEY_RING, metrics=_METRICS)
        self.journal.journaled = self.journaled
        self.refresher: refresher.Refresher = self.shell.Refresher(
            driver=create_driver(
                SlowStore(self, self.faulty, self.rng),  # type: ignore[arg-type] - the only methods in use
                self.clock,
                self.zoom,
                journal=self.journal if self.folder else _NoJournal(),
            ),
            clock=self.clock,
            metrics=_METRICS,
            audit=lambda _event: None,
            limit=ConcurrencyLimit(Limit.REFRESHES, 100, self.clock, _METRICS),
            config=Config(forced_interval=60.0, max_refreshes=100),
        )

    def _connections(self) -> ConnectionRepository:
        """Return the repository of the store without delays and faults."""
        return create_repository(self.memory, self.clock)

    # -- invariants ----------------------------------------------------------------------------------

    def check(self, holds: bool, violation: str) -> None:
        """Record the first violation. An exception is not raised, because an attempt would handle it as a store failure."""
        if not holds and not self.violation and not self.loop.is_closed():
            self.violation = violation

    def check_journaled(self, user: str) -> None:
        """Check that issued tokens are on the disk before they are written to the store."""
        delivered = self.zoom.delivered.get(user)
        on_disk = self.folder is None or delivered is None or delivered in self.journaled
        self.check(on_disk, "tokens were written to the store before the journal")

    async def stored(self, user: str) -> ConnectionRecord:
        """Read a record, bypassing the slow store."""
        record, _ = await self._connections().read(user)
        assert record is not None
        return record

    async def check_valid_token_stored(self, user: str) -> None:
        """Check that the record contains the valid refresh token."""
        record = await self.stored(user)
        stored = {pair.refresh_token for pair in record.pairs}
        self.check(record.state is State.ACTIVE, f"{user} is {record.state.value}")
        self.check(self.zoom.valid[user] in stored, f"the valid token of {user} is lost")

    # -- history ------------------------------------------------------------------------------------

    async def run_until_drained(self) -> None:
        """Connect users, run callers and faults for a random time, then stop like the service: first callers, then the drain."""
        for user in USERS:
            await self._connect(user)
        for number in range(self.rng.randint(2, 7)):
            caller = self.loop.create_task(self._call(f"caller {number}"))
            self.callers.append(caller)
            if self.rng.random() < 0.5:
                self.loop.at_step(self.loop.steps + self.rng.randint(1, 250), caller.cancel)
        faults = [self.loop.create_task(self._fault()) for _ in range(self.rng.choice((0, 0, 1, 3)))]
        await asyncio.sleep(self.rng.choice((0.0, 1.0, 20.0, 300.0)))
        for task in (*self.callers, *faults):
            task.cancel()
        await asyncio.wait(self.callers)
        for caller in self.callers:
            self.check(caller.cancelled() or caller.exception() is None, "a caller failed")
        await self.drain()
        for user in USERS:
            await self.check_valid_token_stored(user)
        await self._check_final_refresh()

    async def resume(self) -> None:
        """Resume the journal of a killed process, and check that no token on the disk is lost."""
        entries = await self.journal.claim()
        for entry in entries:
            self.refresher.resume(entry)
        await self.drain()
        self.check(await self.journal.claim() == [], "an entry remains in the journal")
        for user in USERS:
            if self.zoom.valid[user] in self.journaled or self.zoom.valid[user] == f"{user} 1":
                await self.check_valid_token_stored(user)
        await self._check_final_refresh()

    async def drain(self) -> None:
        """Drain the refresher, and check that the store is not called afterwards."""
        self.check(await self.refresher.drain(DRAIN_SECONDS), "the drain timed out")
        self.check(self.refresher.running == 0, "attempts remain after the drain")
        self.drained = True
        await asyncio.sleep(LONG_PAUSE)  # remaining tasks would call the store during this time
        others = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        self.check(not others, f"{len(others)} tasks remain after the drain")
        self.drained = False

    async def _check_final_refresh(self) -> None:
        """Stop all faults and refresh each user's token again. This must succeed or, if a response was lost, require a new consent."""
        self.zoom.stop_failing()
        self.faulty._faults.clear()
        await asyncio.sleep(LONG_PAUSE)
        for user in USERS:
            seen = (await self.stored(user)).generation
            started = self.loop.time()
            try:
                record = await self.refresher.refresh(user, seen_generation=seen, deadline=started + 120.0)
            except ReauthRequired as error:
                lost = self.zoom.valid[user] not in self.journaled and self.folder is not None
                self.check(lost, f"{user} has to consent again although no response was lost")
                self.check(error.metadata["cause"] == Cause.OUTCOME_LOST, "the cause is not OUTCOME_LOST")
            else:
                self.check(record.generation > seen, "the generation did not increase")
        await self.drain()

    async def _connect(self, user: str) -> None:
        now = self.clock.wall()
        pair = TokenPair("a1", self.zoom.valid[user], "s", now, now)
        await self._connections().write(
            ConnectionRecord(
                zoom_user_id=user,
                user_email=f"{user}@example.com",
                state=State.ACTIVE,
                grant="g1",
                generation=1,
                create_time=now,
                consent_time=now,
                update_time=now,
                refresh_time=now,
                tokens=pair,
            )
        )

    async def _call(self, name: str) -> None:
        """Refresh a token a few times as one caller."""
        token = _CALLER.set(name)
        rng = self.rng
        user = rng.choice(USERS)
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice((0.0, 0.5, 5.0, 40.0)))
            seconds = rng.choice((0.0, 0.05, 2.0, 20.0, 200.0))
            deadline = self.loop.time() + seconds
            seen, forced = self.seen[user], rng.random() < 0.2
            try:
                record = await self.refresher.refresh(
                    user, seen_generation=seen, deadline=deadline, forced=forced
                )
            except _DOCUMENTED:
                pass
            except asyncio.CancelledError:
                task = asyncio.current_task(self.loop)
                self.check(
                    task is not None and task.cancelling() > 0, "a caller was canceled without a request"
                )
                raise
            except BaseException as error:
                self.check(False, f"a caller got {error!r}")
                raise
            else:
                self.check(forced or record.generation > seen, "a caller received no newer token")
                self.seen[user] = max(self.seen[user], record.generation)
            self.check(_CALLER.get() == name, "the context of a caller changed")
            overrun = self.loop.time() - deadline
            self.check(overrun < 1e-6, f"a caller waited {overrun} s past its deadline")
        _CALLER.reset(token)

    async def _fault(self) -> None:
        """Make store calls fail, starting at a random time."""
        await asyncio.sleep(self.rng.choice((0.0, 0.1, 1.0, 4.0, 15.0)))
        method = self.rng.choice(("get", "put", "put"))
        self.faulty.fail(method, self.rng.randint(1, 4), after_effect=self.rng.random() < 0.5)

    def kill(self) -> None:
        """Kill the process, and start another process immediately or after the leases have expired."""
        now = self.loop.time()
        self.loop.abandon()
        self.journal._release_all()
        self.zoom.delivered.clear()
        self._start_process(now + self.rng.choice((0.0, LONG_PAUSE)))


LONG_PAUSE = 400.0
"""Seconds after which all leases, grace periods and circuit breaker pauses have expired."""


class _NoJournal:
    """A journal that stores nothing, as in a process without a journal directory."""

    async def append(self, entry: Entry) -> bool:
        return False

    async def delete(self, entry_id: str) -> None:
        """Do nothing, because no entry exists."""

    async def release(self, entry_id: str) -> None:
        """Do nothing, because no entry exists."""


def run_with_drain(seed: int, shell: ModuleType = refresher) -> str:
    """Run a seed's history, which ends with a drain. Return the violated invariant, or an empty string."""
    return _run(World(seed, shell, None), lambda world: world.loop.run(world.run_until_drained()))


def run_with_kill(seed: int, folder: Path, shell: ModuleType = refresher) -> str:
    """Run a seed's history with a kill, after which another process resumes. Return the violated invariant, or an empty string."""

    def run(world: World) -> None:
        try:
            world.loop.run(world.run_until_drained(), kill_at=world.rng.randint(20, 400))
        except Killed:
            world.kill()
            world.loop.run(world.resume())

    folder.mkdir()
    return _run(World(seed, shell, folder), run)


def _run(world: World, run: Callable[[World], object]) -> str:
    try:
        run(world)
    except Exception as error:  # noqa: BLE001 - every exception is reported with its seed
        world.check(False, repr(error))
    finally:
        errors = world.loop.unhandled_errors
        world.check(not errors, f"unhandled asyncio errors: {errors}")
        world.loop.abandon()
        world.journal._release_all()
        world.journal._executor.shutdown()
    return world.violation
