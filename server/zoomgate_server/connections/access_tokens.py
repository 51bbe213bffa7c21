"""Valid access tokens for callers and for calls to Zoom's API."""

import asyncio
import contextvars
import functools
from dataclasses import replace
from typing import NamedTuple

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh.refresher import Refresher, reauth_required
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_cache import CachedToken, ConnectionVersion, TokenCache
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    FieldViolation,
    InvalidRequest,
    NotConnected,
    RefreshInProgress,
    ServerOverloaded,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Change, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

REFRESH_BEFORE_SECONDS = 120.0
"""Minimum remaining lifetime of a token for a call to Zoom's API. With a smaller value, a token could expire during a call; with a larger
value, a refresh could invalidate a token that other callers still use."""

RESPONSE_MARGIN = 0.2
"""Seconds of a caller's deadline that are reserved for returning the response."""

CLOCK_SKEW_TOLERANCE = 60.0
"""Tolerated deviation in seconds between two readings of the store's clock.

If a token's issue time is further in the future than this, the store's clock was set back after the token was issued.
"""

CHANGE_VISIBILITY_SECONDS = 5.0
"""Maximum age in seconds at which a refreshed record is cached without reading it again. The next poll of the change feed reports any later
change."""

MAX_ROLLED_BACK = 10_000
"""Maximum number of users to remember so that the same store rollback is not logged again. At the limit, all are discarded."""

_KEEP_CURRENT_TOKEN_ON = (
    AppCredentialsRejected,
    RefreshInProgress,
    ServerOverloaded,
    StoreError,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
"""Refresh failures after which the current token is still returned if it is valid for long enough."""

_log = logs.get("zoomgate.connections")


class AccessToken(NamedTuple):
    """A token as returned to a caller.

    Attributes:
        remaining: Remaining lifetime of the access token in seconds.
    """

    tokens: TokenPair
    generation: int
    remaining: float


def work_deadline(call: Call) -> float:
    """Return the reading of the monotonic clock by which the work for this call must be finished."""
    return call.deadline - RESPONSE_MARGIN


class AccessTokens:
    """The access tokens of all users, cached and refreshed as needed."""

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        refresher: Refresher,
        cache: TokenCache,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._connections = connections
        self._refresher = refresher
        self._cache = cache
        self._clock = clock
        self._metrics = metrics
        self._rolled_back: set[str] = set()
        self._reads: dict[str, asyncio.Task[CachedToken]] = {}

    # -- tokens ------------------------------------------------------------------------------------------

    async def get_token(self, call: Call, user_email: str, min_validity: float) -> AccessToken:
        """Return a token that is valid for at least `min_validity` seconds, refreshing the token if needed.

        Raises:
            CallerNotAllowed: The connection belongs to a different member.
            ZoomgateError: See `Refresher.refresh`.
        """
        return self._issue_to_caller(user_email, await self._token(call, user_email, min_validity))

    async def refresh_token(self, call: Call, user_email: str, expected: str) -> AccessToken:
        """Refresh the stored token even if it is still valid.

        Args:
            expected: If not empty, must equal the stored refresh token.

        Raises:
            InvalidRequest: `expected` is not the stored refresh token.
            CallerNotAllowed: The connection belongs to a different member.
            ZoomgateError: See `Refresher.refresh`.
        """
        current = await self._read(user_email)
        check_owner(call, current.owner)
        if expected and expected != current.tokens.refresh_token:
            raise InvalidRequest(
                [
                    FieldViolation(
                        "refresh_token",
                        "is not the stored refresh token; leave it empty to refresh the stored one",
                    )
                ]
            )
        record = await self._refresher.refresh(
            user_email, seen_generation=current.generation, deadline=work_deadline(call), forced=True
        )
        return self._issue_to_caller(user_email, await self._cache_refreshed(call, user_email, record))

    async def peek(self, call: Call, user_email: str) -> AccessToken:
        """Return the stored token, expired or not, without calling Zoom."""
        current = await self._read(user_email)
        check_owner(call, current.owner)
        self._cache.note_issued(user_email)
        return AccessToken(current.tokens, current.generation, current.expires - self._clock.monotonic())

    def issued_to_caller(self, user_email: str, record: ConnectionRecord) -> AccessToken:
        """Return the token of a record that was just stored."""
        return self._issue_to_caller(user_email, self._cache_token(user_email, record))

    def cache(self, user_email: str, record: ConnectionRecord) -> None:
        """Cache the token of a record, unless the record is too old (see `_cache_refreshed`)."""
        if self._is_covered_by_change_feed(record):
            self._cache_token(user_email, record)

    async def for_call(self, call: Call, user_email: str) -> CachedToken:
        """Return a token for a call to Zoom's API, refreshing the token if its remaining lifetime is less than two minutes.

        Raises:
            CallerNotAllowed: The connection belongs to a different member.
            ZoomgateError: See `Refresher.refresh`.
        """
        return await self._token(call, user_email, 0.0, preferred_validity=REFRESH_BEFORE_SECONDS)

    async def after_rejection(self, call: Call, user_email: str, rejected: CachedToken) -> CachedToken:
        """Return a token newer than the rejected one: the stored token if it is newer, otherwise a refreshed token."""
        current = await self._read(user_email)
        if current.generation > rejected.generation:
            return current
        record = await self._refresher.refresh(
            user_email, seen_generation=rejected.generation, deadline=work_deadline(call), forced=True
        )
        return await self._cache_refreshed(call, user_email, record)

    async def is_being_replaced(self, user_email: str, rejected: CachedToken) -> bool:
        """Return whether the rejected token was replaced or is being refreshed.

        A refresh invalidates the previous token before the new token can be read from the store.
        """
        record, now = await self._connections.read(user_email)
        if record is None:
            return False
        return record.generation > rejected.generation or (
            record.lease is not None and record.lease.expire_at > now
        )

    def drop_changed(self, change: Change) -> None:
        """Drop the cached token of a changed connection, unless the token was read from the changed revision."""
        self._cache.drop(change.key.subject, unless_rev=change.rev)

    # -- internals ---------------------------------------------------------------------------------------

    async def _token(
        self, call: Call, user_email: str, min_validity: float, *, preferred_validity: float = 0.0
    ) -> CachedToken:
        """Return a token that is valid for `min_validity` seconds.

        A token with a remaining lifetime of less than `preferred_validity` seconds is also refreshed, but is returned if the refresh fails.
        """
        now = self._clock.monotonic()
        token = self._cache.get(user_email)
        if token is None or token.expires - now <= max(min_validity, preferred_validity):
            token = await self._read_together(call, user_email)
            now = self._clock.monotonic()
        check_owner(call, token.owner)
        if token.expires - now > max(min_validity, preferred_validity):
            if preferred_validity:
                self._cache.note_use(user_email)
            return token
        try:
            record = await self._refresher.refresh(
                user_email, seen_generation=token.generation, deadline=work_deadline(call)
            )
        except _KEEP_CURRENT_TOKEN_ON:
            if token.expires - self._clock.monotonic() > max(min_validity, 5.0):
                return token
            raise
        return await self._cache_refreshed(call, user_email, record)

    async def _read_together(self, call: Call, user_email: str) -> CachedToken:
        """Read the user's token with `_read`, sharing one read among concurrent callers.

        Raises:
            StoreError: The store did not respond before the call's deadline.
        """
        pending_read = self._reads.get(user_email)
        if pending_read is None:
            pending_read = asyncio.get_running_loop().create_task(
                self._read(user_email), context=contextvars.Context()
            )
            self._reads[user_email] = pending_read
            pending_read.add_done_callback(functools.partial(self._on_read_done, user_email))
        try:
            async with asyncio.timeout(max(0.0, work_deadline(call) - self._clock.monotonic())):
                return await asyncio.shield(pending_read)
        except TimeoutError:
            raise StoreError("the store did not respond before the deadline of the call") from None

    def _on_read_done(self, user_email: str, pending_read: asyncio.Task[CachedToken]) -> None:
        del self._reads[user_email]
        if not pending_read.cancelled():
            pending_read.exception()  # marks the exception as retrieved, since all callers may have been canceled

    async def _read(self, user_email: str) -> CachedToken:
        """Read the user's token from the store and cache the token.

        After a store rollback, such as a restored backup, the cached token takes precedence. If a later generation was seen but is no
        longer cached, the token from the store is treated as expired: the access token is not returned to callers, and the refresh token is
        used as soon as a token is needed.
        """
        before = self._cache.seen(user_email)
        record, _ = await self._connections.read(user_email)
        if record is None or record.state is State.DISCONNECTED:
            self._cache.drop(user_email)
            raise NotConnected
        if record.state is State.REAUTH_REQUIRED:
            self._cache.drop(user_email)
            raise reauth_required(record)
        if before is not None:
            self._detect_rollback(user_email, _seen(record), before)
        return self._cache_token(user_email, record)

    def _detect_rollback(self, user_email: str, read: ConnectionVersion, before: ConnectionVersion) -> None:
        """Count and log a record that is older than the version seen before the read.

        This happens when a backup is restored or a write is lost.
        """
        if not read.precedes(before):
            self._rolled_back.discard(user_email)
            return
        self._metrics.store_rollbacks_detected.inc()
        if user_email not in self._rolled_back:
            if len(self._rolled_back) >= MAX_ROLLED_BACK:
                self._rolled_back.clear()
            self._rolled_back.add(user_email)
            _log.error(
                "connection.rolled_back", user=user_email, generation=read.generation, seen=before.generation
            )

    async def _cache_refreshed(self, call: Call, user_email: str, record: ConnectionRecord) -> CachedToken:
        """Cache the token of a refreshed record.

        The user may have been disconnected since the record was written. If the record was written recently, it is cached without another
        read, because every poll of the change feed covers the last `change_feed.Timing.overlap` seconds and thus reports the disconnection.
        An older record is read again, because the token of a disconnected user could otherwise be used until it expires.
        """
        if not self._is_covered_by_change_feed(record):
            return await self._read_together(call, user_email)
        return self._cache_token(user_email, record)

    def _is_covered_by_change_feed(self, record: ConnectionRecord) -> bool:
        """Return whether the next poll of the change feed includes all changes since the record was written."""
        return self._connections.now() - record.update_time <= CHANGE_VISIBILITY_SECONDS

    def _cache_token(self, user_email: str, record: ConnectionRecord) -> CachedToken:
        """Cache the token of a record, and return the token to use (see `_read`).

        If the store's clock was set back since the token was issued, the remaining lifetime is unknown, so the token is treated as expired.
        """
        tokens = record.tokens
        if tokens is None:
            raise NotConnected
        now = self._connections.now()
        valid = tokens.access_expire_at - now if tokens.obtained_at < now + CLOCK_SKEW_TOLERANCE else 0.0
        token = CachedToken(
            tokens=tokens,
            seen=_seen(record),
            rev=record.rev,
            owner=record.owner,
            expires=self._clock.monotonic() + valid,
        )
        cached, seen = self._cache.put(user_email, token), self._cache.seen(user_email)
        if cached is not None or seen is None:
            return cached or token
        return replace(token, seen=seen, expires=min(token.expires, self._clock.monotonic()))

    def _issue_to_caller(self, user_email: str, token: CachedToken) -> AccessToken:
        """Return a token for a caller, and record in the cache that it was returned. The RPC service writes the audit event."""
        self._cache.note_issued(user_email)
        return AccessToken(token.tokens, token.generation, max(0.0, token.expires - self._clock.monotonic()))


def _seen(record: ConnectionRecord) -> ConnectionVersion:
    return ConnectionVersion(record.grant, record.generation, record.consent_time)
