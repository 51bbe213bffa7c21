"""A record store that reports the failures of an underlying store."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from zoomgate_server.storage.record_store import (
    Change,
    Column,
    Kind,
    Record,
    RecordKey,
    RecordStore,
    StoreError,
)

_T = TypeVar("_T")


class InstrumentedStore:
    """A record store that forwards every call to an underlying store.

    Args:
        on_error: Called for every call that raised `StoreError`.
    """

    def __init__(self, store: RecordStore, on_error: Callable[[], None]) -> None:
        self._store = store
        self._on_error = on_error

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record and the store's current time."""
        return await self._report_errors(self._store.get(key))

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record durably if its revision is still `if_rev`."""
        return await self._report_errors(self._store.put(record, if_rev))

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`."""
        return await self._report_errors(self._store.delete(key, if_rev))

    async def page(
        self,
        app: str,
        kind: Kind,
        *,
        states: Collection[str] = (),
        due_before: float | None = None,
        expire_before: float | None = None,
        after: str = "",
        limit: int,
    ) -> Sequence[Record]:
        """Return a page of records, sorted by subject."""
        return await self._report_errors(
            self._store.page(
                app,
                kind,
                states=states,
                due_before=due_before,
                expire_before=expire_before,
                after=after,
                limit=limit,
            )
        )

    async def find(self, app: str, zoom_user_id: str) -> tuple[Record | None, float]:
        """Return the store's current time and the record of a Zoom user. Tombstones are ignored."""
        return await self._report_errors(self._store.find(app, zoom_user_id))

    async def count(self, app: str, kind: Kind, by: Column) -> dict[str, int]:
        """Count the records of a kind by the values of a column."""
        return await self._report_errors(self._store.count(app, kind, by))

    async def apps(self) -> Sequence[str]:
        """List the apps that have records."""
        return await self._report_errors(self._store.apps())

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[Sequence[Change], float]:
        """Return changed records and the store's current time."""
        return await self._report_errors(self._store.changes(app, kind, since, limit=limit))

    async def close(self) -> None:
        """Close the underlying store."""
        await self._store.close()

    async def _report_errors(self, operation: Awaitable[_T]) -> _T:
        try:
            return await operation
        except StoreError:
            self._on_error()
            raise
