"""A `zoomgate` command that kills itself at a point of an import: `python -m crash.killed_import TRACE POINT NUMBER import …`.

The process kills itself when it reaches POINT for the NUMBERth time. The point `any` matches every point; with any other point, rows are
imported one at a time. The file TRACE records each point reached. The product's own methods still run; this program only wraps them.
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
    "after_prepare",  # the record has been read from the store
    "after_exchange",  # Zoom's response exists only in the memory of this process
    "after_journal",  # the journal entry has been synced to disk
    "after_verification",  # Zoom has confirmed the user of the tokens
    "after_commit",  # the tokens are in the store and in the journal
    "after_journal_delete",  # the row is complete, but has no result yet
    "partial_result",  # the result has been written partially
    "after_result",  # the result has been written
)


class Points:
    """Writes the points that the process reaches to a file, and kills the process at the configured point."""

    def __init__(self, trace: Path, point: str, number: int) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._point = point
        self._remaining = number

    def should_kill(self, point: str) -> bool:
        """Return whether to kill the process at a point. Each call counts as reaching the point once."""
        if self._point in (point, "any"):
            self._remaining -= 1
            return self._remaining == 0
        return False

    def reach(self, point: str, subject: str = "") -> None:
        """Record a point, and kill the process at the configured point."""
        os.write(self._trace, f"{os.getpid()} {point} {subject}\n".encode())
        if self.should_kill(point):
            os.kill(os.getpid(), signal.SIGKILL)


def instrument(points: Points) -> None:
    """Wrap the methods that an import calls, so that each calls `points.reach` at its points."""
    prepare, refresh, send = AccountLinker.prepare, OAuthClient.refresh, ZoomClient.send
    append, delete, write, put = (
        TokenJournal.append,
        TokenJournal.delete,
        ConnectionRepository.write,
        Results._write,
    )

    async def traced_prepare(self: AccountLinker, user_email: str) -> Any:
        replaceable = await prepare(self, user_email)
        points.reach("after_prepare", user_email)
        return replaceable

    async def traced_refresh(self: OAuthClient, refresh_token: str) -> Any:
        points.reach("sent", refresh_token)
        outcome = await refresh(self, refresh_token)
        points.reach("after_exchange", refresh_token)
        return outcome

    async def traced_send(self: ZoomClient, *arguments: Any, **options: Any) -> Any:
        response = await send(self, *arguments, **options)
        points.reach("after_verification")
        return response

    async def traced_append(self: TokenJournal, entry: Entry) -> bool:
        appended = await append(self, entry)
        points.reach("after_journal", entry.user_email)
        return appended

    async def traced_delete(self: TokenJournal, entry_id: str) -> None:
        await delete(self, entry_id)
        points.reach("after_journal_delete")

    async def traced_write(self: ConnectionRepository, connection: Any) -> int | None:
        rev = await write(self, connection)
        points.reach("after_commit", connection.user_email)
        return rev

    def traced_result(self: Results, entry: dict[str, Any]) -> None:
        if "row" in entry and points.should_kill("partial_result"):
            self._file.write(orjson.dumps(entry)[:20])
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, entry)
        if "row" in entry:
            points.reach("after_result", entry["user"])

    AccountLinker.prepare, OAuthClient.refresh, ZoomClient.send = traced_prepare, traced_refresh, traced_send  # type: ignore[method-assign]
    TokenJournal.append, TokenJournal.delete, ConnectionRepository.write = (
        traced_append,
        traced_delete,
        traced_write,
    )  # type: ignore[method-assign]
    Results._write = traced_result  # type: ignore[method-assign]


if __name__ == "__main__":
    trace, point, number = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
    instrument(Points(Path(trace), point, int(number)))
    run.MAX_CONCURRENT_ROWS = run.MAX_CONCURRENT_ROWS if point == "any" else 1
    main()
