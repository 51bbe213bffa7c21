"""An event loop with virtual time, in which a seed decides which of the ready tasks runs next.

Time advances to the next timer only if no callback is ready. There is no I/O, and functions passed to `run_in_executor` run in the loop.
Therefore a seed determines the whole history, and a history takes milliseconds.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any


class Deadlock(AssertionError):
    """Deadlock: all tasks wait, and no timer is left to wake them."""


class Killed(Exception):
    """Raised at the step at which the simulated process is killed."""


class _Handle:
    """A scheduled callback."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context  # an empty context is falsy
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class SeededLoop(asyncio.AbstractEventLoop):
    """Event loop for one history. Methods that are not implemented raise NotImplementedError.

    Callbacks that become ready in the same step run in order, as asyncio guarantees for the callbacks of a future. The seed determines the
    interleaving of callbacks of different steps.

    Args:
        rng: Source of all scheduling decisions.
        now: The initial time, in seconds.

    Attributes:
        steps: Number of callbacks called so far.
        unhandled_errors: Errors that asyncio would have logged because no code retrieved them.
    """

    def __init__(self, rng: random.Random, now: float = 0.0) -> None:
        self.steps = 0
        self.unhandled_errors: list[str] = []
        self._rng = rng
        self._now = now
        self._ready: list[deque[_Handle]] = []
        self._made_ready: deque[_Handle] | None = None
        self._timers: list[tuple[float, float, int, _Handle]] = []
        self._numbers = count()
        self._at_step: dict[int, list[Callable[[], object]]] = {}
        self._abandoned = False

    def run(self, main: Coroutine[Any, Any, Any], *, kill_at: int | None = None) -> Any:
        """Run until `main` has finished.

        Raises:
            Deadlock: `main` can never finish.
            Killed: `kill_at` steps were performed. The tasks stay suspended, as in a killed process.
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

    def run_ready(self, now: float) -> None:
        """Run until all tasks wait, without advancing the time beyond `now`."""
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            self._now = now
            while self._ready or (self._timers and self._timers[0][0] <= now):
                self._step()
        finally:
            asyncio._set_running_loop(running)

    def is_waiting_until(self, time: float) -> bool:
        """Return whether a timer is due before a time."""
        return bool(self._timers) and self._timers[0][0] <= time

    def abandon(self) -> None:
        """Close the remaining tasks. Errors during their cleanup are ignored."""
        self._abandoned = True
        for task in asyncio.all_tasks(self):
            task.get_coro().close()
        self._ready.clear()
        self._timers.clear()

    def at_step(self, step: int, action: Callable[[], object]) -> None:
        """Schedule a call of `action` immediately before the given step."""
        self._at_step.setdefault(step, []).append(action)

    def _step(self) -> None:
        """Call one callback."""
        self._made_ready = None
        for action in self._at_step.pop(self.steps, ()):
            action()
        self._made_ready = None
        while not self._ready:
            self._advance_time()
        self.steps += 1
        index = self._rng.randrange(len(self._ready))
        group = self._ready[index]
        handle = group.popleft()
        if not group:
            self._ready[index] = self._ready[-1]
            self._ready.pop()
        if not handle.is_cancelled:
            handle.context.run(handle.callback, *handle.args)

    def _advance_time(self) -> None:
        """Advance the time to the next timer."""
        if not self._timers:
            raise Deadlock("all tasks wait, and no timer is left")
        when, _, _, handle = heapq.heappop(self._timers)
        if not handle.is_cancelled:
            self._now = max(self._now, when)
            self._ready.append(deque([handle]))

    # -- AbstractEventLoop ---------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._abandoned

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
        heapq.heappush(self._timers, (when, self._rng.random(), next(self._numbers), handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        return asyncio.Task(coro, loop=self, **options)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run the function as a separate step, instead of in a thread, and return a future with its result."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - set on the future, as for a thread
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self._ready.append(deque([_Handle(work, (), None)]))
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._abandoned:
            self.unhandled_errors.append(f"{context.get('message')}: {context.get('exception')!r}")
