"""Scans of all records of a store that other processes may be using."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    KEY_REQUIRED_KINDS,
    Column,
    EncryptionState,
    Kind,
    Record,
    RecordKey,
    RecordStore,
)

PAGE_SIZE = 200
"""Maximum number of records that are read in one request."""

CONCURRENCY = 16
"""Number of records that are processed concurrently, to hide the latency of a remote database."""


async def pages(store: RecordStore, app: str) -> AsyncIterator[Sequence[Record]]:
    """Yield every record of an app, page by page."""
    for kind in Kind:
        after = ""
        while page := await store.page(app, kind, after=after, limit=PAGE_SIZE):
            yield page
            after = page[-1].key.subject


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
    counts = [await store.count(app, kind, Column.KEY_ID) for kind in KEY_REQUIRED_KINDS]
    pages = [await store.page(app, kind, limit=1) for kind in Kind if kind is not Kind.KEY_CHECK]
    return EncryptionState(
        check, frozenset[str]().union(*counts), tuple(record for page in pages for record in page)
    )


async def count_records(store: RecordStore) -> int:
    """Count all records."""
    counts = [await store.count(app, kind, Column.KEY_ID) for app in await store.apps() for kind in Kind]
    return sum(sum(by_key.values()) for by_key in counts)
