"""An event loop in which a seed decides what nobody else decides: which of the tasks that could go on does so next.

Time is virtual: it stands still while anybody can do something, and jumps to the next timer otherwise. There is no I/O, and what is meant
for a thread is done on the spot. So one seed is one history, and it is over in milliseconds.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any


class Stuck(AssertionError):
    """Everybody waits, and nobody will ever wake them."""


class Killed(Exception):
    """The process ended at the step at which it was to end."""


class _Handle:
    """A callback that is to be called."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context  # an empty one is false
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class SeededLoop(asyncio.AbstractEventLoop):
    """Runs one history; what is not here raises NotImplementedError.

    What one step makes ready stays in its order, as asyncio promises (a future's callbacks follow one another as they were added);
    what different steps made ready is interleaved by the seed.

    Args:
        chance: Decides.
        now: The time at its start, in seconds.

    Attributes:
        steps: How many callbacks were called.
        complaints: What asyncio would have logged: failures that nobody heard of.
    """

    def __init__(self, chance: random.Random, now: float = 0.0) -> None:
        self.steps = 0
        self.complaints: list[str] = []
        self._chance = chance
        self._now = now
        self._ready: list[deque[_Handle]] = []
        self._made_ready: deque[_Handle] | None = None
        self._timers: list[tuple[float, float, int, _Handle]] = []
        self._numbers = count()
        self._at_step: dict[int, list[Callable[[], object]]] = {}
        self._ended = False

    def run(self, main: Coroutine[Any, Any, Any], *, kill_at: int | None = None) -> Any:
        """Run until `main` has ended.

        Raises:
            Stuck: It never will.
            Killed: So many steps were done; tasks are left where they are, as in a process that was killed.
        """
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                if kill_at is not None and self.steps >= kill_at:
                    raise Killed
                self._step()
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def end(self) -> None:
        """Forget the tasks that are left; what they do while they are torn down counts no more."""
        self._ended = True
        for task in asyncio.all_tasks(self):
            task.get_coro().close()
        self._ready.clear()
        self._timers.clear()

    def at_step(self, step: int, action: Callable[[], object]) -> None:
        """Do something just before the step of a number."""
        self._at_step.setdefault(step, []).append(action)

    def _step(self) -> None:
        """Call one callback."""
        self._made_ready = None
        for action in self._at_step.pop(self.steps, ()):
            action()
        self._made_ready = None
        while not self._ready:
            self._pass_time()
        self.steps += 1
        place = self._chance.randrange(len(self._ready))
        group = self._ready[place]
        handle = group.popleft()
        if not group:
            self._ready[place] = self._ready[-1]
            self._ready.pop()
        if not handle.is_cancelled:
            handle.context.run(handle.callback, *handle.args)

    def _pass_time(self) -> None:
        """Jump to the next timer."""
        if not self._timers:
            raise Stuck("nobody can go on")
        when, _, _, handle = heapq.heappop(self._timers)
        if not handle.is_cancelled:
            self._now = max(self._now, when)
            self._ready.append(deque([handle]))

    # -- what asyncio asks of a loop ---------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._ended

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle(callback, args, context)
        if self._made_ready is None:
            self._made_ready = deque()
            self._ready.append(self._made_ready)
        self._made_ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = _Handle(callback, args, context)
        heapq.heappush(self._timers, (when, self._chance.random(), next(self._numbers), handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        return asyncio.Task(coro, loop=self, **options)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Do a thread's work at a step of its own, and let whoever waits for it hear of it."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - as a thread hands it over
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self._ready.append(deque([_Handle(work, (), None)]))
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._ended:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")
