"""A record store with injected failures, which wraps a real store."""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zoomgate_server.storage.record_store import Record, RecordKey, RecordStore, StoreError


class FaultyStore:
    """A store whose `get` and `put` fail on request, and whose methods can be intercepted.

    Attributes:
        calls: Number of calls of `get` and `put`.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._faults: dict[str, list[str]] = {"get": [], "put": []}
        self._interceptors: dict[str, Callable[..., Any]] = {}
        self.calls: Counter[str] = Counter()

    def fail(self, method: str, times: int, *, after_effect: bool = False) -> None:
        """Make the next calls of `get` or `put` fail, before or after they take effect."""
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

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Read a record, or fail."""
        self.calls["get"] += 1
        if self._faults["get"]:
            self._faults["get"].pop(0)
            raise StoreError("injected")
        return await self._method("get")(key)

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record, or fail."""
        self.calls["put"] += 1
        fault = self._faults["put"].pop(0) if self._faults["put"] else ""
        if fault == "before":
            raise StoreError("injected")
        rev = await self._method("put")(record, if_rev)
        if fault == "after":
            raise StoreError("injected")
        return rev

    def __getattr__(self, name: str) -> Any:
        return self._method(name)

    def _method(self, name: str) -> Any:
        method, interceptor = getattr(self._store, name), self._interceptors.get(name)
        return method if interceptor is None else functools.partial(interceptor, method)


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
