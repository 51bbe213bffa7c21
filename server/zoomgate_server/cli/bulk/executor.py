"""Sequential, rate-limited execution of an operation on many connections. A failure for one user does not stop the run."""

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType

import click

from zoomgate import errors
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.output import FAILURE, fail_if_unreadable, note, print_json
from zoomgate_server.cli.progress import progress
from zoomgate_server.rate_limiter import RateLimiter
from zoomgate_server.telemetry.logs import escape, plain

MAX_PAUSE_SECONDS = 60.0
"""Maximum pause after a failure that affects all users, in seconds. At Zoom's daily limit, Zoom requests a delay until the next day."""

_GLOBAL_FAILURES = frozenset({"STORE_UNAVAILABLE", "ZOOM_RATE_LIMITED", "ZOOM_UNAVAILABLE"})
"""Reasons of temporary failures that affect all users. Until the retry delay has passed, further calls would also fail."""


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """An operation on many connections.

    Attributes:
        participle: The operation in the progress display, such as `refreshing`.
        unit: The plural noun in the progress display, such as `tokens`.
        outcomes: The name of each outcome in the JSON summary, and its text in the summary for users.
        connections: Returns the connections, loaded page by page. It can be called repeatedly.
        apply: Performs the operation on a connection, and returns the outcome.
        is_due: Returns whether a connection needs the operation; other connections are skipped without a call.
        unreadable_users: The users whose connections `connections` has omitted so far because the service cannot decrypt them.
    """

    participle: str
    unit: str
    outcomes: Mapping[str, str]
    connections: Callable[[], Iterator[Connection]]
    apply: Callable[[Connection], str]
    is_due: Callable[[Connection], bool] = lambda _: True
    unreadable_users: Collection[str] = ()

    def count(self) -> int:
        """Return the number of connections that need the operation."""
        return sum(map(self.is_due, self.connections()))


def run(
    operation: BulkOperation,
    limiter: RateLimiter,
    *,
    total: int | None = None,
    as_json: bool,
    next_step: str,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run an operation, and print each failure and a summary; exit with an error if the run is stopped or an operation failed.

    On the first Ctrl+C, the current operation finishes and is counted. A second Ctrl+C interrupts the operation.

    Args:
        total: The number of connections that need the operation, for the progress display. If None, they are counted first.
        next_step: How to process the remaining users; printed if the run is stopped or an operation failed.

    Raises:
        ZoomgateError: No call can succeed: the service is unreachable, the caller is not allowed, or Zoom rejects the app.
    """
    counts: Counter[str] = Counter()
    stopped = True
    try:
        total = operation.count() if total is None else total
        with progress(operation.participle, total, operation.unit) as advance:
            for connection in operation.connections():
                if not operation.is_due(connection):
                    counts["skipped"] += 1
                    continue
                sleep(limiter.reserve())
                with _defer_interrupt():
                    counts[_apply(operation, connection, limiter, as_json=as_json)] += 1
                    advance(1)
        stopped = False
    except KeyboardInterrupt:
        pass
    finally:
        _print_summary(operation, counts, stopped=stopped, as_json=as_json)
        if stopped or counts["failed"]:
            note(next_step)
    fail_if_unreadable(operation.unreadable_users)
    if stopped or counts["failed"]:
        raise SystemExit(FAILURE)


def _apply(operation: BulkOperation, connection: Connection, limiter: RateLimiter, *, as_json: bool) -> str:
    """Perform the operation on one connection, print a failure, and return the outcome."""
    try:
        return operation.apply(connection)
    except errors.ZoomgateError as error:
        if _affects_all(error):
            raise
        user_email, reason = connection.user_email, error.reason or error.code().name
        if as_json:
            print_json({"userEmail": user_email, "reason": reason, "message": error.message})
        else:
            click.echo(f"{escape(user_email)}  {escape(reason)}  {plain(error.message)}")
        if error.reason in _GLOBAL_FAILURES:
            limiter.hold(min(error.retry_delay or 0.0, MAX_PAUSE_SECONDS))
        return "failed"


def _print_summary(operation: BulkOperation, counts: Counter[str], *, stopped: bool, as_json: bool) -> None:
    if as_json:
        print_json({name: counts[name] for name in operation.outcomes} | {"stopped": stopped})
    listed = ", ".join(f"{counts[name]} {text}" for name, text in operation.outcomes.items())
    note(f"{'stopped: ' if stopped else ''}{listed}")


@contextlib.contextmanager
def _defer_interrupt() -> Iterator[None]:
    """Defer the first Ctrl+C to the end of the block, so that every call that takes effect is counted."""
    previous = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or previous is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def defer(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, defer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted:
        raise KeyboardInterrupt


def _affects_all(error: errors.ZoomgateError) -> bool:
    """Return whether the next call would fail in the same way for any user."""
    if isinstance(error, errors.NotAllowed | errors.Unauthenticated):
        return True
    if isinstance(error, errors.ServiceUnavailable) and not error.reason:
        return True
    return error.reason == "APP_CREDENTIALS_REJECTED"
