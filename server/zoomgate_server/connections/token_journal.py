"""The token journal: a local, synced file of token pairs that Zoom issued and the store has not acknowledged yet.

Without the journal, new tokens would exist only in the memory of one process until the store acknowledges the first write. The tokens are
therefore written to a journal entry and synced as soon as Zoom responds. If the process is killed afterwards, the next process on the
local machine finds the entry and stores the tokens.

Each entry is a separate encrypted file with mode 0600. The process that writes an entry holds a lock (flock) on the file until the process
exits. A file without a lock was left by a process that has exited; the process that acquires the lock takes over the entry. Processes can
therefore share a directory without claiming each other's entries. The directory must be on a local disk.

A file is `format (1 byte) | ciphertext`. The ciphertext is bound to the Zoom app and the entry ID. The file is a draft until it is synced
and renamed. The name of a draft contains the digest of its content. The next process can therefore tell whether a killed process has
completed a draft, and takes over complete drafts.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import orjson

from zoomgate_server import file_system, private_file
from zoomgate_server.backoff import Backoff
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Ring, associated_data
from zoomgate_server.encryption.envelope import FORMAT, unsupported
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskSet
from zoomgate_server.telemetry.metrics import Metrics

_PURPOSE = "zoomgate/journal/v3"
_SUFFIX = ".entry"
_MAX_BYTES = 128 * 1024  # Zoom's response is at most 64 KiB, and an entry is slightly larger
_NAME_DIGITS = 32
_DRAFT = re.compile(r"\.([0-9a-f]{32})-([0-9a-f]{64})")
_RESERVED_DESCRIPTORS = 16
_NO_FREE_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_T = TypeVar("_T")
_log = logs.get("zoomgate.journal")


class Origin(StrEnum):
    """The request that caused Zoom to issue the tokens, or the import that supplied them."""

    REFRESH = "refresh"
    CONSENT = "consent"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens that are not stored yet.

    Attributes:
        entry_id: 32 hex digits; the commit ID of the write that stores the tokens.
        origin: A refresh of a stored connection, a consent, or an imported refresh token.
        user_email: The user whose connection stores the tokens.
        zoom_user_id: The Zoom user to whom the tokens belong. Empty until Zoom has reported the user.
        zoom_email: See `ConnectionRecord`.
        grant: The refreshed grant. Empty for an exchange, which begins the grant `entry_id`.
        generation: The connection's generation when the tokens were requested. 0 for an exchange.
        tokens: The pair as Zoom issued it.
        registered_with: The Zoom user in whose record the refresh or exchange is registered, or empty.
        epoch: Epoch of the attempt in the record, or 0 if the exchange is not registered.
        fingerprint: Keyed fingerprint of the exchanged code or supplied token; for a refresh, the digest of the refreshed token.
        marked_at: When the exchange was marked or the lease was written, in seconds since 1970 on the store's clock.
        owner: See `ConnectionRecord`.
        initiated_by: See `ConnectionRecord`.
    """

    entry_id: str
    origin: Origin
    user_email: str
    tokens: TokenPair
    grant: str = ""
    generation: int = 0
    zoom_user_id: str = ""
    zoom_email: str = ""
    registered_with: str = ""
    epoch: int = 0
    fingerprint: str = ""
    marked_at: float = 0.0
    owner: str | None = None
    initiated_by: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the journal, in seconds.

    Attributes:
        first_pause: Pause before a failed write is retried. Each pause is twice as long as the previous one.
        max_pause: Maximum pause before a failed write is retried.
    """

    first_pause: float = 0.1
    max_pause: float = 5.0


@dataclass(slots=True)
class _Write:
    """An entry to be written.

    Attributes:
        path: Path of the file, which is a draft at first.
        descriptor: File descriptor of the open file.
        durable: Whether the rename to the final path was synced.
        error: Why the entry was not written.
    """

    entry: Entry
    path: Path = Path()
    descriptor: int = -1
    durable: bool = False
    error: str | None = None


class TokenJournal:
    """The token journal in one directory.

    Failures are logged and counted but never interrupt the caller, since the store may still accept the tokens. An entry that cannot be
    written stays in memory, and the write is retried until it succeeds or the entry is deleted.

    Args:
        folder: The directory, created with mode 0700 if it does not exist.
        app: OAuth origin and client ID. Entries of other apps cannot be decrypted.
    """

    def __init__(
        self, folder: Path, *, app: str, key_ring: Ring, metrics: Metrics, timing: Timing = Timing()
    ) -> None:
        self._folder = folder
        self._app = app
        self._ring = key_ring
        self._metrics = metrics
        self._timing = timing
        self._queue: deque[_Write] = deque()
        self._held: dict[str, int] = {}
        self._unwritten: dict[str, Entry] = {}
        self._released: set[str] = set()
        self._undeleted: dict[Path, int] = {}
        self._deferred = 0
        self._unreadable: set[str] = set()
        self._descriptors = _ReservedDescriptors()
        self._retries = TaskSet()
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def prepare(self, mounts: Path = file_system.MOUNTS) -> bool:
        """Create the directory and return whether entries can be written and locked there. Log a warning if they cannot.

        Raises:
            StartError: The directory is on a network file system, or is not a directory.
        """
        return await self._run(self._prepare, mounts)

    async def append(self, entry: Entry) -> bool:
        """Write an entry durably, replacing any entry with the same ID. If the write fails, return False and retry in the background.

        Entries that are appended while a write is running are written together afterwards, with one sync of the directory.
        """
        self._forget_unwritten(entry.entry_id)
        write = await self._write(entry)
        if not write.durable:
            _log.error("journal.write_failed", entry=entry.entry_id, error=write.error)
            self._metrics.journal_failures.inc()
            if not self._closed:
                self._unwritten[entry.entry_id] = entry
                self._retries.spawn(self._retry(entry))
        return write.durable

    async def delete(self, entry_id: str) -> None:
        """Delete an entry that this process holds, ignoring other IDs. If the file cannot be deleted, `claim` retries."""
        self._forget_unwritten(entry_id)
        await self._run(self._delete_file, entry_id)

    async def release(self, entry_id: str) -> None:
        """Release an entry that this process holds, so that any process can claim it."""
        if entry_id in self._unwritten:
            self._released.add(entry_id)
        else:
            await self._run(self._release, entry_id)

    async def claim(self, excluded: Container[str] = ()) -> list[Entry]:
        """Claim and return the released entries and those of processes that have exited, without the excluded IDs.

        The entries stay in the journal until `delete` is called.
        """
        unwritten = [entry_id for entry_id in self._released if entry_id not in excluded]
        self._released.difference_update(unwritten)
        return [self._unwritten[entry_id] for entry_id in unwritten] + await self._run(self._claim, excluded)

    async def close(self) -> None:
        """Release all entries, so that other processes can claim them. Entries that are appended later are written and released."""
        if not self._closed:
            self._closed = True
            self._executor.shutdown(wait=True)
            self._queue.extend(map(_Write, self._unwritten.values()))
            self._unwritten.clear()
            self._released.clear()
            self._write_queued()
            self._release_all()

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function on the journal's thread. The function continues if the caller is canceled."""
        if self._closed:  # the thread has ended; Zoom's last responses may arrive after the drain
            try:
                return function(*arguments)
            finally:
                self._release_all()
        loop = asyncio.get_running_loop()
        result = await asyncio.shield(loop.run_in_executor(self._executor, function, *arguments))
        self._metrics.journal_entries.set(len(self._held) + self._deferred)
        return result

    async def _write(self, entry: Entry) -> _Write:
        write = _Write(entry)
        self._queue.append(write)
        await self._run(self._write_queued)
        if write.durable:
            self._metrics.journal_writes.inc()
        return write

    async def _retry(self, entry: Entry) -> None:
        """Repeat a failed write until it succeeds, or until the entry is deleted or replaced."""
        entry_id, backoff = entry.entry_id, Backoff(self._timing.first_pause, self._timing.max_pause)
        while self._unwritten.get(entry_id) is entry:
            await asyncio.sleep(backoff.next_pause())
            if self._unwritten.get(entry_id) is entry and (await self._write(entry)).durable:
                _log.info("journal.write_recovered", entry=entry_id)
                is_released = entry_id in self._released
                self._forget_unwritten(entry_id)
                if is_released:
                    await self.release(entry_id)

    def _forget_unwritten(self, entry_id: str) -> None:
        self._unwritten.pop(entry_id, None)
        self._released.discard(entry_id)

    def _prepare(self, mounts: Path) -> bool:
        network = file_system.network_type(self._folder, mounts)
        if network:
            raise StartError(
                f"The journal {self._folder} is on a network file system ({network}), where locks and syncs are unreliable;"
                " use a local disk"
            )
        self._descriptors.replenish()
        probe = self._folder / f".probe-{secrets.token_hex(4)}"
        try:
            private_file.create_folder(self._folder)
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                with _locked(probe):
                    pass
            finally:
                probe.unlink()
        except FileExistsError:
            raise StartError(
                f"The journal {self._folder} is not a directory; move this file away, then start again"
            ) from None
        except OSError as error:
            _log.warning(
                "journal.unavailable",
                folder=str(self._folder),
                error=error.strerror,
                consequence="tokens that Zoom issued are lost if this process is killed before they are stored",
            )
            return False
        return True

    def _write_queued(self) -> None:
        """Write all queued entries, one step at a time for all entries, so that the disk can combine the syncs."""
        writes = [self._queue.popleft() for _ in range(len(self._queue))]
        if not writes:
            return
        try:
            folder = self._descriptors.open(self._folder, os.O_RDONLY)
            try:
                for step in (self._draft, self._sync, self._rename):
                    writes = [write for write in writes if self._succeeds(step, write)]
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            for write in writes:
                self._abandon(write, error)
        else:
            for write in writes:
                self._held[write.entry.entry_id] = write.descriptor
                write.durable = True
        self._descriptors.replenish()

    def _succeeds(self, step: Callable[[_Write], None], write: _Write) -> bool:
        try:
            step(write)
        except OSError as error:
            self._abandon(write, error)
            return False
        return True

    def _draft(self, write: _Write) -> None:
        entry = write.entry
        sealed = self._ring.seal(orjson.dumps(entry), self._associated(entry.entry_id))
        content = bytes((FORMAT,)) + sealed
        write.path = self._folder / f".{entry.entry_id}-{hashlib.sha256(content).hexdigest()}"
        while True:
            write.descriptor = self._descriptors.open(write.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            fcntl.flock(
                write.descriptor, fcntl.LOCK_EX
            )  # acquire the lock before the file has its final name
            if os.fstat(write.descriptor).st_nlink:
                break
            os.close(
                write.descriptor
            )  # before it was locked, another process deleted it as an incomplete draft
        _write_whole(write.descriptor, content)

    def _sync(self, write: _Write) -> None:
        os.fsync(write.descriptor)

    def _rename(self, write: _Write) -> None:
        write.path = write.path.rename(self._path(write.entry.entry_id))
        self._release(write.entry.entry_id)  # the older file of the same entry

    def _abandon(self, write: _Write, error: OSError) -> None:
        write.error = error.strerror
        if write.descriptor >= 0:
            self._remove(write.path, write.descriptor)

    def _delete_file(self, entry_id: str) -> None:
        descriptor = self._held.pop(entry_id, None)
        if descriptor is not None:
            self._remove(self._path(entry_id), descriptor)
            self._descriptors.replenish()

    def _remove(self, path: Path, descriptor: int) -> None:
        """Delete a file and then release its lock, so that no process can claim it. If the file cannot be deleted, keep the lock."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            if path not in self._undeleted:
                _log.error("journal.delete_failed", entry=path.stem, error=error.strerror)
            self._undeleted[path] = descriptor
        else:
            self._undeleted.pop(path, None)
            os.close(descriptor)

    def _release(self, entry_id: str) -> None:
        for descriptor in (self._held.pop(entry_id, None), self._undeleted.pop(self._path(entry_id), None)):
            if descriptor is not None:
                os.close(descriptor)

    def _claim(self, excluded: Container[str]) -> list[Entry]:
        for path, descriptor in list(self._undeleted.items()):
            self._remove(path, descriptor)
        for draft in self._files(".*"):
            self._finish_draft(draft)
        paths = self._files(f"*{_SUFFIX}")
        self._deferred = sum(path.stem in excluded and path.stem not in self._held for path in paths)
        entries = (self._claim_one(path) for path in paths if path.stem not in excluded)
        return [entry for entry in entries if entry is not None]

    def _finish_draft(self, draft: Path) -> None:
        """Turn a draft of a process that has exited into an entry if it is complete; otherwise, delete it."""
        name = _DRAFT.fullmatch(draft.name)
        if name is None:
            return
        entry_id, digest = name.groups()
        path = self._path(entry_id)
        # an error, or a lock of a running process, defers the draft to the next call
        with contextlib.suppress(OSError), contextlib.ExitStack() as locks:
            descriptor = locks.enter_context(_locked(draft))
            if hashlib.sha256(os.read(descriptor, _MAX_BYTES)).hexdigest() != digest:
                draft.unlink()
                return
            if path.exists():  # an older version of the entry
                locks.enter_context(_locked(path))
            os.fsync(descriptor)
            draft.rename(path)
            private_file.sync_folder(self._folder)

    def _claim_one(self, path: Path) -> Entry | None:
        """Claim one file. Return None if another process holds the file, or if the file cannot be read or decrypted."""
        name = path.stem
        try:
            with _locked(path) as descriptor:
                entry = self._decrypt(name, os.read(descriptor, _MAX_BYTES))
                self._held[name] = os.dup(descriptor)  # both descriptors share the lock
                self._unreadable.discard(name)
                return entry
        except (BlockingIOError, FileNotFoundError):
            pass  # a running process holds the file or has deleted it
        except OSError as error:
            if error.errno not in _NO_FREE_DESCRIPTOR:
                self._report_unreadable(name, "it cannot be read")
        except KeyUnavailable as error:
            self._report_unreadable(name, f"key {error.metadata.get('key_id', '')} is not in the key ring")
        except RecordVersionUnsupported as error:
            self._report_unreadable(name, error.message)
        except (RecordUnreadable, ValueError, TypeError, KeyError):
            self._report_unreadable(name, "it is corrupt, or belongs to a different Zoom app")
        return None

    def _decrypt(self, name: str, content: bytes) -> Entry:
        # after a power failure, a disk page that was not written may read as zeros
        if not content or content[0] == 0:
            raise RecordUnreadable("A journal entry is empty or corrupt")
        if content[0] != FORMAT:
            raise unsupported(content[0], f"journal/{name[:_NAME_DIGITS]}")
        fields = orjson.loads(self._ring.open(content[1:], self._associated(name)))
        tokens = TokenPair(**fields["tokens"])
        return Entry(**fields | {"origin": Origin(fields["origin"]), "tokens": tokens})

    def _report_unreadable(self, name: str, reason: str) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            self._metrics.journal_corrupt_entries.inc()
            _log.error("journal.entry_unreadable", entry=name[:_NAME_DIGITS], reason=reason)

    def _release_all(self) -> None:
        for descriptor in (*self._held.values(), *self._undeleted.values()):
            os.close(descriptor)
        self._held.clear()
        self._undeleted.clear()
        self._descriptors.close()

    def _files(self, pattern: str) -> list[Path]:
        try:
            return sorted(self._folder.glob(pattern))
        except OSError:
            return []

    def _path(self, entry_id: str) -> Path:
        return self._folder / f"{entry_id}{_SUFFIX}"

    def _associated(self, entry_id: str) -> bytes:
        return associated_data(_PURPOSE, self._app, entry_id)


class _ReservedDescriptors:
    """Descriptors that are kept open, so that the journal can open files when the process has no free descriptor left."""

    def __init__(self) -> None:
        self._reserved: list[int] = []

    def open(self, path: Path, flags: int) -> int:
        """Open a file, or create it with mode 0600. If no descriptor is free, use a reserved one."""
        while True:
            try:
                return os.open(path, flags, 0o600)
            except OSError as error:
                if error.errno not in _NO_FREE_DESCRIPTOR or not self._reserved:
                    raise
                os.close(self._reserved.pop())

    def replenish(self) -> None:
        """Reserve descriptors in place of the used ones, as far as descriptors are free."""
        with contextlib.suppress(OSError):
            while len(self._reserved) < _RESERVED_DESCRIPTORS:
                self._reserved.append(os.open(os.devnull, os.O_RDONLY))

    def close(self) -> None:
        """Close the reserved descriptors."""
        while self._reserved:
            os.close(self._reserved.pop())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open and lock a file within the context.

    Raises:
        BlockingIOError: A running process holds the file.
        FileNotFoundError: The file was deleted.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe would block
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, content: bytes) -> None:
    """Write all of the content. On an almost full disk, `os.write` may write only a part, without an error."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
