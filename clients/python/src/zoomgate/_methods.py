"""One RPC of the service, as something to call."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from zoomgate.errors import ZoomgateError, from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Metadata = Sequence[tuple[str, str | bytes]]

_REQUEST_ID = "x-request-id"
_MORE_TRIES = 2
_PAUSE = 0.05
"""Seconds before a cancelled call is repeated: the time in which a server that stops says so on the connection."""


class Session:
    """What all RPCs of one client share.

    Attributes:
        timeout: Seconds for a call that does not say otherwise.
        closed: Whether the client was closed.
    """

    __slots__ = ("_credential", "_pid", "_prefix", "closed", "loop", "timeout")

    def __init__(self, key: str, timeout: float, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._credential = (("authorization", f"Bearer {key}"),) if key else ()
        self._pid = os.getpid()
        self._prefix = os.urandom(6).hex()
        self.timeout = timeout
        self.loop = loop
        self.closed = False

    def metadata(self, given: Metadata) -> tuple[tuple[tuple[str, str | bytes], ...], str]:
        """Give the metadata of a call and its request id.

        Raises:
            RuntimeError: The client is closed, or was made in another process or event loop.
        """
        if self.closed:
            raise RuntimeError("this client is closed: make a new one")
        if self._pid != os.getpid():
            raise RuntimeError("this client was made before a fork: make one in each process, after the fork")
        for name, value in given:
            if name == _REQUEST_ID:
                return (*self._credential, *given), str(value)
        request_id = self._prefix + os.urandom(8).hex()
        return (*self._credential, (_REQUEST_ID, request_id), *given), request_id


class _AnyMethod(Generic[Request, Response]):
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
            return self._request_type(**fields)
        if fields:
            raise TypeError("give a request, or the fields of one, but not both")
        return request

    def _may_repeat(self, error: ZoomgateError, tries: int) -> bool:
        """Tell whether to try again: a server that stops gracefully ends calls CANCELLED, which gRPC itself does not repeat."""
        return (
            error.code() is grpc.StatusCode.CANCELLED
            and self._retry_safe
            and tries <= _MORE_TRIES
            and not self._session.closed
        )

    def _closed(self, request_id: str) -> ZoomgateError | None:
        """Give the failure of a call that ended with its client; None if it ended with its task, which gRPC tells in the same way."""
        task = asyncio.current_task()
        if not self._session.closed or (task is not None and task.cancelling()):
            return None
        return ZoomgateError(grpc.StatusCode.CANCELLED, "the client was closed", request_id=request_id)


class Method(_AnyMethod[Request, Response]):
    """An RPC that blocks until it is answered. Safe to call from several threads at once."""

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
            request: The request message. Without one it is made of `fields`.
            timeout: Seconds, repetitions included; None for the client's default.
            metadata: Sent beside the key; an `x-request-id` here replaces the made one.
            fields: Fields of the request: messages may be given as dictionaries.

        Raises:
            ZoomgateError: The call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields are none of the request's. Nothing was sent.
            RuntimeError: The client is closed or was made before a fork. Nothing was sent.
        """
        message = self._message(request, fields)
        session = self._session
        entries, request_id = session.metadata(metadata)
        left = session.timeout if timeout is None else timeout
        end = time.monotonic() + left
        tries = 1
        while True:
            try:
                return self._call(message, timeout=left, metadata=entries)  # type: ignore[no-any-return]
            except grpc.RpcError as error:
                failure = from_rpc_error(error, request_id)
                failure.__cause__ = error
            left = end - time.monotonic() - _PAUSE
            if left <= 0 or not self._may_repeat(failure, tries):
                raise failure
            tries += 1
            time.sleep(_PAUSE)


class AsyncMethod(_AnyMethod[Request, Response]):
    """An RPC to await. Call it in the event loop that its client was made in."""

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
        """Call the RPC. Cancelling the task that awaits it cancels the call at the server.

        Args:
            request: The request message. Without one it is made of `fields`.
            timeout: Seconds, repetitions included; None for the client's default.
            metadata: Sent beside the key; an `x-request-id` here replaces the made one.
            fields: Fields of the request: messages may be given as dictionaries.

        Raises:
            ZoomgateError: The call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields are none of the request's. Nothing was sent.
            RuntimeError: The client is closed, or was made before a fork or in another event loop. Nothing was sent.
        """
        message = self._message(request, fields)
        session = self._session
        if asyncio.get_running_loop() is not session.loop:
            raise RuntimeError("this client was made in another event loop: make one in each loop")
        entries, request_id = session.metadata(metadata)
        left = session.timeout if timeout is None else timeout
        end = time.monotonic() + left
        tries = 1
        while True:
            try:
                return await self._call(message, timeout=left, metadata=entries)  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                if closed := self._closed(request_id):
                    raise closed from None
                raise
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error, request_id)
                failure.__cause__ = error
            left = end - time.monotonic() - _PAUSE
            if left <= 0 or not self._may_repeat(failure, tries):
                raise failure
            tries += 1
            await asyncio.sleep(_PAUSE)


class Stream(_AnyMethod[Request, Response]):
    """An RPC whose answers come one after another; iterating blocks until the next."""

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
        """Call the RPC; it begins with the first answer that is asked for, and ends when the iterator is closed.

        Args:
            request: The request message. Without one it is made of `fields`.
            timeout: Seconds for the whole stream; None for no end.
            metadata: Sent beside the key; an `x-request-id` here replaces the made one.
            fields: Fields of the request: messages may be given as dictionaries.

        Raises:
            ZoomgateError: While iterating: the call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields are none of the request's. Nothing was sent.
            RuntimeError: The client is closed or was made before a fork. Nothing was sent.
        """
        message = self._message(request, fields)
        entries, request_id = self._session.metadata(metadata)
        return self._answers(message, timeout, entries, request_id)

    def _answers(
        self, message: Request, timeout: float | None, entries: Any, request_id: str
    ) -> Generator[Response, None, None]:
        call = self._call(message, timeout=timeout, metadata=entries)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error, request_id) from error
        finally:
            call.cancel()


class AsyncStream(_AnyMethod[Request, Response]):
    """An RPC whose answers come one after another, to iterate with `async for` in the event loop that its client was made in."""

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
        """Call the RPC; as `Stream`. Cancelling the task that iterates cancels the call at the server.

        Args:
            request: The request message. Without one it is made of `fields`.
            timeout: Seconds for the whole stream; None for no end.
            metadata: Sent beside the key; an `x-request-id` here replaces the made one.
            fields: Fields of the request: messages may be given as dictionaries.

        Raises:
            ZoomgateError: While iterating: the call failed; see `zoomgate.errors`.
            TypeError, ValueError: The fields are none of the request's. Nothing was sent.
            RuntimeError: The client is closed, or was made before a fork or in another event loop. Nothing was sent.
        """
        message = self._message(request, fields)
        if asyncio.get_running_loop() is not self._session.loop:
            raise RuntimeError("this client was made in another event loop: make one in each loop")
        entries, request_id = self._session.metadata(metadata)
        return self._answers(message, timeout, entries, request_id)

    async def _answers(
        self, message: Request, timeout: float | None, entries: Any, request_id: str
    ) -> AsyncGenerator[Response, None]:
        call = self._call(message, timeout=timeout, metadata=entries)
        try:
            async for answer in call:
                yield answer
        except asyncio.CancelledError:
            if closed := self._closed(request_id):
                raise closed from None
            raise
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, request_id) from error
        finally:
            call.cancel()
