"""An in-memory record store, the simplest implementation of the interface."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from zoomgate_server.storage.record_store import (
    Change,
    Column,
    Kind,
    Query,
    Record,
    RecordKey,
    UserEmailTaken,
)


class MemoryStore:
    """A record store that uses a dictionary.

    Args:
        wall: The store's clock, in seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._records: dict[RecordKey, Record] = {}
        self._revs = count(1)

    async def get(self, key: RecordKey) -> tuple[Record | None, float]:
        """Return one record and the store's current time."""
        return self._records.get(key), self._wall()

    async def put(self, record: Record, if_rev: int) -> int | None:
        """Write a record if its revision is still `if_rev`."""
        if self._rev_of(record.key) != if_rev:
            return None
        if record.user_email is not None:
            other, _ = await self.find(record.key.app, record.user_email)
            if other is not None and other.key != record.key:
                raise UserEmailTaken(other.key.subject)
        rev = next(self._revs)
        self._records[record.key] = replace(record, rev=rev)
        return rev

    async def delete(self, key: RecordKey, if_rev: int) -> bool:
        """Delete a record if its revision is still `if_rev`."""
        if if_rev == 0 or self._rev_of(key) != if_rev:
            return False
        del self._records[key]
        return True

    async def page(self, app: str, kind: Kind, query: Query) -> list[Record]:
        """Return a page of records in the order of the query."""
        records = [
            record
            for key, record in self._records.items()
            if key.app == app
            and key.kind is kind
            and (_order(query, record) or "") > query.after
            and (not query.states or record.state in query.states)
            and _is_before(record.due_at, query.due_before)
            and _is_before(record.expire_at, query.expire_before)
        ]
        return sorted(records, key=lambda record: _order(query, record) or "")[: query.limit]

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        """Return the record with an email address and the store's current time."""
        for record in self._records.values():
            if record.key.app == app and record.user_email == user_email:
                return record, self._wall()
        return None, self._wall()

    async def count(self, app: str, kind: Kind, by: Column) -> dict[str, int]:
        """Count the records of a kind by the values of a column."""
        return dict(
            Counter(
                record.state if by is Column.STATE else record.key_id
                for key, record in self._records.items()
                if key.app == app and key.kind is kind
            )
        )

    async def distinct(self, app: str, kind: Kind, column: Column) -> set[str]:
        """Return the values of a column in the records of a kind."""
        return set(await self.count(app, kind, column))

    async def apps(self) -> list[str]:
        """List the apps that have records."""
        return sorted({key.app for key in self._records})

    async def changes(
        self, app: str, kind: Kind, since: float, *, limit: int | None = None
    ) -> tuple[list[Change], float]:
        """Return changed records and the store's current time."""
        changes = [
            Change(key, record.rev, record.state, record.changed_at, record.user_email)
            for key, record in self._records.items()
            if key.app == app and key.kind is kind and record.changed_at >= since
        ]
        return sorted(changes, key=lambda change: change.changed_at)[:limit], self._wall()

    async def close(self) -> None:
        """Do nothing, since there are no resources to release."""

    def _rev_of(self, key: RecordKey) -> int:
        record = self._records.get(key)
        return 0 if record is None else record.rev


def _order(query: Query, record: Record) -> str | None:
    return record.user_email if query.by_email else record.key.subject


def _is_before(time: float | None, limit: float | None) -> bool:
    return limit is None or (time is not None and time < limit)
