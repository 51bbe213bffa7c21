"""The simulator as a test fixture, running in its own thread.

@pytest.fixture
def zoom():
    with zoom_simulator.testing.running() as zoom:
        yield zoom
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from zoom_simulator.faults import Fault
from zoom_simulator.options import Participant, SimulatedUser, SimulatorOptions
from zoom_simulator.playing import PLAYED_MINUTES
from zoom_simulator.server import Simulator, Tokens

_T = TypeVar("_T")
_TIMEOUT_SECONDS = 30.0


class RunningSimulator:
    """A running simulator.

    The methods may be called from any thread. They return after the operation is complete.

    Attributes:
        url: Base URL.
        api_url: Base URL of the REST API, `…/v2`.
        oauth_url: Base URL of the OAuth endpoints, `…/oauth`.
        client_id: Client ID of the registered app.
        client_secret: Client secret of the app. The default value is public.
    """

    def __init__(self, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
        self._simulator = simulator
        self._loop = loop
        self.url, self.api_url, self.oauth_url = simulator.url, simulator.api_url, simulator.oauth_url
        self.client_id = simulator.options.client_id
        self.client_secret = simulator.options.client_secret

    def connect(self, email: str) -> Tokens:
        """See `Simulator.connect`."""
        return self._run_in_loop(lambda: self._simulator.connect(email))

    def trigger_event(self, event: str, email: str) -> None:
        """See `Simulator.trigger_event`."""
        self._run_in_loop(lambda: self._simulator.trigger_event(event, email))

    def expire(self, email: str | None = None) -> int:
        """See `ZoomState.expire`."""
        return self._run_in_loop(lambda: self._simulator.zoom.expire(email))

    def rename(self, email: str, new_email: str) -> SimulatedUser:
        """See `ZoomState.rename`."""
        return self._run_in_loop(lambda: self._simulator.zoom.rename(email, new_email))

    def play(
        self,
        meeting_id: int,
        participants: Iterable[Participant] | None = None,
        minutes: float = PLAYED_MINUTES,
    ) -> list[str]:
        """See `Playing.play`."""
        return self._run_in_loop(lambda: self._simulator.playing.play(meeting_id, participants, minutes))

    def start_meeting(self, meeting_id: int) -> list[str]:
        """See `Playing.start`."""
        return self._run_in_loop(lambda: self._simulator.playing.start(meeting_id))

    def join_meeting(self, meeting_id: int, participants: Iterable[Participant] | None = None) -> list[str]:
        """See `Playing.join`."""
        return self._run_in_loop(lambda: self._simulator.playing.join(meeting_id, participants))

    def end_meeting(self, meeting_id: int) -> None:
        """See `Playing.end`."""
        self._run_in_loop(lambda: self._simulator.playing.end(meeting_id))

    def add_fault(self, endpoint: str, kind: str, **fields: Any) -> None:
        """Add a fault; see `zoom_simulator.faults.Fault` for kinds, fields and limits.

        Raises:
            TypeError, ValueError: A field is unknown or out of range.
            UnknownUser: No user has the email address `user`.
        """
        fault = Fault(endpoint, kind, **fields)
        self._run_in_loop(lambda: self._simulator.faults.add(fault))

    def clear_faults(self) -> None:
        """Remove all faults and release delayed requests."""
        self._run_in_loop(self._simulator.faults.clear)

    def advance_clock(self, seconds: float) -> None:
        """Move the simulator's clock forward.

        Raises:
            ValueError: The result would be in the past or after 2100.
        """
        self._run_in_loop(lambda: self._simulator.zoom.wall.advance(seconds))

    def counters(self) -> dict[str, int]:
        """Return the counters, such as `token.refresh_token.issued` or `api.meetings`."""
        return self._run_in_loop(lambda: dict(self._simulator.zoom.counters))

    def reset(self) -> None:
        """Restore the initial state."""
        self._run_in_loop(self._simulator.reset)

    def _run_in_loop(self, action: Callable[[], _T]) -> _T:
        """Run an action in the simulator's event loop, without interleaving requests."""

        async def run() -> _T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_TIMEOUT_SECONDS)


@contextmanager
def running(options: SimulatorOptions | None = None) -> Iterator[RunningSimulator]:
    """Run a simulator on the local machine for the duration of the context.

    Args:
        options: The options; by default, a free port is selected. Port 0 also selects a free port.

    Raises:
        OSError: The address cannot be used.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="zoom-simulator", daemon=True)
    thread.start()
    try:
        simulator = Simulator(options or SimulatorOptions(port=0))
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(_TIMEOUT_SECONDS)
        try:
            yield RunningSimulator(simulator, loop)
        finally:
            asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(_TIMEOUT_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_TIMEOUT_SECONDS)
        loop.close()
