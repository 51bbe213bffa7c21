"""The pipeline of stages around every RPC handler.

grpc.aio resolves interceptors on every call, which adds about 10% to a short call. This pipeline wraps the handlers only once, when
generated code registers them. The stages decode the requests, so malformed requests are rejected only after
the caller is authenticated, and with a Zoomgate error instead of a gRPC error.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from zoomgate_server.errors import MalformedRequest, RequestTooLarge, ServerOverloaded, ZoomgateError
from zoomgate_server.rpc.json_request import MAX_VALUES
from zoomgate_server.rpc.middleware.access_policy import OPEN_METHODS, method_name

MAX_OPEN_REQUEST_BYTES = 1024
"""Maximum size of a request that requires no credential. A health check contains only a name, which a watch retains until its end."""

_M = TypeVar("_M", bound=Message)
Context = Any  # grpc.aio.ServicerContext is generic in the message types, and they differ per method
Handler = Callable[[Any, Context], Awaitable[Any]]
"""Handler of a call. Receives the request (or an iterator of requests) and the context. Returns the response, or None after writing a
stream."""

Stage = Callable[["Method", Handler], Handler]
"""A stage of the pipeline: a function that wraps the handler of a method. Called once per method."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC.

    Attributes:
        path: `/package.Service/Method`.
        receive: Function that returns the message of a request of the transport. Called once the caller is authenticated.
        streams: Whether the requests or responses are streamed.
        system: The RPC system, as OpenTelemetry names it.
    """

    path: str
    receive: Handler
    streams: bool = False
    system: str = "grpc"

    @property
    def name(self) -> str:
        """`Service.Method`."""
        return method_name(self.path)


async def receive_decoded(request: Any, _context: Context) -> Any:
    """Return a request, which the transport has decoded."""
    return request


async def _receive_encoded(
    kind: type[Message], limit: int | None, request: bytes, _context: Context
) -> Message:
    if limit is not None and len(request) > limit:
        text = f"The request is larger than {limit} bytes; send less"
        raise RequestTooLarge(text, metadata={"limit_bytes": str(limit)})
    return decoded(kind, partial(parse_binary, kind), request)


def decoded(kind: type[_M], decode: Callable[[bytes], _M], request: bytes) -> _M:
    """Return the message in an encoded request.

    Raises:
        MalformedRequest: The request cannot be decoded.
    """
    try:
        return decode(request)
    except ZoomgateError:
        raise
    except Exception:  # noqa: BLE001 - protobuf runtimes raise different exceptions, and callers must not receive the texts
        raise MalformedRequest(
            "The request could not be parsed; check that your stubs match the server's proto files, and that no value is nested"
            " deeper than 30 levels",
            metadata={"type": kind.DESCRIPTOR.full_name},
        ) from None


def parse_binary(kind: type[_M], request: bytes) -> _M:
    """Return the message in a binary request.

    Raises:
        MalformedRequest: The message has too many entries.
    """
    message = kind.FromString(request)
    # an entry takes at least one byte
    if len(request) > MAX_VALUES and _remaining_entries(message, MAX_VALUES) < 0:
        text = f"The message has more than {MAX_VALUES} entries; send fewer"
        raise MalformedRequest(text, metadata={"type": kind.DESCRIPTOR.full_name})
    return message


def _remaining_entries(message: Message, count: int) -> int:
    """Return how many more entries of repeated fields and maps `count` allows; negative if there are too many."""
    for field, value in message.ListFields():
        nested: Iterable[Any] = ()
        if field.is_repeated:
            count -= len(value)
            nested = value.values() if hasattr(value, "values") else value
        elif field.message_type is not None:
            nested = (value,)
        if count < 0:
            return count
        for item in nested:
            if not isinstance(item, Message):
                break
            if (count := _remaining_entries(item, count)) < 0:
                return count
    return count


def _release_request(respond: Handler) -> Handler:
    """Release the request of an aborted call when the call ends.

    grpc.aio retains the error in a reference cycle. The frames of its traceback would retain the request until the next garbage collection.
    """

    async def respond_and_release(request: Any, context: Context) -> Any:
        try:
            return await respond(request, context)
        except grpc.aio.AbortError as error:
            del request, context
            raise error.with_traceback(None) from None

    return respond_and_release


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A unary RPC, as registered.

    Attributes:
        request: The class of the request message.
        behavior: The handler without stages.
    """

    path: str
    request: type[Message]
    behavior: Handler


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of streams, in seconds.

    Attributes:
        write_timeout: Maximum time to wait for the caller to read a message. After this time, the handler returns and releases its
            resources. gRPC retains the unread message and the status until the caller reads them or the connection is closed.
    """

    write_timeout: float = 60.0


class Pipeline(grpc.GenericRpcHandler):
    """A sequence of stages, outermost first, around every handler. It is the server argument of `add_…Servicer_to_server`.

    The server looks up the handlers of all services here, instead of asking one object per service for every call.

    Attributes:
        unary: The unary RPCs that were added.
    """

    def __init__(self, server: grpc.aio.Server, stages: Sequence[Stage], timing: Timing = Timing()) -> None:
        self._stages = tuple(reversed(stages))
        self._timing = timing
        self._handlers: dict[str, Any] = {}
        self.unary: list[UnaryMethod] = []
        server.add_generic_rpc_handlers((self,))

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing, because generated code passes the same handlers to `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wrap the handlers of a service and add them to the server."""
        for name, handler in handlers.items():
            path = f"/{service}/{name}"
            self._handlers[path] = self._wrap(path, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or None if there is none."""
        return self._handlers.get(handler_call_details.method)

    def _wrap(self, path: str, handler: Any) -> Any:
        """Return a handler whose stages decode the requests; the requests of a stream are decoded by gRPC."""
        decode, encode = handler.request_deserializer, handler.response_serializer
        kind = decode.__self__
        receive = partial(_receive_encoded, kind, MAX_OPEN_REQUEST_BYTES if path in OPEN_METHODS else None)
        if handler.unary_unary:
            self.unary.append(UnaryMethod(path, kind, handler.unary_unary))
            respond = self.compose(Method(path, receive), handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(respond, None, encode)
        if handler.unary_stream:
            method = Method(path, receive, streams=True)
            respond = self.compose(method, self._streamed(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(respond, None, encode)
        if handler.stream_stream:
            method = Method(path, receive_decoded, streams=True)
            respond = self.compose(method, self._streamed(handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(respond, decode, encode)
        raise TypeError(f"{path}: client streaming is not supported")

    def compose(self, method: Method, respond: Handler) -> Handler:
        """Return a handler with the stages around it."""
        for stage in self._stages:
            respond = stage(method, respond)
        return _release_request(respond)

    def _streamed(self, behavior: Callable[[Any, Context], Any]) -> Handler:
        """Convert a generator handler into a handler that writes the responses to the stream."""
        write_timeout = self._timing.write_timeout

        async def respond(request: Any, context: Context) -> None:
            responses = behavior(request, context)
            if not isinstance(responses, AsyncGenerator):
                await responses
                return
            # without aclosing, the generator would run until the caller has received the status
            async with aclosing(responses):
                async for response in responses:
                    try:
                        async with asyncio.timeout(write_timeout):
                            await context.write(response)
                    except TimeoutError:
                        raise ServerOverloaded(
                            f"The stream was not read for {write_timeout:.0f} seconds; read messages faster",
                            metadata={"limit": "unread_seconds"},
                            retry_after=1.0,
                        ) from None

        return respond
