"""A world for the asyncio shell around the refresh core: one process, its store, its journal and a strict Zoom, on the loop of `loop`.

A seed makes one history: callers with deadlines of all lengths, who leave at any step; a store that is slow and fails before or after its
writes took effect; a Zoom that is slow, throttles or cannot be reached; and in the end either a drain at any moment, or the death of the
process at any step, and another one that finds its journal.
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
from support.faulty_store import FaultyStore
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh import refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import (
    AppCredentialsRejected,
    ReauthRequired,
    RefreshInProgress,
    ServerOverloaded,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Issued, NotSent, Rejected, Throttled, TokenOutcome, Unknown

USERS = ("monica@example.com", "omar@example.com")
EPOCH = 1_750_000_000.0
"""The store's clock when a loop's is 0."""

DRAIN_SECONDS = 600.0
_READS_IN_A_STEP = 2_000
_DOCUMENTED = (
    AppCredentialsRejected,
    RefreshInProgress,
    ServerOverloaded,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
_RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
_METRICS = Metrics("0", [])
_WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Broken(AssertionError):
    """Something happened that must not."""


class Clock:
    """The loop's time. Whoever reads it for ever within one step goes round in circles."""

    def __init__(self, loop: SeededLoop) -> None:
        self._loop = loop
        self._step, self._reads = 0, 0

    def wall(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        if self._loop.steps != self._step:
            self._step, self._reads = self._loop.steps, 0
        self._reads += 1
        if self._reads > _READS_IN_A_STEP:
            raise Broken("somebody goes round in circles")
        return self._loop.time()


class Zoom:
    """A token endpoint that takes each refresh token once.

    Attributes:
        living: The refresh token of each user that works.
        answered: The latest of each user that reached the process, if any did.
    """

    def __init__(self, world: "World", chance: random.Random) -> None:
        self.living = {user: f"{user} 1" for user in USERS}
        self.answered: dict[str, str] = {}
        self._world = world
        self._chance = chance
        self._numbers = Counter(dict.fromkeys(USERS, 1))
        self._calls: Counter[str] = Counter()
        self._troubled = chance.random() < 0.3

    async def spend(self, token: str) -> TokenOutcome:
        """Answer after a while, one call of a user at a time."""
        user = token.partition(" ")[0]
        self._world.must(_WHO.get() == "nobody", "a caller's context reached Zoom")
        self._calls[user] += 1
        self._world.must(self._calls[user] == 1, f"two calls of Zoom for {user} at a time")
        try:
            await asyncio.sleep(self._chance.choice((0.0, 0.1, 3.0, 14.0)))
            outcome = self._answer(user, token)
            await asyncio.sleep(self._chance.choice((0.0, 0.1, 3.0, 14.0)))
        finally:
            self._calls[user] -= 1
        if isinstance(outcome, Issued):
            self.answered[user] = outcome.refresh_token or ""
        return outcome

    def calm(self) -> None:
        """Be at hand from now on."""
        self._troubled = False

    def _answer(self, user: str, token: str) -> TokenOutcome:
        if self._troubled and self._chance.random() < 0.4:
            return self._chance.choice((NotSent("injected"), Unknown("injected"), Throttled(5.0)))
        if token != self.living[user]:
            return Rejected("invalid_grant")
        self._numbers[user] += 1
        self.living[user] = f"{user} {self._numbers[user]}"
        return Issued(f"a{self._numbers[user]}", self.living[user], "bearer", "s", "", 3600.0)


class SlowStore:
    """Takes its time before and after each call takes effect, and notices two attempts for one user."""

    def __init__(self, world: "World", store: FaultyStore, chance: random.Random) -> None:
        self._world = world
        self._store = store
        self._chance = chance
        self._calls: Counter[str] = Counter()

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        async with self._one_at_a_time(key.subject):
            return await self._store.get(key)

    async def put(self, record: Record, if_rev: int) -> int | None:
        self._world.must_be_in_the_journal(record.key.subject)
        async with self._one_at_a_time(record.key.subject):
            return await self._store.put(record, if_rev)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, user: str) -> Any:
        self._world.must(not self._world.drained, "the store was called after the drain")
        self._world.must(_WHO.get() == "nobody", "a caller's context reached the store")
        self._calls[user] += 1
        self._world.must(self._calls[user] == 1, f"two attempts for {user} at a time")
        try:
            await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.01, 1.0)))
            try:
                yield
            finally:
                await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.01, 1.0)))
        finally:
            self._calls[user] -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class WatchedJournal(TokenJournal):
    """Remembers which refresh tokens were on the disk."""

    kept: set[str]

    def _write_queued(self) -> None:
        writes = list(self._queue)
        super()._write_queued()
        self.kept.update(write.entry.tokens.refresh_token for write in writes if write.durable)


class World:
    """Everything of one history; a process that dies leaves store, Zoom and the journal's folder behind."""

    def __init__(self, seed: int, shell: ModuleType, folder: Path | None) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - it only has to be the same every time
        self.shell = shell
        self.folder = folder
        self.kept: set[str] = set()
        self.problem = ""
        self.drained = False
        self.memory = MemoryStore(lambda: EPOCH + self.loop.time())
        self.faulty = FaultyStore(self.memory)
        self.zoom = Zoom(self, self.chance)
        self.seen = dict.fromkeys(USERS, 1)
        self.callers: list[asyncio.Task[None]] = []
        self._begin_process(0.0)

    def _begin_process(self, now: float) -> None:
        self.drained = False
        self.loop = SeededLoop(self.chance, now)
        self.clock = Clock(self.loop)
        folder = self.folder or Path("/nowhere")
        self.journal = WatchedJournal(folder, app="app", ring=_RING, observer=_METRICS)
        self.journal.kept = self.kept
        self.refresher: refresher.Refresher = self.shell.Refresher(
            connections=self._connections(SlowStore(self, self.faulty, self.chance)),
            spend=self.zoom.spend,
            discard=lambda _: self.must(False, "a pair was discarded"),
            journal=self.journal if self.folder else _NoJournal(),
            clock=self.clock,
            metrics=_METRICS,
            audit=lambda _event: None,
            forced_interval=60.0,
            max_refreshes=100,
        )

    def _connections(self, store: Any) -> ConnectionRepository:
        envelope = Envelope(app="app", keys=_RING)
        return ConnectionRepository(
            app="app", store=store, envelope=envelope, clock=self.clock, on_read=lambda: None
        )

    # -- what must hold ----------------------------------------------------------------------------------

    def must(self, holds: bool, otherwise: str) -> None:
        """Note the first thing that is wrong: who raises in the middle of an attempt only makes it look like a fault of the store."""
        if not holds and not self.problem and not self.loop.is_closed():
            self.problem = otherwise

    def must_be_in_the_journal(self, user: str) -> None:
        """What Zoom answered has to be on the disk before the store is asked to take it."""
        answered = self.zoom.answered.get(user)
        on_disk = self.folder is None or answered is None or answered in self.kept
        self.must(on_disk, "the store came before the journal")

    async def stored(self, user: str) -> ConnectionRecord:
        """Read a record past the slow store."""
        record, _ = await self._connections(self.memory).read(user)
        assert record is not None
        return record

    async def must_hold_the_living(self, user: str) -> None:
        """The record has the refresh token that works."""
        record = await self.stored(user)
        has = {pair.refresh_token for pair in (record.tokens, *record.alternate_pairs) if pair is not None}
        self.must(record.state is State.ACTIVE, f"{user} is {record.state.value}")
        self.must(self.zoom.living[user] in has, f"the living token of {user} is lost")

    # -- what happens ------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Connect people, let callers come and go until a moment comes, and end as the service does: callers first, then a drain."""
        for user in USERS:
            await self._connect(user)
        for number in range(self.chance.randint(2, 7)):
            caller = self.loop.create_task(self._call(f"caller {number}"))
            self.callers.append(caller)
            if self.chance.random() < 0.5:
                self.loop.at_step(self.loop.steps + self.chance.randint(1, 250), caller.cancel)
        faults = [self.loop.create_task(self._fault()) for _ in range(self.chance.choice((0, 0, 1, 3)))]
        await asyncio.sleep(self.chance.choice((0.0, 1.0, 20.0, 300.0)))
        for task in (*self.callers, *faults):
            task.cancel()
        await asyncio.wait(self.callers)
        for caller in self.callers:
            self.must(caller.cancelled() or caller.exception() is None, "a caller failed")
        await self.drain()
        for user in USERS:
            await self.must_hold_the_living(user)
        await self._go_on()

    async def resume(self) -> None:
        """Do what a new process does with the journal of one that died: nothing that was on the disk may be lost."""
        left = await self.journal.claim()
        for entry in left:
            self.refresher.resume(entry)
        await self.drain()
        self.must(await self.journal.claim() == [], "an entry was left in the journal")
        for user in USERS:
            if self.zoom.living[user] in self.kept or self.zoom.living[user] == f"{user} 1":
                await self.must_hold_the_living(user)
        await self._go_on()

    async def drain(self) -> None:
        """Drain; the store closes after that."""
        self.must(await self.refresher.drain(DRAIN_SECONDS), "the drain gave up")
        self.must(self.refresher.running == 0, "attempts are left after the drain")
        self.drained = True
        await asyncio.sleep(LONG_AFTER)  # whoever is left shows
        others = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        self.must(not others, f"{len(others)} tasks are left after the drain")
        self.drained = False

    async def _go_on(self) -> None:
        """Let calm come, and somebody ask for each person once more: it works, or consent is asked for if an answer was lost."""
        self.zoom.calm()
        self.faulty._faults = {"get": [], "put": []}
        await asyncio.sleep(LONG_AFTER)
        for user in USERS:
            seen = (await self.stored(user)).generation
            asked = self.loop.time()
            try:
                record = await self.refresher.refresh(user, seen_generation=seen, deadline=asked + 120.0)
            except ReauthRequired as refused:
                lost = self.zoom.living[user] not in self.kept and self.folder is not None
                self.must(lost, f"{user} has to consent again although no answer was lost")
                self.must(refused.metadata["cause"] == Cause.OUTCOME_LOST, "the cause is not told")
            else:
                self.must(record.generation > seen, "a generation did not go on")
        await self.drain()

    async def _connect(self, user: str) -> None:
        now = self.clock.wall()
        pair = TokenPair("a1", self.zoom.living[user], "bearer", "s", "", now, now)
        await self._connections(self.memory).write(
            ConnectionRecord(
                user_email=user,
                state=State.ACTIVE,
                grant="g1",
                generation=1,
                create_time=now,
                consent_time=now,
                update_time=now,
                refresh_time=now,
                tokens=pair,
                zoom_user_id=user,
            )
        )

    async def _call(self, name: str) -> None:
        """Ask for a token a few times, as one caller."""
        token = _WHO.set(name)
        chance = self.chance
        user = chance.choice(USERS)
        for _ in range(chance.randint(1, 3)):
            await asyncio.sleep(chance.choice((0.0, 0.5, 5.0, 40.0)))
            seconds = chance.choice((0.0, 0.05, 2.0, 20.0, 200.0))
            deadline = self.loop.time() + seconds
            seen, forced = self.seen[user], chance.random() < 0.2
            try:
                record = await self.refresher.refresh(
                    user, seen_generation=seen, deadline=deadline, forced=forced
                )
            except _DOCUMENTED:
                pass
            except asyncio.CancelledError:
                task = asyncio.current_task(self.loop)
                self.must(task is not None and task.cancelling() > 0, "a caller was cancelled by nobody")
                raise
            except BaseException as error:
                self.must(False, f"a caller got {error!r}")
                raise
            else:
                self.must(forced or record.generation > seen, "a caller got the token that it had")
                self.seen[user] = max(self.seen[user], record.generation)
            self.must(_WHO.get() == name, "a caller lost its context")
            late = self.loop.time() - deadline
            self.must(late < 1e-6, f"a caller waited {late} s past its deadline")
        _WHO.reset(token)

    async def _fault(self) -> None:
        """Let calls of the store fail from some moment on."""
        await asyncio.sleep(self.chance.choice((0.0, 0.1, 1.0, 4.0, 15.0)))
        method = self.chance.choice(("get", "put", "put"))
        self.faulty.fail(method, self.chance.randint(1, 4), after_effect=self.chance.random() < 0.5)

    def kill(self) -> None:
        """End the process where it is, and begin another one when its leases have run out."""
        now = self.loop.time()
        self.loop.end()
        self.journal._release_all()
        self.zoom.answered.clear()
        self._begin_process(now + self.chance.choice((0.0, LONG_AFTER)))


LONG_AFTER = 400.0
"""Seconds in which leases, doubts and breakers end."""


class _NoJournal:
    """A process without a folder for its journal."""

    async def append(self, entry: Entry) -> bool:
        return False

    async def delete(self, entry_id: str) -> None:
        """There is none."""


def drained(seed: int, shell: ModuleType = refresher) -> str:
    """Run the history of a seed that ends with a drain. What was wrong, or an empty string."""
    return _judge(World(seed, shell, None), lambda world: world.loop.run(world.live()))


def killed(seed: int, folder: Path, shell: ModuleType = refresher) -> str:
    """Run the history of a seed in which the process is killed, and another one goes on. What was wrong, or an empty string."""

    def happen(world: World) -> None:
        try:
            world.loop.run(world.live(), kill_at=world.chance.randint(20, 400))
        except Killed:
            world.kill()
            world.loop.run(world.resume())

    folder.mkdir()
    return _judge(World(seed, shell, folder), happen)


def _judge(world: World, happen: Callable[[World], object]) -> str:
    try:
        happen(world)
    except Exception as error:  # noqa: BLE001 - whatever it is, its seed is told
        world.must(False, repr(error))
    finally:
        complaints = world.loop.complaints
        world.must(not complaints, f"asyncio complains: {complaints}")
        world.loop.end()
        world.journal._release_all()
        world.journal._executor.shutdown()
    return world.problem
