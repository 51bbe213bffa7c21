"""Keeps connections alive ahead of their need: tokens in use before they expire, grants that nobody uses before Zoom lets them die.

Whatever is refreshed here takes the way of every refresh (`refresh/`): its lease keeps processes apart, its journal and its drain lose
nothing. This module only decides whom to refresh and when. It asks for little at a time, goes on slowly after an outage, however much
has become due in it, and waits while Zoom or the store is unwell.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import REFRESH_BEFORE_SECONDS
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh import schedule
from zoomgate_server.connections.refresh.protocol import LEASE_SECONDS
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_cache import CachedToken, TokenCache
from zoomgate_server.errors import (
    AppCredentialsRejected,
    KeyUnavailable,
    NotConnected,
    ReauthRequired,
    RecordUnreadable,
    RecordVersionUnsupported,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomgateError,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskFactory
from zoomgate_server.telemetry.metrics import Metrics

MIN_AHEAD_SECONDS = REFRESH_BEFORE_SECONDS + 90.0
MAX_AHEAD_SECONDS = REFRESH_BEFORE_SECONDS + 180.0
"""How long before its expiry a token in use is refreshed: before a call would wait for that, and not so early that it costs more
refreshes than calls do. The moment is a matter of chance, so that processes do not all come at once; the longest pause between two looks
fits in between the least and the moment from which on a call would wait."""

MIN_LIFETIME_SECONDS = 4 * MAX_AHEAD_SECONDS
"""Tokens that live shorter are left to the calls."""

USED_POLL_INTERVAL = 60.0
"""Between two looks for tokens in use that are about to expire; half as much to one and a half, by chance."""

IDLE_POLL_INTERVAL = 300.0
"""Between two looks for grants that are due, likewise: they have weeks."""

SCHEDULE_POLL_INTERVAL = 24 * 3600.0
"""Between two looks for connections without a due date, or with one that cannot be, likewise: earlier releases store such ones, and none
that is due is missed for long. The first look comes at the start."""

FIRST_POLL_DELAY = 30.0
"""A process that starts looks for the first time after up to one and a half of it."""

LONGEST_PAUSE_SECONDS = 900.0
"""Pauses double up to this while Zoom or the store is unwell. Each look may then spend one refresh token whose answer is lost."""

WAIT_SECONDS = 90.0
"""How long one refresh is waited for; it goes on by itself after that."""

CLOCK_SKEW_TOLERANCE = 1.0
"""How far the store's clock and our reckoning of it may be apart."""

DEFERRAL_SECONDS = 3600.0
"""How long a connection is left alone after a refresh that failed."""

MAX_DUE = 10_000
"""Connections that one look takes on; the next one goes on behind them."""

PAGE_SIZE = 200
"""Connections that are read at a time."""

PAGE_PAUSE_SECONDS = 1.0
"""Between two pages of a look at all connections."""

_GLOBAL_FAILURES = (
    AppCredentialsRejected,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
"""Failures that the next refresh would meet as well. An answer that cannot be understood has spent a refresh token: it may cost a person
the connection, and is not asked for again and again."""

MAX_REJECTIONS = 20
"""So many refusals in a row, without one success, are rather a mistake of Zoom's than the end of so many grants: then it waits as well."""

_RECORD_ERRORS = (KeyUnavailable, RecordUnreadable, RecordVersionUnsupported)
_log = logs.get("zoomgate.proactive_refresh")


class ProactiveRefresh:
    """Refreshes ahead of need.

    Args:
        connections: Where the records are.
        refresher: Refreshes tokens.
        cache: Tokens in memory; knows which ones are in use.
        keep: Puts the token of a record into memory.
        clock: Time.
        metrics: Counts refreshes, and what is due.
        per_minute: Refreshes in a minute by this process, at most; 0 for none at all.
        chance: Spreads looks over time and over processes.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        refresher: Refresher,
        cache: TokenCache,
        keep: Callable[[str, ConnectionRecord], object],
        clock: Clock,
        metrics: Metrics,
        per_minute: int,
        chance: random.Random,
    ) -> None:
        self._connections = connections
        self._refresher = refresher
        self._cache = cache
        self._keep = keep
        self._clock = clock
        self._metrics = metrics
        self._per_minute = per_minute
        self._chance = chance
        self._next_turn = clock.monotonic()
        self._set_aside: dict[str, float] = {}
        self._idle_after = ""
        self._refusals = 0

    def background_tasks(self) -> Mapping[str, TaskFactory]:
        """Name what goes on beside the calls."""
        if not self._per_minute:
            return {}
        return {
            "upkeep of tokens in use": partial(self._repeat, self.refresh_used, USED_POLL_INTERVAL),
            "upkeep of idle grants": partial(self._repeat, self.refresh_idle, IDLE_POLL_INTERVAL),
            "due dates": partial(self._repeat, self.schedule, SCHEDULE_POLL_INTERVAL),
        }

    # -- tokens in use -----------------------------------------------------------------------------------

    async def refresh_used(self) -> None:
        """Refresh tokens that are about to expire and that calls of this process used.

        Those that were handed out are left alone: Zoom may end a token when it issues the next, and whoever has one relies on it.

        Raises:
            StoreUnavailable, ZoomUnavailable, ZoomRateLimited, ZoomBadResponse, AppCredentialsRejected, ReauthRequired: There is no
                use in going on now.
        """
        for number, (user_email, token) in enumerate(self._cache.in_use(), 1):
            if number % 1000 == 0:
                await asyncio.sleep(0)  # calls come first
            if not self._expires_soon(token) or self._is_deferred(user_email):
                continue
            await self._wait_for_slot()
            if not self._cache.is_in_use(user_email, token) or token.expires <= self._clock.monotonic():
                continue  # it was handed out, ended or replaced while it waited, or its next call has to renew it
            record = await self._refresh(user_email, token.generation, "in_use")
            if record is not None:
                self._keep(user_email, record)

    def _expires_soon(self, token: CachedToken) -> bool:
        """Tell whether it is time; one that has expired is left to its next call, so that an outage leaves no crowd behind."""
        life = token.tokens.access_expire_at - token.tokens.obtained_at
        remaining = token.expires - self._clock.monotonic()
        ahead = self._chance.uniform(MIN_AHEAD_SECONDS, MAX_AHEAD_SECONDS)
        return life >= MIN_LIFETIME_SECONDS and 0 < remaining <= ahead

    # -- grants that nobody uses -------------------------------------------------------------------------

    async def refresh_idle(self) -> None:
        """Refresh the grants that are due, one after another.

        Raises:
            StoreError, StoreUnavailable, ZoomUnavailable, ZoomRateLimited, ZoomBadResponse, AppCredentialsRejected, ReauthRequired: There
                is no use in going on now.
        """
        due = await self._find_due()
        self._chance.shuffle(due)  # processes that look at the same time begin with different ones
        while due:
            await self._refresh_one(due.pop())
            self._metrics.proactive_refreshes_due(len(due))

    async def _find_due(self) -> list[str]:
        """List whose grants are due, and tell the metrics."""
        now = self._connections.now()
        found: list[str] = []
        oldest, after = now, self._idle_after
        while len(found) < MAX_DUE:
            page = await self._connections.page(
                states=[State.ACTIVE.value], due_before=now, after=after, limit=PAGE_SIZE
            )
            found += [record.key.subject for record in page]
            oldest = min([oldest, *(record.due_at for record in page if record.due_at is not None)])
            if len(page) < PAGE_SIZE:
                after = ""
                break
            after = page[-1].key.subject
        self._idle_after = after
        self._metrics.proactive_refreshes_due(len(found))
        self._metrics.proactive_refresh_max_overdue(now - oldest)
        return found

    async def _refresh_one(self, user_email: str) -> None:
        """Refresh one grant if it is due still."""
        if self._is_deferred(user_email):
            return
        try:
            record, now = await self._connections.read(user_email)
        except _RECORD_ERRORS as error:
            self._defer(user_email, "idle", error)
            return
        if record is None or record.state is not State.ACTIVE or record.tokens is None:
            return
        due_at = schedule.due_at(user_email, record.tokens, now)
        if due_at is None or due_at > now:  # an earlier release refreshed it, and left the date as it was
            await self._connections.write(replace(record, due_at=due_at))
            return
        if record.lease is not None and now < record.lease.until <= now + 2 * LEASE_SECONDS:
            return  # somebody is at it
        await self._wait_for_slot()
        if await self._refresh(user_email, record.generation, "idle") is not None:
            self._cache.drop(user_email)

    # -- due dates ---------------------------------------------------------------------------------------

    async def schedule(self) -> None:
        """Give a due date to the connections that have none, as earlier releases store them, or one of a clock that was wrong.

        Raises:
            StoreError: The store failed.
        """
        after = ""
        while True:
            page = await self._connections.page(states=[State.ACTIVE.value], after=after, limit=PAGE_SIZE)
            now = self._connections.now()
            for sealed in page:
                if sealed.due_at is not None and sealed.due_at <= now + schedule.LATEST_SECONDS:
                    continue
                try:
                    record = self._connections.open(sealed)
                except _RECORD_ERRORS:
                    continue  # its next use says so
                due_at = (
                    None if record.tokens is None else schedule.due_at(record.user_email, record.tokens, now)
                )
                if due_at is not None:
                    # whoever wrote meanwhile has set a date, or is of an earlier release and dated by the next look
                    await self._connections.write(replace(record, due_at=due_at))
            if len(page) < PAGE_SIZE:
                return
            after = page[-1].key.subject
            await asyncio.sleep(PAGE_PAUSE_SECONDS)

    # -- how ---------------------------------------------------------------------------------------------

    async def _repeat(self, look: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Look now and then, more seldom while Zoom or the store is unwell."""
        pause = FIRST_POLL_DELAY
        while True:
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            try:
                await look()
            except (StoreError, ReauthRequired, *_GLOBAL_FAILURES) as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                _log.warning("proactive_refresh.paused", error=type(error).__name__, retry_in=pause)
            else:
                pause = seconds

    async def _wait_for_slot(self) -> None:
        """Wait until the next refresh may begin."""
        now = self._clock.monotonic()
        turn = max(now, self._next_turn)
        self._next_turn = turn + 60.0 / self._per_minute
        await asyncio.sleep(turn - now)

    async def _refresh(self, user_email: str, generation: int, reason: str) -> ConnectionRecord | None:
        """Refresh one token; None if that failed in a way that is the connection's own.

        Raises:
            StoreUnavailable, ZoomUnavailable, ZoomRateLimited, ZoomBadResponse, AppCredentialsRejected: It is everybody's.
            ReauthRequired: So is this, as it seems: Zoom has refused many in a row.
        """
        deadline, began = self._clock.monotonic() + WAIT_SECONDS, self._connections.now()
        try:
            record = await self._refresher.refresh(user_email, seen_generation=generation, deadline=deadline)
        except _GLOBAL_FAILURES:
            self._set_aside[user_email] = self._clock.monotonic() + DEFERRAL_SECONDS
            raise
        except ReauthRequired:
            self._refusals += 1
            if self._refusals % MAX_REJECTIONS == 0:
                raise
            return None
        except NotConnected:
            return None
        except Exception as error:  # noqa: BLE001 - the refresher logs its defects, and nobody's may end the upkeep of others
            self._defer(user_email, reason, error)
            return None
        self._refusals = 0
        if (
            record.refresh_time >= began - CLOCK_SKEW_TOLERANCE
        ):  # else somebody was faster, and Zoom was not asked
            self._metrics.proactive_refresh(reason)
        return record

    def _defer(self, user_email: str, reason: str, error: Exception) -> None:
        """Leave a connection alone for a while, so that it takes nobody's turn."""
        if len(self._set_aside) >= MAX_DUE:
            self._set_aside.clear()
        self._set_aside[user_email] = self._clock.monotonic() + DEFERRAL_SECONDS
        metadata = error.metadata if isinstance(error, ZoomgateError) else {}
        _log.info(
            "proactive_refresh.deferred",
            user=user_email,
            reason=reason,
            error=type(error).__name__,
            detail=metadata,
        )

    def _is_deferred(self, user_email: str) -> bool:
        until = self._set_aside.get(user_email)
        if until is None:
            return False
        if self._clock.monotonic() < until:
            return True
        del self._set_aside[user_email]
        return False
