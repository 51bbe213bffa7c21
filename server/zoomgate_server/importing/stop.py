"""Early termination of an import."""

import asyncio
import contextlib


class StopSignal:
    """A request to stop the import after the rows in progress.

    Attributes:
        requested: Set when the import stops.
        problem: The error message; empty if the user interrupted the import.
        no_response: Whether the import stops because Zoom or the store does not respond.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.problem = ""
        self.no_response = False

    def request(self, problem: str = "", *, no_response: bool = False) -> None:
        """Stop the import. Only the first request determines the reason."""
        if not self.requested.is_set():
            self.problem, self.no_response = problem, no_response
            self.requested.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this number of seconds, or until the import stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.requested.wait(), seconds)
