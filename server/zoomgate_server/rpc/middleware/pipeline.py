"""The pipeline of stages around every RPC handler.

grpc.aio resolves interceptors on every call, which adds about 10% to a short call. This pipeline wraps the handlers only once, when
generated code registers them through `Pipeline.registrar`. The stages decode the requests, so malformed requests are rejected only after
the caller is authenticated, and with a Zoomgate error instead of a gRPC error.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from zoomgate_server.errors import ServerOverloaded

Context = Any  # grpc.aio.ServicerContext is generic in the message types, and they differ per method
Handler = Callable[[Any, Context], Awaitable[Any]]
"""Handler of a call. Receives the request (or an iterator of requests) and the context. Returns the response, or None after writing a
stream."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC.

    Attributes:
        path: `/package.Service/Method`.
        decode: Function that decodes a request. None if the handler receives decoded requests.
        streams: Whether the requests or responses are streamed.
    """

    path: str
    decode: Callable[[bytes], Any] | None
    streams: bool

    @property
    def name(self) -> str:
        """`Service.Method`."""
        service, _, method = self.path.removeprefix("/").partition("/")
        return f"{service.rpartition('.')[2]}.{method}"

    @property
    def request_type(self) -> str:
        """The full name of the request message, or empty if unknown."""
        message = getattr(self.decode, "__self__", None)
        return getattr(getattr(message, "DESCRIPTOR", None), "full_name", "")


class Stage(Protocol):
    """A stage of the pipeline."""

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Return `respond` wrapped in this stage. Called once per method."""
        ...


class Pipeline:
    """A sequence of stages that wraps every registered handler.

    Args:
        stages: The stages, outermost first.
    """

    def __init__(self, server: grpc.aio.Server, stages: Sequence[Stage]) -> None:
        self._server = server
        self._stages = tuple(reversed(stages))

    @property
    def registrar(self) -> Any:
        """The server argument for the generated `add_…Servicer_to_server` functions."""
        return self

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing, because generated code passes the same handlers to `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wrap the handlers of a service and add them to the server."""
        wrapped = {
            f"/{service}/{name}": self._wrap(f"/{service}/{name}", handler)
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((_Handlers(wrapped),))

    def _wrap(self, path: str, handler: Any) -> Any:
        if not handler.request_streaming and not handler.response_streaming:
            respond = self._compose(
                Method(path, handler.request_deserializer, streams=False), handler.unary_unary
            )
            return grpc.unary_unary_rpc_method_handler(
                respond, request_deserializer=None, response_serializer=handler.response_serializer
            )
        if handler.request_streaming and handler.response_streaming:
            respond = self._compose(Method(path, None, streams=True), _streamed(handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(
                respond, handler.request_deserializer, handler.response_serializer
            )
        if handler.response_streaming:
            respond = self._compose(
                Method(path, handler.request_deserializer, streams=True), _streamed(handler.unary_stream)
            )
            return grpc.unary_stream_rpc_method_handler(
                respond, request_deserializer=None, response_serializer=handler.response_serializer
            )
        raise TypeError(f"{path}: client streaming is not supported")

    def _compose(self, method: Method, respond: Handler) -> Handler:
        for stage in self._stages:
            respond = stage.wrap(method, respond)
        return respond


class _Handlers(grpc.GenericRpcHandler):
    """A lookup of wrapped handlers by path."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None."""
        return self._handlers.get(handler_call_details.method)


WRITE_TIMEOUT_SECONDS = 60.0
"""Maximum time to wait for the caller to read a message of a stream. After this time, the handler returns and releases its resources. gRPC
retains the unread message and the status until the caller reads them or the connection is closed."""


def _streamed(behavior: Callable[[Any, Context], Any]) -> Handler:
    """Convert a generator handler into a handler that writes the responses to the stream."""

    async def respond(request: Any, context: Context) -> None:
        responses = behavior(request, context)
        if isinstance(responses, AsyncGenerator):
            async with aclosing(
                responses
            ):  # otherwise the generator would run until the caller has received the status
                async for response in responses:
                    await _write(context, response)
        else:
            await responses

    return respond


async def _write(context: Context, response: Any) -> None:
    """Write a message of a stream.

    Raises:
        ServerOverloaded: The caller did not read the message in time.
    """
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
            await context.write(response)
    except TimeoutError:
        raise ServerOverloaded(
            f"The stream was not read for {WRITE_TIMEOUT_SECONDS:.0f} seconds; read messages faster",
            metadata={"limit": "unread_seconds"},
            retry_after=1.0,
        ) from None
