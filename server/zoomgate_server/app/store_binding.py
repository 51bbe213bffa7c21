"""The binding of a journal directory to a store.

The tokens in a journal belong to the connections of one store. In an empty or a wrong store, these connections do not exist: the service
would treat their users as not connected, and would revoke tokens that are valid. A journal directory therefore contains the ID of its
store, and a service whose journal belongs to a different store does not start. A new directory is bound to its first store.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from zoomgate_server import private_file
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.key_usage import BINDING_SUFFIX, JOURNAL
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import RecordStore, StoreInspection


@dataclass(frozen=True, slots=True)
class StoreBinding:
    """The ID of the store of one Zoom app to which a journal directory belongs."""

    path: Path
    app: str
    store_id: str


class JournalInUseError(Exception):
    """A different process uses the journal."""


def read_all(settings: Settings) -> dict[str, StoreBinding]:
    """Return the bindings of the journal directory by app; none if the directory does not exist or cannot be listed.

    Raises:
        OSError: A file cannot be read.
    """
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        paths = list((settings.data_dir / JOURNAL).iterdir())
    bindings = {}
    for path in (path for path in paths if path.suffix == BINDING_SUFFIX):
        with contextlib.suppress(FileNotFoundError):  # removed by `zoomgate store adopt`
            store_id, _, app = path.read_text(encoding="utf-8").partition("\n")
            bindings[app] = StoreBinding(path, app, store_id)
    return bindings


def compare(settings: Settings, contents: StoreInspection | None) -> list[tuple[StoreBinding, str | None]]:
    """Return the binding for the app, or all bindings if the settings have no client ID, each with the ID of the configured store.

    Args:
        contents: The configured store, or None if it does not exist.

    Raises:
        OSError: A binding cannot be read.
        KeyFileError: The key ring cannot be read.
        RecordFault: The key ring does not match the store; see `key_check.check`.
    """
    bindings = read_all(settings).values()
    compared = [row for row in bindings if row.app == settings.app or not settings.client_id]
    if contents is None:
        return [(binding, None) for binding in compared]
    return [(binding, _store_id(settings, contents, binding.app)) for binding in compared]


def _store_id(settings: Settings, contents: StoreInspection, app: str) -> str | None:
    state = contents.encryption.get(app)
    return (
        None
        if state is None
        else key_check.check(state, Envelope(app=app, keys=key_file.load(settings.keys)))
    )


def replace(binding: StoreBinding, store_id: str | None) -> None:
    """Bind a journal directory to a different store, or to the next one with which a service starts. Raise `OSError` on failure."""
    if store_id is None:
        binding.path.unlink()
        private_file.sync_folder(binding.path.parent)
    else:
        private_file.replace(binding.path, _content(store_id, binding.app))


def mismatch(settings: Settings, bound_id: str, store_id: str | None) -> str:
    """Return an error message for a journal that belongs to a different store.

    Args:
        store_id: ID of the configured store, or None if the store is missing or has no ID yet.
    """
    setting = settings.names["store"]
    store = str(settings.store) if isinstance(settings.store, Path) else f"the database in {setting}"
    return (
        f"the journal {settings.data_dir / JOURNAL} belongs to store {bound_id}, but {store} is"
        f" {'missing or empty' if store_id is None else f'store {store_id}'}, so the service does not start;"
        f" restore the store, or correct {setting} or {settings.names['data_dir']};"
        " to use this store and give up the other one, run `zoomgate store adopt`"
    )


def require_store(settings: Settings, path: Path) -> None:
    """Check that an SQLite store exists if the journal belongs to one, before a new store is created.

    Raises:
        StartError: The journal belongs to a store, but the file does not exist.
    """
    binding = _read(settings)
    # in this order, since a process that starts at the same time binds the journal after it has created the store
    if binding is not None and not path.exists():
        raise StartError(mismatch(settings, binding.store_id, None))


async def verify(
    settings: Settings,
    store: RecordStore,
    envelope: Envelope,
    stack: AsyncExitStack,
    *,
    journal_is_usable: bool,
) -> None:
    """Check that the key ring (see `key_check.verify`) and the journal belong to the store, and bind a new journal to it.

    If the journal belongs to a different store, nothing is written. The exit stack releases the journal; see `lock`.

    Raises:
        StartError: The journal belongs to a different store, or its binding cannot be read or written.
    """
    if journal_is_usable:
        try:
            stack.enter_context(lock(settings, fcntl.LOCK_SH))
        except JournalInUseError:
            raise StartError(
                "`zoomgate store adopt` is running; wait until it has finished, then start again"
            ) from None
    binding = _read(settings)
    store_id = await key_check.verify(store, envelope, create=binding is None)
    if binding is None and store_id is not None and journal_is_usable:
        binding = _bind(settings, store_id)
    if binding is not None and binding.store_id != store_id:
        raise StartError(mismatch(settings, binding.store_id, store_id))


@contextlib.contextmanager
def lock(settings: Settings, operation: int) -> Iterator[None]:
    """Lock the journal directory: shared while a service uses it, exclusively while its bindings are changed. See flock(2).

    Raises:
        JournalInUseError: Another process has locked the directory.
    """
    descriptor = os.open(settings.data_dir / JOURNAL, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalInUseError from None
        yield
    finally:
        os.close(descriptor)


def _read(settings: Settings) -> StoreBinding | None:
    try:
        return read_all(settings).get(settings.app)
    except OSError as error:
        raise StartError(
            f"{error.filename} cannot be read ({error.strerror}); check its owner and permissions"
        ) from None


def _bind(settings: Settings, store_id: str) -> StoreBinding | None:
    digest = hashlib.sha256(settings.app.encode()).hexdigest()[:16]
    path = settings.data_dir / JOURNAL / f"{digest}{BINDING_SUFFIX}"
    try:
        # a process that starts at the same time may have bound the journal
        with contextlib.suppress(FileExistsError):
            private_file.create(path, _content(store_id, settings.app))
    except OSError as error:
        raise StartError(f"{path} cannot be written ({error.strerror}); check the data directory") from None
    return _read(settings)


def _content(store_id: str, app: str) -> bytes:
    return f"{store_id}\n{app}".encode()
