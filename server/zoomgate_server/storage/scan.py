"""Going through all records of a store, whoever works on it meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from zoomgate_server.storage.record_store import Column, Kind, Record, RecordStore

PAGE = 200
"""Records that are read at a time."""

TOGETHER = 16
"""Records that are worked on at a time: a database far away answers so many in the time of one."""


async def pages(store: RecordStore, app: str) -> AsyncIterator[Sequence[Record]]:
    """Read every record of an app, page by page."""
    for kind in Kind:
        after = ""
        while page := await store.page(app, kind, after=after, limit=PAGE):
            yield page
            after = page[-1].key.subject


async def each(
    page: Sequence[Record], work: Callable[[Record], Awaitable[None]], on_records: Callable[[int], None]
) -> None:
    """Do work on every record of a page. A failure is raised when what runs beside it has ended.

    Args:
        page: The records.
        work: What to do with one.
        on_records: Told how many more are done.
    """
    for start in range(0, len(page), TOGETHER):
        part = page[start : start + TOGETHER]
        for result in await asyncio.gather(*map(work, part), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        on_records(len(part))


async def total(store: RecordStore) -> int:
    """Count all records."""
    counted = [await store.count(app, kind, Column.KEY_ID) for app in await store.apps() for kind in Kind]
    return sum(sum(by_key.values()) for by_key in counted)
