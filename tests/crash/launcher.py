"""The service exactly as the command starts it, which waits at named points of a refresh: `python -m crash.launcher FOLDER serve …`.

FOLDER has two files. `plan.json` says at which point whose tokens wait: `{"monica@example.com": "after_keep"}`; they go on once the plan
no longer says so. In `trace` the process writes a line for every point that anybody's tokens pass: process id, user, point. Workers, which
`serve --workers` starts, do the same in the same folder. The product knows nothing of this: its own methods are wrapped, none is replaced.

The points of a refresh are in `POINTS`. A consent and a token that a caller brings have `after_spend`, `after_keep` and `after_commit`.

Only one refresh waits, not the process: what else it has to do goes on, so that one process can be killed at all points at once.

Nobody wants to wait for the leases of 90 seconds that are shipped, so the times of the protocol and of the stores are shorter here, in the
same order. With `UPKEEP_LOOKS` in the environment the upkeep looks all the time, too.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from zoomgate_server.cli import main
from zoomgate_server.connections import journal_recovery, proactive_refresh
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.storage import mongodb, sqlite

POINTS = (
    "before_read",  # nothing was done
    "after_lease",  # the store has the lease
    "before_spend",  # the lease was found long enough, and Zoom is asked next
    "after_spend",  # Zoom's answer is in the memory of this process alone
    "after_keep",  # the journal is synced
    "before_commit",  # the store is asked to take it next
    "after_commit",  # the store has it, and so has the journal
    "after_forget",  # all is done, and nobody was told
)
LEASE_SECONDS, CALL_SECONDS, MARGIN_SECONDS, GRACE_SECONDS = 2.5, 0.5, 0.5, 5.0
LOOK_SECONDS = 0.2
UPKEEP_LOOKS = "UPKEEP_LOOKS"
BUSY_SECONDS, SELECT_SECONDS, SOCKET_SECONDS, OPERATION_SECONDS = 1.0, 2.0, 3.0, 4.0


class Points:
    """The points that are passed.

    Args:
        folder: Of `plan.json` and `trace`.
    """

    def __init__(self, folder: Path) -> None:
        self._plan = folder / "plan.json"
        self._trace = os.open(folder / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def passed(self, user: str, point: str) -> None:
        """Write a point down, and wait there as long as the plan says so."""
        os.write(self._trace, f"{os.getpid()} {user} {point}\n".encode())
        while json.loads(self._plan.read_bytes()).get(user) == point:
            await asyncio.sleep(0.02)


def hurry() -> None:
    """Shorten the times of the protocol and of the stores."""
    protocol.LEASE_SECONDS, protocol.CALL_SECONDS, protocol.MARGIN_SECONDS = (
        LEASE_SECONDS,
        CALL_SECONDS,
        MARGIN_SECONDS,
    )
    protocol.GRACE_SECONDS = GRACE_SECONDS
    journal_recovery.POLL_INTERVAL = LOOK_SECONDS
    sqlite.BUSY_SECONDS = BUSY_SECONDS
    mongodb.SELECT_SECONDS, mongodb.SOCKET_SECONDS = SELECT_SECONDS, SOCKET_SECONDS
    mongodb.OPERATION_SECONDS = OPERATION_SECONDS
    if UPKEEP_LOOKS in os.environ:
        proactive_refresh.FIRST_POLL_DELAY = proactive_refresh.USED_POLL_INTERVAL = (
            proactive_refresh.IDLE_POLL_INTERVAL
        ) = LOOK_SECONDS


def watch_refreshes(points: Points) -> None:
    """Pass the points around the effects of refreshes."""
    perform = Refresher._perform
    seen: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()

    async def performing(
        self: Refresher, user: str, effect: protocol.Effect, flight: Any
    ) -> protocol.EffectResult:
        done = seen.setdefault(flight, set())

        async def passed(point: str) -> None:
            if point not in done:
                done.add(point)
                await points.passed(user, point)

        match effect:
            case protocol.Read() if not done:
                await passed("before_read")
            case protocol.ExchangeRefreshToken():
                await passed("before_spend")
            case protocol.Put() if "after_keep" in done:
                await passed("before_commit")
        answer = await perform(self, user, effect, flight)
        match effect:
            case protocol.Put(record) if "before_spend" not in done and record.lease is not None and answer:
                await passed("after_lease")
            case protocol.Put() if "after_keep" in done and answer:
                await passed("after_commit")
            case protocol.ExchangeRefreshToken():
                await passed("after_spend")
            case protocol.AppendJournal():
                await passed("after_keep")
            case protocol.DeleteJournal():
                await passed("after_forget")
        return answer

    Refresher._perform = performing  # type: ignore[method-assign]


def watch_adoptions(points: Points) -> None:
    """Pass the points around what the journal does for consents and for tokens that callers bring."""
    keep, forget = TokenJournal.append, TokenJournal.delete
    users: dict[str, str] = {}

    async def keeping(self: TokenJournal, entry: Entry) -> bool:
        if entry.origin is Origin.REFRESH:
            return await keep(self, entry)
        users[entry.entry_id] = entry.user_email
        await points.passed(entry.user_email, "after_spend")
        kept = await keep(self, entry)
        await points.passed(entry.user_email, "after_keep")
        return kept

    async def forgetting(self: TokenJournal, entry_id: str) -> None:
        if entry_id in users:
            await points.passed(users.pop(entry_id), "after_commit")
        await forget(self, entry_id)

    TokenJournal.append, TokenJournal.delete = keeping, forgetting  # type: ignore[method-assign]


def watch_workers(folder: str) -> None:
    """Start workers with this program too."""
    start = asyncio.create_subprocess_exec

    def starting(*command: Any, **options: Any) -> Any:
        at = command.index("zoomgate_server")
        return start(*command[:at], "crash.launcher", folder, *command[at + 1 :], **options)

    asyncio.create_subprocess_exec = starting


if __name__ == "__main__":
    watched = sys.argv.pop(1)
    hurry()
    watch_refreshes(Points(Path(watched)))
    watch_adoptions(Points(Path(watched)))
    watch_workers(watched)
    main()
