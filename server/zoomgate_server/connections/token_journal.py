"""The token journal: a local, synced file of token pairs that Zoom issued and the store has not acknowledged yet.

Without the journal, new tokens would exist only in the memory of one process until the store acknowledges the first write. The tokens are
therefore written to a journal entry and synced as soon as Zoom responds. If the process is killed afterwards, the next process on the
local machine finds the entry and stores the tokens.

Each entry is a separate encrypted file with mode 0600. The process that writes an entry holds a lock (flock) on the file until the process
exits. A file without a lock was left by a process that has exited; the process that acquires the lock takes over the entry. Processes can
therefore share a directory without claiming each other's entries. The directory must be on a local disk.

A file is `format (1 byte) | ciphertext`. The ciphertext is bound to the Zoom app and the entry ID.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import orjson

from zoomgate_server import private_file
from zoomgate_server.connections import token_pair
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Ring, associated_data
from zoomgate_server.encryption.envelope import FORMAT, unsupported
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

_PURPOSE = "zoomgate/journal/v3"
_SUFFIX = ".entry"
_MAX_BYTES = 128 * 1024  # Zoom's response is at most 64 KiB, and an entry is slightly larger
_NAME_DIGITS = 32
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
        grant: The connection's grant when the tokens were requested. Empty without a connection.
        generation: The connection's generation when the tokens were requested. 0 without a connection.
        tokens: The pair as Zoom issued it.
        epoch: Lease epoch of the attempt. Set only for a refresh.
        owner: See `ConnectionRecord`. Not for a refresh.
        initiated_by: See `ConnectionRecord`. Not for a refresh.
    """

    entry_id: str
    origin: Origin
    user_email: str
    grant: str
    generation: int
    tokens: TokenPair
    epoch: int = 0
    owner: str | None = None
    initiated_by: str = ""


@dataclass(slots=True)
class _Write:
    """An entry to be written, with the temporary and the final path of its file.

    Attributes:
        descriptor: File descriptor of the open file.
        durable: Whether the rename to the final path was synced.
    """

    entry: Entry
    draft: Path
    path: Path
    descriptor: int = -1
    renamed: bool = False
    durable: bool = False


def to_fields(entry: Entry) -> dict[str, Any]:
    """Return the stored form of an entry."""
    return {
        "entry_id": entry.entry_id,
        "origin": entry.origin.value,
        "user_email": entry.user_email,
        "grant": entry.grant,
        "generation": entry.generation,
        "tokens": token_pair.to_fields(entry.tokens),
        "lease_epoch": entry.epoch,
        "owner": entry.owner,
        "initiated_by": entry.initiated_by,
    }


def from_fields(fields: Mapping[str, Any]) -> Entry:
    """Read an entry from its stored form."""
    return Entry(
        entry_id=fields["entry_id"],
        origin=Origin(fields["origin"]),
        user_email=fields["user_email"],
        grant=fields["grant"],
        generation=fields["generation"],
        tokens=token_pair.from_fields(fields["tokens"]),
        epoch=fields["lease_epoch"],
        owner=fields["owner"],
        initiated_by=fields["initiated_by"],
    )


class TokenJournal:
    """The token journal in one directory.

    Failures are logged and counted but never interrupt the caller, since the store may still accept the tokens.

    Args:
        folder: The directory, created with mode 0700 if it does not exist.
        app: OAuth origin and client ID. Entries of other apps cannot be decrypted.
        on_write_failed: Called after an entry could not be written, so that its tokens are in the memory of this process only.
    """

    def __init__(
        self,
        folder: Path,
        *,
        app: str,
        key_ring: Ring,
        metrics: Metrics,
        on_write_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._app = app
        self._ring = key_ring
        self._metrics = metrics
        self._on_write_failed = on_write_failed
        self._queue: deque[_Write] = deque()
        self._held: dict[str, int] = {}
        self._unreadable: set[str] = set()
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def prepare(self) -> bool:
        """Create the directory and return whether the directory is writable. Log a warning if it is not."""
        return await self._run(self._prepare)

    async def append(self, entry: Entry) -> bool:
        """Write an entry durably, replacing any entry with the same ID. If the write fails, leave no file behind and return False.

        Entries that are appended while a write is running are written together afterwards, with one sync of the directory.
        """
        name = entry.entry_id
        draft = self._folder / f".{name}-{secrets.token_hex(4)}"
        write = _Write(entry, draft, self._folder / f"{name}{_SUFFIX}")
        self._queue.append(write)
        await self._run(self._write_queued)
        if write.durable:
            self._metrics.journal_writes.inc()
        else:
            self._metrics.journal_failures.inc()
            self._on_write_failed()
        return write.durable

    async def delete(self, entry_id: str) -> None:
        """Delete an entry that this process holds, ignoring other IDs. An entry that cannot be deleted will be claimed again."""
        await self._run(self._delete_file, entry_id)

    async def release(self, entry_id: str) -> None:
        """Release an entry that this process holds, so that any process can claim it."""
        await self._run(self._release, entry_id)

    def has(self, entry_id: str) -> bool:
        """Return whether an entry exists, regardless of which process holds it."""
        return (self._folder / f"{entry_id}{_SUFFIX}").exists()

    async def claim(self) -> list[Entry]:
        """Claim and return the entries of processes that have exited. The entries stay on disk until `delete` is called."""
        return await self._run(self._claim)

    async def close(self) -> None:
        """Release all entries, so that other processes can claim them. Idempotent."""
        if not self._closed:
            self._closed = True
            await self._run(self._release_all)
            self._executor.shutdown(wait=True)

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function on the journal's thread. The function continues if the caller is canceled."""
        loop = asyncio.get_running_loop()
        result = await asyncio.shield(loop.run_in_executor(self._executor, function, *arguments))
        self._metrics.journal_entries.set(len(self._held))
        return result

    def _prepare(self) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self._folder / f".probe-{secrets.token_hex(4)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            probe.unlink()
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
        for step in (self._draft, self._sync, self._rename):
            writes = [write for write in writes if self._succeeds(step, write)]
        try:
            if writes:
                private_file.sync_folder(self._folder)
        except OSError as error:
            for write in writes:
                self._abandon(write, error)
            return
        for write in writes:
            self._release(write.entry.entry_id)  # an older file of the same entry
            self._held[write.entry.entry_id] = write.descriptor
            write.durable = True

    def _succeeds(self, step: Callable[[_Write], None], write: _Write) -> bool:
        try:
            step(write)
        except OSError as error:
            self._abandon(write, error)
            return False
        return True

    def _draft(self, write: _Write) -> None:
        entry = write.entry
        sealed = self._ring.seal(orjson.dumps(to_fields(entry)), self._associated(entry.entry_id))
        write.descriptor = os.open(write.draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(write.descriptor, fcntl.LOCK_EX)  # acquire the lock before the file has its final name
        _write_whole(write.descriptor, bytes((FORMAT,)) + sealed)

    def _sync(self, write: _Write) -> None:
        os.fsync(write.descriptor)

    def _rename(self, write: _Write) -> None:
        write.draft.rename(write.path)
        write.renamed = True

    def _abandon(self, write: _Write, error: OSError) -> None:
        _log.error("journal.write_failed", entry=write.entry.entry_id, error=error.strerror)
        for path in (write.draft, write.path) if write.renamed else (write.draft,):
            with contextlib.suppress(OSError):
                path.unlink()
        if write.descriptor >= 0:
            # Release the lock only after the file is deleted, so that no process can claim it.
            os.close(write.descriptor)

    def _delete_file(self, entry_id: str) -> None:
        descriptor = self._held.pop(entry_id, None)
        if descriptor is None:
            return
        try:
            (self._folder / f"{entry_id}{_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            _log.error("journal.delete_failed", entry=entry_id, error=error.strerror)
        finally:
            # Release the lock only after the file is deleted, so that no process can claim it.
            os.close(descriptor)

    def _release(self, entry_id: str) -> None:
        descriptor = self._held.pop(entry_id, None)
        if descriptor is not None:
            os.close(descriptor)

    def _claim(self) -> list[Entry]:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == _SUFFIX)
        except OSError:
            return []
        entries = (self._claim_one(self._folder / name) for name in names)
        return [entry for entry in entries if entry is not None]

    def _claim_one(self, path: Path) -> Entry | None:
        """Claim one file. Return None if another process holds the file, or if the file cannot be read or decrypted."""
        name = path.name.removesuffix(_SUFFIX)
        if name in self._held:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None  # deleted by the process that held it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                entry = self._open(name, os.read(descriptor, _MAX_BYTES))
                self._held[name], descriptor = descriptor, -1
                self._unreadable.discard(name)
                return entry
        except OSError as error:
            # with these errors, a running process holds the lock
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                self._report_unreadable(name, "it cannot be read")
        except KeyUnavailable as error:
            self._report_unreadable(name, f"key {error.metadata.get('key_id', '')} is not in the key ring")
        except RecordVersionUnsupported as error:
            self._report_unreadable(name, error.message)
        except (RecordUnreadable, ValueError, TypeError, KeyError):
            self._report_unreadable(name, "it is corrupt, or belongs to a different Zoom app")
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _open(self, name: str, content: bytes) -> Entry:
        # after a power failure, a disk page that was not written may read as zeros
        if not content or content[0] == 0:
            raise RecordUnreadable("A journal entry is empty or corrupt")
        if content[0] != FORMAT:
            raise unsupported(content[0], f"journal/{name[:_NAME_DIGITS]}")
        return from_fields(orjson.loads(self._ring.open(content[1:], self._associated(name))))

    def _report_unreadable(self, name: str, reason: str) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            self._metrics.journal_corrupt_entries.inc()
            _log.error("journal.entry_unreadable", entry=name[:_NAME_DIGITS], reason=reason)

    def _release_all(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def _associated(self, entry_id: str) -> bytes:
        return associated_data(_PURPOSE, self._app, entry_id)


def _write_whole(descriptor: int, content: bytes) -> None:
    """Write all of the content. On an almost full disk, `os.write` may write only a part, without an error."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
