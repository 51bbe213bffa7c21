"""A world for the upkeep: processes over one store, without their ports, and a Zoom that lets idle grants die, on the loop of `loop`."""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from model.loop import SeededLoop
from support.memory_journal import MemoryJournal
from zoomgate_server.call_context import Call
from zoomgate_server.connections.access_tokens import AccessTokens
from zoomgate_server.connections.proactive_refresh import ProactiveRefresh
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_cache import TokenCache
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.identity import Principal, Role
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.telemetry import background_tasks
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse
from zoomgate_server.zoom.token_outcome import Issued, Rejected, TokenOutcome

EPOCH, DAY, HOUR = 1_750_000_000.0, 24 * 3600.0, 3600.0
DEATH = 90 * DAY
"""How old an unused refresh token becomes before Zoom lets it die."""

RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
ADMIN = Principal(name="admin", roles=frozenset({Role.ADMIN}))


class Clock:
    """The time of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wall(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


class Zoom:
    """A token endpoint that takes each refresh token once, and none that is too old, and takes a second to answer.

    Attributes:
        living: The refresh token of each user that works.
        asked: When it was asked to refresh whose token, by the loop's time.
        died: Whose token was too old when it came.
        doubled: How often a token came that was spent already.
        outage: What it says to everybody instead, or None.
    """

    def __init__(self) -> None:
        self.living: dict[str, str] = {}
        self.asked: list[tuple[float, str]] = []
        self.died: list[str] = []
        self.doubled = 0
        self.outage: TokenOutcome | None = None
        self._issued_at: dict[str, float] = {}
        self._number = 0

    def issue(self, user: str, age: float = 0.0) -> str:
        """Issue a token of a user, so many seconds ago."""
        self._number += 1
        self.living[user] = f"{user} {self._number}"
        self._issued_at[user] = asyncio.get_running_loop().time() - age
        return self.living[user]

    def age(self, user: str) -> float:
        """How old the living token of a user is, in seconds."""
        return asyncio.get_running_loop().time() - self._issued_at[user]

    async def spend(self, token: str) -> TokenOutcome:
        user = token.partition(" ")[0]
        self.asked.append((asyncio.get_running_loop().time(), user))
        await asyncio.sleep(1.0)
        if self.outage is not None:
            return self.outage
        if token != self.living[user]:
            self.doubled += 1
            return Rejected("invalid_grant")
        if self.age(user) > DEATH:
            self.died.append(user)
            return Rejected("invalid_grant")
        return Issued("a", self.issue(user), "bearer", "s", "", HOUR)

    @property
    def calls(self) -> Counter[str]:
        """How often it was asked for each user."""
        return Counter(user for _, user in self.asked)


class Api:
    """Zoom's API: it takes any token."""

    async def send(self, request: ZoomRequest, token: str, *, timeout: float) -> ZoomResponse:
        """Answer that all is well."""
        return ZoomResponse(200, (), b"{}")


class Process:
    """One process of the service over a store, without its ports."""

    def __init__(
        self, loop: SeededLoop, store: RecordStore, zoom: Zoom, *, per_minute: int = 60, seed: int = 1
    ) -> None:
        clock = Clock(loop)
        self.metrics = Metrics("0", [])
        self.journal = MemoryJournal()
        self.cache = TokenCache()
        self.store = ConnectionRepository(
            app="app", store=store, envelope=Envelope(app="app", keys=RING), clock=clock, on_read=lambda: None
        )
        self.refresher = Refresher(
            connections=self.store,
            spend=zoom.spend,
            discard=lambda _: None,
            journal=self.journal,
            clock=clock,
            metrics=self.metrics,
            audit=lambda _: None,
            forced_interval=60.0,
            max_refreshes=20,
        )
        self.connections = AccessTokens(
            connections=self.store,
            refresher=self.refresher,
            cache=self.cache,
            clock=clock,
            metrics=self.metrics,
        )
        self.zoom_calls = ZoomCalls(
            access_tokens=self.connections,
            zoom=Api(),  # type: ignore[arg-type] - all that is needed of it
            clock=clock,
        )
        self.proactive_refresh = ProactiveRefresh(
            connections=self.store,
            refresher=self.refresher,
            cache=self.cache,
            cache_token=self.connections.cache,
            clock=clock,
            metrics=self.metrics,
            per_minute=per_minute,
            chance=random.Random(seed),  # noqa: S311 - it only has to be the same every time
        )
        self.feed = ChangeFeed(
            connections=self.store,
            clock=clock,
            on_change=lambda change: self.cache.drop(change.key.subject, unless_rev=change.rev),
        )
        self._loop = loop
        self._works = contextlib.ExitStack()

    def start(self, *, feed: bool = True) -> None:
        """Begin what goes on beside the calls; `feed` tells whether it follows what other processes change."""
        works = dict(self.proactive_refresh.background_tasks()) | ({"changes": self.feed.run} if feed else {})
        self._works.enter_context(background_tasks.supervised(works))

    async def stop(self) -> None:
        """End it, and drain."""
        self._works.close()
        assert await self.refresher.drain(600.0)

    async def use(self, user: str) -> None:
        """Call Zoom for a caller."""
        await self.zoom_calls.send(self._call(user), user, endpoints.current_user())

    async def hand_out(self, user: str) -> None:
        """Give a token to a caller."""
        await self.connections.get_token(self._call(user), user, 0.0)

    def _call(self, user: str) -> Call:
        return Call("r", ADMIN, self._loop.time() + 60.0, user)

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric."""
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value


async def connect(process: Process, zoom: Zoom, user: str, age: float, **fields: Any) -> None:
    """Store a connection whose pair was issued so many seconds ago."""
    _, now = await process.store.read(user)
    then = now - age
    pair = TokenPair("a", zoom.issue(user, age), "bearer", "s", "", then + HOUR, then)
    record = ConnectionRecord(
        user_email=user,
        state=State.ACTIVE,
        grant="g1",
        generation=1,
        create_time=then,
        consent_time=then,
        update_time=then,
        refresh_time=then,
        access_expire_at=then + HOUR,
        tokens=pair,
        due_at=schedule.due_at(user, pair, then),
    )
    assert await process.store.write(replace(record, **fields))


async def stored(process: Process, user: str) -> ConnectionRecord:
    """Read a connection."""
    record, _ = await process.store.read(user)
    assert record is not None
    return record
