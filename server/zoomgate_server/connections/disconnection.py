"""Disconnection of users: a tombstone replaces the connection, then the tokens are revoked with Zoom."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from zoomgate_server.audit.event import ZOOM, Actor, AuditEvent, AuditSink
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.revocation import Revoker
from zoomgate_server.errors import ConnectionNotFound, ZoomgateError
from zoomgate_server.storage.record_store import Query, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import TaskSet

REVOCATION_RETENTION_SECONDS = 24 * 3600.0
"""Maximum time to retain the encrypted tokens of a disconnected user while Zoom has not confirmed their revocation."""

TOMBSTONE_SECONDS = 30 * 24 * 3600.0
"""Time to retain a tombstone, so that late writers detect the disconnection."""

MAX_CONSECUTIVE_FAILURES = 3
"""Number of consecutive unconfirmed revocations after which a pass stops calling Zoom. The next pass starts with the following users."""

_GRANT_MAY_SURVIVE = frozenset({Cause.USER_DEACTIVATED, Cause.USER_DISASSOCIATED})
"""Causes after which Zoom may still accept the grant: the user can be reactivated, or has moved to a different Zoom account.

Without a revocation, a grant that no record contains could remain valid. For the other causes no revocation is needed: removing the app
invalidates the grant, and a deleted user has no grant.
"""

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


class ZoomDisconnectOutcome(StrEnum):
    """Outcome of a disconnection that was requested by a Zoom event."""

    DISCONNECTED = "disconnected"
    NOT_CONNECTED = "not_connected"
    OLDER_THAN_CONSENT = "older_than_consent"


class Disconnector:
    """Disconnection of users.

    Args:
        drop_token: Removes a user's token from the cache.

    Attributes:
        tasks: The running disconnections and revocations. Unfinished revocations are retried after the next start.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        drop_token: Callable[[str], None],
        revoker: Revoker,
        clock: Clock,
        audit: AuditSink,
        max_consecutive_failures: int = MAX_CONSECUTIVE_FAILURES,
        timing: Timing = Timing(),
    ) -> None:
        self._connections = connections
        self._drop_token = drop_token
        self._revoker = revoker
        self._clock = clock
        self._audit = audit
        self._max_consecutive_failures = max_consecutive_failures
        self._timing = timing
        self.tasks = TaskSet()
        self._resume_after = ""

    async def disconnect(self, call: Call, user_email: str) -> ConnectionRecord:
        """Disconnect a user locally, then revoke the tokens with Zoom.

        The encrypted tokens are retained until Zoom confirms the revocation, for at most 24 hours. They are never returned to callers.

        Raises:
            ConnectionNotFound: The user has no connection.
            CallerNotAllowed: The connection belongs to a different member.
            StoreError: The store failed; the disconnection may or may not have been stored.
        """
        # The audit event and the revocation must take place even if the call is canceled.
        disconnected, revocation = await self.tasks.shield(self._disconnect(call, user_email))
        timeout = min(self._timing.revocation_wait, call.deadline - self._clock.monotonic())
        await asyncio.wait({revocation}, timeout=max(0.0, timeout))
        return disconnected

    async def disconnect_by_zoom(
        self, zoom_user_id: str, cause: Cause, happened_at: float
    ) -> ZoomDisconnectOutcome:
        """Disconnect a Zoom user who removed the app or no longer exists, and erase the tokens immediately.

        A running refresh detects the tombstone and stores no tokens. A consent later than `happened_at` is not affected.

        Args:
            happened_at: Time of the event in seconds since 1970.

        Raises:
            StoreError: The store failed; the disconnection may or may not have been stored.
            RecordFault: The connection cannot be decrypted.
        """
        while True:
            record, now = await self._connections.find(zoom_user_id)
            if record is None:
                return ZoomDisconnectOutcome.NOT_CONNECTED
            if happened_at <= record.consent_time:
                return ZoomDisconnectOutcome.OLDER_THAN_CONSENT
            tombstone = replace(make_tombstone(record, now, revoke=False), cause=cause)
            details = {"cause": cause.value}
            event = AuditEvent(
                "connection.disconnected", "ok", record.user_email, ZOOM, record.generation, details=details
            )
            if await self._write(tombstone, event) is not None:
                break
        self._drop_token(record.user_email)
        self._audit(event)
        _log.info("connection.disconnected_by_zoom", user=record.user_email, cause=cause.value)
        if cause in _GRANT_MAY_SURVIVE and record.tokens is not None:
            for pair in (record.tokens, *record.alternate_pairs):
                self._revoker.revoke_unused(pair)
        return ZoomDisconnectOutcome.DISCONNECTED

    async def retry_revocations(self) -> None:
        """Retry revocations that Zoom did not confirm, until canceled."""
        while True:
            await asyncio.sleep(self._timing.retry_interval)
            try:
                await self._retry_revocations_once()
            except (StoreError, ZoomgateError) as error:
                _log.warning("revocations.retry_failed", error=type(error).__name__)

    async def _disconnect(self, call: Call, user_email: str) -> tuple[ConnectionRecord, asyncio.Task[Any]]:
        """Disconnect a user locally, and start revoking the tokens."""
        while True:
            record, now = await self._connections.read(user_email)
            if record is None or record.state is State.DISCONNECTED:
                raise ConnectionNotFound
            check_owner(call, record.owner)
            tombstone = make_tombstone(record, now, revoke=True)
            event = AuditEvent(
                "connection.disconnected", "ok", user_email, Actor.of_call(call), record.generation
            )
            rev = await self._write(tombstone, event)
            if rev is not None:
                break
        self._drop_token(user_email)
        self._audit(event)
        disconnected = replace(tombstone, rev=rev)
        return disconnected, self.tasks.spawn(self._revoke(disconnected))

    async def _write(self, tombstone: ConnectionRecord, event: AuditEvent) -> int | None:
        """Write a tombstone. Return None if the record was changed in the meantime.

        If it remains unknown whether the tombstone was written, the audit event is recorded before the error is raised, because a retry of
        the call may find no connection to audit.
        """
        try:
            return await self._connections.write(tombstone)
        except StoreError:
            if (rev := await self._rev_of(tombstone)) is not None:
                return rev
            self._audit(event._replace(outcome="STORE_UNAVAILABLE"))
            raise

    async def _rev_of(self, tombstone: ConnectionRecord) -> int | None:
        """Return the revision of a tombstone whose write was not confirmed, or None if it is not stored or the store fails."""
        try:
            record, _ = await self._connections.read(tombstone.user_email)
        except StoreError:
            return None
        return record.rev if record is not None and record == replace(tombstone, rev=record.rev) else None

    async def _retry_revocations_once(self) -> None:
        """Erase tokens whose retention is over, and revoke the others until too many consecutive revocations fail."""
        resume_after, self._resume_after = self._resume_after, ""
        last_attempted, failures = "", 0
        due = Query(states=[State.DISCONNECTED], due_before=self._connections.now(), limit=100)
        async for page in self._connections.pages(due):
            for record in page:
                tombstone = self._connections.open_readable(record)
                if tombstone is None:
                    continue
                if tombstone.revoke_until is not None and self._connections.now() >= tombstone.revoke_until:
                    await self._erase(tombstone)
                elif failures == self._max_consecutive_failures:
                    self._resume_after = last_attempted
                elif tombstone.user_email > resume_after:
                    last_attempted = tombstone.user_email
                    failures = 0 if await self._revoke(tombstone) else failures + 1

    async def _revoke(self, tombstone: ConnectionRecord) -> bool:
        """Revoke a tombstone's tokens with Zoom, and erase the tokens once Zoom confirms. Return whether Zoom confirmed."""
        if tombstone.pair_to_revoke is None:
            return True
        # any of the pairs may be the valid one
        for pair in (tombstone.pair_to_revoke, *tombstone.alternate_pairs):
            if not await self._revoker.revoke(pair):
                return False
        await self._erase(tombstone)
        return True

    async def _erase(self, tombstone: ConnectionRecord) -> None:
        try:
            await self._connections.write(
                replace(tombstone, pair_to_revoke=None, alternate_pairs=(), revoke_until=None, due_at=None)
            )
        except StoreError:
            _log.warning("revocation.not_recorded", user=tombstone.user_email)


def make_tombstone(record: ConnectionRecord, now: float, *, revoke: bool) -> ConnectionRecord:
    """Return the tombstone of a connection.

    Args:
        now: The store's current time.
        revoke: Whether to retain all encrypted pairs, any of which may be the valid one, until they are revoked with Zoom.
    """
    return replace(
        record,
        state=State.DISCONNECTED,
        cause=Cause.REVOKED,
        generation=record.generation + 1,
        tokens=None,
        alternate_pairs=record.alternate_pairs if revoke else (),
        lease=None,
        pending_attempts=(),
        commit_id="",
        previous_commit_ids=(),
        last_error=None,
        update_time=now,
        access_expire_at=None,
        pair_to_revoke=record.tokens if revoke else None,
        revoke_until=now + REVOCATION_RETENTION_SECONDS if revoke else None,
        due_at=now if revoke else None,
        expire_at=now + TOMBSTONE_SECONDS,
    )
