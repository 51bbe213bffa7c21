"""Wraps every handler of the server in the same stages, once per method.

gRPC's own interceptors are asked on every call, asynchronously, which costs a tenth of the time of a short call. Here handlers are wrapped
when they are registered: `Pipeline.registrar` stands for the server towards generated code. The pipeline also takes over the decoding of
requests, so that garbage is refused by us, in our words, after the caller was checked.
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
Respond = Callable[[Any, Context], Awaitable[Any]]
"""Serves a call: takes the request (or its iterator) and the context, gives the response, or writes a stream and gives None."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC.

    Attributes:
        path: `/package.Service/Method`.
        decode: Turns bytes into a request, or None where requests stay as they are.
        streams: Whether requests or responses are streams.
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
        """Full name of the request's message, or empty where generated code does not tell."""
        message = getattr(self.decode, "__self__", None)
        return getattr(getattr(message, "DESCRIPTOR", None), "full_name", "")


class Stage(Protocol):
    """Something that happens around a call."""

    def wrap(self, method: Method, respond: Respond) -> Respond:
        """Put this stage around `respond`; called once per method."""
        ...


class Pipeline:
    """Puts stages around every handler that is registered through it.

    Args:
        server: Serves the wrapped handlers.
        stages: Outermost first.
    """

    def __init__(self, server: grpc.aio.Server, stages: Sequence[Stage]) -> None:
        self._server = server
        self._stages = tuple(reversed(stages))

    @property
    def registrar(self) -> Any:
        """What generated `add_…Servicer_to_server` functions take for the server."""
        return self

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Nothing: the same handlers come by name through `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Wrap and serve the handlers of a service."""
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
        raise TypeError(f"{path}: client streams are not served")

    def _compose(self, method: Method, respond: Respond) -> Respond:
        for stage in self._stages:
            respond = stage.wrap(method, respond)
        return respond


class _Handlers(grpc.GenericRpcHandler):
    """Finds a wrapped handler by its path."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Give the handler of a method, or None."""
        return self._handlers.get(handler_call_details.method)


UNREAD_SECONDS = 60.0
"""How long a message of a stream waits for its caller to read. The handler ends then, and frees what it holds; gRPC keeps that one message
and the status behind it until the caller reads on or its connection ends."""


def _streamed(behavior: Callable[[Any, Context], Any]) -> Respond:
    """Turn a handler that yields its responses into one that writes them."""

    async def respond(request: Any, context: Context) -> None:
        responses = behavior(request, context)
        if isinstance(responses, AsyncGenerator):
            async with aclosing(responses):  # else it would go on until the caller has the status
                async for response in responses:
                    await _write(context, response)
        else:
            await responses

    return respond


async def _write(context: Context, response: Any) -> None:
    """Write a message of a stream.

    Raises:
        ServerOverloaded: Nobody reads it.
    """
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(response)
    except TimeoutError:
        raise ServerOverloaded(
            f"Nothing of the stream was read for {UNREAD_SECONDS:.0f} seconds: read faster",
            metadata={"limit": "unread_seconds"},
            retry_after=1.0,
        ) from None
