"""Sequential, rate-limited execution of an operation on many connections. A failure for one user does not stop the run."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType

from zoomgate import errors
from zoomgate.v1.connection_pb2 import Connection

LONGEST_PAUSE_SECONDS = 60.0
"""Maximum pause after a failure that affects all users, in seconds. At Zoom's daily limit, Zoom requests a delay until the next day."""

_GLOBAL_FAILURES = frozenset({"STORE_UNAVAILABLE", "ZOOM_RATE_LIMITED", "ZOOM_UNAVAILABLE"})
"""Reasons of temporary failures that affect all users. Until the retry delay has passed, further calls would also fail."""


class RateLimiter:
    """A rate limiter for calls.

    Args:
        rate: The maximum number of calls per second.
        now: Returns the time of a monotonic clock, in seconds.
    """

    def __init__(
        self,
        rate: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 1 / rate
        self._now = now
        self._sleep = sleep
        self._next = now()

    def wait(self) -> None:
        """Wait until the next call may start."""
        remaining = self._next - self._now()
        if remaining > 0:
            self._sleep(remaining)
        self._next = max(self._next, self._now()) + self._interval

    def hold(self, seconds: float) -> None:
        """Delay the next call by at least this number of seconds from now."""
        self._next = max(self._next, self._now() + seconds)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed operation on one connection.

    Attributes:
        user_email: The user of the connection.
        reason: An ErrorReason, or the name of a gRPC status code.
        message: The error message.
    """

    user_email: str
    reason: str
    message: str


def for_each(
    connections: Iterable[Connection],
    operation: Callable[[Connection], None],
    *,
    pace: RateLimiter,
    on_failure: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Run an operation on every connection. At most one page of connections is held in memory.

    On the first Ctrl+C, the current operation finishes and is counted. A second Ctrl+C interrupts the operation.

    Args:
        on_failure: Called for every connection whose operation failed.
        advance: Called with 1 after every connection.

    Raises:
        ZoomgateError: No call can succeed: the service is unreachable, the caller is not allowed, or Zoom rejects the app.
        KeyboardInterrupt: Ctrl+C was pressed.
    """
    for connection in connections:
        pace.wait()
        with _defer_interrupt():
            try:
                operation(connection)
            except errors.ZoomgateError as error:
                if _affects_all(error):
                    raise
                on_failure(Failure(connection.user_email, error.reason or error.code().name, error.message))
                if error.reason in _GLOBAL_FAILURES:
                    pace.hold(min(error.retry_delay or 0.0, LONGEST_PAUSE_SECONDS))
            advance(1)


@contextlib.contextmanager
def _defer_interrupt() -> Iterator[None]:
    """Defer the first Ctrl+C to the end of the block, so that every call that takes effect is counted.

    Raises:
        KeyboardInterrupt: Ctrl+C was pressed within the block.
    """
    previous = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is not threading.main_thread()
        or previous is not signal.default_int_handler
    ):
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
