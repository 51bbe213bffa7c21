"""Blocking and asyncio clients."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Self

import grpc
import grpc.aio

from zoomgate import _channel
from zoomgate._files import (
    Query,
    Transfer,
    opened,
    opened_async,
    pages_request,
    parse_page,
    write,
    write_async,
)
from zoomgate._methods import Session, check_timeout
from zoomgate._requests import build
from zoomgate._resumption import Backoff, is_temporary
from zoomgate._token_cache import AsyncCachedGetToken, CachedGetToken, caching_methods
from zoomgate.errors import (
    AuthorizationFailed,
    DeadlineExceeded,
    NotConnected,
    ServiceUnavailable,
    ZoomgateError,
)
from zoomgate.services import (
    AsyncAuth,
    AsyncMeetings,
    AsyncProxy,
    AsyncRegistrants,
    Auth,
    Meetings,
    Proxy,
    Registrants,
)
from zoomgate.v1.auth_service_pb2 import (
    GetAuthorizationResponse,
    WatchConnectionsRequest,
    WatchConnectionsResponse,
)
from zoomgate.v1.connection_pb2 import Connection
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate.v1.proxy_service_pb2 import DownloadHead

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0
"""Default timeout of a call in seconds. The server limits calls to 60 seconds."""

_POLL_SECONDS = 1.0


class _BaseClient:
    _target: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"


class Client(_BaseClient):
    """A blocking client of the service. Thread-safe; create one client and reuse it.

    A client cannot be used after a fork, because gRPC's threads exist only in the parent process. Create a new client in each child
    process. Using the parent's client in a child process raises `RuntimeError`.

    Attributes:
        auth: Authorizations and tokens of users.
        meetings: Zoom meetings.
        registrants: Registrations for Zoom meetings.
        proxy: Requests to any other part of Zoom's REST API.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        key: str = "",
        root_certificates: bytes | None = None,
        tls: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        wait_for_ready: bool = False,
        options: Iterable[tuple[str, Any]] = (),
        channel: grpc.Channel | None = None,
        cache_tokens: bool = False,
    ) -> None:
        """Create a client. The network connection is established by the first call.

        Args:
            target: HOST:PORT, or any name that gRPC resolves, such as `dns:///zoomgate:50051`.
            key: The caller's key, as printed by `zoomgate callers add`. Sent with every call.
            root_certificates: The PEM certificates of the certificate authority that signed the server's certificate. Defaults to the
                certificates shipped with gRPC.
            tls: Whether to use TLS. Defaults to True, except for loopback addresses without `root_certificates`. For other addresses,
                False sends the key in plaintext; use False only if the network itself is encrypted, as in a service mesh.
            timeout: The default timeout of a call in seconds. It also applies to calls with the timeout None.
            wait_for_ready: Whether calls wait while the service cannot be reached, for example during its restart, instead of failing.
                Unary calls wait until their timeout; streams and downloads without a timeout wait indefinitely.
            options: gRPC channel options. They override the options that the client sets.
            channel: An existing channel to use. The client does not close the channel, and ignores `target`, `tls`, `root_certificates` and
                `options`.
            cache_tokens: Whether `auth.get_token` returns cached tokens without a call while they are valid. The caller must be allowed to
                watch connections. Close the client to end the watch.

        Raises:
            ValueError: An argument is invalid. The message does not contain the key.
        """
        _channel.check_key(key)
        self._target = target
        self._session = Session(key, timeout, wait_for_ready)
        self._owned: grpc.Channel | None = None
        if channel is None:
            _channel.check_target(target)
            credentials = _channel.credentials(target, root_certificates, tls)
            arguments = _channel.options(target, options)
            channel = self._owned = (
                grpc.insecure_channel(target, arguments)
                if credentials is None
                else grpc.secure_channel(target, credentials, arguments)
            )
        watch = partial(self.watch, heartbeat=True)
        cached = caching_methods(CachedGetToken, watch) if cache_tokens else {}
        self.auth = Auth(channel, self._session, cached)
        self.meetings = Meetings(channel, self._session)
        self.registrants = Registrants(channel, self._session)
        self.proxy = Proxy(channel, self._session)

    def connections(
        self,
        *,
        states: Iterable[Connection.State.ValueType] = (),
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Connection]:
        """Iterate over all connections that the caller may see, ordered by email address. Pages are fetched as needed.

        Args:
            states: The states of the connections to return. If empty, returns all states except STATE_DISCONNECTED.
            on_unreadable: Called with the address of each user whose connection is missing because the service cannot decrypt it.

        Raises:
            ZoomgateError: A page could not be fetched.
        """
        for page in self.auth.list_connections.pages(states=tuple(states)):
            yield from page.connections
            for user_email in page.unreadable_users:
                on_unreadable(user_email)

    def watch(
        self, user_emails: Iterable[str] = (), *, resume_token: str = "", heartbeat: bool = False
    ) -> Generator[WatchConnectionsResponse, None, None]:
        """Iterate over connections as they change: first the existing connections, then every change. Close the iterator to stop.

        If the server stops, restarts or cannot be reached, the watch automatically resumes with the last `resume_token`, so no change is
        missed. An event may then be delivered twice, with the same `generation` and `update_time`.

        Args:
            user_emails: The users to watch; at most 1000. Defaults to all users that the caller may see.
            resume_token: The token of the last event of an earlier watch with the same `user_emails`. The watch then resumes after that
                event, without a snapshot.
            heartbeat: Whether to deliver TYPE_SYNCED about once per second. Without one for longer, the watch may be interrupted.

        Yields:
            Events with a type, the connection (unset for TYPE_SYNCED), and a token for resuming the watch after the event.

        Raises:
            ResumeTokenExpired: The token is older than 30 days. Start a new watch without a token.
            ZoomgateError: The call failed before the first event, or failed later for a reason that resuming cannot fix.
            RuntimeError: The client was closed.
        """
        request, backoff = _watch_request(user_emails, resume_token, heartbeat), Backoff()
        while True:
            stream = self.auth.watch_connections(request)
            try:
                with contextlib.closing(stream):
                    for event in stream:
                        request.resume_token = event.resume_token
                        backoff.reset()
                        yield event
                raise ServiceUnavailable(grpc.StatusCode.UNAVAILABLE, "the watch ended")
            except ZoomgateError as error:
                self._session.pause(backoff.pause_after(error))

    def pages(
        self, user_email: str, url: str, *, query: Query = (), max_pages: int = 0, max_items: int = 0
    ) -> Generator[dict[str, Any], None, None]:
        """Iterate over the pages of a list of Zoom's API, as parsed JSON. Close the iterator to stop.

        A page is requested when it is needed. Zoom's page tokens expire after 15 minutes, so do not pause for longer.
        `proxy.list_pages` returns the pages unparsed, with their status and headers.

        Args:
            user_email: The user on whose behalf Zoom is called.
            url: A path such as `/users/me/meetings`.
            query: The query parameters, such as `{"page_size": "300"}`.
            max_pages: The maximum number of pages; 0 for no limit.
            max_items: The number of items after which no further page is requested; 0 for no limit.

        Raises:
            UnexpectedStatus: Zoom responded with a status other than 2xx.
            ZoomgateError: The list could not be read, or not to its end.
        """
        request = pages_request(user_email, url, query, max_pages, max_items)
        with contextlib.closing(self.proxy.list_pages(request)) as stream:
            for message in stream:
                yield parse_page(message.response)

    def download(
        self,
        user_email: str,
        url: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        timeout: float | None = None,
        on_progress: Callable[[int, int | None], None] = lambda _received, _size: None,
    ) -> DownloadHead:
        """Download a file, such as a recording, and resume the download if the connection is lost.

        Args:
            user_email: The user on whose behalf Zoom is called.
            url: A `download_url` of Zoom, or a path of its API.
            file: The path of the file, which appears or is replaced only when the download is complete, or of a device or FIFO; or a binary
                file to write to.
            timeout: The maximum time of the whole download in seconds, including resumptions and the waits for a FIFO or terminal, but not
                the time for which writing to any other file blocks. None for no limit.
            on_progress: Called with the number of bytes received and the size of the file, or None if the size is unknown.

        Returns:
            The status, headers and size of the file.

        Raises:
            UnexpectedStatus: Zoom responded with a status other than 200 or 206.
            OSError: The file cannot be written.
            ZoomgateError: The download failed. With the reason DOWNLOAD_NOT_RESUMABLE, it can be started again.
        """
        transfer = Transfer(user_email, url, timeout)
        with opened(file, transfer) as output:
            while not transfer.is_complete:
                try:
                    stream = self.proxy.download(transfer.request(), timeout=transfer.timeout)
                    with contextlib.closing(stream):
                        for response in stream:
                            write(output, transfer.accept(response), transfer)
                            on_progress(transfer.received, transfer.size)
                    transfer.end()
                except ZoomgateError as error:
                    self._session.pause(transfer.pause_after(error))
        return transfer.head

    def wait_for_connection(
        self, user_email: str, *, after: Connection | None = None, state: str = "", timeout: float = 600.0
    ) -> Connection:
        """Wait until a user has consented, polling once per second.

        Args:
            user_email: The user's email address.
            after: The user's connection before the authorization was started, if any. If set, the method waits for a newer consent.
            state: The `state` of the authorization. If set, the method ends as soon as the authorization has failed.
            timeout: The maximum time to wait in seconds. Authorization URLs are valid for 600 seconds.

        Raises:
            AuthorizationFailed: The user declined, or the authorization failed.
            TimeoutError: The user did not consent in time.
            ZoomgateError: The connection could not be read for a reason other than NOT_FOUND. Temporary failures, such as a restart of
                the service, are raised only if they last until the end of the wait.
        """
        wait = _ConnectionWait(user_email, state, timeout)
        while True:
            try:
                limit = wait.call_timeout(self._session)
                with contextlib.suppress(NotConnected):
                    response = self.auth.get_connection(user_email=user_email, timeout=limit)
                    if _is_new(response.connection, after):
                        return response.connection
                if wait.state:
                    limit = wait.call_timeout(self._session)
                    wait.check_outcome(self.auth.get_authorization(state=wait.state, timeout=limit))
                pause = wait.pause_after(None)
            except ZoomgateError as error:
                pause = wait.pause_after(error)
            self._session.pause(pause)

    def close(self) -> None:
        """Close the client. Streams such as `watch` raise `RuntimeError`. Other calls in progress fail, unless `channel` was passed."""
        self._session.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_BaseClient):
    """An asyncio client of the service. Create one client in a coroutine and reuse it.

    The client is bound to the event loop and the process in which it was created. Calls from any other loop or
    process raise `RuntimeError`. gRPC supports only one event loop per process.

    Attributes:
        auth: Authorizations and tokens of users.
        meetings: Zoom meetings.
        registrants: Registrations for Zoom meetings.
        proxy: Requests to any other part of Zoom's REST API.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        key: str = "",
        root_certificates: bytes | None = None,
        tls: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        wait_for_ready: bool = False,
        options: Iterable[tuple[str, Any]] = (),
        channel: grpc.aio.Channel | None = None,
        cache_tokens: bool = False,
    ) -> None:
        """Create a client with the same arguments as `Client`. The network connection is established by the first call.

        Raises:
            ValueError: An argument is invalid. The message does not contain the key.
            RuntimeError: No event loop is running.
        """
        _channel.check_key(key)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "create an AsyncClient inside a coroutine; it is bound to the running event loop"
            ) from None
        self._target = target
        self._session = Session(key, timeout, wait_for_ready, loop)
        self._owned: grpc.aio.Channel | None = None
        if channel is None:
            _channel.check_target(target)
            credentials = _channel.credentials(target, root_certificates, tls)
            arguments = _channel.options(target, options)
            channel = self._owned = (
                grpc.aio.insecure_channel(target, arguments)
                if credentials is None
                else grpc.aio.secure_channel(target, credentials, arguments)
            )
        watch = partial(self.watch, heartbeat=True)
        cached = caching_methods(AsyncCachedGetToken, watch) if cache_tokens else {}
        self.auth = AsyncAuth(channel, self._session, cached)
        self.meetings = AsyncMeetings(channel, self._session)
        self.registrants = AsyncRegistrants(channel, self._session)
        self.proxy = AsyncProxy(channel, self._session)

    async def connections(
        self,
        *,
        states: Iterable[Connection.State.ValueType] = (),
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> AsyncIterator[Connection]:
        """Iterate over all connections that the caller may see. See `Client.connections`."""
        async for page in self.auth.list_connections.pages(states=tuple(states)):
            for connection in page.connections:
                yield connection
            for user_email in page.unreadable_users:
                on_unreadable(user_email)

    async def watch(
        self, user_emails: Iterable[str] = (), *, resume_token: str = "", heartbeat: bool = False
    ) -> AsyncGenerator[WatchConnectionsResponse, None]:
        """Iterate over connections as they change. See `Client.watch`. Cancel the iterating task or close the iterator to stop."""
        request, backoff = _watch_request(user_emails, resume_token, heartbeat), Backoff()
        while True:
            stream = self.auth.watch_connections(request)
            try:
                async with contextlib.aclosing(stream):
                    async for event in stream:
                        request.resume_token = event.resume_token
                        backoff.reset()
                        yield event
                raise ServiceUnavailable(grpc.StatusCode.UNAVAILABLE, "the watch ended")
            except ZoomgateError as error:
                await self._session.pause_async(backoff.pause_after(error))

    async def pages(
        self, user_email: str, url: str, *, query: Query = (), max_pages: int = 0, max_items: int = 0
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over the pages of a list of Zoom's API, as parsed JSON. See `Client.pages`."""
        request = pages_request(user_email, url, query, max_pages, max_items)
        async with contextlib.aclosing(self.proxy.list_pages(request)) as stream:
            async for message in stream:
                yield parse_page(message.response)

    async def download(
        self,
        user_email: str,
        url: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        timeout: float | None = None,
        on_progress: Callable[[int, int | None], None] = lambda _received, _size: None,
    ) -> DownloadHead:
        """Download a file, and resume the download if the connection is lost. See `Client.download`. Does not block the event loop."""
        transfer = Transfer(user_email, url, timeout)
        async with opened_async(file, transfer) as output:
            while not transfer.is_complete:
                try:
                    stream = self.proxy.download(transfer.request(), timeout=transfer.timeout)
                    async with contextlib.aclosing(stream):
                        async for response in stream:
                            await write_async(output, transfer.accept(response), transfer)
                            on_progress(transfer.received, transfer.size)
                    transfer.end()
                except ZoomgateError as error:
                    await self._session.pause_async(transfer.pause_after(error))
        return transfer.head

    async def wait_for_connection(
        self,
        user_email: str,
        *,
        after: Connection | None = None,
        state: str = "",
        timeout: float = 600.0,
    ) -> Connection:
        """Wait until a user has consented. See `Client.wait_for_connection`."""
        wait = _ConnectionWait(user_email, state, timeout)
        while True:
            try:
                limit = wait.call_timeout(self._session)
                with contextlib.suppress(NotConnected):
                    response = await self.auth.get_connection(user_email=user_email, timeout=limit)
                    if _is_new(response.connection, after):
                        return response.connection
                if wait.state:
                    limit = wait.call_timeout(self._session)
                    wait.check_outcome(await self.auth.get_authorization(state=wait.state, timeout=limit))
                pause = wait.pause_after(None)
            except ZoomgateError as error:
                pause = wait.pause_after(error)
            await self._session.pause_async(pause)

    async def close(self) -> None:
        """Close the client. Streams such as `watch` raise `RuntimeError`. Other calls in progress fail, unless `channel` was passed."""
        self._session.close()
        if isinstance(self.auth.get_token, AsyncCachedGetToken):
            await self.auth.get_token.stop()
        if self._owned is not None:
            await self._owned.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _watch_request(user_emails: Iterable[str], resume_token: str, heartbeat: bool) -> WatchConnectionsRequest:
    """Return the request for a watch."""
    fields = {"user_emails": user_emails, "resume_token": resume_token, "heartbeat": heartbeat}
    return build(WatchConnectionsRequest, fields)


class _ConnectionWait:
    """The time limit of a wait for a user's consent, and the pauses between polls.

    Attributes:
        state: The state of the authorization to poll, or empty.
    """

    def __init__(self, user_email: str, state: str, timeout: float) -> None:
        self.state = state
        self._is_state_valid = False
        self._user_email = user_email
        self._timeout = check_timeout(timeout)
        self._deadline = time.monotonic() + timeout

    def call_timeout(self, session: Session) -> float:
        """Return the timeout of the next poll."""
        return min(session.timeout, max(self._deadline - time.monotonic(), _POLL_SECONDS))

    def check_outcome(self, outcome: GetAuthorizationResponse) -> None:
        """Raise the error of an authorization that has failed."""
        self._is_state_valid = True
        if outcome.state == GetAuthorizationResponse.STATE_FAILED:
            known = ErrorReason.DESCRIPTOR.values_by_number.get(outcome.error_reason)
            # a newer server may send a reason that this client does not know
            reason = known.name.removeprefix("ERROR_REASON_") if known else str(outcome.error_reason)
            raise AuthorizationFailed(
                grpc.StatusCode.FAILED_PRECONDITION, outcome.error_message, reason=reason
            )

    def pause_after(self, error: ZoomgateError | None) -> float:
        """Return the delay in seconds before the next poll.

        Args:
            error: The failure of the poll. Re-raised if it is permanent, or if no time is left.

        Raises:
            TimeoutError: No time is left.
        """
        if error is not None and error.reason == "INVALID_STATE" and self._is_state_valid:
            self.state, error = "", None  # expired, while the connection may still be created
        delay = (error and error.retry_delay) or 0.0
        remaining = self._deadline - time.monotonic()
        is_over = remaining <= delay
        if error is not None:
            can_retry = is_temporary(error) or isinstance(error, DeadlineExceeded)
            if is_over or not can_retry:
                raise error
        if is_over:
            raise TimeoutError(f"{self._user_email} did not consent within {self._timeout:g} seconds")
        return max(delay, min(_POLL_SECONDS, remaining))  # the last poll is at the end


def _is_new(connection: Connection, after: Connection | None) -> bool:
    """Return whether a connection is active and results from a newer consent than `after`. Ignores refreshes."""
    if connection.state != Connection.STATE_ACTIVE:
        return False
    return after is None or connection.consent_time.ToNanoseconds() > after.consent_time.ToNanoseconds()
