"""The `zoomgate` command with operations that pause at named points: `python -m crash.launcher DIRECTORY serve …`.

DIRECTORY contains two files. `plan.json` lists the point at which the operations of each user pause, such as
`{"monica@example.com": "after_journal"}`. A paused operation continues when the plan no longer lists this point for the user.
For every point reached, the process appends a line to `trace`: process ID, user, point. The workers started by `serve --workers` use the
same directory.

The product contains no code for these tests. This program wraps the product's methods, which still run.

`POINTS` lists the points of a refresh. Consents and imports of refresh tokens have only the points `after_exchange`, `after_journal` and
`after_commit`.

A point pauses one operation, not the process, so that a process can be killed with operations at all points at the same time.

With the product's lease of 90 seconds, the tests would be too slow. The timeouts of refreshes and of stores are therefore shortened,
without changing their relative order.
If the environment variable `PROACTIVE_REFRESH_POLLS` is set, proactive refresh also polls more often.
"""

import asyncio
import functools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from zoomgate_server.app import lifecycle, stores
from zoomgate_server.app.timing import Timing
from zoomgate_server.cli import main
from zoomgate_server.connections import journal_recovery, proactive_refresh
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.storage.timing import MongoTiming, SqliteTiming

POINTS = (
    "before_read",  # the refresh has not performed any step
    "after_lease",  # the lease is in the store
    "before_exchange",  # the remaining lease time is sufficient; the next step is the call to Zoom
    "after_exchange",  # Zoom's response is only in the memory of this process
    "after_journal",  # the journal entry is synced to disk
    "before_commit",  # the next step is the write to the store
    "after_commit",  # the token pair is in the store and still in the journal
    "after_journal_delete",  # the journal entry is deleted; the caller has no response yet
)
REFRESHES = protocol.Timing(lease=2.5, call=0.5, margin=0.5, grace=5.0)
POLL_SECONDS = 0.2
PROACTIVE_REFRESH_POLLS = "PROACTIVE_REFRESH_POLLS"
STORE_TIMING = stores.Timing(
    sqlite=SqliteTiming(busy_timeout=1.0),
    mongodb=MongoTiming(selection_timeout=2.0, socket_timeout=3.0, operation_timeout=4.0),
)


class Points:
    """The plan, which is read from a directory, and the trace, which is written to the same directory."""

    def __init__(self, directory: Path) -> None:
        self._plan = directory / "plan.json"
        self._trace = os.open(directory / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def passed(self, user: str, point: str) -> None:
        """Append a point to the trace, and pause as long as the plan lists this point for the user."""
        os.write(self._trace, f"{os.getpid()} {user} {point}\n".encode())
        while json.loads(self._plan.read_bytes()).get(user) == point:
            await asyncio.sleep(0.02)


def shorten_timeouts() -> None:
    """Shorten the timeouts of the refresh protocol and of the stores, and some poll intervals."""
    timing = Timing(store=STORE_TIMING, refreshes=REFRESHES, recovery=journal_recovery.Timing(POLL_SECONDS))
    if PROACTIVE_REFRESH_POLLS in os.environ:
        polls = proactive_refresh.Timing(
            first_poll_delay=POLL_SECONDS, used_poll_interval=POLL_SECONDS, idle_poll_interval=POLL_SECONDS
        )
        timing = replace(timing, proactive_refreshes=polls)
    lifecycle.run = functools.partial(lifecycle.run, timing=timing)


def trace_refreshes(points: Points) -> None:
    """Patch `Refresher` so that each refresh calls `points.passed` at every point in `POINTS`."""
    perform = Refresher._perform
    seen: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()

    async def traced_perform(self: Refresher, effect: protocol.Effect, flight: Any) -> protocol.EffectResult:
        done = seen.setdefault(flight, set())

        async def passed(point: str) -> None:
            if point not in done:
                done.add(point)
                await points.passed(flight.user_email, point)

        match effect:
            case protocol.Read() if not done:
                await passed("before_read")
            case protocol.ExchangeRefreshToken():
                await passed("before_exchange")
            case protocol.Put() if "after_journal" in done:
                await passed("before_commit")
        result = await perform(self, effect, flight)
        match effect:
            case protocol.Put(record) if (
                "before_exchange" not in done and record.lease is not None and result
            ):
                await passed("after_lease")
            case protocol.Put() if "after_journal" in done and result:
                await passed("after_commit")
            case protocol.ExchangeRefreshToken():
                await passed("after_exchange")
            case protocol.AppendJournal():
                await passed("after_journal")
            case protocol.DeleteJournal():
                await passed("after_journal_delete")
        return result

    Refresher._perform = traced_perform  # type: ignore[method-assign]


def trace_account_linking(points: Points) -> None:
    """Patch `TokenJournal` so that consents and imports of refresh tokens call `points.passed` at each of their points."""
    append, delete = TokenJournal.append, TokenJournal.delete
    users: dict[str, str] = {}

    async def traced_append(self: TokenJournal, entry: Entry) -> bool:
        if entry.origin is Origin.REFRESH:
            return await append(self, entry)
        users[entry.entry_id] = entry.user_email
        await points.passed(entry.user_email, "after_exchange")
        appended = await append(self, entry)
        await points.passed(entry.user_email, "after_journal")
        return appended

    async def traced_delete(self: TokenJournal, entry_id: str) -> None:
        if entry_id in users:
            await points.passed(users.pop(entry_id), "after_commit")
        await delete(self, entry_id)

    TokenJournal.append, TokenJournal.delete = traced_append, traced_delete  # type: ignore[method-assign]


def trace_workers(directory: str) -> None:
    """Patch the supervisor so that it starts the workers with this program instead of `zoomgate_server`."""
    start = asyncio.create_subprocess_exec

    def start_traced(*command: Any, **options: Any) -> Any:
        at = command.index("zoomgate_server")
        return start(*command[:at], "crash.launcher", directory, *command[at + 1 :], **options)

    asyncio.create_subprocess_exec = start_traced


if __name__ == "__main__":
    trace_directory = sys.argv.pop(1)
    shorten_timeouts()
    trace_refreshes(Points(Path(trace_directory)))
    trace_account_linking(Points(Path(trace_directory)))
    trace_workers(trace_directory)
    main()
