"""Valid access tokens for callers and for calls to Zoom's API, cached so that most calls need neither the store nor decryption."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.ownership import check_owner
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh.refresher import Refresher, reauth_required
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.errors import (
    AppCredentialsRejected,
    DeadlineTooShort,
    InvalidRequest,
    NotConnected,
    RefreshInProgress,
    ServerOverloaded,
    TokenRequestRefused,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
from zoomgate_server.storage.record_store import Change, StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.background_tasks import retrieve_exception
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.telemetry.spans import detached_context
from zoomgate_server.zoom.client import MIN_SECONDS

REFRESH_BEFORE_SECONDS = 120.0
"""Minimum remaining lifetime of a token for a call to Zoom's API. With a smaller value, a token could expire during a call; with a larger
value, a refresh could invalidate a token that other callers still use."""

CAPACITY = 100_000
"""Maximum number of cached tokens, and also of other users whose latest version is remembered. The oldest entry is evicted first."""

_MIN_FALLBACK_VALIDITY = 5.0
"""Minimum remaining lifetime of a token that is returned after its refresh has failed."""

_KEEP_CURRENT_TOKEN_ON = (
    AppCredentialsRejected,
    DeadlineTooShort,
    RefreshInProgress,
    ServerOverloaded,
    StoreError,
    TokenRequestRefused,
    ZoomBadResponse,
    ZoomRateLimited,
    ZoomUnavailable,
)
"""Failures of a read or refresh after which the current token is still returned if it is valid for long enough."""

_log = logs.get("zoomgate.connections")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of access tokens, in seconds.

    Attributes:
        change_visibility: Maximum age at which a refreshed record is cached without reading it again. The next poll of the change feed
            reports any later change.
        max_issued_ahead: If a token was issued further in the future than this, the store's clock was set back afterwards.
        refresh_wait: Maximum time that a call waits for a read or a refresh if the current token is still valid.
    """

    change_visibility: float = 5.0
    max_issued_ahead: float = 60.0
    refresh_wait: float = 2.0


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A user's token pair.

    Attributes:
        generation: The generation to replace when the pair is refreshed.
        zoom_user_id: The Zoom user to whom the pair belongs.
        owner: Identity of the member that owns the connection, or None.
        expires: Reading of the monotonic clock at which the access token expires.
    """

    tokens: TokenPair = field(repr=False)
    generation: int
    zoom_user_id: str
    owner: str | None
    expires: float


class _Version(NamedTuple):
    """A version of a Zoom user's connection."""

    grant: str
    generation: int
    consent_time: float

    def precedes(self, other: "_Version") -> bool:
        """Return whether this version is older than `other`.

        A version with a later consent is never considered older, even if its generation is lower because of a store rollback.
        """
        return self.generation < other.generation and (
            self.grant == other.grant or self.consent_time <= other.consent_time
        )


@dataclass(slots=True)
class _Latest:
    """The latest version of a Zoom user's connection that this process has seen.

    Attributes:
        token: The cached token, or None after it was dropped.
        used: Whether a call by this process used the token.
        issued: Whether the token was returned to a caller.
        rolled_back: Whether the latest read of the store returned an older version.
    """

    zoom_user_id: str
    version: _Version
    rev: int = 0
    token: AccessToken | None = None
    used: bool = False
    issued: bool = False
    rolled_back: bool = False


class AccessTokens:
    """The access tokens of all users, cached and refreshed as needed.

    A newer version of a connection is never replaced by an older one, neither after a slow read nor after a store rollback, such as a
    restored backup. If a newer version was seen but is no longer cached, the token from the store is treated as expired: the access token
    is not returned to callers, and the refresh token is used as soon as a token is needed.

    Methods that receive a `Call` raise `CallerNotAllowed` if the connection belongs to a different member. For the errors of refreshes, see
    `Refresher.refresh`.
    """

    def __init__(
        self,
        *,
        connections: ConnectionRepository,
        refresher: Refresher,
        clock: Clock,
        metrics: Metrics,
        capacity: int = CAPACITY,
        timing: Timing = Timing(),
    ) -> None:
        self._connections = connections
        self._refresher = refresher
        self._clock = clock
        self._metrics = metrics
        self._capacity = capacity
        self._timing = timing
        self._cached: OrderedDict[str, _Latest] = OrderedDict()
        self._dropped: OrderedDict[str, _Latest] = OrderedDict()
        self._addresses: dict[str, str] = {}
        """The email address under which each Zoom user is in `_cached` or `_dropped`."""
        self._reads: dict[str, asyncio.Task[AccessToken]] = {}

    async def get_token(self, call: Call, user_email: str, min_validity: float) -> AccessToken:
        """Return a token that is valid for at least `min_validity` seconds, refreshing the token if needed."""
        return self._issue(user_email, await self._valid_token(call, user_email, min_validity, min_validity))

    async def refresh_token(self, call: Call, user_email: str, expected: str) -> AccessToken:
        """Refresh the stored token even if it is still valid.

        Args:
            expected: If not empty, the refresh token to replace. If an earlier call has replaced it, the current token is returned.

        Raises:
            InvalidRequest: The connection has never held `expected`.
        """
        current = await self._read(user_email)
        check_owner(call, current.owner)
        if expected and expected != current.tokens.refresh_token:
            record, _ = await self._connections.find(user_email)
            if record is None or not record.has_held(expected):
                raise InvalidRequest.of(
                    "refresh_token",
                    "is not the stored refresh token; leave it empty to refresh the stored one",
                )
            return await self.get_token(call, user_email, 0.0)
        return self._issue(user_email, await self._force_refresh(call, user_email, current))

    async def peek(self, call: Call, user_email: str) -> AccessToken:
        """Return the stored token, expired or not, without calling Zoom."""
        current = await self._read(user_email)
        check_owner(call, current.owner)
        return current

    async def issue(self, call: Call, record: ConnectionRecord, min_validity: float) -> AccessToken:
        """Return a valid token of a connection that was just stored, or that was found for a code or refresh token of the caller."""
        if record.state is State.ACTIVE:
            self.cache(record)
        else:
            self.drop(record.user_email)
        return await self.get_token(call, record.user_email, min_validity)

    async def for_call(self, call: Call, user_email: str) -> AccessToken:
        """Return a token for a call to Zoom's API, refreshing the token if its remaining lifetime is less than two minutes."""
        return await self._valid_token(call, user_email, 0.0, REFRESH_BEFORE_SECONDS)

    async def check_connected(self, call: Call, user_email: str, zoom_user_id: str) -> None:
        """Check that the Zoom user is still connected. The connection is read only if it has changed since it was cached.

        Raises:
            NotConnected, ReauthRequired: The authorization has ended.
            ZoomUnavailable: The email address now belongs to a different Zoom user.
            CallerNotAllowed: The connection belongs to a different member.
            StoreError, RecordFault: The connection could not be read.
        """
        token = await self._cached_or_read(user_email, call.deadline)
        _check_same_user(token, zoom_user_id)
        check_owner(call, token.owner)

    async def after_rejection(self, call: Call, user_email: str, rejected: AccessToken) -> AccessToken:
        """Return a token of the same Zoom user that is newer than the rejected one, refreshing the token if needed.

        Raises:
            ZoomUnavailable: The email address now belongs to a different Zoom user.
        """
        token = await self._read(user_email)
        if token.zoom_user_id == rejected.zoom_user_id and token.generation <= rejected.generation:
            token = await self._force_refresh(call, user_email, rejected)
        _check_same_user(token, rejected.zoom_user_id)
        check_owner(call, token.owner)
        return token

    async def is_being_replaced(self, rejected: AccessToken) -> bool:
        """Return whether the rejected token was replaced or is being refreshed.

        A refresh invalidates the previous token before the new token can be read from the store.
        """
        record, now = await self._connections.read(rejected.zoom_user_id)
        if record is None:
            return False
        return record.generation > rejected.generation or self._refresher.is_leased(record, now)

    def in_use(self) -> list[tuple[str, AccessToken]]:
        """Return users and tokens that calls by this process have used, excluding tokens that were returned to a caller."""
        return [
            (user_email, latest.token)
            for user_email, latest in self._cached.items()
            if latest.used and not latest.issued and latest.token is not None
        ]

    def is_in_use(self, user_email: str, token: AccessToken) -> bool:
        """Return whether a token from `in_use` is still cached and has not been returned to a caller since."""
        latest = self._cached.get(user_email)
        return latest is not None and latest.token is token and not latest.issued

    def cache(self, record: ConnectionRecord) -> None:
        """Cache the token of a record that was just written, unless the user may have been disconnected since."""
        if self._is_covered_by_change_feed(record):
            self._cache(record)

    def drop(self, user_email: str) -> None:
        """Remove the user's token from the cache. Later calls do not wait for a read that has already begun, and may be outdated."""
        self._reads.pop(user_email, None)
        latest = self._cached.pop(user_email, None)
        if latest is None:
            return
        latest.token, latest.used = None, False
        self._dropped[user_email] = latest
        if len(self._dropped) > self._capacity:
            self._remove(next(iter(self._dropped)))

    def drop_changed(self, change: Change) -> None:
        """Drop the tokens that a change of a connection affects, unless the token was read from the changed revision.

        These are the token that is cached under the connection's email address, and the Zoom user's own token if the address has changed.
        """
        zoom_user_id = change.key.subject
        for user_email in (change.user_email, self._addresses.get(zoom_user_id)):
            latest = self._cached.get(user_email or "")
            if latest is None or (latest.zoom_user_id, latest.rev) != (zoom_user_id, change.rev):
                self.drop(user_email or "")

    def seen_generation(self, zoom_user_id: str) -> int:
        """Return the latest generation that this process has seen, or 0. After a store rollback, the stored generation is lower."""
        latest = self._latest(self._addresses.get(zoom_user_id, ""))
        return 0 if latest is None else latest.version.generation

    async def _valid_token(
        self, call: Call, user_email: str, min_validity: float, preferred_validity: float
    ) -> AccessToken:
        """Return a token that is valid for `min_validity` seconds.

        A token with a remaining lifetime of less than `preferred_validity` seconds is also refreshed, but is returned if the refresh fails
        or takes too long.
        """
        fallback_validity = max(min_validity, _MIN_FALLBACK_VALIDITY)
        latest = self._cached.get(user_email)
        token = None if latest is None else latest.token
        try:
            if token is None or not self._is_valid(token, preferred_validity):
                token = await self._read_together(
                    user_email, self._wait_until(call, token, fallback_validity)
                )
                latest = self._cached.get(user_email)
            check_owner(call, token.owner)
            if self._is_valid(token, preferred_validity):
                if latest is not None:
                    latest.used = True
                return token
            record = await self._refresh(token, self._wait_until(call, token, fallback_validity))
        except _KEEP_CURRENT_TOKEN_ON:
            if token is None or not self._is_valid(token, fallback_validity):
                raise
            # a change during the wait, such as the lease of the refresh or a disconnection, has removed the token from the cache
            token = await self._cached_or_read(user_email, self._wait_until(call, token, fallback_validity))
            if not self._is_valid(token, fallback_validity):
                raise
            check_owner(call, token.owner)
            return token
        return await self._cache_refreshed(call, user_email, record)

    def _is_valid(self, token: AccessToken, seconds: float) -> bool:
        """Return whether a token is valid for more than `seconds`."""
        return token.expires - self._clock.monotonic() > seconds

    def _wait_until(self, call: Call, current: AccessToken | None, fallback_validity: float) -> float:
        """Return the time until which a call waits for a newer token. If the current token is valid, time remains to use it."""
        seconds = self._timing.refresh_wait
        if current is None or not self._is_valid(current, fallback_validity + seconds):
            return call.deadline
        now = self._clock.monotonic()
        return now + min(seconds, (call.deadline - now) / 2)

    async def _force_refresh(self, call: Call, user_email: str, token: AccessToken) -> AccessToken:
        return await self._cache_refreshed(
            call, user_email, await self._refresh(token, call.deadline, forced=True)
        )

    async def _refresh(
        self, token: AccessToken, deadline: float, *, forced: bool = False
    ) -> ConnectionRecord | None:
        """Refresh a token and return its record, or None if the Zoom user is no longer connected."""
        try:
            return await self._refresher.refresh(
                token.zoom_user_id, seen_generation=token.generation, deadline=deadline, forced=forced
            )
        except NotConnected:
            return None

    async def _cache_refreshed(
        self, call: Call, user_email: str, record: ConnectionRecord | None
    ) -> AccessToken:
        """Cache the token of a refreshed record.

        If the record is too old to be cached, or no longer has the email address, read the connection with the address instead.
        """
        if record is not None and record.user_email == user_email and self._is_covered_by_change_feed(record):
            token = self._cache(record)
        else:
            token = await self._read_together(user_email, call.deadline)
        check_owner(call, token.owner)
        return token

    def _is_covered_by_change_feed(self, record: ConnectionRecord) -> bool:
        """Return whether the next poll of the change feed includes all changes since the record was written.

        Every poll covers the last `change_feed.Timing.overlap` seconds and thus reports a disconnection since. The token of an older
        record could otherwise be used until it expires.
        """
        return self._connections.now() - record.update_time <= self._timing.change_visibility

    async def _cached_or_read(self, user_email: str, deadline: float) -> AccessToken:
        """Return the user's token, valid or not, from the cache if it has not changed since."""
        latest = self._cached.get(user_email)
        token = None if latest is None else latest.token
        return token or await self._read_together(user_email, deadline)

    async def _read_together(self, user_email: str, deadline: float) -> AccessToken:
        """Read the user's token with `_read`, sharing one read among concurrent callers. It continues after the deadline."""
        pending_read = self._reads.get(user_email)
        if pending_read is None:
            pending_read = asyncio.get_running_loop().create_task(
                self._read(user_email), context=detached_context()
            )
            self._reads[user_email] = pending_read
            pending_read.add_done_callback(partial(self._forget_read, user_email))
            pending_read.add_done_callback(retrieve_exception)
        remaining = deadline - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, remaining)):
                return await asyncio.shield(pending_read)
        except TimeoutError:
            if remaining < MIN_SECONDS:
                raise DeadlineTooShort(
                    "Not enough time was left before the deadline to read the token; nothing was sent"
                ) from None
            raise StoreError("the store did not respond in time") from None

    def _forget_read(self, user_email: str, read: asyncio.Task[AccessToken]) -> None:
        if self._reads.get(user_email) is read:
            del self._reads[user_email]

    async def _read(self, user_email: str) -> AccessToken:
        """Read the user's token from the store and cache the token."""
        before = self._latest(user_email)
        record, _ = await self._connections.find(user_email)
        if record is None or record.state is State.DISCONNECTED:
            self.drop(user_email)
            raise NotConnected
        if record.state is State.REAUTH_REQUIRED:
            self.drop(user_email)
            raise reauth_required(record)
        if before is not None and before.zoom_user_id == record.zoom_user_id:
            self._detect_rollback(record, before)
        return self._cache(record)

    def _detect_rollback(self, record: ConnectionRecord, before: _Latest) -> None:
        """Count a record that is older than the version seen before the read, and log the first of consecutive detections."""
        rolled_back = _version(record).precedes(before.version)
        if rolled_back:
            self._metrics.store_rollbacks_detected.inc()
            if not before.rolled_back:
                _log.error(
                    "connection.rolled_back",
                    user=record.user_email,
                    generation=record.generation,
                    seen=before.version.generation,
                )
        before.rolled_back = rolled_back

    def _cache(self, record: ConnectionRecord) -> AccessToken:
        """Cache the token of a record unless a newer version was seen, and return the token to use.

        If the store's clock was set back since the token was issued, the remaining lifetime is unknown, so the token is treated as expired.
        """
        tokens, version = record.tokens, _version(record)
        user_email, zoom_user_id = record.user_email, record.zoom_user_id
        if tokens is None:
            raise NotConnected
        store_now, now = self._connections.now(), self._clock.monotonic()
        is_clock_consistent = tokens.obtained_at < store_now + self._timing.max_issued_ahead
        expires = now + tokens.access_expire_at - store_now if is_clock_consistent else now
        token = AccessToken(tokens, record.generation, zoom_user_id, record.owner, expires)
        previous_address = self._addresses.get(zoom_user_id, "")
        latest = self._latest(previous_address)
        if latest is not None and version.precedes(latest.version):
            if latest.token is not None and previous_address == user_email:
                return latest.token
            return replace(token, generation=latest.version.generation, expires=min(expires, now))
        if latest is None or latest.version != version:
            latest = _Latest(zoom_user_id, version)
        latest.rev, latest.token = record.rev, token
        self._remove(previous_address)
        self._remove(user_email)
        self._cached[user_email] = latest
        self._addresses[zoom_user_id] = user_email
        if len(self._cached) > self._capacity:
            self.drop(next(iter(self._cached)))
        return token

    def _remove(self, user_email: str) -> None:
        """Delete what is known about an email address."""
        latest = self._cached.pop(user_email, None) or self._dropped.pop(user_email, None)
        if latest is not None:
            del self._addresses[latest.zoom_user_id]

    def _issue(self, user_email: str, token: AccessToken) -> AccessToken:
        """Return a token for a caller, and record that it was returned."""
        latest = self._latest(user_email)
        if latest is not None:
            latest.issued = True
        return token

    def _latest(self, user_email: str) -> _Latest | None:
        return self._cached.get(user_email) or self._dropped.get(user_email)


def _check_same_user(token: AccessToken, zoom_user_id: str) -> None:
    if token.zoom_user_id != zoom_user_id:
        raise ZoomUnavailable(
            "A different Zoom user connected with this email address during the call, which changed nothing; retry the call",
            retry_after=1.0,
        )


def _version(record: ConnectionRecord) -> _Version:
    return _Version(record.grant, record.generation, record.consent_time)
