"""Wraps every handler of the server in the same stages, once per method.

gRPC asks interceptors on every call; wrapping anew each time would cost more than most stages do. So there is one interceptor, which
composes its stages when a method is first called and keeps the result. It also takes over the decoding of requests, so that garbage is
refused by us, in our words, after the caller was checked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

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


class Stage(Protocol):
    """Something that happens around a call."""

    def wrap(self, method: Method, respond: Respond) -> Respond:
        """Put this stage around `respond`; called once per method."""
        ...


class Pipeline(grpc.aio.ServerInterceptor):
    """Puts stages around every handler.

    Args:
        stages: Outermost first.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(reversed(stages))
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Give the wrapped handler of a method. Nothing else happens here: what is raised here would reach callers as it is."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        path: str = handler_call_details.method
        known = self._wrapped.get(path)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(path, handler)
        self._wrapped[path] = (handler, wrapped)
        return wrapped

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


def _streamed(behavior: Callable[[Any, Context], Any]) -> Respond:
    """Turn a handler that yields its responses into one that writes them."""

    async def respond(request: Any, context: Context) -> None:
        responses = behavior(request, context)
        if isinstance(responses, AsyncIterator):
            async for response in responses:
                await context.write(response)
        else:
            await responses

    return respond
