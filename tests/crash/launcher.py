"""The `zoomgate` command with operations that pause at named points: `python -m crash.launcher DIRECTORY serve …`.

DIRECTORY contains two files. `plan.json` lists the point at which the operations of each user pause, such as
`{"monica@example.com": "after_journal"}`. A paused operation continues when the plan no longer lists this point for the user.
For every point reached, the process appends a line to `trace`: process ID, user, point. The workers started by `serve --workers` use the
same directory.

The product contains no code for these tests. This program wraps the driver of the protocols, which still performs every effect.

A point pauses one operation, not the process, so that a process can be killed with operations at all points at the same time.

With the product's lease of 90 seconds, the tests would be too slow. The timeouts of leases and of stores are therefore shortened,
without changing their relative order, and unconfirmed revocations are retried more often.
If the environment variable `PROACTIVE_REFRESH_POLLS` is set, proactive refresh also polls more often.
"""

import asyncio
import functools
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoomgate_server.app import lifecycle, stores
from zoomgate_server.app.timing import Timing
from zoomgate_server.cli import main
from zoomgate_server.connections import disconnection, journal_recovery, proactive_refresh
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.lifecycle import effects
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.storage.record_store import StoreError
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
"""The points of a refresh."""

LINKING_POINTS = (
    "after_mark",  # the exchange mark is in the store
    "after_registration",  # the exchange is registered in the record of the address, if there is one
    "after_exchange",  # Zoom's response is only in the memory of this process
    "after_journal",  # the journal entry is synced to disk
    "after_identification",  # Zoom has named the user
    "after_journal_of_zoom_user",  # the journal entry names the Zoom user
    "after_commit",  # the token pair is in the store and still in the journal
    "after_audit",  # the audit trail contains the consent
    "after_settled_mark",  # the mark names the Zoom user
    "after_journal_delete",  # the journal entry is deleted; the caller has no response yet
)
"""The points of a consent, of a supplied refresh token and of an import."""

DEFERRAL_POINTS = (
    "after_delivered_mark",  # Zoom did not name the user; the mark states that a journal contains the token pair
    "after_journal_release",  # any process may continue with the journal entry
)
"""The points after `after_journal` if Zoom does not name the user."""

ADDRESS_POINTS = (
    "after_address_taken",  # the record of the address's previous Zoom user has no address
    "after_address_tombstone",  # the previous address of a renamed Zoom user has a tombstone
)
"""The additional points of a consent that changes the Zoom user of an address, or the address of a Zoom user."""

REVOCATION_POINTS = (
    "after_tombstone",  # the connection has ended
    "after_tombstone_audit",  # the audit trail contains the disconnection
    "after_revocation_lease",  # the lease is in the store; nothing was revoked
    "after_revocation",  # Zoom has revoked a token pair that is still in the store
    "after_erasure",  # the store contains no token of the user
)
"""The points of a disconnection and of the revocation that follows."""

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
    """Shorten the timeouts of the protocols and of the stores, and some poll intervals."""
    timing = Timing(
        store=STORE_TIMING,
        refreshes=REFRESHES,
        recovery=journal_recovery.Timing(POLL_SECONDS, first_pause=POLL_SECONDS),
        disconnections=disconnection.Timing(retry_interval=POLL_SECONDS),
    )
    if PROACTIVE_REFRESH_POLLS in os.environ:
        polls = proactive_refresh.Timing(
            first_poll_delay=POLL_SECONDS, used_poll_interval=POLL_SECONDS, idle_poll_interval=POLL_SECONDS
        )
        timing = replace(timing, proactive_refreshes=polls)
    lifecycle.run = functools.partial(lifecycle.run, timing=timing)


@dataclass(slots=True)
class Steps:
    """The points that a protocol passes.

    Attributes:
        name: Name of the protocol.
        attempt: ID of the attempt to exchange a code or token, or empty.
        passed: The points that were passed. Each point is passed once.
    """

    name: str
    attempt: str
    passed: set[str] = field(default_factory=set)

    def before(self, effect: effects.Effect) -> str:
        """Return the point that is passed before an effect, or an empty string."""
        match self.name, effect:
            case "refresh", effects.Read() if not self.passed:
                return "before_read"
            case "refresh", effects.ExchangeRefreshToken():
                return "before_exchange"
            case "refresh", effects.Put() if "after_journal" in self.passed:
                return "before_commit"
        return ""

    def after(self, effect: effects.Effect) -> str:
        """Return the point that is passed after a successful effect, or an empty string."""
        match effect:
            case effects.ExchangeCode() | effects.ExchangeRefreshToken():
                return "after_exchange"
            case effects.DeleteJournal():
                return "after_journal_delete"
        match self.name:
            case "refresh":
                return self._after_refresh_effect(effect)
            case "revoke":
                return self._after_revocation_effect(effect)
            case "disconnect" | "end_by_event":
                names = {effects.Put: "after_tombstone", effects.Audit: "after_tombstone_audit"}
                return names.get(type(effect), "")
        return self._after_linking_effect(effect)

    def _after_refresh_effect(self, effect: effects.Effect) -> str:
        match effect:
            case effects.AppendJournal():
                return "after_journal"
            case effects.Put() if "after_journal" in self.passed:
                return "after_commit"
            case effects.Put(record) if "before_exchange" not in self.passed and record.lease is not None:
                return "after_lease"
        return ""

    def _after_revocation_effect(self, effect: effects.Effect) -> str:
        match effect:
            case effects.Revoke():
                return "after_revocation"
            case effects.Put(record):
                return "after_erasure" if record.lease is None else "after_revocation_lease"
        return ""

    def _after_linking_effect(self, effect: effects.Effect) -> str:
        match effect:
            case effects.PutMark(mark) if mark.zoom_user_id:
                return "after_settled_mark"
            case effects.PutMark(mark):
                return "after_delivered_mark" if mark.delivered else "after_mark"
            case effects.ReadZoomUser():
                return "after_identification"
            case effects.AppendJournal(entry):
                return "after_journal_of_zoom_user" if entry.zoom_user_id else "after_journal"
            case effects.ReleaseJournal():
                return "after_journal_release"
            case effects.Put(record) if "after_exchange" not in self.passed and self.name == "exchange":
                return "after_registration"
            case effects.Put(record) if record.was_committed(self.attempt):
                return "after_commit"
            case effects.Put():
                return "after_address_tombstone" if "after_commit" in self.passed else "after_address_taken"
            case effects.Audit():
                return "after_audit" if "after_commit" in self.passed else ""
        return ""


def trace_protocols(points: Points) -> None:
    """Patch `EffectDriver` so that each protocol calls `points.passed` at every point."""
    run = EffectDriver.run

    async def traced_run(
        self: EffectDriver,
        protocol: effects.Protocol[Any],
        entry_id: str = "",
        perform: Callable[[effects.Effect], Awaitable[Any]] | None = None,
    ) -> Any:
        arguments = inspect.getgeneratorlocals(protocol)
        request = arguments.get("request") or arguments.get("entry")
        request = getattr(request, "draft", request)
        steps = Steps(protocol.gi_code.co_name if perform is None else "refresh", entry_id)
        user = await _user_email_of(self, arguments, request)

        async def passed(point: str) -> None:
            if user and point and point not in steps.passed:
                steps.passed.add(point)
                await points.passed(user, point)

        async def traced_perform(effect: effects.Effect) -> Any:
            await passed(steps.before(effect))
            result = await (perform or self.perform)(effect)
            if result or not isinstance(effect, effects.Put | effects.PutMark | effects.Revoke):
                await passed(steps.after(effect))
            return result

        return await run(self, protocol, entry_id, traced_perform)

    EffectDriver.run = traced_run  # type: ignore[method-assign]


async def _user_email_of(driver: EffectDriver, arguments: dict[str, Any], request: Any) -> str:
    """Return the email address that the arguments of a protocol name, or the address of the Zoom user that they name."""
    user_email = str(arguments.get("user_email") or getattr(request, "user_email", ""))
    if user_email:
        return user_email
    try:
        zoom_user_id = arguments.get("zoom_user_id") or request.zoom_user_id
        snapshot: effects.Snapshot = await driver.perform(effects.Read(zoom_user_id))
    except StoreError:
        return ""
    return "" if snapshot.record is None else snapshot.record.user_email


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
    trace_protocols(Points(Path(trace_directory)))
    trace_workers(trace_directory)
    main()
