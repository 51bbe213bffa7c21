"""Callable objects for the RPCs of the service."""

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from zoomgate._requests import build
from zoomgate.errors import OutcomeUnknown, ZoomgateError, from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]

_REQUEST_ID = "x-request-id"
_MAX_TIMEOUT = 366 * 86_400.0
"""Maximum timeout in seconds. gRPC ends calls with much longer timeouts at once."""
_METADATA_NAME = re.compile(r"[a-z0-9._-]+")
_PAGE_SIZE = 300
"""The number of items per page unless the request sets it: the maximum of Zoom's lists."""


def check_timeout(seconds: float | None) -> float:
    """Return a timeout.

    Raises:
        ValueError: The timeout is no number, negative, or longer than 366 days.
    """
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_TIMEOUT:
        raise ValueError(f"timeout is {seconds!r}; pass a number of seconds from 0 to {_MAX_TIMEOUT:.0f}")
    return seconds


def check_metadata(entries: Metadata) -> None:
    """Check that gRPC can send metadata. The errors do not contain values.

    Raises:
        TypeError: The metadata does not consist of pairs.
        ValueError: A name or value is invalid.
    """
    for entry in entries:
        match entry:
            case (str(name), str(value)):
                is_valid = value.isascii() and value.isprintable() and not name.endswith("-bin")
            case (str(name), bytes()):
                is_valid = name.endswith("-bin")
            case _:
                raise TypeError('metadata is invalid; pass a list of pairs, such as [("x-request-id", "1")]')
        if not is_valid or not _METADATA_NAME.fullmatch(name):
            raise ValueError(
                f"metadata {name!r} is invalid; pass a name of lower-case letters, digits, '-', '_' and '.', "
                "and a value of printable ASCII characters, or bytes if the name ends with -bin"
            )


class Session:
    """State shared by all RPCs of a client.

    Attributes:
        timeout: The default timeout of a call in seconds.
        wait_for_ready: Whether calls wait until the service can be reached.
        loop: The event loop of an asyncio client, or None for a blocking client.
        streams: The streams in progress.
    """

    def __init__(
        self, key: str, timeout: float, wait_for_ready: bool, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._credential = (("authorization", f"Bearer {key}"),) if key else ()
        self._pid = os.getpid()
        self._prefix = os.urandom(6).hex()
        self._closed, self._async_closed = threading.Event(), asyncio.Event()
        self.timeout = check_timeout(timeout)
        self.wait_for_ready = wait_for_ready
        self.loop = loop
        self.streams: set[Any] = set()

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Reject further calls, and end pauses and streams. In grpcio 1.71 to 1.80, closing an asyncio channel does not end them."""
        self._closed.set()
        self._async_closed.set()
        for call in tuple(self.streams):
            call.cancel()

    def pause(self, seconds: float) -> None:
        """Block for a number of seconds, or until the client is closed."""
        self._closed.wait(seconds)

    async def pause_async(self, seconds: float) -> None:
        """Asyncio variant of `pause`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._async_closed.wait()

    def call_timeout(self, timeout: float | None) -> float:
        """Return the timeout of a unary call: the given one, or the default. Raises the errors of `check_timeout`."""
        return self.timeout if timeout is None else check_timeout(timeout)

    def check(self) -> None:
        """Check that the client can be used here.

        Raises:
            RuntimeError: The client is closed, or was created before a fork or in a different event loop.
        """
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("this client was created in a different event loop; create one in each loop")
        if self.closed:
            raise RuntimeError("this client is closed; create a new one")
        if self._pid != os.getpid():
            raise RuntimeError(
                "this client was created before a fork; create one in each process, after the fork"
            )

    def metadata(self, extra: Metadata) -> tuple[tuple[tuple[str, str | bytes], ...], str]:
        """Return the metadata of a call and its request ID. Raises the errors of `check` and `check_metadata`."""
        self.check()
        check_metadata(extra)
        for name, value in extra:
            if name == _REQUEST_ID:
                return (*self._credential, *extra), str(value)
        request_id = self._prefix + os.urandom(8).hex()
        return (*self._credential, (_REQUEST_ID, request_id), *extra), request_id


class _BaseMethod(Generic[Request, Response]):
    __slots__ = ("_call", "_request_type", "_retry_safe", "_session")

    def __init__(
        self, call: Callable[..., Any], request_type: type[Request], session: Session, *, retry_safe: bool
    ) -> None:
        self._call = call
        self._request_type = request_type
        self._session = session
        self._retry_safe = retry_safe

    def _message(self, request: Request | None, fields: dict[str, Any]) -> Request:
        if request is None:
            return build(self._request_type, fields)
        if not isinstance(request, self._request_type):
            expected = self._request_type.DESCRIPTOR.name
            raise TypeError(
                f"the request is of type {type(request).__name__}; pass a {expected}, or its fields by name"
            )
        if fields:
            raise TypeError("pass either a request or its fields, but not both")
        return request

    def _is_canceled_by_close(self) -> bool:
        """Return whether a call was canceled because its client was closed. gRPC reports the cancellation of the task in the same way."""
        task = asyncio.current_task()
        return self._session.closed and not (task is not None and task.cancelling())

    def _failure(self, error: Any, request_id: str) -> ZoomgateError:
        return from_rpc_error(error, request_id, retry_safe=self._retry_safe)


class Method(_BaseMethod[Request, Response]):
    """A unary RPC that blocks until the response arrives. Thread-safe."""

    __slots__ = ()

    def __call__(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> Response:
        """Call the RPC.

        Args:
            request: The request message. If None, it is built from `fields`.
            timeout: The timeout in seconds, including retries. Defaults to the client's timeout.
            metadata: Additional metadata. An `x-request-id` entry replaces the generated request ID.
            fields: The fields of the request. Nested messages may be passed as dictionaries.

        Raises:
            ZoomgateError: The call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields do not match the request type, or the timeout or metadata is invalid. Nothing was sent.
            RuntimeError: The client is closed or was created before a fork. Nothing was sent.
        """
        message = self._message(request, fields)
        entries, request_id = self._session.metadata(metadata)
        seconds = self._session.call_timeout(timeout)
        try:
            return self._call(message, timeout=seconds, metadata=entries)  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise self._failure(error, request_id) from error


class AsyncMethod(_BaseMethod[Request, Response]):
    """An awaitable unary RPC. Bound to the event loop in which the client was created."""

    __slots__ = ()

    async def __call__(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> Response:
        """Call the RPC. If the awaiting task is canceled, the call is canceled on the server as well.

        Args:
            request: The request message. If None, it is built from `fields`.
            timeout: The timeout in seconds, including retries. Defaults to the client's timeout.
            metadata: Additional metadata. An `x-request-id` entry replaces the generated request ID.
            fields: The fields of the request. Nested messages may be passed as dictionaries.

        Raises:
            ZoomgateError: The call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields do not match the request type, or the timeout or metadata is invalid. Nothing was sent.
            RuntimeError: The client is closed, or was created before a fork or in a different event loop. Nothing was sent.
        """
        message = self._message(request, fields)
        entries, request_id = self._session.metadata(metadata)
        seconds = self._session.call_timeout(timeout)
        try:
            return await self._call(message, timeout=seconds, metadata=entries)  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if not self._is_canceled_by_close():
                raise
            kind = ZoomgateError if self._retry_safe else OutcomeUnknown
            raise kind(grpc.StatusCode.CANCELLED, "the client was closed", request_id=request_id) from None
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, request_id) from error


class PagedMethod(Method[Request, Response], Generic[Request, Response, Item]):
    """A unary RPC that blocks until one page of a list arrives. `all` and `pages` fetch further pages as needed. Thread-safe."""

    __slots__ = ()

    def pages(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> Iterator[Response]:
        """Iterate over all pages, starting with the page of the request. The arguments and errors are those of a call for one page.

        Pages have up to 300 items unless the request sets `page_size`. A page must be requested within 15 minutes of the previous one;
        otherwise, `InvalidRequest` is raised with the reason INVALID_PAGE_TOKEN. If a page token repeats, `ZoomgateError` is raised with
        the reason ZOOM_BAD_RESPONSE.
        """
        first: Any = self._message(request, fields)
        token, tokens = first.page_token, set[int]()
        while True:
            page: Any = self(_page_request(first, token), timeout=timeout, metadata=metadata)
            yield page
            token = _next_token(page, tokens)
            if not token:
                return

    def all(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> Iterator[Item]:
        """Iterate over the items of all pages. See `pages`."""
        for page in self.pages(request, timeout=timeout, metadata=metadata, **fields):
            yield from _items(page)


class AsyncPagedMethod(AsyncMethod[Request, Response], Generic[Request, Response, Item]):
    """Asyncio variant of `PagedMethod`."""

    __slots__ = ()

    async def pages(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> AsyncIterator[Response]:
        """Iterate over all pages. See `PagedMethod.pages`."""
        first: Any = self._message(request, fields)
        token, tokens = first.page_token, set[int]()
        while True:
            page: Any = await self(_page_request(first, token), timeout=timeout, metadata=metadata)
            yield page
            token = _next_token(page, tokens)
            if not token:
                return

    async def all(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> AsyncIterator[Item]:
        """Iterate over the items of all pages. See `PagedMethod.pages`."""
        async for page in self.pages(request, timeout=timeout, metadata=metadata, **fields):
            for item in _items(page):
                yield item


class Stream(_BaseMethod[Request, Response]):
    """A blocking server-streaming RPC."""

    __slots__ = ()

    def __call__(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> Generator[Response, None, None]:
        """Return an iterator over the responses. The call starts with the first iteration and is canceled when the iterator is closed.

        Args:
            request: The request message. If None, it is built from `fields`.
            timeout: The timeout of the whole stream in seconds. None for no timeout.
            metadata: Additional metadata. An `x-request-id` entry replaces the generated request ID.
            fields: The fields of the request. Nested messages may be passed as dictionaries.

        Raises:
            ZoomgateError: The call failed; raised during iteration. See `zoomgate.errors`.
            TypeError, ValueError: The fields do not match the request type, or the timeout or metadata is invalid. Nothing was sent.
            RuntimeError: The client is closed, also during iteration, or was created before a fork.
        """
        message = self._message(request, fields)
        entries, request_id = self._session.metadata(metadata)
        seconds = None if timeout is None else check_timeout(timeout)
        return self._responses(message, seconds, entries, request_id)

    def _responses(
        self, message: Request, timeout: float | None, entries: Any, request_id: str
    ) -> Generator[Response, None, None]:
        self._session.check()
        try:
            call = self._call(message, timeout=timeout, metadata=entries)
        except ValueError:
            self._session.check()  # a different thread has closed the channel
            raise
        self._session.streams.add(call)
        try:
            self._session.check()  # `close` cancels only the streams that it knows
            yield from call
        except grpc.RpcError as error:
            self._session.check()
            raise self._failure(error, request_id) from error
        finally:
            self._session.streams.discard(call)
            call.cancel()


class AsyncStream(_BaseMethod[Request, Response]):
    """An asynchronous server-streaming RPC. Bound to the event loop in which the client was created."""

    __slots__ = ()

    def __call__(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **fields: Any,
    ) -> AsyncGenerator[Response, None]:
        """Return an asynchronous iterator over the responses. The call starts with the first iteration.

        If the iterating task is canceled, the call is canceled on the server as well.

        Args:
            request: The request message. If None, it is built from `fields`.
            timeout: The timeout of the whole stream in seconds. None for no timeout.
            metadata: Additional metadata. An `x-request-id` entry replaces the generated request ID.
            fields: The fields of the request. Nested messages may be passed as dictionaries.

        Raises:
            ZoomgateError: The call failed; raised during iteration. See `zoomgate.errors`.
            TypeError, ValueError: The fields do not match the request type, or the timeout or metadata is invalid. Nothing was sent.
            RuntimeError: The client is closed, also during iteration, or was created before a fork or in a different event loop.
        """
        message = self._message(request, fields)
        entries, request_id = self._session.metadata(metadata)
        seconds = None if timeout is None else check_timeout(timeout)
        return self._responses(message, seconds, entries, request_id)

    async def _responses(
        self, message: Request, timeout: float | None, entries: Any, request_id: str
    ) -> AsyncGenerator[Response, None]:
        self._session.check()
        call = self._call(message, timeout=timeout, metadata=entries)
        self._session.streams.add(call)
        try:
            async for response in call:
                yield response
        except asyncio.CancelledError:
            if self._is_canceled_by_close():
                self._session.check()
            raise
        except grpc.aio.AioRpcError as error:
            self._session.check()
            raise self._failure(error, request_id) from error
        finally:
            self._session.streams.discard(call)
            call.cancel()


def _items(page: Any) -> Any:
    """Return the items of a page: the first field of the response (https://google.aip.dev/158)."""
    return getattr(page, page.DESCRIPTOR.fields_by_number[1].name)


def _next_token(page: Any, tokens: set[int]) -> str:
    """Return the token of the next page, or an empty string after the last page.

    Args:
        tokens: The hashes of the tokens returned before. The new one is added.

    Raises:
        ZoomgateError: The token was returned before, so the list has no end.
    """
    token: str = page.next_page_token
    if hash(token) in tokens:
        raise ZoomgateError(
            grpc.StatusCode.INTERNAL,
            "the list has no end: a page token was returned twice; report the problem to the operator",
            reason="ZOOM_BAD_RESPONSE",
        )
    tokens.add(hash(token))
    return token


def _page_request(first: Any, token: str) -> Any:
    """Return a copy of the request for the first page, with the token of a page and, unless set, the default page size."""
    request = type(first)()
    request.CopyFrom(first)
    request.page_token = token
    request.page_size = first.page_size or _PAGE_SIZE
    return request
