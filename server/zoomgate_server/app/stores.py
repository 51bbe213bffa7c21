"""Opening of the store and the key ring, including retries while a database is unreachable."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from zoomgate_server import private_file
from zoomgate_server.app import store_binding
from zoomgate_server.backoff import Backoff
from zoomgate_server.clock import Clock
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.secret import Secret
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import RecordStore, StoreOpenError, StoreUnreachableError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.storage.timing import MongoTiming, SqliteTiming
from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.app")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the opening of a store, and of the store itself, in seconds.

    Attributes:
        min_pause: Delay before the second attempt to reach a database. The delay doubles with each attempt.
        max_pause: Maximum delay between two attempts.
    """

    min_pause: float = 0.5
    max_pause: float = 5.0
    sqlite: SqliteTiming = SqliteTiming()
    mongodb: MongoTiming = MongoTiming()


StoreOpener = Callable[
    [Settings, AsyncExitStack, asyncio.Event, Clock, Timing], Awaitable[tuple[RecordStore, KeyRing]]
]
"""The signature of `open_store`."""


class StartCancelled(Exception):
    """The service was stopped while waiting for the store."""


async def open_store(
    settings: Settings, stack: AsyncExitStack, stop: asyncio.Event, clock: Clock, timing: Timing = Timing()
) -> tuple[RecordStore, KeyRing]:
    """Open the store and the key ring. On failure, new files are removed, unless another process may already use them.

    Args:
        stop: The event that cancels the wait for an unreachable store.

    Raises:
        StartError: The store or the key ring cannot be opened.
        StartCancelled: `stop` was set.
    """
    path = settings.store
    if isinstance(path, Secret):
        return await _open_mongodb(settings, path, stack, stop, timing)
    created: list[Path] = []
    try:
        store_binding.require_store(settings, path)
        for directory in {settings.data_dir, path.parent}:
            if not directory.exists():
                private_file.create_folder(directory)
                created.append(directory)
        is_new = not path.exists()
        if is_new and settings.keys_are_default and not settings.keys.exists():
            # another process may have created the file in the meantime
            with contextlib.suppress(key_file.KeyFileExistsError):
                key_file.create(settings.keys)
                created.append(settings.keys)
        key_ring = key_file.load(settings.keys)
        store = await SqliteStore.open(path, clock.wall, timing.sqlite)
    except (key_file.KeyFileError, StoreOpenError, OSError) as error:
        if settings.keys in created and path.exists():
            created.clear()  # a process that started at the same time may already use these keys
        for path in reversed(created):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise StartError(
                f"{settings.names['data_dir']}: cannot create or use {settings.data_dir} ({error.strerror});"
                " check its owner and permissions"
            ) from None
        raise StartError(str(error)) from None
    stack.push_async_callback(store.close)
    return store, key_ring


async def _open_mongodb(
    settings: Settings, uri: Secret, stack: AsyncExitStack, stop: asyncio.Event, timing: Timing
) -> tuple[RecordStore, KeyRing]:
    """Open a MongoDB database and the key ring. No key ring is created, since other processes may already use the store with theirs.

    If the database is unreachable, attempts are repeated for `store_wait` seconds, since services and their databases often start together.
    """
    try:
        key_ring = key_file.load(settings.keys)
        opening = asyncio.create_task(_open_with_retries(uri, settings.store_wait, timing))
        store = await _result_unless_stopped(opening, stop)
    except (key_file.KeyFileError, StoreOpenError) as error:
        raise StartError(str(error)) from None
    stack.push_async_callback(store.close)
    return store, key_ring


async def _open_with_retries(uri: Secret, seconds: float, timing: Timing) -> RecordStore:
    """Open a MongoDB database. While it is unreachable, repeat the attempt, for the last time after this number of seconds."""
    from zoomgate_server.storage.mongodb import MongoStore  # noqa: PLC0415 - not needed with SQLite

    loop = asyncio.get_running_loop()
    deadline, backoff = loop.time() + seconds, Backoff(timing.min_pause, timing.max_pause)
    while True:
        try:
            return await MongoStore.open(uri.reveal(), timing=timing.mongodb)
        except StoreUnreachableError as error:
            remaining = deadline - loop.time()
            if remaining <= 0:
                raise
            pause = min(backoff.next_pause(), remaining)  # the last attempt is at the deadline
            _log.warning("store.unreachable", problem=str(error), retry_in=pause)
        await asyncio.sleep(pause)


async def _result_unless_stopped(opening: asyncio.Task[RecordStore], stop: asyncio.Event) -> RecordStore:
    """Return the result of a task, or cancel the task and raise `StartCancelled` if the service is stopped."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            raise StartCancelled
        return opening.result()
    finally:
        opening.cancel()
        stopped.cancel()
        await asyncio.wait({opening, stopped})
