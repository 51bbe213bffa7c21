"""A record store with injected failures, which wraps a real store."""

import asyncio
import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zoomgate_server.storage.record_store import RecordStore, StoreError


class FaultyStore:
    """A store whose methods fail on request, and can be intercepted.

    Attributes:
        calls: Number of calls by method.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._faults: defaultdict[str, list[str]] = defaultdict(list)
        self._interceptors: dict[str, Callable[..., Any]] = {}
        self.calls: Counter[str] = Counter()

    def fail(self, method: str, times: int, *, after_effect: bool = False) -> None:
        """Make the next calls of a method fail, before or after they take effect."""
        self._faults[method] += ["after" if after_effect else "before"] * times

    @contextmanager
    def intercept(self, method: str, interceptor: Callable[..., Any]) -> Iterator[None]:
        """Within the context, call `interceptor(proceed, *arguments)` instead of a method; `proceed` is the method of the real store.

        An interceptor can wait, count, fail before or after the effect, or change the result.
        """
        self._interceptors[method] = interceptor
        try:
            yield
        finally:
            del self._interceptors[method]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            fault = self._faults[name].pop(0) if self._faults[name] else ""
            if fault == "before":
                raise StoreError("injected")
            interceptor = self._interceptors.get(name)
            proceed = method if interceptor is None else functools.partial(interceptor, method)
            result = await proceed(*arguments, **options)
            if fault == "after":
                raise StoreError("injected")
            return result

        return call


class Gate:
    """An interceptor that holds calls of a store method, before or after their effect.

    Args:
        after_effect: Whether to hold the response instead of the call.
        holds: Returns whether to hold a call with these arguments. By default, all calls are held.

    Attributes:
        reached: Set when the first call is held.
        opened: Set by the test to release the calls.
    """

    def __init__(self, *, after_effect: bool, holds: Callable[..., bool] = lambda *_, **__: True) -> None:
        self._after_effect = after_effect
        self._holds = holds
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, proceed: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the method of the real store, now or after the gate was opened."""
        if not self._holds(*arguments, **options):
            return await proceed(*arguments, **options)
        result = await proceed(*arguments, **options) if self._after_effect else None
        self.reached.set()
        await self.opened.wait()
        return result if self._after_effect else await proceed(*arguments, **options)
