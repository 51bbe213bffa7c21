"""A thread that writes log lines, so that a log reader that has stopped does not block the event loop."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

MAX_QUEUED_LINES = 10_000
"""Number of lines that wait for a slow reader. Further lines are dropped."""

PAUSE_SECONDS = 0.02
"""Pause after the queue was written. If the thread and the event loop took turns for every line, calls would take 7 % longer."""


class LogWriter:
    """A writer of lines to a file descriptor, in a separate thread.

    Args:
        on_resume: Called in the thread with the number of lines that were dropped, once the reader has caught up.
    """

    def __init__(self, descriptor: int, on_resume: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._on_resume = on_resume
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._dropped = 0
        # a daemon, since it cannot be stopped while the reader blocks it
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> bool:
        """Queue a line, or drop it and return False if too many lines are waiting. Never blocks."""
        if self._lines.qsize() >= MAX_QUEUED_LINES:
            self._dropped += 1
            return False
        self._lines.put(line)
        return True

    def close(self, seconds: float) -> bool:
        """Wait at most `seconds` until the queued lines are written. Return whether they were."""
        self._lines.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        batch = b""
        while (line := self._lines.get()) is not None:
            # a write of at most this size to a pipe is atomic, so that lines of several workers are not mixed
            if len(batch) + len(line) > select.PIPE_BUF:
                self._write(batch)
                batch = b""
            batch += line
            if self._lines.empty():
                self._write(batch)
                batch = b""
                if self._dropped and self._lines.empty():  # a full queue would drop the report, too
                    dropped, self._dropped = self._dropped, 0
                    self._on_resume(dropped)
                time.sleep(PAUSE_SECONDS)
        self._write(batch)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except (
                    BlockingIOError
                ):  # the descriptor does not block, for example because it is shared with a terminal
                    select.select([], [self._descriptor], [])
