"""Whether an import goes on."""

import asyncio
import contextlib
from enum import Enum


class StopReason(Enum):
    """Why an import ends before its last row.

    Attributes:
        ASKED: Somebody wants it to.
        SILENCE: Zoom or the store answers nobody.
        FAULT: Every other row would fail in the same way.
    """

    ASKED = "asked"
    SILENCE = "silence"
    FAULT = "fault"


class Stop:
    """Ends an import after the rows that are under way.

    Attributes:
        why: None while it goes on.
        problem: What to do about it, or empty.
    """

    def __init__(self) -> None:
        self.why: StopReason | None = None
        self.problem = ""
        self._event = asyncio.Event()

    def request(self, why: StopReason, problem: str = "") -> None:
        """End it. Who comes first says why."""
        if self.why is None:
            self.why, self.problem = why, problem
            self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds, or until it ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
