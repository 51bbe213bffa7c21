"""`zoomgate` as the command starts it, killed at a point of an import: `python -m crash.killed_import TRACE POINT NUMBER import …`.

The process kills itself when it passes POINT for the NUMBERth time; `any` is every point, else rows come one by one.
TRACE gets a line for each point that is passed.
The product knows nothing of this: its own methods are wrapped, none is replaced.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import orjson

from zoomgate_server.cli import main
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, TokenJournal
from zoomgate_server.importing import run
from zoomgate_server.importing.results import Results
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient

POINTS = (
    "after_prepare",  # the store was read, and nothing was done
    "after_spend",  # Zoom's answer is in the memory of this process alone
    "after_keep",  # the journal is synced
    "after_whose",  # Zoom has said whose the tokens are
    "after_commit",  # the store has them, and so has the journal
    "after_forget",  # all is done, and nobody was told
    "half_noted",  # the result is cut off in its middle
    "after_note",  # the result is written
)


class Points:
    """The points that are passed."""

    def __init__(self, trace: Path, point: str, number: int) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._point = point
        self._left = number

    def counts(self, point: str) -> bool:
        """Whether the process is to be killed at this one."""
        if self._point in (point, "any"):
            self._left -= 1
            return self._left == 0
        return False

    def passed(self, point: str, who: str = "") -> None:
        """Write a point down, and end there if it is the one."""
        os.write(self._trace, f"{os.getpid()} {point} {who}\n".encode())
        if self.counts(point):
            os.kill(os.getpid(), signal.SIGKILL)


def watch(points: Points) -> None:
    """Wrap what an import does."""
    prepare, refresh, send = AccountLinker.prepare, OAuthClient.refresh, ZoomClient.send
    keep, forget, write, put = (
        TokenJournal.append,
        TokenJournal.delete,
        ConnectionRepository.write,
        Results._write,
    )

    async def preparing(self: AccountLinker, user_email: str) -> Any:
        found = await prepare(self, user_email)
        points.passed("after_prepare", user_email)
        return found

    async def refreshing(self: OAuthClient, refresh_token: str) -> Any:
        points.passed("sent", refresh_token)
        outcome = await refresh(self, refresh_token)
        points.passed("after_spend", refresh_token)
        return outcome

    async def sending(self: ZoomClient, *arguments: Any, **options: Any) -> Any:
        answer = await send(self, *arguments, **options)
        points.passed("after_whose")
        return answer

    async def keeping(self: TokenJournal, entry: Entry) -> bool:
        kept = await keep(self, entry)
        points.passed("after_keep", entry.user_email)
        return kept

    async def forgetting(self: TokenJournal, entry_id: str) -> None:
        await forget(self, entry_id)
        points.passed("after_forget")

    async def writing(self: ConnectionRepository, connection: Any) -> int | None:
        rev = await write(self, connection)
        points.passed("after_commit", connection.user_email)
        return rev

    def noting(self: Results, entry: dict[str, Any]) -> None:
        if "row" in entry and points.counts("half_noted"):
            self._file.write(orjson.dumps(entry)[:20])
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, entry)
        if "row" in entry:
            points.passed("after_note", entry["user"])

    AccountLinker.prepare, OAuthClient.refresh, ZoomClient.send = preparing, refreshing, sending  # type: ignore[method-assign]
    TokenJournal.append, TokenJournal.delete, ConnectionRepository.write = keeping, forgetting, writing  # type: ignore[method-assign]
    Results._write = noting  # type: ignore[method-assign]


if __name__ == "__main__":
    trace, point, number = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
    watch(Points(Path(trace), point, int(number)))
    run.AT_ONCE = run.AT_ONCE if point == "any" else 1
    main()
