"""The store that the settings name, for a command that works on it beside the service or without one."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from zoomgate_server.clock import SystemClock
from zoomgate_server.settings import Settings
from zoomgate_server.storage.record_store import RecordStore, StoreOpenError
from zoomgate_server.storage.sqlite import SqliteStore


class NoStoreError(StoreOpenError):
    """There is no store yet."""


def file_of(loaded: Settings) -> Path | None:
    """Give the file of the store, or None if it is kept elsewhere."""
    return loaded.store_path if loaded.store_uri is None else None


def is_there(loaded: Settings) -> bool:
    """Tell whether there is a store; one in a database counts as such until it is opened."""
    return loaded.store_uri is not None or loaded.store_path.exists()


@contextlib.asynccontextmanager
async def opened(loaded: Settings) -> AsyncIterator[RecordStore]:
    """Open the store; none is made.

    Raises:
        NoStoreError: There is none.
        StoreOpenError: It cannot be used.
    """
    store: RecordStore
    if loaded.store_uri is not None:
        from zoomgate_server.storage.mongodb import MongoStore  # noqa: PLC0415 - not needed with SQLite

        store = await MongoStore.open(loaded.store_uri.reveal())
    elif loaded.store_path.exists():
        store = await SqliteStore.open(loaded.store_path, SystemClock().wall)
    else:
        raise NoStoreError(
            f"There is no store at {loaded.store_path}: name yours in ZOOMGATE_STORE or ZOOMGATE_DATA_DIR"
        )
    try:
        yield store
    finally:
        await store.close()
