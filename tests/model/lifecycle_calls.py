"""Calls to Zoom's API in the world of `model.lifecycle_world`: the shipped `ZoomCalls`, `AccessTokens` and `Refresher` of one replica.

They run on the event loop of `model.loop`. Each of its tasks that waits for the store, for the journal or for Zoom becomes a task of the
world, which performs the effect.
"""

import asyncio
import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from model.lifecycle_mutants import Protocols
from model.loop import SeededLoop
from zoomgate_server.call_context import Call
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.lifecycle.effects import Effect, Find, Read, Sleep
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.refresh.protocol import Config
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.identity import Principal, Role
from zoomgate_server.storage.record_store import Change, Kind, RecordKey, StoreError
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse

CHANGE_DELAY = 2.0
"""Time after which a process has read a change of the store."""

FOREVER = 1e12
LONGEST_PAUSE = 60.0
REQUEST = ZoomRequest("GET", Target("/users/me/meetings"))
TOKEN_REJECTED = ZoomResponse(401, (), b'{"code": 124}')
_METRICS = Metrics("0", [])
_CONFIG = Config(forced_interval=0.0, max_refreshes=1_000_000)


@dataclass(frozen=True, slots=True)
class CallZoom:
    """Call Zoom's API. Result: a `ZoomResponse`."""

    access_token: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A call for a user, made by the member who owns the connection or, without an owner, by a service."""

    user_email: str
    owner: str = ""
    started_at: float = 0.0


class Host(Protocol):
    """The world as the calls see it."""

    now: float
    protocols: Protocols

    def start(self, name: str, protocol: Any, subject: str, replica: int) -> Any: ...

    def check_call(self, caller: Caller, access_token: str, previous: str) -> None: ...


class ZoomCaller:
    """The part of a replica that calls Zoom's API on behalf of users."""

    def __init__(self, world: Host, replica: int) -> None:
        self._world = world
        self._replica = replica
        self._loop = SeededLoop(random.Random(0), world.now)  # noqa: S311 - deterministic on purpose
        self._requests: dict[Any, tuple[Any, asyncio.Future[Any]]] = {}
        self._running: set[Any] = set()
        self._callers: dict[Any, Caller] = {}
        self._sent: dict[Any, str] = {}
        self._changes: list[Change] = []
        limit = ConcurrencyLimit(Limit.ZOOM_CALLS, 1_000, self, _METRICS)
        modules = world.protocols
        refresher = modules.refresher.Refresher(
            driver=_Driver(self), clock=self, metrics=_METRICS, audit=_ignore, limit=limit, config=_CONFIG
        )
        self.access_tokens = modules.access_tokens.AccessTokens(
            connections=self, refresher=refresher, clock=self, metrics=_METRICS
        )
        self._calls = modules.zoom_calls.ZoomCalls(
            access_tokens=self.access_tokens, zoom=self, limit=limit, clock=self
        )

    def call(self, caller: Caller) -> None:
        """Start a call."""
        roles = frozenset({Role.MEMBER if caller.owner else Role.SERVICE})
        principal = Principal(name="caller", roles=roles, subject=caller.owner.partition("|")[2])
        coroutine = self._calls.send(Call("call", principal, FOREVER), caller.user_email, REQUEST)
        task = self._loop.create_task(self._ignore_errors(coroutine))
        self._callers[task] = caller
        self._run()

    def change(self, record: ConnectionRecord) -> None:
        """Note a change of a connection, which the process reads later, and again with every poll until the next change."""
        key = RecordKey("app", Kind.USER, record.zoom_user_id)
        change = Change(key, record.rev, record.state.value, self._world.now, record.user_email)
        self._changes.append(change)

    def abandon(self) -> None:
        """Drop everything, as a kill does."""
        self._loop.abandon()

    # -- collaborators of the shipped classes ------------------------------------------------------------

    def monotonic(self) -> float:
        return self._world.now

    def wall(self) -> float:
        return self._world.now

    def now(self) -> float:
        return self._world.now

    async def find(self, user_email: str) -> tuple[ConnectionRecord | None, float]:
        snapshot = await self.perform(Find(user_email))
        return snapshot.record, snapshot.store_now

    async def read(self, zoom_user_id: str) -> tuple[ConnectionRecord | None, float]:
        snapshot = await self.perform(Read(zoom_user_id))
        return snapshot.record, snapshot.store_now

    async def send(self, _request: ZoomRequest, access_token: str, **_: Any) -> ZoomResponse:
        task = asyncio.current_task()
        self._world.check_call(self._callers[task], access_token, self._sent.get(task, ""))
        self._sent[task] = access_token
        response: ZoomResponse = await self.perform(CallZoom(access_token))
        return response

    async def perform(self, effect: Effect | CallZoom) -> Any:
        """Let the world perform an effect."""
        future = self._loop.create_future()
        self._requests[asyncio.current_task()] = (effect, future)
        return await future

    # -- execution ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Run the event loop until all of its tasks wait, and start tasks of the world for their effects."""
        visible_until = self._world.now - CHANGE_DELAY
        visible = [change for change in self._changes if change.changed_at <= visible_until]
        for change in visible:
            self.access_tokens.drop_changed(change)
        self._changes[: len(visible)] = {change.key.subject: change for change in visible}.values()
        self._run_ready()
        for task in [task for task in self._requests if task not in self._running]:
            self._running.add(task)
            caller = self._callers.get(task)
            name, subject = ("call", caller.user_email) if caller else ("refresh of a call", "")
            self._world.start(name, self._effects_of(task), subject, self._replica)

    def _run_ready(self) -> None:
        self._loop.run_ready(self._world.now)
        for task in [task for task in self._callers if task.done()]:
            del self._callers[task]
            task.result()

    def _effects_of(self, task: Any) -> Generator[Any, Any, None]:
        """Perform the effects of a task of the event loop, until it waits for a different one or has ended."""
        try:
            while task in self._requests:
                effect, future = self._requests.pop(task)
                try:
                    result = yield effect
                except (StoreError, ZoomgateError) as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                self._run_ready()
        finally:
            self._running.discard(task)
        self._run()
        while not self._running and self._loop.is_waiting_until(self._world.now + LONGEST_PAUSE):
            yield Sleep(1.0)
            self._run()

    async def _ignore_errors(self, coroutine: Any) -> None:
        try:
            await coroutine
        except (StoreError, ZoomgateError):
            return


class _Driver(EffectDriver):
    """The driver of the refresher, whose effects the world performs."""

    def __init__(self, caller: ZoomCaller) -> None:
        self._caller = caller

    async def perform(self, effect: Effect) -> Any:
        return await self._caller.perform(effect)


def _ignore(_event: Any) -> None:
    return
