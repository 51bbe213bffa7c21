"""Access to the configured store, for commands that run with or without the service."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from zoomgate_server.clock import SystemClock
from zoomgate_server.secret import Secret
from zoomgate_server.settings import Settings
from zoomgate_server.storage.record_store import RecordStore, StoreOpenError
from zoomgate_server.storage.sqlite import SqliteStore


class NoStoreError(StoreOpenError):
    """Error for a store that does not exist yet."""


def file_of(loaded: Settings) -> Path | None:
    """Return the store's file, or None if the store is a database server."""
    return loaded.store if isinstance(loaded.store, Path) else None


def exists(loaded: Settings) -> bool:
    """Return whether the store exists. A database server is treated as existing until it is opened."""
    return isinstance(loaded.store, Secret) or loaded.store.exists()


@contextlib.asynccontextmanager
async def open_store(loaded: Settings) -> AsyncIterator[RecordStore]:
    """Open an existing store. A missing store is not created.

    Raises:
        NoStoreError: The store does not exist.
        StoreOpenError: The store cannot be used.
    """
    store: RecordStore
    if isinstance(loaded.store, Secret):
        from zoomgate_server.storage.mongodb import MongoStore  # noqa: PLC0415 - not needed with SQLite

        store = await MongoStore.open(loaded.store.reveal())
    elif loaded.store.exists():
        store = await SqliteStore.open(loaded.store, SystemClock().wall)
    else:
        raise NoStoreError(
            f"there is no store at {loaded.store}; set your store with ZOOMGATE_STORE or ZOOMGATE_DATA_DIR"
        )
    try:
        yield store
    finally:
        await store.close()
