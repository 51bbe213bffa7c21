"""A record store with injected failures, which wraps a real store."""

from collections import Counter
from typing import Any

from zoomgate_server.storage.record_store import Record, RecordKey, RecordStore, StoreError


class FaultyStore:
    """A store whose `get` and `put` fail on request.

    Attributes:
        calls: Number of calls of each method.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._faults: dict[str, list[str]] = {"get": [], "put": []}
        self.calls: Counter[str] = Counter()

    def fail(self, method: str, times: int, *, after_effect: bool = False) -> None:
        """Make the next calls of `get` or `put` fail, before or after they take effect."""
        self._faults[method] += ["after" if after_effect else "before"] * times

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Read a record, or fail."""
        self.calls["get"] += 1
        if self._faults["get"]:
            self._faults["get"].pop(0)
            raise StoreError("injected")
        return await self._store.get(key)

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record, or fail."""
        self.calls["put"] += 1
        fault = self._faults["put"].pop(0) if self._faults["put"] else ""
        if fault == "before":
            raise StoreError("injected")
        rev = await self._store.put(record, if_rev)
        if fault == "after":
            raise StoreError("injected")
        return rev

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
