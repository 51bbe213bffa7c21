"""Capture of the log events of this process."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from zoomgate_server.telemetry import logs


@contextlib.contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Yield the events that are logged within the context, instead of writing them."""
    events: list[dict[str, Any]] = []
    with mock.patch.object(logs, "write_line", events.append):
        yield events
