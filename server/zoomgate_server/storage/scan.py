"""Scans of all records of a store that other processes may be using."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    KEY_REQUIRED_KINDS,
    EncryptionState,
    Kind,
    Query,
    Record,
    RecordKey,
    RecordStore,
    StoreInspection,
)

PAGE_SIZE = 200
"""Maximum number of records that are read in one request."""

CONCURRENCY = 16
"""Number of records that are processed concurrently, to hide the latency of a remote database."""


async def pages(store: RecordStore, app: str) -> AsyncIterator[Sequence[Record]]:
    """Yield every record of an app, page by page, including records that are added behind the latest page."""
    for kind in Kind:
        query = Query(limit=PAGE_SIZE)
        while page := await store.page(app, kind, query):
            yield page
            query = query.following(page[-1])


async def pages_of(store: RecordStore, app: str, kind: Kind, query: Query) -> AsyncIterator[Sequence[Record]]:
    """Yield the records that match a query, in pages of at most `query.limit` records."""
    while page := await store.page(app, kind, query):
        yield page
        if len(page) < query.limit:
            return
        query = query.following(page[-1])


async def process_each(
    page: Sequence[Record], process: Callable[[Record], Awaitable[None]], on_records: Callable[[int], None]
) -> None:
    """Process the records of a page in batches. If one fails, its error is raised after the rest of its batch is processed.

    Args:
        on_records: Called with the number of records processed since the last call.
    """
    for start in range(0, len(page), CONCURRENCY):
        batch = page[start : start + CONCURRENCY]
        for result in await asyncio.gather(*map(process, batch), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        on_records(len(batch))


async def encryption_state(store: RecordStore, app: str) -> EncryptionState:
    """Return how the records of an app are encrypted."""
    check, _ = await store.get(RecordKey(app, Kind.KEY_CHECK, KEY_CHECK))
    key_ids = [await store.key_ids(app, kind) for kind in KEY_REQUIRED_KINDS]
    return EncryptionState(check, frozenset[str]().union(*key_ids))


async def inspect(store: RecordStore, location: str) -> StoreInspection:
    """Inspect a store without changing it."""
    return StoreInspection(location, {app: await encryption_state(store, app) for app in await store.apps()})


async def count_records(store: RecordStore, kinds: Iterable[Kind] = Kind) -> int:
    """Count the records of all apps."""
    counts = [await store.count(app, kind) for app in await store.apps() for kind in kinds]
    return sum(sum(by_key.values()) for by_key in counts)
