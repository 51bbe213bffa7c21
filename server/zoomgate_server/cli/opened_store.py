"""The store that the settings name, for a command that works on it beside the service or without one."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from zoomgate_server.clock import SystemClock
from zoomgate_server.settings import Settings
from zoomgate_server.tokens.sqlite import SqliteStore
from zoomgate_server.tokens.store import RecordStore, StoreOpenError


class NoStoreError(StoreOpenError):
    """There is no store yet."""


def file_of(loaded: Settings) -> Path | None:
    """Give the file of the store, or None if it is kept elsewhere."""
    return loaded.store_path


@contextlib.asynccontextmanager
async def opened(loaded: Settings) -> AsyncIterator[RecordStore]:
    """Open the store; none is made.

    Raises:
        NoStoreError: There is none.
        StoreOpenError: It cannot be used.
    """
    path = file_of(loaded)
    if path is None:
        raise StoreOpenError("The store is of a kind that this release does not know")
    if not path.exists():
        raise NoStoreError(f"There is no store at {path}: name yours in ZOOMGATE_STORE or ZOOMGATE_DATA_DIR")
    store = await SqliteStore.open(path, SystemClock().wall)
    try:
        yield store
    finally:
        await store.close()
