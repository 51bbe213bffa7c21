"""The clients: one that blocks, one to await."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from zoomgate import _channel
from zoomgate._methods import Session
from zoomgate.errors import NotConnected, RateLimited, ZoomgateError
from zoomgate.services import AsyncAuth, AsyncMeetings, AsyncProxy, Auth, Meetings, Proxy
from zoomgate.v1.auth_service_pb2 import WatchConnectionsResponse
from zoomgate.v1.connection_pb2 import Connection

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0
"""Seconds for a call that does not say otherwise; the server caps calls at 60."""

_PAGE_SIZE = 500
_POLL_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Pauses in seconds before a watch that broke off goes on: each twice as long as the one before until an event arrives."""


class _AnyClient:
    _target: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"


class Client(_AnyClient):
    """A connection to the service whose calls block. Make one and keep it; it may be used from several threads.

    After a fork the child needs a client of its own (gRPC's threads do not survive a fork): using the parent's raises `RuntimeError`.

    Attributes:
        auth: People's authorizations and tokens.
        meetings: Zoom meetings.
        proxy: Any other call of Zoom's REST API.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        key: str = "",
        root_certificates: bytes | None = None,
        tls: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        options: Iterable[tuple[str, Any]] = (),
        channel: grpc.Channel | None = None,
    ) -> None:
        """Make a client. The connection is made by the first call.

        Args:
            target: HOST:PORT, or any name that gRPC resolves, such as `dns:///zoomgate:50051`.
            key: The caller's key, as `zoomgate callers add` printed it; sent with every call.
            root_certificates: PEM of the authority that signed the server's certificate. Default: those that gRPC ships.
            tls: Whether to use TLS. Default: always, except for addresses of this machine without `root_certificates`. False elsewhere
                sends the key in the clear: only where the network itself encrypts, as in a mesh.
            timeout: Seconds for a call that does not say otherwise.
            options: Channel options of gRPC; they win over ours.
            channel: A channel to use instead of one made here; the client then does not close it, and `target`, `tls`,
                `root_certificates` and `options` do not matter.

        Raises:
            ValueError: An argument cannot be used; its text does not show the key.
        """
        _channel.check_key(key)
        self._target = target
        self._session = Session(key, timeout)
        self._owned: grpc.Channel | None = None
        if channel is None:
            credentials = _channel.credentials(target, root_certificates, tls)
            arguments = _channel.options(target, options)
            channel = self._owned = (
                grpc.insecure_channel(target, arguments)
                if credentials is None
                else grpc.secure_channel(target, credentials, arguments)
            )
        self.auth = Auth(channel, self._session)
        self.meetings = Meetings(channel, self._session)
        self.proxy = Proxy(channel, self._session)

    def connections(self, *, states: Iterable[Connection.State.ValueType] = ()) -> Iterator[Connection]:
        """Go through all connections that the caller may see, page by page, in the order of their addresses.

        Args:
            states: Only these; empty for all.

        Raises:
            ZoomgateError: A page could not be read.
        """
        wanted, token = tuple(states), ""
        while True:
            page = self.auth.list_connections(page_size=_PAGE_SIZE, page_token=token, states=wanted)
            yield from page.connections
            if not page.next_page_token:
                return
            token = page.next_page_token

    def watch(
        self, user_emails: Iterable[str] = (), *, resume_token: str = ""
    ) -> Generator[WatchConnectionsResponse, None, None]:
        """Be told of connections as they change: first those that exist, then what happens, without an end.

        When the server stops, restarts or cannot be reached, the watch goes on by itself with the last `resume_token`, so that nothing
        is left out; an event may come twice then, with the `generation` and `update_time` of the one before. Close the iterator to end it.

        Args:
            user_emails: Whose; at most 1000. Default: everybody whom the caller may see.
            resume_token: Of the last event of an earlier watch with the same `user_emails`, to go on there without a snapshot.

        Yields:
            Events with a type, the connection (none with TYPE_CAUGHT_UP), and the token that goes on behind them.

        Raises:
            ResumeTokenExpired: The token is older than 30 days: watch again without one.
            ZoomgateError: Before anything was told: the call failed. Later: the caller may not go on watching.
        """
        names, goes_on = tuple(user_emails), _GoesOn(resume_token)
        while True:
            stream = self.auth.watch_connections(user_emails=names, resume_token=goes_on.token)
            try:
                with contextlib.closing(stream):
                    for event in stream:
                        goes_on.heard(event)
                        yield event
            except ZoomgateError as error:
                time.sleep(goes_on.pause_after(error, closed=self._session.closed))

    def wait_for_connection(
        self, user_email: str, *, after: Connection | None = None, timeout: float = 600.0
    ) -> Connection:
        """Wait until a person has consented, by asking once a second.

        Args:
            user_email: The person's address.
            after: The connection as it was before the link was sent, if there was one: then a newer consent is waited for.
            timeout: Seconds; links work for 600.

        Raises:
            TimeoutError: The person did not consent in time.
            ZoomgateError: Asking failed for another reason than that the person is not connected.
        """
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), _POLL_SECONDS)
            try:
                found = self.auth.get_connection(
                    user_email=user_email, timeout=min(self._session.timeout, left)
                ).connection
                if _is_new(found, after):
                    return found
            except NotConnected:
                pass
            if time.monotonic() + _POLL_SECONDS > end:
                raise TimeoutError(f"{user_email} did not consent within {timeout:g} seconds")
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End the connection; calls in flight fail."""
        self._session.closed = True
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_AnyClient):
    """A connection to the service whose calls are awaited. Make one in a coroutine and keep it.

    It belongs to the event loop that it was made in, and to its process: elsewhere its calls raise `RuntimeError`. gRPC wants one event
    loop a process.

    Attributes:
        auth: People's authorizations and tokens.
        meetings: Zoom meetings.
        proxy: Any other call of Zoom's REST API.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        key: str = "",
        root_certificates: bytes | None = None,
        tls: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        options: Iterable[tuple[str, Any]] = (),
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """Make a client. The connection is made by the first call.

        Args:
            target: As for `Client`.
            key: As for `Client`.
            root_certificates: As for `Client`.
            tls: As for `Client`.
            timeout: Seconds for a call that does not say otherwise.
            options: Channel options of gRPC; they win over ours.
            channel: A channel to use instead of one made here; the client then does not close it.

        Raises:
            ValueError: An argument cannot be used; its text does not show the key.
            RuntimeError: No event loop is running.
        """
        _channel.check_key(key)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "make an AsyncClient inside a coroutine: it belongs to the running event loop"
            ) from None
        self._target = target
        self._session = Session(key, timeout, loop)
        self._owned: grpc.aio.Channel | None = None
        if channel is None:
            credentials = _channel.credentials(target, root_certificates, tls)
            arguments = _channel.options(target, options)
            channel = self._owned = (
                grpc.aio.insecure_channel(target, arguments)
                if credentials is None
                else grpc.aio.secure_channel(target, credentials, arguments)
            )
        self.auth = AsyncAuth(channel, self._session)
        self.meetings = AsyncMeetings(channel, self._session)
        self.proxy = AsyncProxy(channel, self._session)

    async def connections(
        self, *, states: Iterable[Connection.State.ValueType] = ()
    ) -> AsyncIterator[Connection]:
        """Go through all connections that the caller may see, page by page; as `Client.connections`."""
        wanted, token = tuple(states), ""
        while True:
            page = await self.auth.list_connections(page_size=_PAGE_SIZE, page_token=token, states=wanted)
            for connection in page.connections:
                yield connection
            if not page.next_page_token:
                return
            token = page.next_page_token

    async def watch(
        self, user_emails: Iterable[str] = (), *, resume_token: str = ""
    ) -> AsyncGenerator[WatchConnectionsResponse, None]:
        """Be told of connections as they change; as `Client.watch`. Cancel the task that iterates, or close the iterator, to end it."""
        names, goes_on = tuple(user_emails), _GoesOn(resume_token)
        while True:
            stream = self.auth.watch_connections(user_emails=names, resume_token=goes_on.token)
            try:
                async with contextlib.aclosing(stream):
                    async for event in stream:
                        goes_on.heard(event)
                        yield event
            except ZoomgateError as error:
                await asyncio.sleep(goes_on.pause_after(error, closed=self._session.closed))

    async def wait_for_connection(
        self,
        user_email: str,
        *,
        after: Connection | None = None,
        timeout: float = 600.0,
    ) -> Connection:
        """Wait until a person has consented; as `Client.wait_for_connection`."""
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), _POLL_SECONDS)
            try:
                answer = await self.auth.get_connection(
                    user_email=user_email, timeout=min(self._session.timeout, left)
                )
                found = answer.connection
                if _is_new(found, after):
                    return found
            except NotConnected:
                pass
            if time.monotonic() + _POLL_SECONDS > end:
                raise TimeoutError(f"{user_email} did not consent within {timeout:g} seconds")
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """End the connection; calls in flight fail."""
        self._session.closed = True
        if self._owned is not None:
            await self._owned.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _GoesOn:
    """Where a watch goes on, and whether it does.

    Attributes:
        token: The last resume token.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self._heard = False
        self._pause = _FIRST_PAUSE

    def heard(self, event: WatchConnectionsResponse) -> None:
        """Note an event."""
        self.token, self._heard, self._pause = event.resume_token, True, _FIRST_PAUSE

    def pause_after(self, error: ZoomgateError, *, closed: bool) -> float:
        """Give the seconds after which to go on, or raise the error again where that is no use.

        A server that stops may end a stream CANCELLED, and a proxy whose server is gone resets it, which gRPC tells as INTERNAL or UNKNOWN
        without a reason of the service; one that is overloaded says when to come back.
        """
        broken_off = not error.reason and error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        passing = broken_off or error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        if closed or not self._heard or not (passing or isinstance(error, RateLimited)):
            raise error
        pause = max(self._pause, error.retry_delay or 0.0)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause * random.uniform(1.0, 1.5)  # noqa: S311 - spreads those who come back


def _is_new(found: Connection, after: Connection | None) -> bool:
    """Tell whether a connection works and comes from a newer consent; a mere refresh does not count."""
    if found.state != Connection.STATE_ACTIVE:
        return False
    return after is None or found.consent_time.ToNanoseconds() > after.consent_time.ToNanoseconds()
