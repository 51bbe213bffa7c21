"""Refreshing the tokens of everybody who is connected, for `zoomgate connections refresh --all`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from zoomgate import Client, errors
from zoomgate.v1.connection_pb2 import Connection

LONGEST_PAUSE_SECONDS = 60.0
"""How long one refusal may hold the next refresh back; Zoom's daily limit would do so until tomorrow."""

_EVERYBODYS = frozenset({"STORE_UNAVAILABLE", "ZOOM_RATE_LIMITED", "ZOOM_UNAVAILABLE"})
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
    """A token that was not refreshed.

    Attributes:
        user_email: Whose it is.
        reason: From the error vocabulary, or the name of a gRPC code.
        message: What to do about it.
    """

    user_email: str
    reason: str
    message: str


@dataclass(slots=True)
class Count:
    """How far it got.

    Attributes:
        refreshed: Tokens that were refreshed.
        fresh: Tokens that somebody had refreshed less than a minute before.
        skipped: Connections that needed nothing: refreshed since the time that was given, or ended meanwhile.
        failed: Tokens that were not refreshed.
    """

    refreshed: int = 0
    fresh: int = 0
    skipped: int = 0
    failed: int = 0


def is_due(connection: Connection, since: datetime | None) -> bool:
    """Tell whether the token of a connection was issued before a time; with None each one is due."""
    return (
        since is None or connection.refresh_time.ToNanoseconds() < int(since.timestamp() * 1000) * 1_000_000
    )


def active(client: Client) -> Iterator[Connection]:
    """Go through the connections that can be refreshed, page by page."""
    return client.connections(states=[Connection.STATE_ACTIVE])


def refresh_all(
    client: Client,
    *,
    since: datetime | None,
    pace: Pace,
    count: Count,
    failed: Callable[[Failure], None],
    advance: Callable[[int], None],
) -> None:
    """Refresh the token of everybody who is connected, one after another. Nothing is kept but a page of connections.

    Args:
        client: Of the service.
        since: Leave out whose token was issued at this time or later.
        pace: How fast.
        count: Told of each connection.
        failed: Told of each token that was not refreshed.
        advance: Told of every connection that was due.

    Raises:
        ZoomgateError: No token can be refreshed now: the service is not there, this caller may not do it, or Zoom refuses the app.
    """
    for connection in active(client):
        if not is_due(connection, since):
            count.skipped += 1
            continue
        pace.wait()
        try:
            token = client.auth.refresh_token(user_email=connection.user_email).token
        except errors.NotConnected:
            count.skipped += 1
        except errors.ZoomgateError as error:
            if _ends_it(error):
                raise
            count.failed += 1
            failed(Failure(connection.user_email, error.reason or error.code().name, error.message))
            if error.reason in _EVERYBODYS:
                pace.hold(min(error.retry_delay or 0.0, LONGEST_PAUSE_SECONDS))
        else:
            if token.generation == connection.generation:
                count.fresh += 1
            else:
                count.refreshed += 1
        advance(1)


def _ends_it(error: errors.ZoomgateError) -> bool:
    """Tell whether the next call would fail in the same way, whoever it is for."""
    if isinstance(error, errors.NotAllowed | errors.Unauthenticated):
        return True
    if isinstance(error, errors.ServiceUnavailable) and not error.reason:
        return True
    return error.reason == "APP_CREDENTIALS_REJECTED"
