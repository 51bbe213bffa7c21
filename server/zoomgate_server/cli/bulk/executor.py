"""Doing the same with many connections through a running service: one after another, at a rate, and on past single failures."""

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
"""How long one refusal may hold the next refresh back; Zoom's daily limit would do so until tomorrow."""

_GLOBAL_FAILURES = frozenset({"STORE_UNAVAILABLE", "ZOOM_RATE_LIMITED", "ZOOM_UNAVAILABLE"})
"""Reasons that are no user's own: the next one would be refused as well before the pause is over."""


class Pace:
    """Keeps calls apart.

    Args:
        rate: Calls a second, at most.
        now: Reads a monotonic clock.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        rate: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._apart = 1 / rate
        self._now = now
        self._sleep = sleep
        self._next = now()

    def wait(self) -> None:
        """Wait until the next call may begin."""
        left = self._next - self._now()
        if left > 0:
            self._sleep(left)
        self._next = max(self._next, self._now()) + self._apart

    def hold(self, seconds: float) -> None:
        """Let no call begin for so many seconds."""
        self._next = max(self._next, self._now() + seconds)


@dataclass(frozen=True, slots=True)
class Failure:
    """A connection with which it could not be done.

    Attributes:
        user_email: Whose it is.
        reason: From the error vocabulary, or the name of a gRPC code.
        message: What to do about it.
    """

    user_email: str
    reason: str
    message: str


def for_each(
    connections: Iterable[Connection],
    act: Callable[[Connection], None],
    *,
    pace: Pace,
    failed: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Do something with every connection. Nothing is kept but a page of them.

    Ctrl-C lets the one that is under way end, and be counted; a second one does not wait for it.

    Args:
        connections: With which.
        act: Does it with one.
        pace: How fast.
        failed: Told of each with which it could not be done.
        advance: Told of every one.

    Raises:
        ZoomgateError: It can be done with none now: the service is not there, this caller may not do it, or Zoom refuses the app.
        KeyboardInterrupt: Somebody pressed Ctrl-C.
    """
    for connection in connections:
        pace.wait()
        with _undivided():
            try:
                act(connection)
            except errors.ZoomgateError as error:
                if _ends_it(error):
                    raise
                failed(Failure(connection.user_email, error.reason or error.code().name, error.message))
                if error.reason in _GLOBAL_FAILURES:
                    pace.hold(min(error.retry_delay or 0.0, LONGEST_PAUSE_SECONDS))
            advance(1)


@contextlib.contextmanager
def _undivided() -> Iterator[None]:
    """Keep the first Ctrl-C until this is done: a call that is cut off may have been carried out, and nobody would count it.

    Raises:
        KeyboardInterrupt: Somebody pressed Ctrl-C meanwhile.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    pressed = False

    def keep(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _ends_it(error: errors.ZoomgateError) -> bool:
    """Tell whether the next call would fail in the same way, whoever it is for."""
    if isinstance(error, errors.NotAllowed | errors.Unauthenticated):
        return True
    if isinstance(error, errors.ServiceUnavailable) and not error.reason:
        return True
    return error.reason == "APP_CREDENTIALS_REJECTED"
