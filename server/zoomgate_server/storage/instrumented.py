"""A record store that reports the failures of an underlying store."""

from collections.abc import Callable
from typing import Any, cast

from zoomgate_server.storage.record_store import RecordStore, StoreError


class _InstrumentedStore:
    def __init__(self, store: RecordStore, on_error: Callable[[], None]) -> None:
        self._store = store
        self._on_error = on_error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            except StoreError:
                self._on_error()
                raise

        return call

    async def close(self) -> None:
        await self._store.close()


def instrumented(store: RecordStore, on_error: Callable[[], None]) -> RecordStore:
    """Return a store that forwards every call, and calls `on_error` whenever the underlying store raises `StoreError`."""
    return cast("RecordStore", _InstrumentedStore(store, on_error))
