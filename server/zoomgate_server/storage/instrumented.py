"""A record store that reports the failures of an underlying store, and records its operations as spans."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from zoomgate_server.storage.record_store import (
    Kind,
    Record,
    RecordKey,
    RecordStore,
    StoreError,
    UserEmailTaken,
)
from zoomgate_server.telemetry import spans


class _InstrumentedStore:
    def __init__(self, store: RecordStore, on_error: Callable[[], None], system: str) -> None:
        self._store = store
        self._system = system
        self._on_error = on_error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            with spans.store_call(self._system, name, _kind(name, args)) as span:
                try:
                    return await method(*args, **kwargs)
                except StoreError:
                    self._on_error()
                    raise
                except UserEmailTaken as taken:  # an expected result
                    span.fail(type(taken).__name__, is_fault=False)
                    raise

        return call

    async def close(self) -> None:
        await self._store.close()


def instrumented(store: RecordStore, on_error: Callable[[], None], system: str = "") -> RecordStore:
    """Return a store that forwards every call, and calls `on_error` whenever the underlying store raises `StoreError`.

    Args:
        system: The database system, as named in spans.
    """
    return cast("RecordStore", _InstrumentedStore(store, on_error, system))


def _kind(operation: str, args: Sequence[Any]) -> str:
    """Return the kind of the records of an operation, or an empty string if it does not name one."""
    if operation == "find":  # only connections have addresses
        return Kind.USER
    for arg in args:
        match arg:
            case Kind() as kind:
                return kind
            case RecordKey(kind=kind) | Record(key=RecordKey(kind=kind)):
                return kind
    return ""
