"""The `zoomgate` command on a disk that becomes full: `python -m service.importing.full FILES NUMBER import …`.

Writes to FILES (`results`, `audit` or `journal`) fail, starting with the NUMBERth write. The methods of the product are wrapped, not
replaced. With `sync`, the results are written, but cannot be synced.
"""

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.cli import main
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.importing.results import Results


class Disk:
    """A disk with space for a limited number of writes."""

    def __init__(self, writes: int) -> None:
        self._remaining = writes

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Count a write. If the limit is exceeded, no file can grow within the block."""
        self._remaining -= 1
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._remaining < 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def limit_writes(disk: Disk, files: str) -> None:
    """Limit the writes to `results`, `audit` or `journal` to the number that the disk has space for."""
    put, require, draft = Results._write, AuditTrail.require, TokenJournal._draft

    def write_result(self: Results, entry: dict[str, Any]) -> None:
        with disk.write():
            put(self, entry)

    def write_event(self: AuditTrail, event: AuditEvent) -> None:
        with disk.write():
            require(self, event)

    def write_entry(self: TokenJournal, due: Any) -> None:
        with disk.write():
            draft(self, due)

    if files == "results":
        Results._write = write_result  # type: ignore[method-assign]
    elif files == "audit":
        AuditTrail.require = write_event  # type: ignore[method-assign]
    else:
        TokenJournal._draft = write_entry  # type: ignore[method-assign]


def reject_sync() -> None:
    """Let the sync of results files fail, as after an I/O error of the disk."""
    fsync = os.fsync

    def fail_for_results(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().suffixes[-2:] == [".results", ".jsonl"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    os.fsync = fail_for_results


if __name__ == "__main__":
    files, number = sys.argv.pop(1), sys.argv.pop(1)
    if files == "sync":
        reject_sync()
    else:
        limit_writes(Disk(int(number)), files)
    main()
