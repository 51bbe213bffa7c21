"""What Zoom's token endpoint answered, on this machine's disk until the store has it.

Between Zoom's answer and the first write that the store confirms, tokens exist in one process alone. An entry of the journal is written
and synced in that gap, so that a process killed there loses nothing: the next one on this machine finds the entry and stores it.

One file an entry, sealed, for its owner alone. Whoever writes one holds a lock on it (flock) for as long as it lives; a file without a
holder belongs to a process that died, and who gets its lock goes on with it. So processes that share a folder never take each other's
entries. The folder has to be on a disk of this machine.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from zoomgate_server import private_file
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Ring, associated_data
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable
from zoomgate_server.telemetry import logs

_PURPOSE = "zoomgate/journal/v1"
_SUFFIX = ".entry"
_MAX_BYTES = 128 * 1024  # an answer of Zoom's has 64 KiB at most, an entry a little more
_NAME_DIGITS = 32
_T = TypeVar("_T")
_log = logs.get("zoomgate.journal")


class Origin(StrEnum):
    """What brought the tokens."""

    REFRESH = "refresh"
    CONSENT = "consent"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens that are on their way into the store.

    Attributes:
        entry_id: 32 hex digits; the commit id of the write that stores them.
        origin: A refresh of a record, a code that a consent brought, or a refresh token that a caller brought.
        user_email: Whose record.
        grant: The record's grant when the tokens were asked for; empty without a record.
        generation: The record's generation then; 0 without a record.
        tokens: What Zoom issued.
        epoch: The attempt's epoch; for a refresh.
        owner: As in `ConnectionRecord`; unless it is a refresh.
        begun_by: As in `ConnectionRecord`; unless it is a refresh.
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
class _Due:
    """An entry that is to be written.

    `named` once its file has its name, `kept` once that is durable. The descriptor is that of the file, which has the draft's name first.
    """

    entry: Entry
    draft: Path
    path: Path
    descriptor: int = -1
    named: bool = False
    kept: bool = False


class Observer(Protocol):
    """Counts what happens to the journal."""

    def journal_entries(self, count: int) -> None:
        """So many entries are held."""
        ...

    def journal_written(self) -> None:
        """An entry was written."""
        ...

    def journal_failed(self) -> None:
        """An entry could not be written: its tokens are in the memory of this process alone."""
        ...

    def journal_damaged(self) -> None:
        """A file was found that cannot be opened."""
        ...


class TokenJournal:
    """Keeps entries in one folder.

    What fails is logged and counted, and never stops whoever brings tokens: the store may take them all the same.

    Args:
        folder: Where; made with mode 0700 if it is not there.
        app: OAuth origin and client id; entries of another app are not opened.
        ring: Seals and opens.
        observer: Counts.
    """

    def __init__(self, folder: Path, *, app: str, ring: Ring, observer: Observer) -> None:
        self._folder = folder
        self._app = app
        self._ring = ring
        self._observer = observer
        self._due: deque[_Due] = deque()
        self._held: dict[str, int] = {}
        self._damaged: set[str] = set()
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    async def prepare(self) -> bool:
        """Make the folder, and find out whether it can be written; what was warned of when it cannot is in the log."""
        return await self._run(self._prepare)

    async def append(self, entry: Entry) -> bool:
        """Write an entry durably, in the place of one with its id. False if that failed; nothing of it was left behind then.

        Those that come while others are written are written together, and wait for the folder once.
        """
        name = entry.entry_id
        due = _Due(entry, self._folder / f".{name}-{secrets.token_hex(4)}", self._folder / f"{name}{_SUFFIX}")
        self._due.append(due)
        await self._run(self._write_due)
        (self._observer.journal_written if due.kept else self._observer.journal_failed)()
        self._observer.journal_entries(len(self._held))
        return due.kept

    async def delete(self, entry_id: str) -> None:
        """Delete an entry that this process holds; unknown ones are no mistake. A file that stays will be found again."""
        await self._run(self._delete_file, entry_id)
        self._observer.journal_entries(len(self._held))

    async def release(self, entry_id: str) -> None:
        """Let go of an entry that this process holds, so that it is claimed again, by whoever comes first."""
        await self._run(self._release, entry_id)
        self._observer.journal_entries(len(self._held))

    def has(self, entry_id: str) -> bool:
        """Tell whether there is an entry, whoever holds it."""
        return (self._folder / f"{entry_id}{_SUFFIX}").exists()

    async def claim(self) -> list[Entry]:
        """Take over the entries of processes that died. They stay on disk until they are forgotten."""
        claimed = await self._run(self._claim)
        self._observer.journal_entries(len(self._held))
        return claimed

    async def close(self) -> None:
        """Let go of what is held: entries that are left belong to whoever claims them next. Idempotent."""
        if not self._closed:
            self._closed = True
            await self._run(self._let_go)
            self._executor.shutdown(wait=True)

    async def _run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Run work on a thread of the journal. A caller that leaves does not stop it."""
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        )

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
                consequence="tokens that Zoom issued are lost if this process is killed before the store has them",
            )
            return False
        return True

    def _write_due(self) -> None:
        """Write all that is due, step by step for all of it: the disk then has less to wait for."""
        group = [self._due.popleft() for _ in range(len(self._due))]
        for step in (self._draft, self._sync, self._name):
            group = [due for due in group if self._succeeds(step, due)]
        try:
            if group:
                private_file.sync_folder(self._folder)
        except OSError as error:
            for due in group:
                self._abandon(due, error)
            return
        for due in group:
            self._release(due.entry.entry_id)  # the file that was in its place
            self._held[due.entry.entry_id] = due.descriptor
            due.kept = True

    def _succeeds(self, step: Callable[[_Due], None], due: _Due) -> bool:
        try:
            step(due)
        except OSError as error:
            self._abandon(due, error)
            return False
        return True

    def _draft(self, due: _Due) -> None:
        entry = due.entry
        content = self._ring.seal(orjson.dumps(asdict(entry)), self._associated(entry.entry_id))
        due.descriptor = os.open(due.draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(due.descriptor, fcntl.LOCK_EX)  # before it has the name by which others find it
        _write_whole(due.descriptor, content)

    def _sync(self, due: _Due) -> None:
        os.fsync(due.descriptor)

    def _name(self, due: _Due) -> None:
        due.draft.rename(due.path)
        due.named = True

    def _abandon(self, due: _Due, error: OSError) -> None:
        _log.error("journal.write_failed", entry=due.entry.entry_id, error=error.strerror)
        for path in (due.draft, due.path) if due.named else (due.draft,):
            with contextlib.suppress(OSError):
                path.unlink()
        if due.descriptor >= 0:
            os.close(due.descriptor)  # after the file is gone: nobody may find it without a holder

    def _delete_file(self, entry_id: str) -> None:
        descriptor = self._held.pop(entry_id, None)
        if descriptor is None:
            return
        try:
            (self._folder / f"{entry_id}{_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            _log.error("journal.delete_failed", entry=entry_id, error=error.strerror)
        finally:
            os.close(descriptor)  # after the file is gone: nobody may find it without a holder

    def _release(self, entry_id: str) -> None:
        descriptor = self._held.pop(entry_id, None)
        if descriptor is not None:
            os.close(descriptor)

    def _claim(self) -> list[Entry]:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.suffix == _SUFFIX)
        except OSError:
            return []
        found = (self._claim_one(self._folder / name) for name in names)
        return [entry for entry in found if entry is not None]

    def _claim_one(self, path: Path) -> Entry | None:
        """Take one file over, if nobody holds it and it can be opened."""
        name = path.name.removesuffix(_SUFFIX)
        if name in self._held:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None  # its holder has just finished
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                entry = self._open(name, os.read(descriptor, _MAX_BYTES))
                self._held[name], descriptor = descriptor, -1
                self._damaged.discard(name)
                return entry
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # else its holder lives
                self._report_damaged(name, "it cannot be read")
        except KeyUnavailable as error:
            self._report_damaged(name, f"key {error.metadata.get('key_id', '')} is not in the key ring")
        except (RecordUnreadable, ValueError, TypeError, KeyError):
            self._report_damaged(name, "it is damaged, or belongs to another Zoom app")
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _open(self, name: str, content: bytes) -> Entry:
        fields = orjson.loads(self._ring.open(content, self._associated(name)))
        fields["origin"] = Origin(fields["origin"])
        fields["tokens"] = TokenPair(**fields["tokens"])
        return Entry(**fields)

    def _report_damaged(self, name: str, why: str) -> None:
        if name not in self._damaged:
            self._damaged.add(name)
            self._observer.journal_damaged()
            _log.error("journal.entry_unreadable", entry=name[:_NAME_DIGITS], reason=why)

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def _associated(self, entry_id: str) -> bytes:
        return associated_data(_PURPOSE, self._app, entry_id)


def _write_whole(descriptor: int, content: bytes) -> None:
    """Write everything: on a disk that is about to be full the system may take a part, and say so by a number alone."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
