"""The simulator for tests of other people's code, whatever they are written with: it runs in a thread of its own.

@pytest.fixture
def zoom():
    with zoom_simulator.testing.running() as zoom:
        yield zoom
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from zoom_simulator.faults import Fault
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.server import Simulator
from zoom_simulator.webhooks import APP_REMOVED, USER_EVENTS

_T = TypeVar("_T")
_SECONDS = 30.0
_REDIRECT_URI = "http://127.0.0.1/"


@dataclass(frozen=True)
class Tokens:
    """What a consent gave.

    Attributes:
        access_token: Valid for `SimulatorOptions.access_token_seconds`.
        refresh_token: Works once, as Zoom's do.
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


class RunningSimulator:
    """A simulator that runs. Its methods may be called from any thread and return when they have taken effect.

    Attributes:
        url: Base address.
        api_url: Base address of the REST API, `…/v2`.
        oauth_url: Base address of the OAuth endpoints, `…/oauth`.
        client_id: Of the app that it knows.
        client_secret: Of that app; public, like everything here.
    """

    def __init__(self, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
        self._simulator = simulator
        self._loop = loop
        self.url, self.api_url, self.oauth_url = simulator.url, simulator.api_url, simulator.oauth_url
        self.client_id = simulator.options.client_id
        self.client_secret = simulator.options.client_secret

    def connect(self, email: str) -> Tokens:
        """Let a user consent without a browser.

        Raises:
            KeyError: Nobody has that address; see `SimulatorOptions.users`.
        """

        def consent() -> Tokens:
            zoom = self._simulator.zoom
            issued = zoom.exchange(zoom.issue_code(zoom.users[email], _REDIRECT_URI), _REDIRECT_URI, "")
            return Tokens(issued["access_token"], issued["refresh_token"])

        return self._do(consent)

    def happen(self, event: str, email: str) -> None:
        """Let something happen to a user at Zoom, and tell `SimulatorOptions.webhook_url`.

        Args:
            event: `app_deauthorized`, `user.deleted`, `user.deactivated` or `user.disassociated`.
            email: Whose address it is.

        Raises:
            KeyError: Nobody has that address.
            ValueError: There is no such event, or the user has not granted what is to be removed.
        """

        def happen() -> None:
            user = self._simulator.zoom.users[email]
            if event not in (APP_REMOVED, *USER_EVENTS) or not self._simulator.zoom.happen(event, user):
                raise ValueError(f"{event} cannot happen to {email}")
            self._simulator.webhooks.tell(event, user)

        self._do(happen)

    def expire(self, email: str | None = None) -> int:
        """Let the access tokens of a user, or of everybody, expire now; gives how many."""
        return self._do(lambda: self._simulator.zoom.expire(email))

    def add_fault(self, endpoint: str, kind: str, **fields: Any) -> None:
        """Switch a fault on; see `zoom_simulator.faults.Fault` for kinds, fields and limits.

        Raises:
            TypeError, ValueError: A field is unknown or out of its range.
        """
        fault = Fault(endpoint, kind, **fields)
        self._do(lambda: self._simulator.faults.add(fault))

    def clear_faults(self) -> None:
        """Switch all faults off; what a delay holds back is answered at once."""
        self._do(self._simulator.faults.clear)

    def advance_clock(self, seconds: float) -> None:
        """Move the simulator's clock forward.

        Raises:
            ValueError: It would go back, or beyond 2100.
        """
        self._do(lambda: self._simulator.zoom.wall.advance(seconds))

    def counters(self) -> dict[str, int]:
        """Give how often each thing happened, such as `token.refresh_token.issued` or `api.meetings`."""
        return self._do(lambda: dict(self._simulator.zoom.counters))

    def reset(self) -> None:
        """Make everything as it was at the start."""
        self._do(self._simulator.reset)

    def _do(self, work: Callable[[], _T]) -> _T:
        """Run something in the simulator's thread, where nothing else runs meanwhile."""

        async def run() -> _T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_SECONDS)


@contextmanager
def running(options: SimulatorOptions | None = None) -> Iterator[RunningSimulator]:
    """Run a simulator on a free port of this machine as long as the context lasts.

    Args:
        options: How it behaves; port 0 picks a free one, and is what you get without options.

    Raises:
        OSError: The address cannot be used.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="zoom-simulator", daemon=True)
    thread.start()
    try:
        simulator = Simulator(options or SimulatorOptions(port=0))
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(_SECONDS)
        try:
            yield RunningSimulator(simulator, loop)
        finally:
            asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)
        loop.close()
