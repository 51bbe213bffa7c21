"""The store that the settings name, for a command that works on it beside the service or without one."""

import contextlib
from collections.abc import AsyncIterator

from zoomgate_server.clock import SystemClock
from zoomgate_server.settings import Settings
from zoomgate_server.tokens.sqlite import SqliteStore, StoreOpenError
from zoomgate_server.tokens.store import RecordStore


class NoStoreError(StoreOpenError):
    """There is no store yet."""


@contextlib.asynccontextmanager
async def opened(loaded: Settings) -> AsyncIterator[RecordStore]:
    """Open the store; none is made.

    Raises:
        NoStoreError: There is none.
        StoreOpenError: It cannot be used.
    """
    if not loaded.store_path.exists():
        raise NoStoreError(
            f"There is no store at {loaded.store_path}: name yours in ZOOMGATE_STORE or ZOOMGATE_DATA_DIR"
        )
    store = await SqliteStore.open(loaded.store_path, SystemClock().wall)
    try:
        yield store
    finally:
        await store.close()
