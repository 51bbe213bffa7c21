"""A cache of access tokens that a watch keeps up to date.

The watch reports the current version of every connection. A token is cached only if it is of the reported version, and is returned only
while the version is unchanged and the watch is alive: the service sends a heartbeat about once per second, after reading its store.
Without a recent heartbeat, all calls go to the service.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grpc

from zoomgate._methods import AsyncMethod, Metadata, Method
from zoomgate.errors import NotAllowed, ZoomgateError
from zoomgate.v1.auth_service_pb2 import GetTokenRequest, GetTokenResponse, WatchConnectionsResponse
from zoomgate.v1.connection_pb2 import Connection

MAX_TOKENS = 10_000
"""Maximum number of cached tokens. The oldest is evicted first."""

MAX_USERS = 100_000
"""Maximum number of users whose versions are stored. The tokens of any other users are not cached."""

HEARTBEAT_SECONDS = 2.0
"""The time after a heartbeat during which the watch is considered alive."""

START_SECONDS = 2.0
"""Maximum time for which the first call waits for the start of the watch."""

_MIN_VALIDITY_SECONDS = 60.0
"""The service's default of `GetTokenRequest.min_validity`."""

_RESTART_SECONDS = 5.0
"""Minimum delay before a watch that has failed is restarted. Up to 50% is added at random."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

monotonic: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Returns the seconds since an arbitrary moment, including suspends of the machine, which `time.monotonic` includes only on Windows."""

MethodFactory = Callable[..., Method[Any, Any] | AsyncMethod[Any, Any]]
"""Creates a method with the arguments of `Method`."""


class _Version(NamedTuple):
    """A version of a connection. Another Zoom user who connects the same address may have the same generation."""

    generation: int
    zoom_user_id: str


@dataclass(frozen=True, slots=True, repr=False)
class _CachedToken:
    """A serialized response, and the reading of the clock at which its token expires."""

    expires: float
    response: bytes


class TokenCache:
    """The tokens of a client. Thread-safe.

    Attributes:
        clock: Returns the seconds since an arbitrary moment, including suspends of the machine.
        denied: The error of a watch that the caller's policy does not allow, or None.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self.denied: NotAllowed | None = None
        self._lock = threading.Lock()
        self._alive_until = 0.0
        self._versions: dict[str, _Version] = {}
        self._tokens: dict[str, _CachedToken] = {}

    def get(self, user_email: str) -> GetTokenResponse | None:
        """Return the response to a plain request, or None if the service must be called.

        Raises:
            NotAllowed: The caller may not watch connections.
        """
        if self.denied is not None:
            raise NotAllowed(
                grpc.StatusCode.PERMISSION_DENIED,
                "cache_tokens requires AuthService.WatchConnections; allow the RPC in the caller's policy, or omit cache_tokens",
                reason=self.denied.reason,
                request_id=self.denied.request_id,
            )
        cached, now = self._tokens.get(user_email), self.clock()
        if cached is None or now >= self._alive_until:
            return None
        seconds = cached.expires - now
        if seconds < _MIN_VALIDITY_SECONDS:
            return None
        response = GetTokenResponse.FromString(cached.response)
        response.token.expires_in = int(seconds)
        return response

    def version(self, user_email: str) -> _Version | None:
        """Return the version of a connection that the watch has reported, if any."""
        return self._versions.get(user_email)

    def put(
        self, user_email: str, version: _Version | None, started: float, response: GetTokenResponse
    ) -> None:
        """Cache a response if it is of the version that was reported before the call.

        Args:
            version: The version before the call. If it was replaced since, even by an equal one, the response is not cached.
            started: Reading of the clock before the call.
        """
        if version is None or version.generation != response.token.generation:
            return
        expires = started + response.token.expires_in
        cached = _CachedToken(expires, response.SerializeToString())
        with self._lock:
            if self._versions.get(user_email) is not version:
                return
            self._tokens[user_email] = cached
            if len(self._tokens) > MAX_TOKENS:
                del self._tokens[next(iter(self._tokens))]

    def drop(self, user_email: str) -> None:
        """Remove a token, and do not cache the responses to calls in progress."""
        with self._lock:
            self._tokens.pop(user_email, None)
            if user_email in self._versions:
                self._versions[user_email] = _Version(*self._versions[user_email])

    def apply(self, event: WatchConnectionsResponse) -> None:
        """Process an event of the watch."""
        self.denied = None
        if event.type == WatchConnectionsResponse.TYPE_SYNCED:
            # changes of connections that the service cannot decrypt are not reported
            self._alive_until = 0.0 if event.unreadable_count else self.clock() + HEARTBEAT_SECONDS
            return
        connection, user_email = event.connection, event.connection.user_email
        version = _Version(connection.generation, connection.zoom_user_id)
        is_active = connection.state == Connection.STATE_ACTIVE
        with self._lock:
            if is_active and self._versions.get(user_email) == version:
                return
            self._versions.pop(user_email, None)
            self._tokens.pop(user_email, None)
            if is_active and len(self._versions) < MAX_USERS:
                self._versions[user_email] = version

    def reset(self, error: ZoomgateError) -> float:
        """Discard everything after the watch has failed. Return the delay in seconds before the watch is restarted."""
        with self._lock:
            self._alive_until = 0.0
            self._versions.clear()
            self._tokens.clear()
        self.denied = error if isinstance(error, NotAllowed) else None
        delay = max(_RESTART_SECONDS, error.retry_delay or 0.0)
        return delay * random.uniform(1.0, 1.5)  # noqa: S311 - jitter, not security


class CachedGetToken(Method[GetTokenRequest, GetTokenResponse]):
    """`get_token` of a blocking client. The first plain request starts the watch in a thread, which ends when the client is closed."""

    __slots__ = ("_cache", "_lock", "_started", "_thread", "_watch")

    def __init__(
        self,
        cache: TokenCache,
        watch: Callable[[], Generator[WatchConnectionsResponse]],
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._cache = cache
        self._watch = watch
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(
        self,
        request: GetTokenRequest | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> GetTokenResponse:
        """Return a cached token if possible; otherwise, call the RPC. See `Method.__call__`.

        The timeout includes the start of the watch.
        """
        user_email = _plain_user(request, metadata, fields)
        if not user_email:
            return super().__call__(request, timeout=timeout, metadata=metadata, **fields)
        self._session.check()
        seconds, started = self._session.call_timeout(timeout), self._cache.clock()
        if not self._started.is_set():
            self._start(min(seconds, START_SECONDS))
        if (cached := self._cache.get(user_email)) is not None:
            return cached
        version, called = self._cache.version(user_email), self._cache.clock()
        response = super().__call__(request, timeout=max(started + seconds - called, 0.0), **fields)
        self._cache.put(user_email, version, called, response)
        return response

    def _start(self, seconds: float) -> None:
        """Start the watch unless it is running, and wait until it has started or failed, or for a number of seconds."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="zoomgate-token-cache", daemon=True)
                self._thread.start()
        self._started.wait(seconds)
        self._started.set()  # later calls do not wait

    def _follow(self) -> None:
        """Apply the events of the watch until the client is closed. Restart the watch if it fails."""
        while True:
            try:
                with closing(self._watch()) as events:
                    for event in events:
                        if self._session.closed:
                            return
                        self._cache.apply(event)
                        self._started.set()
            except ZoomgateError as error:
                delay = self._cache.reset(error)
                self._started.set()
                self._session.pause(delay)
            except (RuntimeError, ValueError):  # the client or its channel was closed
                return


class AsyncCachedGetToken(AsyncMethod[GetTokenRequest, GetTokenResponse]):
    """`get_token` of an asyncio client. The first plain request starts the watch in a task."""

    __slots__ = ("_cache", "_started", "_task", "_watch")

    def __init__(
        self,
        cache: TokenCache,
        watch: Callable[[], AsyncGenerator[WatchConnectionsResponse]],
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._cache = cache
        self._watch = watch
        self._started = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __call__(
        self,
        request: GetTokenRequest | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> GetTokenResponse:
        """Return a cached token if possible; otherwise, call the RPC. See `CachedGetToken` and `AsyncMethod.__call__`."""
        user_email = _plain_user(request, metadata, fields)
        if not user_email:
            return await super().__call__(request, timeout=timeout, metadata=metadata, **fields)
        self._session.check()
        seconds, started = self._session.call_timeout(timeout), self._cache.clock()
        if not self._started.is_set():
            await self._start(min(seconds, START_SECONDS))
        if (cached := self._cache.get(user_email)) is not None:
            return cached
        version, called = self._cache.version(user_email), self._cache.clock()
        response = await super().__call__(request, timeout=max(started + seconds - called, 0.0), **fields)
        self._cache.put(user_email, version, called, response)
        return response

    async def stop(self) -> None:
        """Stop the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _start(self, seconds: float) -> None:
        """Start the watch unless it is running, and wait until it has started or failed, or for a number of seconds."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="zoomgate-token-cache")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._started.wait()
        self._started.set()  # later calls do not wait

    async def _follow(self) -> None:
        """Apply the events of the watch until the task is canceled. Restart the watch if it fails."""
        while True:
            try:
                async with aclosing(self._watch()) as events:
                    async for event in events:
                        self._cache.apply(event)
                        self._started.set()
            except ZoomgateError as error:
                delay = self._cache.reset(error)
                self._started.set()
                await asyncio.sleep(delay)


def caching_methods(
    kind: type[CachedGetToken] | type[AsyncCachedGetToken], watch: Callable[[], Any]
) -> dict[str, MethodFactory]:
    """Return the methods of `Auth` or `AsyncAuth` that differ if tokens are cached, with a `get_token` of the given kind."""
    cache = TokenCache()
    dropping = partial(_dropping if kind is CachedGetToken else _async_dropping, cache)
    return {
        "get_token": partial(kind, cache, watch),
        "refresh_token": dropping,
        "delete_connection": dropping,
    }


def _dropping(cache: TokenCache, call: Any, *args: Any, **options: Any) -> Method[Any, Any]:
    """Create a method that ends the user's current token, and therefore drops it without waiting for the watch."""

    def call_and_drop(message: Any, **arguments: Any) -> Any:
        try:
            return call(message, **arguments)
        finally:
            cache.drop(message.user_email.lower())

    return Method(call_and_drop, *args, **options)


def _async_dropping(cache: TokenCache, call: Any, *args: Any, **options: Any) -> AsyncMethod[Any, Any]:
    """Asyncio variant of `_dropping`."""

    def call_and_drop(message: Any, **arguments: Any) -> Any:
        rpc = call(message, **arguments)
        rpc.add_done_callback(lambda _: cache.drop(message.user_email.lower()))
        return rpc

    return AsyncMethod(call_and_drop, *args, **options)


def _plain_user(request: GetTokenRequest | None, metadata: Metadata, fields: dict[str, Any]) -> str:
    """Return the user of a request that sets only `user_email`, in lower case; empty for all other requests."""
    user_email: Any = fields.get("user_email") if request is None and len(fields) == 1 else None
    if isinstance(request, GetTokenRequest) and not fields and not request.HasField("min_validity"):
        user_email = request.user_email
    # the service rejects other characters, some of which have ASCII letters as their lower case
    is_plain = isinstance(user_email, str) and user_email.isascii() and not metadata
    return user_email.lower() if is_plain else ""
