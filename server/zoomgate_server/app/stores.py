"""How the service comes to its store and its key ring, and waits for a database that cannot be reached yet."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from zoomgate_server.clock import SystemClock
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.secret import Secret
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import RecordStore, StoreOpenError, StoreUnreachableError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry import logs

MIN_STORE_PAUSE, MAX_STORE_PAUSE = 0.5, 5.0
"""Pauses, in seconds, between two tries to reach a store at the start: each twice as long as the one before."""

_T = TypeVar("_T")
_log = logs.get("zoomgate.app")


class StoppedWaiting(Exception):
    """The service was told to stop while it waited for its store."""


async def open_store(
    settings: Settings, stack: AsyncExitStack, stop: asyncio.Event
) -> tuple[RecordStore, KeyRing]:
    """Open store and key ring; what was made for a start that fails is taken away again.

    Args:
        settings: Which store, and which ring.
        stack: Closes the store.
        stop: Set when the service is to stop; ends the waiting for a store that cannot be reached.

    Raises:
        StartError: It cannot be opened.
        StoppedWaiting: `stop` was set.
    """
    if settings.store_uri is not None:
        return await _open_mongodb(settings, settings.store_uri, stack, stop)
    made: list[Path] = []
    try:
        for folder in {settings.data_dir, settings.store_path.parent}:
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                made.append(folder)
        fresh = not settings.store_path.exists()
        if fresh and settings.keys_are_default and not settings.keys_path.exists():
            with contextlib.suppress(key_file.KeyFileExistsError):  # another process was first
                key_file.create(settings.keys_path)
                made.append(settings.keys_path)
        key_ring = key_file.load(settings.keys_path)
        store = await SqliteStore.open(settings.store_path, SystemClock().wall)
    except (key_file.KeyFileError, StoreOpenError, OSError) as error:
        if settings.keys_path in made and settings.store_path.exists():
            made.clear()  # somebody started at the same time, and seals with this ring
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise StartError(
                f"ZOOMGATE_DATA_DIR: {settings.data_dir} cannot be made or used ({error.strerror}): check its owner and mode"
            ) from None
        raise StartError(str(error)) from None
    stack.push_async_callback(store.close)
    return store, key_ring


async def _open_mongodb(
    settings: Settings, uri: Secret, stack: AsyncExitStack, stop: asyncio.Event
) -> tuple[RecordStore, KeyRing]:
    """Open a MongoDB database, and the key ring: no ring is made for a store that others may use already.

    A database that cannot be reached is tried again for a while: services often start together with it.
    """
    from zoomgate_server.storage.mongodb import MongoStore  # noqa: PLC0415 - not needed with SQLite

    try:
        key_ring = key_file.load(settings.keys_path)
        store = await _with_retries(lambda: MongoStore.open(uri.reveal()), settings.store_wait_seconds, stop)
    except (key_file.KeyFileError, StoreOpenError) as error:
        raise StartError(str(error)) from None
    stack.push_async_callback(store.close)
    return store, key_ring


async def _with_retries(
    open_store: Callable[[], Coroutine[Any, Any, RecordStore]], seconds: float, stop: asyncio.Event
) -> RecordStore:
    """Open a store, again and again while it cannot be reached.

    Args:
        open_store: Opens it.
        seconds: No try begins later than so long after the first.
        stop: Set when the service is to stop.

    Raises:
        StoreOpenError: It cannot be used, or could not be reached in that time.
        StoppedWaiting: `stop` was set.
    """
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + seconds, MIN_STORE_PAUSE
    while True:
        opening = asyncio.create_task(open_store())
        try:
            return await _unless(stop, opening)
        except StoreUnreachableError as error:
            if loop.time() + pause > until:
                raise
            _log.warning("store.unreachable", problem=str(error), retry_in=pause)
        await _unless(stop, asyncio.create_task(asyncio.sleep(pause)))
        pause = min(2 * pause, MAX_STORE_PAUSE)


async def _unless(stop: asyncio.Event, work: asyncio.Task[_T]) -> _T:
    """Wait for work, or give it up when the service is to stop.

    Raises:
        StoppedWaiting: `stop` was set.
    """
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise StoppedWaiting
        return work.result()
    finally:
        for task in (work, stopped):
            task.cancel()
        await asyncio.wait({work, stopped})
