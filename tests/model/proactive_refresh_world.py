"""A simulated world for proactive refresh: processes with one store, and a Zoom simulator that expires idle grants.

The world runs on the event loop of `model.loop`.
"""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from model.loop import SeededLoop
from support.effect_driver import create_driver, create_repository
from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.call_context import Call
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections import refresh_schedule
from zoomgate_server.connections.access_tokens import AccessTokens
from zoomgate_server.connections.proactive_refresh import MAX_DUE, PAGE_SIZE, ProactiveRefresh
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh.protocol import Config
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.identity import Principal, Role
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.telemetry import background_tasks
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse
from zoomgate_server.zoom.token_outcome import Issued, Rejected, TokenOutcome

EPOCH, DAY, HOUR = 1_750_000_000.0, 24 * 3600.0, 3600.0
MAX_IDLE_SECONDS = 90 * DAY
"""Age at which an unused refresh token expires, in seconds."""

ADMIN = Principal(name="admin", roles=frozenset({Role.ADMIN}))


class Clock:
    """A clock that returns the time of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wall(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


class Zoom:
    """A token endpoint that accepts each refresh token once, rejects expired tokens, and responds after a second.

    Attributes:
        valid: The valid refresh token of each user.
        requests: The time, on the loop's clock, and the user of each request.
        expired: Users whose expired refresh token was sent.
        reused: Number of requests with a refresh token that had been exchanged before.
        outage: The outcome returned for all requests, or None to process requests normally.
    """

    def __init__(self) -> None:
        self.valid: dict[str, str] = {}
        self.requests: list[tuple[float, str]] = []
        self.expired: list[str] = []
        self.reused = 0
        self.outage: TokenOutcome | None = None
        self._issued_at: dict[str, float] = {}
        self._number = 0

    def issue(self, user: str, age: float = 0.0) -> str:
        """Issue a refresh token that is already `age` seconds old to a user."""
        self._number += 1
        self.valid[user] = f"{user} {self._number}"
        self._issued_at[user] = asyncio.get_running_loop().time() - age
        return self.valid[user]

    def age(self, user: str) -> float:
        """Return the age of a user's valid token, in seconds."""
        return asyncio.get_running_loop().time() - self._issued_at[user]

    async def refresh(self, token: str) -> TokenOutcome:
        user = token.partition(" ")[0]
        self.requests.append((asyncio.get_running_loop().time(), user))
        await asyncio.sleep(1.0)
        if self.outage is not None:
            return self.outage
        if token != self.valid[user]:
            self.reused += 1
            return Rejected("invalid_grant")
        if self.age(user) > MAX_IDLE_SECONDS:
            self.expired.append(user)
            return Rejected("invalid_grant")
        return Issued("a", self.issue(user), "s", HOUR)

    @property
    def calls(self) -> Counter[str]:
        """The number of requests for each user."""
        return Counter(user for _, user in self.requests)


class Api:
    """Zoom's API, which accepts any token."""

    async def send(self, request: ZoomRequest, token: str, *, timeout: float) -> ZoomResponse:
        """Return a successful response."""
        return ZoomResponse(200, (), b"{}")


class Process:
    """A process of the service, without listeners."""

    def __init__(
        self,
        loop: SeededLoop,
        store: RecordStore,
        zoom: Zoom,
        *,
        per_minute: int = 60,
        seed: int = 1,
        max_due: int = MAX_DUE,
        page_size: int = PAGE_SIZE,
        refresher: type[Refresher] = Refresher,
    ) -> None:
        clock = Clock(loop)
        self.metrics = new_metrics("0")
        self.store = create_repository(store, clock)
        limit = ConcurrencyLimit(Limit.REFRESHES, 100, clock, self.metrics)
        self.refresher = refresher(
            driver=create_driver(store, clock, zoom),
            clock=clock,
            metrics=self.metrics,
            audit=lambda _: None,
            limit=limit,
            config=Config(forced_interval=60.0, max_refreshes=20),
        )
        self.connections = AccessTokens(
            connections=self.store,
            refresher=self.refresher,
            clock=clock,
            metrics=self.metrics,
        )
        self.zoom_calls = ZoomCalls(
            access_tokens=self.connections,
            zoom=Api(),  # type: ignore[arg-type] - the only method in use
            limit=limit,
            clock=clock,
        )
        self.proactive_refresh = ProactiveRefresh(
            connections=self.store,
            refresher=self.refresher,
            access_tokens=self.connections,
            limit=limit,
            clock=clock,
            metrics=self.metrics,
            per_minute=per_minute,
            rng=random.Random(seed),  # noqa: S311 - deterministic on purpose
            max_due=max_due,
            page_size=page_size,
        )
        self.feed = ChangeFeed(
            connections=self.store,
            clock=clock,
            on_change=self.connections.drop_changed,
        )
        self._loop = loop
        self._tasks = contextlib.ExitStack()

    def start(self, *, feed: bool = True) -> None:
        """Start the background tasks, with the change feed unless `feed` is False."""
        tasks = dict(self.proactive_refresh.background_tasks()) | ({"changes": self.feed.run} if feed else {})
        self._tasks.enter_context(background_tasks.supervised(tasks))

    async def stop(self) -> None:
        """Stop the background tasks, and drain the refresher."""
        self._tasks.close()
        assert await self.refresher.drain(600.0)

    async def use(self, user: str) -> None:
        """Call Zoom's API on behalf of a caller."""
        await self.zoom_calls.send(self._call(user), user, endpoints.current_user())

    async def return_token(self, user: str) -> None:
        """Return a token to a caller."""
        await self.connections.get_token(self._call(user), user, 0.0)

    def _call(self, user: str) -> Call:
        return Call("r", ADMIN, self._loop.time() + 60.0, user)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value


def zoom_user_id(user: str) -> str:
    """Return the ID of the Zoom user with an email address."""
    return f"z-{user}"


async def connect(process: Process, zoom: Zoom, user: str, age: float, **fields: Any) -> None:
    """Store a connection whose token pair was issued `age` seconds ago."""
    _, now = await process.store.find(user)
    issued_at = now - age
    pair = TokenPair("a", zoom.issue(user, age), "s", issued_at + HOUR, issued_at)
    record = ConnectionRecord(
        zoom_user_id=zoom_user_id(user),
        user_email=user,
        state=State.ACTIVE,
        grant="g1",
        generation=1,
        create_time=issued_at,
        consent_time=issued_at,
        update_time=issued_at,
        refresh_time=issued_at,
        access_expire_at=issued_at + HOUR,
        tokens=pair,
        due_at=refresh_schedule.due_at(zoom_user_id(user), pair, issued_at),
    )
    assert await process.store.write(replace(record, **fields))


async def stored(process: Process, user: str) -> ConnectionRecord:
    """Return the stored connection of a user."""
    record, _ = await process.store.find(user)
    assert record is not None
    return record
