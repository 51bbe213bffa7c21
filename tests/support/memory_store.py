"""An in-memory record store, the simplest implementation of the interface."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from zoomgate_server.storage.record_store import (
    Change,
    Kind,
    Order,
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
            and (not query.states or record.state in query.states)
            and _is_selected(query, record)
        ]
        return sorted(records, key=lambda record: _position(query, record))[: query.limit]

    async def find(self, app: str, user_email: str) -> tuple[Record | None, float]:
        """Return the record with an email address and the store's current time."""
        for record in self._records.values():
            if record.key.app == app and record.user_email == user_email:
                return record, self._wall()
        return None, self._wall()

    async def count(self, app: str, kind: Kind) -> dict[str, int]:
        """Count the records of a kind by key ID."""
        return dict(
            Counter(
                record.key_id for key, record in self._records.items() if key.app == app and key.kind is kind
            )
        )

    async def count_in_state(
        self, app: str, kind: Kind, state: str, *, after: str, limit: int
    ) -> tuple[int, str | None]:
        """Count records in a state that have an email address, in the order of the addresses."""
        query = Query(order=Order.EMAIL, states=[state], after=after, limit=limit)
        page = await self.page(app, kind, query)
        return len(page), page[-1].user_email if len(page) == limit else None

    async def key_ids(self, app: str, kind: Kind) -> set[str]:
        """Return the key IDs of the records of a kind."""
        return set(await self.count(app, kind))

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


def _position(query: Query, record: Record) -> tuple[Any, str]:
    value = record.key.subject if query.order is Order.SUBJECT else getattr(record, query.order)
    return value, record.key.subject


def _is_selected(query: Query, record: Record) -> bool:
    value, subject = _position(query, record)
    if query.order in (Order.SUBJECT, Order.EMAIL):
        return value is not None and value > query.after
    return value is not None and (query.since, query.after) < (value, subject) and value < query.before
