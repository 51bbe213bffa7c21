"""`zoomgate` as the command starts it, on a disk that becomes full: `python -m service.importing.full WHAT NUMBER import …`.

From the NUMBERth line or entry of WHAT on, which is `results`, `audit` or `journal`, the system takes no more of it.
The product knows nothing of this: its own methods are wrapped, none is replaced.
"""

import contextlib
import resource
import sys
from collections.abc import Iterator
from typing import Any

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.cli import main
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.importing.results import Results


class Disk:
    """Has room for so many more writes of one kind."""

    def __init__(self, left: int) -> None:
        self._left = left

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Let no file grow any more, as long as this lasts, once there is no room."""
        self._left -= 1
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self._left < 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(disk: Disk, what: str) -> None:
    """Let one kind of files go to a disk."""
    put, require, draft = Results._write, AuditTrail.require, TokenJournal._draft

    def noting(self: Results, entry: dict[str, Any]) -> None:
        with disk.write():
            put(self, entry)

    def telling(self: AuditTrail, event: AuditEvent) -> None:
        with disk.write():
            require(self, event)

    def drafting(self: TokenJournal, due: Any) -> None:
        with disk.write():
            draft(self, due)

    if what == "results":
        Results._write = noting  # type: ignore[method-assign]
    elif what == "audit":
        AuditTrail.require = telling  # type: ignore[method-assign]
    else:
        TokenJournal._draft = drafting  # type: ignore[method-assign]


if __name__ == "__main__":
    what, number = sys.argv.pop(1), sys.argv.pop(1)
    fill(Disk(int(number)), what)
    main()
