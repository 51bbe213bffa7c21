"""Proactive refresh: tokens in use are refreshed before they expire, and idle grants before Zoom expires them.

This module only decides which tokens to refresh, and when. The refresher (`refresh/`) performs these refreshes in the same way as
refreshes for calls. The rate is limited, so a backlog after an outage is processed slowly. Refreshes pause while Zoom or the store fails.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from zoomgate_server.backoff import Backoff
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections import refresh_schedule
from zoomgate_server.connections.access_tokens import REFRESH_BEFORE_SECONDS, AccessToken, AccessTokens
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import (
    AppCredentialsRejected,
    NotConnected,
    ReauthRequired,
    RecordFault,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Order, Query, Record, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskFactory
from zoomgate_server.telemetry.metrics import Metrics

MIN_AHEAD_SECONDS = REFRESH_BEFORE_SECONDS + 90.0
MAX_AHEAD_SECONDS = REFRESH_BEFORE_SECONDS + 180.0
"""Range of the time before expiry at which a token in use is refreshed.

A token is refreshed early enough that no call has to wait for the refresh, and late enough that proactive refreshes are not more frequent
than refreshes by calls. The time is random within this range, to spread the load of several processes. The longest pause between two polls
is shorter than `MIN_AHEAD_SECONDS - REFRESH_BEFORE_SECONDS`, the time before calls start to wait for a refresh.
"""

MIN_LIFETIME_SECONDS = 4 * MAX_AHEAD_SECONDS
"""Minimum lifetime of tokens that are refreshed proactively. Tokens with a shorter lifetime are refreshed by calls only."""

CLOCK_ESTIMATE_TOLERANCE = 1.0
"""Maximum difference in seconds between the store's clock and the local estimate of the store's time."""

MAX_DUE = 10_000
"""Maximum number of connections processed in one poll. The next poll continues with the following connections."""

PAGE_SIZE = 200
"""Number of connections per page of a scan."""

PAGE_PAUSE_SECONDS = 1.0
"""Seconds between pages of due dates to correct, since after a wrong clock this may be all of them."""

_GLOBAL_FAILURES = (AppCredentialsRejected, StoreError, ZoomBadResponse, ZoomRateLimited, ZoomUnavailable)
"""Failures that the next refresh would probably encounter as well.

After an invalid response, the refresh token cannot be used again and the user may have to consent again, so refreshes pause before other
users are affected.
"""

MAX_REJECTIONS = 20
"""Number of consecutive rejections after which refreshes pause. So many rejections indicate a failure of Zoom, not revoked grants."""

_Reason = Literal["in_use", "idle"]
REASONS = get_args(_Reason)
"""All reasons for a proactive refresh, as used in metrics and the log."""

_log = logs.get("zoomgate.proactive_refresh")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of proactive refreshes, in seconds. The times of polls are randomized by 50 % in either direction.

    Attributes:
        first_poll_delay: Time before the first poll of a new process.
        used_poll_interval: Time between polls for tokens in use that are about to expire.
        idle_poll_interval: Time between polls for idle grants that are due. Due grants remain valid for weeks.
        correction_interval: Time between scans for due dates that were computed from a wrong clock.
        longest_pause: Maximum pause of the backoff while Zoom or the store fails. The pause is long because each attempt risks losing
            Zoom's response, and thus the authorization.
        refresh_wait: Maximum time to wait for one refresh. After this time, the refresh continues in the background.
        deferral: Time for which a connection is skipped after a failed refresh.
    """

    first_poll_delay: float = 30.0
    used_poll_interval: float = 60.0
    idle_poll_interval: float = 300.0
    correction_interval: float = 24 * 3600.0
    longest_pause: float = 900.0
    refresh_wait: float = 90.0
    deferral: float = 3600.0


class ProactiveRefresh:
    """The background tasks that refresh tokens proactively.

    Args:
        per_minute: Maximum refreshes per minute by this process; 0 disables proactive refresh.
        rng: Randomizes the times of polls, to spread the load of several processes.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        refresher: Refresher,
        access_tokens: AccessTokens,
        limit: ConcurrencyLimit,
        clock: Clock,
        metrics: Metrics,
        per_minute: int,
        rng: random.Random,
        max_due: int = MAX_DUE,
        page_size: int = PAGE_SIZE,
        timing: Timing = Timing(),
    ) -> None:
        self._connections = connections
        self._refresher = refresher
        self._access_tokens = access_tokens
        self._limit = limit
        self._clock = clock
        self._metrics = metrics
        self._per_minute = per_minute
        self._rng = rng
        self._max_due = max_due
        self._page_size = page_size
        self._timing = timing
        self._next_slot = clock.monotonic()
        self._deferred_until: dict[str, float] = {}
        self._idle_after: Record | None = None
        self._rejections_in_a_row = 0

    def background_tasks(self) -> Mapping[str, TaskFactory]:
        """Return the background tasks by name."""
        if not self._per_minute:
            return {}
        polls = (
            ("proactive refresh of tokens in use", self.refresh_used, self._timing.used_poll_interval),
            ("proactive refresh of idle grants", self.refresh_idle, self._timing.idle_poll_interval),
            ("correction of due dates", self.correct_due_dates, self._timing.correction_interval),
        )
        return {name: partial(self._repeat, poll, interval) for name, poll, interval in polls}

    async def refresh_used(self) -> None:
        """Refresh tokens that are about to expire and that calls of this process have used.

        Tokens that were returned to a caller are skipped, because Zoom may invalidate the caller's copy when issuing the next token.
        """
        for number, (user_email, token) in enumerate(self._access_tokens.in_use(), 1):
            if number % 1000 == 0:
                await asyncio.sleep(0)  # let calls run first
            if not self._expires_soon(token) or self._is_deferred(token.zoom_user_id):
                continue
            await self._wait_for_slot()
            if (
                not self._access_tokens.is_in_use(user_email, token)
                or token.expires <= self._clock.monotonic()
            ):
                continue  # the token was returned to a caller, dropped or replaced in the meantime, or has expired
            record = await self._refresh(token.zoom_user_id, user_email, token.generation, "in_use")
            if record is not None:
                self._access_tokens.cache(record)

    def _expires_soon(self, token: AccessToken) -> bool:
        """Return whether a token is close enough to its expiry to be refreshed.

        An expired token is refreshed only by the next call that needs it, so that an outage is not followed by a burst of refreshes.
        """
        lifetime = token.tokens.access_expire_at - token.tokens.obtained_at
        remaining = token.expires - self._clock.monotonic()
        ahead = self._rng.uniform(MIN_AHEAD_SECONDS, MAX_AHEAD_SECONDS)
        return lifetime >= MIN_LIFETIME_SECONDS and 0 < remaining <= ahead

    async def refresh_idle(self) -> None:
        """Refresh the grants that are due, one after another."""
        due = await self._find_due()
        self._rng.shuffle(due)  # concurrent processes start with different grants
        while due:
            await self._refresh_one(*due.pop())
            self._metrics.proactive_refreshes_due.set(len(due))

    async def _find_due(self) -> list[tuple[str, str]]:
        """Return the Zoom users whose grants are due, with their email addresses, and update the metrics."""
        now = self._connections.now()
        query = Query(order=Order.DUE, states=[State.ACTIVE], before=now, limit=self._page_size)
        oldest = await self._connections.page(replace(query, limit=1))
        due_at = oldest[0].due_at if oldest else None
        self._metrics.proactive_refresh_max_overdue_seconds.set(0.0 if due_at is None else now - due_at)
        if self._idle_after is not None:
            query = query.following(self._idle_after)
        self._idle_after = None
        due: list[tuple[str, str]] = []
        async for page in self._connections.pages(query):
            due += [(record.key.subject, record.user_email or "") for record in page]
            if len(due) >= self._max_due and len(page) == self._page_size:
                self._idle_after = page[-1]
                break
        self._metrics.proactive_refreshes_due.set(len(due))
        return due

    async def _refresh_one(self, zoom_user_id: str, user_email: str) -> None:
        """Refresh one grant if it is still due."""
        if self._is_deferred(zoom_user_id):
            return
        try:
            record, now = await self._connections.read(zoom_user_id)
        except RecordFault as error:
            self._defer(zoom_user_id, user_email, "idle", error)
            return
        if record is None or record.state is not State.ACTIVE or record.tokens is None:
            return
        due_at = refresh_schedule.due_at(zoom_user_id, record.tokens, now)
        if due_at is None or due_at > now:  # the `due_at` column does not match the record
            await self._connections.write(replace(record, due_at=due_at))
            return
        if self._refresher.is_leased(record, now):
            return
        await self._wait_for_slot()
        refreshed = await self._refresh(zoom_user_id, record.user_email, record.generation, "idle")
        if refreshed is not None:
            self._access_tokens.drop(refreshed.user_email)

    async def correct_due_dates(self) -> None:
        """Make grants due whose due date was computed from a wrong clock. `refresh_idle` then computes the correct date."""
        now = self._connections.now()
        latest = now + refresh_schedule.LATEST_SECONDS
        query = Query(order=Order.DUE, states=[State.ACTIVE], since=latest, limit=self._page_size)
        async for page in self._connections.pages(query):
            for sealed in page:
                record = self._connections.open_readable(sealed)
                if record is not None:
                    # on a conflict, the other writer has set the date
                    await self._connections.write(replace(record, due_at=now))
            await asyncio.sleep(PAGE_PAUSE_SECONDS)

    async def _repeat(self, poll: Callable[[], Awaitable[None]], interval: float) -> None:
        """Poll periodically, with exponential backoff while Zoom or the store fails."""
        pause, backoff = self._timing.first_poll_delay, Backoff(interval, self._timing.longest_pause)
        while True:
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.5))
            try:
                await poll()
            except (ReauthRequired, *_GLOBAL_FAILURES) as error:
                pause = backoff.next_pause()
                _log.warning("proactive_refresh.paused", error=type(error).__name__, retry_in=pause)
            else:
                pause = interval
                backoff.reset()

    async def _wait_for_slot(self) -> None:
        """Wait until the rate limit allows the next refresh."""
        now = self._clock.monotonic()
        slot = max(now, self._next_slot)
        self._next_slot = slot + 60.0 / self._per_minute
        await asyncio.sleep(slot - now)

    async def _refresh(
        self, zoom_user_id: str, user_email: str, generation: int, reason: _Reason
    ) -> ConnectionRecord | None:
        """Refresh one token. Return None if the refresh failed for a reason specific to this connection.

        A failure that affects all connections is raised: one of `_GLOBAL_FAILURES`, or `ReauthRequired` after many consecutive rejections.
        """
        deadline, started = self._clock.monotonic() + self._timing.refresh_wait, self._connections.now()
        try:
            async with self._limit.background:
                record = await self._refresher.refresh(
                    zoom_user_id, seen_generation=generation, deadline=deadline
                )
        except _GLOBAL_FAILURES:
            self._deferred_until[zoom_user_id] = self._clock.monotonic() + self._timing.deferral
            raise
        except ReauthRequired:
            self._rejections_in_a_row += 1
            if self._rejections_in_a_row % MAX_REJECTIONS == 0:
                raise
            return None
        except NotConnected:
            return None
        except Exception as error:  # noqa: BLE001 - the refresher logs unexpected errors; one connection must not block the others
            self._defer(zoom_user_id, user_email, reason, error)
            return None
        self._rejections_in_a_row = 0
        # An earlier refresh time means that another refresh came first and Zoom was not called.
        if record.refresh_time >= started - CLOCK_ESTIMATE_TOLERANCE:
            self._metrics.proactive_refreshes.labels(reason).inc()
        return record

    def _defer(self, zoom_user_id: str, user_email: str, reason: _Reason, error: Exception) -> None:
        """Skip a connection for `deferral` seconds, so that its failures do not use up the refresh rate limit."""
        if len(self._deferred_until) >= self._max_due:
            self._deferred_until.clear()
        self._deferred_until[zoom_user_id] = self._clock.monotonic() + self._timing.deferral
        detail = error.metadata if isinstance(error, ZoomgateError) else {}
        error_name = type(error).__name__
        _log.info(
            "proactive_refresh.deferred", user=user_email, reason=reason, error=error_name, detail=detail
        )

    def _is_deferred(self, zoom_user_id: str) -> bool:
        if self._clock.monotonic() < self._deferred_until.get(zoom_user_id, float("-inf")):
            return True
        self._deferred_until.pop(zoom_user_id, None)
        return False
