"""A server that implements every RPC of the API: it records requests, and returns the responses of a test."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zoomgate._channel import SERVICES

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods
}
"""The RPCs of the API by their paths."""


@dataclass
class RecordingService(grpc.GenericRpcHandler):
    """A running server.

    Attributes:
        address: The address of the server as HOST:PORT.
        called: The RPCs that were called so far, as `Service.Method`.
        requests: The requests so far.
        responses: The next responses, of any RPC. Without one, the response is empty.
    """

    address: str = ""
    called: list[str] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)
    responses: deque[Message] = field(default_factory=deque)

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of an RPC."""
        method = METHODS[handler_call_details.method]
        response = GetMessageClass(method.output_type)

        async def respond(request: Message, _: Any) -> Message:
            self.called.append(f"{method.containing_service.name}.{method.name}")
            self.requests.append(request)
            return self.responses.popleft() if self.responses else response()

        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            yield await respond(request, context)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the stream has one response")

        serializers = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": response.SerializeToString,
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **serializers)
        return grpc.unary_unary_rpc_method_handler(respond, **serializers)


@contextlib.asynccontextmanager
async def recording_service() -> AsyncIterator[RecordingService]:
    """Run a recording server on a free port."""
    service = RecordingService()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service,))
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)
