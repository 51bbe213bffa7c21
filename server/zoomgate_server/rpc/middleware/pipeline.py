"""The pipeline of stages around every RPC handler.

gRPC interceptors are looked up asynchronously on every call, which takes a tenth of the time of a short call. This pipeline wraps the
handlers once, when generated code registers them through `Pipeline.registrar`. It also leaves the decoding of requests to the stages, so
that malformed requests are rejected after the caller is authenticated, with an error of Zoomgate instead of gRPC.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from zoomgate_server.errors import ServerOverloaded

Context = Any  # grpc.aio.ServicerContext is generic in the messages, which differ per method
Handler = Callable[[Any, Context], Awaitable[Any]]
"""Handles a call: accepts the request (or an iterator of requests) and the context, and returns the response, or writes a stream and
returns None."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC.

    Attributes:
        path: `/package.Service/Method`.
        decode: Decodes a request from bytes. None if the handler receives requests that are already decoded.
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
        """The full name of the request message, or empty if it cannot be determined."""
        message = getattr(self.decode, "__self__", None)
        return getattr(getattr(message, "DESCRIPTOR", None), "full_name", "")


class Stage(Protocol):
    """A stage of the pipeline."""

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Return `respond` wrapped in this stage. Called once per method."""
        ...


class Pipeline:
    """Wrapper of every registered handler in a sequence of stages.

    Args:
        stages: The stages, outermost first.
    """

    def __init__(self, server: grpc.aio.Server, stages: Sequence[Stage]) -> None:
        self._server = server
        self._stages = tuple(reversed(stages))

    @property
    def registrar(self) -> Any:
        """The object to pass to the generated `add_…Servicer_to_server` functions as the server."""
        return self

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing, because generated code also registers the same handlers with `add_registered_method_handlers`."""

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
    """The wrapped handlers by path."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None."""
        return self._handlers.get(handler_call_details.method)


WRITE_TIMEOUT_SECONDS = 60.0
"""The time that a stream waits for the caller to read a message. Then the handler returns and releases its resources. gRPC retains the
unread message and the status until the caller reads them or the connection is closed."""


def _streamed(behavior: Callable[[Any, Context], Any]) -> Handler:
    """Convert a handler that yields its responses into one that writes them."""

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
