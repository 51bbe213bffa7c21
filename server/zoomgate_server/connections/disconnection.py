"""Disconnection of users: a tombstone replaces the connection, then the tokens are revoked with Zoom."""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

from zoomgate_server.audit.event import Actor
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.lifecycle import ending, revocation
from zoomgate_server.connections.lifecycle.effects import LeaseTiming
from zoomgate_server.connections.lifecycle.ending import EventOutcome
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.errors import RecordFault, ZoomgateError
from zoomgate_server.storage.record_store import Order, Query, Record, StoreError
from zoomgate_server.telemetry import logs, spans
from zoomgate_server.telemetry.background_tasks import TaskSet

MAX_CONSECUTIVE_FAILURES = 3
"""Number of consecutive unconfirmed revocations after which a pass stops calling Zoom. The next pass starts with the following users."""

REFRESH_TIMEOUT = 40.0
"""Maximum time, in seconds, to wait for the refresh that decides about an event near a consent."""

_log = logs.get("zoomgate.disconnection")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of disconnections, in seconds.

    Attributes:
        revocation_wait: Maximum time for which a caller waits for Zoom's confirmation. After this time, the revocation continues in the
            background.
        retry_interval: Time between passes that retry unconfirmed revocations.
    """

    revocation_wait: float = 3.0
    retry_interval: float = 30.0


class Disconnector:
    """Disconnection of users.

    Attributes:
        tasks: The running disconnections and revocations. Unfinished revocations are retried after the next start.
    """

    def __init__(
        self,
        driver: EffectDriver,
        *,
        connections: ConnectionRepository,
        refresher: Refresher,
        limit: ConcurrencyLimit,
        clock: Clock,
        max_consecutive_failures: int = MAX_CONSECUTIVE_FAILURES,
        timing: Timing = Timing(),
        lease: LeaseTiming = LeaseTiming(),
    ) -> None:
        self._driver = driver
        self._connections = connections
        self._refresher = refresher
        self._limit = limit
        self._clock = clock
        self._max_consecutive_failures = max_consecutive_failures
        self._timing = timing
        self._lease = lease
        self.tasks = TaskSet()
        self._resume_after: Record | None = None

    async def disconnect(self, call: Call, user_email: str) -> ConnectionRecord:
        """Disconnect a user locally, then revoke the tokens with Zoom.

        The encrypted tokens are retained until Zoom confirms the revocation, for at most 24 hours, or 48 hours if the outcome of an
        exchange for the user is unknown. They are never returned to callers.

        Raises:
            ConnectionNotFound: The user has no connection.
            CallerNotAllowed: The connection belongs to a different member.
            StoreError: The store failed; the disconnection may or may not have been stored.
            RecordFault: The connection cannot be decrypted.
        """
        # The audit event and the revocation must take place even if the call is canceled.
        return await self.tasks.shield(self._disconnect(call, user_email))

    async def disconnect_by_zoom(self, zoom_user_id: str, cause: Cause, happened_at: float) -> EventOutcome:
        """Disconnect a Zoom user who removed the app or no longer exists. For the cases, see `ending.end_by_event`.

        Args:
            happened_at: Time of the event in seconds since 1970.

        Raises:
            StoreError: The store failed; the disconnection may or may not have been stored.
            RecordFault: The connection cannot be decrypted.
        """
        protocol = ending.end_by_event(zoom_user_id, cause, happened_at)
        outcome, record = await self._driver.run(protocol)
        if record is not None and outcome is EventOutcome.DISCONNECTED:
            _log.info("connection.disconnected_by_zoom", user=record.user_email, cause=cause.value)
            self.tasks.spawn(self._revoke(zoom_user_id))
        elif record is not None:
            self.tasks.spawn(self._refresh(record))
        return outcome

    async def retry_revocations(self) -> None:
        """Retry revocations that Zoom did not confirm, until canceled."""
        while True:
            await asyncio.sleep(self._timing.retry_interval)
            try:
                await self._retry_revocations_once()
            except (StoreError, ZoomgateError) as error:
                _log.warning("revocations.retry_failed", error=type(error).__name__)

    async def _disconnect(self, call: Call, user_email: str) -> ConnectionRecord:
        tombstone = await self._driver.run(
            ending.disconnect(user_email, Actor.of_call(call), lambda record: check_owner(call, record.owner))
        )
        revocation_task = self.tasks.spawn(self._revoke(tombstone.zoom_user_id))
        timeout = min(self._timing.revocation_wait, call.deadline - self._clock.monotonic())
        await asyncio.wait({revocation_task}, timeout=max(0.0, timeout))
        return tombstone

    async def _refresh(self, record: ConnectionRecord) -> None:
        """Refresh a connection whose access token Zoom rejected near a consent."""
        try:
            await self._refresher.refresh(
                record.zoom_user_id,
                seen_generation=record.generation,
                deadline=self._clock.monotonic() + REFRESH_TIMEOUT,
                forced=True,
            )
        except (StoreError, ZoomgateError) as error:
            _log.info("event.refresh_failed", user=record.user_email, error=type(error).__name__)

    async def _retry_revocations_once(self) -> None:
        """Revoke the pairs of tombstones until too many consecutive revocations fail."""
        now, failures = self._connections.now(), 0
        query = Query(order=Order.DUE, states=[State.DISCONNECTED], before=now, limit=100)
        if self._resume_after is not None:
            query = query.following(self._resume_after)
        last_attempted, self._resume_after = self._resume_after, None
        async for page in self._connections.pages(query):
            for record in page:
                if failures == self._max_consecutive_failures:
                    self._resume_after = last_attempted
                    return
                last_attempted = record
                failures = 0 if await self._revoke(record.key.subject) else failures + 1

    async def _revoke(self, zoom_user_id: str) -> bool:
        """Revoke the pairs of a tombstone. Return False if the revocation must be repeated."""
        try:
            async with self._limit.background, self._limit.slot():
                protocol = revocation.revoke(zoom_user_id, uuid4().hex, self._lease)
                with spans.unit_of_work("revoke"):
                    return await self._driver.run(protocol)
        except (StoreError, RecordFault) as error:
            _log.warning("revocation.not_recorded", error=type(error).__name__)
            return False
