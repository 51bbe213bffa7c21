"""Early termination of an import."""

import asyncio
import contextlib
from enum import Enum


class StopReason(Enum):
    """The reason why an import stops before its last row.

    Attributes:
        INTERRUPTED: The user interrupted the import.
        NO_RESPONSE: Zoom or the store does not respond.
        FATAL_ERROR: Every further row would fail in the same way.
    """

    INTERRUPTED = "interrupted"
    NO_RESPONSE = "no_response"
    FATAL_ERROR = "fatal_error"


class StopSignal:
    """A request to stop the import after the rows in progress.

    Attributes:
        reason: The reason to stop; None while the import continues.
        problem: The error message; may be empty.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.problem = ""
        self._event = asyncio.Event()

    def request(self, reason: StopReason, problem: str = "") -> None:
        """Stop the import. Only the first request determines the reason."""
        if self.reason is None:
            self.reason, self.problem = reason, problem
            self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this number of seconds, or until the import stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
