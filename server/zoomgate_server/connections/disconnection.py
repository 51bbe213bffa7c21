"""How connections end: first here, then at Zoom."""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_cache import TokenCache
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import ConnectionNotFound, ZoomgateError, store_unavailable
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import Revoked

REVOKE_RESPONSE_SECONDS = 0.2
"""Kept of a caller's deadline for the way back."""

REVOKE_SECONDS = 24 * 3600.0
"""How long a disconnected user's tokens are kept, sealed and never served, while Zoom has not confirmed that they are revoked."""

REVOKE_PATIENCE_SECONDS = 3.0
"""How long a caller who ends a connection waits for Zoom's confirmation; it goes on without the caller."""

TOMBSTONE_SECONDS = 30 * 24 * 3600.0
"""How long a disconnected user's record stays, so that late writers find that the grant is gone."""

RETRY_INTERVAL = 30.0
"""Pause between two looks for tokens that are still to be revoked."""

MAX_WRITE_ATTEMPTS = 3
"""So many revocations in a row that Zoom did not confirm end the asking of one look; the next one asks about those behind them."""

_GRANT_MAY_LIVE = frozenset({Cause.USER_DEACTIVATED, Cause.USER_DISASSOCIATED})
"""The person's account may be activated again, or goes on elsewhere: without a revocation a grant that nobody keeps might live on.

Who removed the app has ended it already, and who was deleted has none.
"""

_T = TypeVar("_T")
_log = logs.get("zoomgate.disconnection")


class ZoomDisconnectOutcome(StrEnum):
    """What became of the news that a connection ended at Zoom."""

    DISCONNECTED = "disconnected"
    NOT_CONNECTED = "not_connected"
    OLDER_THAN_CONSENT = "older_than_consent"


class Disconnector:
    """Ends connections, and revokes at Zoom what is not needed any more.

    Args:
        connections: Where the records are.
        cache: Tokens in memory.
        oauth: Revokes tokens.
        clock: Time.
        audit: Hears of every decision that matters.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        cache: TokenCache,
        oauth: OAuthClient,
        clock: Clock,
        audit: AuditSink,
    ) -> None:
        self._connections = connections
        self._cache = cache
        self._oauth = oauth
        self._clock = clock
        self._audit = audit
        self._running: set[asyncio.Task[Any]] = set()
        self._asked_up_to = ""

    async def disconnect(self, call: Call, user_email: str) -> ConnectionRecord:
        """End a connection: first here, then at Zoom.

        The tokens are kept sealed and unserved until Zoom has confirmed that they are revoked, for at most 24 hours.

        Raises:
            ConnectionNotFound: There is nothing to end.
            CallerNotAllowed: It belongs to another member.
        """
        # a caller who leaves does not cut off the end from its line in the audit trail, nor from its revocation
        ended, revocation = await asyncio.shield(self.in_background(self._disconnect(call, user_email)))
        patience = min(
            REVOKE_PATIENCE_SECONDS, call.deadline - REVOKE_RESPONSE_SECONDS - self._clock.monotonic()
        )
        await asyncio.wait({revocation}, timeout=max(0.0, patience))
        return ended

    async def disconnect_by_zoom(
        self, zoom_user_id: str, cause: Cause, happened_at: float
    ) -> ZoomDisconnectOutcome:
        """End the connection of a Zoom user who removed the app or is gone. Its tokens are erased at once.

        A refresh that runs finds the tombstone and stores nothing. A consent that came after `happened_at` stays.

        Args:
            zoom_user_id: Zoom's id of the person.
            cause: What happened.
            happened_at: When, in seconds since 1970.

        Raises:
            StoreError: The store failed: it may have taken the end or not.
            RecordFault: The connection cannot be opened.
        """
        while True:
            record, now = await self._connections.find(zoom_user_id)
            if record is None:
                return ZoomDisconnectOutcome.NOT_CONNECTED
            if happened_at <= record.consent_time:
                return ZoomDisconnectOutcome.OLDER_THAN_CONSENT
            tombstone = replace(make_tombstone(record, now, revoke=False), cause=cause)
            told = AuditEvent.unattended(
                "connection.disconnected",
                "ok",
                record.user_email,
                principal="zoom",
                details={"cause": cause.value},
            )._replace(generation=record.generation)
            if await self._write(tombstone, told) is not None:
                break
        self._cache.drop(record.user_email)
        self._audit(told)
        _log.info("connection.disconnected_by_zoom", user=record.user_email, cause=cause.value)
        if cause in _GRANT_MAY_LIVE and record.tokens is not None:
            for pair in (record.tokens, *record.alternate_pairs):
                self.revoke_unused(pair)
        return ZoomDisconnectOutcome.DISCONNECTED

    async def retry_revocations(self) -> None:
        """Revoke what could not be revoked when its connection was ended; runs until cancelled."""
        while True:
            await asyncio.sleep(RETRY_INTERVAL)
            try:
                await self._retry_revocations_once()
            except (StoreError, ZoomgateError) as error:
                _log.warning("revocations.retry_failed", error=type(error).__name__)

    def revoke_unused(self, tokens: TokenPair) -> None:
        """End a token pair that no record keeps, best effort."""
        self.in_background(self._revoke_pair(tokens))

    def in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run something that no call owns; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, for at most so many seconds; revocations that are left are found again at the next start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:  # an end goes on with its revocation
                    await asyncio.wait(set(self._running))

    async def _disconnect(self, call: Call, user_email: str) -> tuple[ConnectionRecord, asyncio.Task[Any]]:
        """End a connection here, and begin to revoke its tokens."""
        while True:
            try:
                record, now = await self._connections.read(user_email)
            except StoreError:
                raise store_unavailable() from None
            if record is None or record.state is State.DISCONNECTED:
                raise ConnectionNotFound("This user has no connection")
            check_owner(call, record.owner)
            tombstone = make_tombstone(record, now, revoke=True)
            told = AuditEvent.for_call(
                call, "connection.disconnected", "ok", user_email, generation=record.generation
            )
            try:
                rev = await self._write(tombstone, told)
            except StoreError:
                raise store_unavailable() from None
            if rev is not None:
                break
        self._cache.drop(user_email)
        self._audit(told)
        ended = replace(tombstone, rev=rev)
        return ended, self.in_background(self._revoke(ended))

    async def _write(self, tombstone: ConnectionRecord, told: AuditEvent) -> int | None:
        """Write a tombstone; None if somebody else wrote meanwhile.

        Raises:
            StoreError: It may have been written or not. The audit trail has been told that: a repetition finds nothing to end.
        """
        try:
            return await self._connections.write(tombstone)
        except StoreError:
            rev = await self._rev_of(tombstone)
            if rev is None:
                self._audit(told._replace(outcome="STORE_UNAVAILABLE"))
                raise
            return rev

    async def _rev_of(self, tombstone: ConnectionRecord) -> int | None:
        """Give the revision of a tombstone whose write the store did not confirm, if it is stored."""
        try:
            record, _ = await self._connections.read(tombstone.user_email)
        except StoreError:
            return None
        return record.rev if record is not None and record == replace(tombstone, rev=record.rev) else None

    async def _retry_revocations_once(self) -> None:
        """Erase what was kept for long enough, and ask Zoom about the rest as long as it confirms something."""
        behind, self._asked_up_to = self._asked_up_to, ""
        after, asked, in_vain = "", "", 0
        while True:
            records = await self._connections.page(
                states=[State.DISCONNECTED.value], due_before=self._connections.now(), after=after, limit=100
            )
            for record in records:
                ended = self._connections.open_readable(record)
                if ended is None:
                    continue
                if self._is_abandoned(ended):
                    await self._erase(ended)
                elif in_vain == MAX_WRITE_ATTEMPTS:
                    self._asked_up_to = asked
                elif ended.user_email > behind:
                    asked = ended.user_email
                    in_vain = 0 if await self._revoke(ended) else in_vain + 1
            if len(records) < 100:
                return
            after = records[-1].key.subject

    def _is_abandoned(self, ended: ConnectionRecord) -> bool:
        """Tell whether a tombstone's tokens were kept for as long as they may be."""
        return ended.revoke_until is not None and self._connections.now() >= ended.revoke_until

    async def _revoke(self, ended: ConnectionRecord) -> bool:
        """Revoke a tombstone's tokens at Zoom and, once that is confirmed, erase them. False if it is not."""
        if ended.revoking is None:
            return True
        for pair in (ended.revoking, *ended.alternate_pairs):  # any of them may be the one that lives
            if not await self._revoke_pair(pair):
                return False
        await self._erase(ended)
        return True

    async def _erase(self, ended: ConnectionRecord) -> None:
        """Erase a tombstone's tokens."""
        try:
            await self._connections.write(
                replace(ended, revoking=None, alternate_pairs=(), revoke_until=None, due_at=None)
            )
        except StoreError:
            _log.warning("revocation.not_recorded", user=ended.user_email)

    async def _revoke_pair(self, pair: TokenPair) -> bool:
        """Revoke both tokens; true once Zoom confirmed."""
        outcomes = [
            await self._oauth.revoke(token) for token in (pair.access_token, pair.refresh_token) if token
        ]
        return all(isinstance(outcome, Revoked) for outcome in outcomes)


def make_tombstone(record: ConnectionRecord, now: float, *, revoke: bool) -> ConnectionRecord:
    """The ended form of a connection: nothing in it is served any more.

    Args:
        record: The connection.
        now: The store's clock.
        revoke: Keep the tokens, sealed, until they are revoked at Zoom; those beside them too, since any may be the living ones.
    """
    return replace(
        record,
        state=State.DISCONNECTED,
        cause=Cause.REVOKED,
        generation=record.generation + 1,
        tokens=None,
        alternate_pairs=record.alternate_pairs if revoke else (),
        lease=None,
        pending=(),
        commit_id="",
        previous_commit_ids=(),
        last_error=None,
        update_time=now,
        access_expire_at=None,
        revoking=record.tokens if revoke else None,
        revoke_until=now + REVOKE_SECONDS if revoke else None,
        due_at=now if revoke else None,
        expire_at=now + TOMBSTONE_SECONDS,
    )
