"""Access to the configured store and the key ring, for commands that run with or without the service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from zoomgate_server.app import store_binding
from zoomgate_server.cli.output import fail
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.clock import SystemClock
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.errors import RecordFault, ZoomgateError
from zoomgate_server.secret import Secret
from zoomgate_server.settings import Settings
from zoomgate_server.storage import sqlite
from zoomgate_server.storage.backup import BackupError
from zoomgate_server.storage.record_store import (
    RecordStore,
    StoreError,
    StoreHealth,
    StoreInspection,
    StoreOpenError,
)
from zoomgate_server.storage.sqlite import SqliteStore

_T = TypeVar("_T")


class NoStoreError(StoreOpenError):
    """Error for a store that does not exist yet."""


def exists(loaded: Settings) -> bool:
    """Return whether the store exists; exit with an error message if its path cannot be used.

    A database server is treated as existing until it is opened.
    """
    try:
        return isinstance(loaded.store, Secret) or loaded.store.exists()
    except OSError as error:
        fail(
            f"{loaded.names['store']}: cannot access {loaded.store} ({error.strerror}); check its path, owner and permissions"
        )


@contextlib.asynccontextmanager
async def open_store(loaded: Settings, *, check_binding: bool = True) -> AsyncIterator[RecordStore]:
    """Open an existing store. A missing store is not created.

    Args:
        check_binding: Whether to reject a store to which the journal of the local machine does not belong. Otherwise, a command with a
            wrong setting would, for example, remove a key that is still in use.

    Raises:
        NoStoreError: The store does not exist.
        StoreOpenError: The store cannot be used, or is not the store of the journal.
    """
    store: RecordStore
    if isinstance(loaded.store, Secret):
        from zoomgate_server.storage.mongodb import MongoStore  # noqa: PLC0415 - not needed with SQLite

        if check_binding:
            await _check_binding(loaded)
        store = await MongoStore.open(loaded.store.reveal())
    elif exists(loaded):
        run_as_owner(loaded.store)
        if check_binding:
            await _check_binding(loaded)
        store = await SqliteStore.open(loaded.store, SystemClock().wall)
    else:
        raise NoStoreError(
            f"there is no store at {loaded.store}; set your store with ZOOMGATE_STORE or ZOOMGATE_DATA_DIR"
        )
    try:
        yield store
    finally:
        await store.close()


def inspect_store(loaded: Settings) -> StoreInspection:
    """Inspect an existing store without changing it. Raise `StoreOpenError` if it cannot be read."""
    return asyncio.run(_examine(loaded))


async def _examine(loaded: Settings) -> StoreInspection:
    if isinstance(loaded.store, Path):
        return await sqlite.examine(loaded.store)
    from zoomgate_server.storage import mongodb  # noqa: PLC0415 - its driver is not needed with SQLite

    return await mongodb.examine(loaded.store.reveal())


def check_store(loaded: Settings) -> StoreHealth:
    """Check a complete store without changing it. Raise `StoreOpenError` if it cannot be used."""
    if isinstance(loaded.store, Path):
        return asyncio.run(sqlite.check(loaded.store))
    from zoomgate_server.storage import mongodb  # noqa: PLC0415 - its driver is not needed with SQLite

    return asyncio.run(mongodb.check(loaded.store.reveal()))


async def _check_binding(loaded: Settings) -> None:
    try:
        if not store_binding.read_all(loaded):
            return
        compared = store_binding.compare(loaded, await _examine(loaded))
    except (OSError, key_file.KeyFileError, RecordFault):  # without its keys, the store cannot be identified
        return
    for binding, store_id in compared:
        if store_id != binding.store_id:
            raise StoreOpenError(store_binding.mismatch(loaded, binding.store_id, store_id))


def run(operation: Coroutine[Any, Any, _T], remedy: str = "run this command again") -> _T:
    """Run an operation on the store; exit with an error message, with a remedy if the store fails during the operation."""
    try:
        return asyncio.run(operation)
    except (StoreOpenError, BackupError) as error:
        fail(str(error))
    except StoreError as error:
        fail(f"the store failed ({error}); {remedy}")
    except ZoomgateError as error:
        fail(error.message)


def load_key_ring(path: Path) -> KeyRing:
    """Read a key ring; exit with an error message if it cannot be used."""
    try:
        return key_file.load(path)
    except key_file.KeyFileError as error:
        fail(str(error))
