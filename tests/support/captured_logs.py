"""The log lines of this process."""

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any


class LogStream(io.StringIO):
    """A stream that can be closed at the other end."""

    is_closed_by_reader = False

    def __init__(self) -> None:
        super().__init__()
        self.captures: list[list[dict[str, Any]]] = []

    def write(self, text: str) -> int:
        if self.is_closed_by_reader:
            raise BrokenPipeError(32, "Broken pipe")
        for events in self.captures:
            events.append(json.loads(text))
        return super().write(text)


STREAM = LogStream()
"""The log of the tests."""


@contextlib.contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Yield the events that are logged within the context."""
    events: list[dict[str, Any]] = []
    STREAM.captures.append(events)
    try:
        yield events
    finally:
        STREAM.captures = [other for other in STREAM.captures if other is not events]
