"""The life of a connection after the consent: used and shown."""

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
from zoomgate_server.connections.token_cache import CachedToken, Seen, TokenCache
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    FieldViolation,
    InvalidRequest,
    RefreshInProgress,
    ServerOverloaded,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
    not_connected,
    store_unavailable,
)
from zoomgate_server.storage.record_store import Change, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

REFRESH_BEFORE_SECONDS = 120.0
"""Calls to Zoom refresh a token that is valid for less than this: later than that a call could outlive its token, earlier a refresh
could end a token that others still use."""

RESPONSE_MARGIN = 0.2
"""Kept of a caller's deadline for the way back."""

CLOCK_SKEW_TOLERANCE = 60.0
"""By so much the store's clock may differ from one read to the next; a token of a later time shows that the clock was set back."""

CHANGE_VISIBILITY_SECONDS = 5.0
"""How old a record may be that is taken into memory unread: what happened to it since is still told by the next look."""

MAX_ROLLED_BACK = 10_000
"""Users of whom this process remembers that it has told of a store that was set back."""

_KEEP_CURRENT_TOKEN_ON = (
    AppCredentialsRejected,
    RefreshInProgress,
    ServerOverloaded,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
"""Failures of a refresh that leave the token before in use for as long as it is valid."""

_log = logs.get("zoomgate.connections")


class AccessToken(NamedTuple):
    """A token as it is handed to a caller.

    Attributes:
        tokens: The pair.
        generation: Which pair of the user it is.
        remaining: Seconds until the access token expires.
    """

    tokens: TokenPair
    generation: int
    remaining: float


def work_deadline(call: Call) -> float:
    """Reading of the monotonic clock until which work for this call makes sense."""
    return call.deadline - RESPONSE_MARGIN


class AccessTokens:
    """Uses and shows connections.

    Args:
        connections: Where the records are.
        refresher: Refreshes tokens.
        cache: Tokens in memory.
        clock: Time.
        metrics: Counts stores that were set back.
    """

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
        """Give a token that is valid for at least `min_validity` seconds, refreshed if need be.

        Raises:
            CallerNotAllowed, NotConnected, ReauthRequired, StoreUnavailable, and what `Refresher.refresh` raises.
        """
        return self._issue_to_caller(user_email, await self._token(call, user_email, min_validity))

    async def refresh_token(self, call: Call, user_email: str, expected: str) -> AccessToken:
        """Refresh the stored token although it is valid still.

        Args:
            call: Who asks.
            user_email: Whose token.
            expected: The refresh token that must be the stored one, or empty.

        Raises:
            InvalidRequest: `expected` is not the stored one.
            CallerNotAllowed, and what `Refresher.refresh` raises.
        """
        current = await self._read(user_email)
        check_owner(call, current.owner)
        if expected and expected != current.tokens.refresh_token:
            raise InvalidRequest(
                [
                    FieldViolation(
                        "refresh_token",
                        "is not the one that is stored: leave it out to refresh the stored one",
                    )
                ]
            )
        record = await self._refresher.refresh(
            user_email, seen_generation=current.generation, deadline=work_deadline(call), forced=True
        )
        return self._issue_to_caller(user_email, await self._cache_refreshed(call, user_email, record))

    async def peek(self, call: Call, user_email: str) -> AccessToken:
        """Give the stored token as it is, expired or not, without calling Zoom."""
        current = await self._read(user_email)
        check_owner(call, current.owner)
        self._cache.note_issued(user_email)
        return AccessToken(current.tokens, current.generation, current.expires - self._clock.monotonic())

    def issued_to_caller(self, user_email: str, record: ConnectionRecord) -> AccessToken:
        """Give the token of a record that was just stored."""
        return self._issue_to_caller(user_email, self._cache_token(user_email, record))

    def cache(self, user_email: str, record: ConnectionRecord) -> None:
        """Put the token of a record into memory, unless that was written too long ago: see `_take`."""
        if self._is_covered_by_change_feed(record):
            self._cache_token(user_email, record)

    async def for_call(self, call: Call, user_email: str) -> CachedToken:
        """Give a token for a call of Zoom's API, refreshed if it is valid for less than two minutes.

        Raises:
            CallerNotAllowed, and what `Refresher.refresh` raises.
        """
        return await self._token(call, user_email, 0.0, comfortable=REFRESH_BEFORE_SECONDS)

    async def after_rejection(self, call: Call, user_email: str, refused: CachedToken) -> CachedToken:
        """Find a better token than the one that Zoom refused: a newer one in the store, or else a refreshed one."""
        current = await self._read(user_email)
        if current.generation > refused.generation:
            return current
        record = await self._refresher.refresh(
            user_email, seen_generation=refused.generation, deadline=work_deadline(call), forced=True
        )
        return await self._cache_refreshed(call, user_email, record)

    async def is_being_replaced(self, user_email: str, refused: CachedToken) -> bool:
        """Tell whether somebody has renewed the token that Zoom refused, or is about to: either ends it at Zoom before it is read here."""
        record, now = await self._record(user_email)
        if record is None:
            return False
        return record.generation > refused.generation or (
            record.lease is not None and record.lease.until > now
        )

    def drop_changed(self, change: Change) -> None:
        """Drop the cached token of a connection that changed, unless it comes from that change."""
        self._cache.drop(change.key.subject, unless_rev=change.rev)

    # -- how ---------------------------------------------------------------------------------------------

    async def _token(
        self, call: Call, user_email: str, min_validity: float, *, comfortable: float = 0.0
    ) -> CachedToken:
        """Give a token that is valid for `min_validity` seconds.

        One that is valid for less than `comfortable` seconds is refreshed too, but serves if the refresh fails.
        """
        now = self._clock.monotonic()
        token = self._cache.get(user_email)
        if token is None or token.expires - now <= max(min_validity, comfortable):
            token = await self._read_together(call, user_email)
            now = self._clock.monotonic()
        check_owner(call, token.owner)
        if token.expires - now > max(min_validity, comfortable):
            if comfortable:
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
        """Read the user's token as `_read` does; callers who come while somebody reads it share what that gives.

        Raises:
            StoreUnavailable: The store did not answer in the call's time.
        """
        reading = self._reads.get(user_email)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(
                self._read(user_email), context=contextvars.Context()
            )
            self._reads[user_email] = reading
            reading.add_done_callback(functools.partial(self._reading_ended, user_email))
        try:
            async with asyncio.timeout(max(0.0, work_deadline(call) - self._clock.monotonic())):
                return await asyncio.shield(reading)
        except TimeoutError:
            raise store_unavailable() from None

    def _reading_ended(self, user_email: str, reading: asyncio.Task[CachedToken]) -> None:
        del self._reads[user_email]
        if not reading.cancelled():
            reading.exception()  # whoever waited has it; if nobody does any more, it is no mistake

    async def _read(self, user_email: str) -> CachedToken:
        """Read the user's token from the store and keep it in memory.

        If the store was set back, to a backup for instance, the token that is in memory counts. If there is none, the one that was read
        counts as expired: its access token is not handed out, and its refresh token is tried as soon as somebody needs a token.
        """
        before = self._cache.seen(user_email)
        record, _ = await self._record(user_email)
        if record is None or record.state is State.DISCONNECTED:
            self._cache.drop(user_email)
            raise not_connected()
        if record.state is State.REAUTH_REQUIRED:
            self._cache.drop(user_email)
            raise reauth_required(record)
        if before is not None:
            self._detect_rollback(user_email, _seen(record), before)
        return self._cache_token(user_email, record)

    def _detect_rollback(self, user_email: str, read: Seen, before: Seen) -> None:
        """Notice a store that is behind what this process had seen before it asked: a backup was restored, or a write was lost."""
        if not read.precedes(before):
            self._rolled_back.discard(user_email)
            return
        self._metrics.store_rollback_detected()
        if user_email not in self._rolled_back:
            if len(self._rolled_back) >= MAX_ROLLED_BACK:
                self._rolled_back.clear()
            self._rolled_back.add(user_email)
            _log.error(
                "connection.rolled_back", user=user_email, generation=read.generation, seen=before.generation
            )

    async def _record(self, user_email: str) -> tuple[ConnectionRecord | None, float]:
        try:
            return await self._connections.read(user_email)
        except StoreError:
            raise store_unavailable() from None

    async def _cache_refreshed(self, call: Call, user_email: str, record: ConnectionRecord) -> CachedToken:
        """Put the token of a refresh into memory.

        Between the commit and this moment the connection may have ended. Others' changes are told for a while
        (`change_feed.OVERLAP_SECONDS`), so a record that was written lately may be taken as it is; an older one is read again, or its
        token could serve until it expires.
        """
        if not self._is_covered_by_change_feed(record):
            return await self._read_together(call, user_email)
        return self._cache_token(user_email, record)

    def _is_covered_by_change_feed(self, record: ConnectionRecord) -> bool:
        """Tell whether what happened to a connection since its record was written is still told."""
        return self._connections.now() - record.update_time <= CHANGE_VISIBILITY_SECONDS

    def _cache_token(self, user_email: str, record: ConnectionRecord) -> CachedToken:
        """Put the token of a record into memory, its expiry on the monotonic clock, and give what counts (see `_read`).

        If the store's clock was set back since it was issued, nobody can tell how long it is valid, so it counts as expired.
        """
        tokens = record.tokens
        if tokens is None:
            raise not_connected()
        now = self._connections.now()
        valid = tokens.access_expire_at - now if tokens.obtained_at < now + CLOCK_SKEW_TOLERANCE else 0.0
        token = CachedToken(
            tokens=tokens,
            seen=_seen(record),
            rev=record.rev,
            owner=record.owner,
            expires=self._clock.monotonic() + valid,
        )
        kept, seen = self._cache.put(user_email, token), self._cache.seen(user_email)
        if kept is not None or seen is None:
            return kept or token
        return replace(token, seen=seen, expires=min(token.expires, self._clock.monotonic()))

    def _issue_to_caller(self, user_email: str, token: CachedToken) -> AccessToken:
        """Give a token to a caller; the service tells the audit trail who got whose."""
        self._cache.note_issued(user_email)
        return AccessToken(token.tokens, token.generation, max(0.0, token.expires - self._clock.monotonic()))


def _seen(record: ConnectionRecord) -> Seen:
    return Seen(record.grant, record.generation, record.consent_time)
