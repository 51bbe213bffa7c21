"""The server of the Connect conformance suite (https://github.com/connectrpc/conformance), on Zoomgate's endpoint.

The suite writes a description of the server to standard input and reads its address from standard output. The first argument is a file with
the descriptors of the suite's service.
"""

import asyncio
import contextlib
import json
import signal
import struct
import sys
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf import any as any_message
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.rpc.connect import ConnectEndpoint
from zoomgate_server.rpc.middleware.error_status import convert_errors
from zoomgate_server.rpc.middleware.pipeline import Handler, Method, Pipeline

PACKAGE = "connectrpc.conformance.v1"


def message_types(descriptors: Path) -> Any:
    """Return the message types of the suite."""
    pool = descriptor_pool.Default()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        with contextlib.suppress(TypeError):  # a file of google.protobuf that is loaded already
            pool.Add(file)  # type: ignore[no-untyped-call]
    names = ("Unary", "IdempotentUnary", "ServerCompat")
    names = (
        *(f"{name}{kind}" for name in names for kind in ("Request", "Response")),
        "ConformancePayload",
        "Header",
    )
    return SimpleNamespace(
        **{name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}
    )


pb = message_types(Path(sys.argv[1]))
DEFAULT_LIMIT = 4 * 1024 * 1024


def unary(response_type: Any) -> Any:
    """Return a handler that responds as the request demands."""

    async def respond(request: Any, context: Any) -> Any:
        definition = request.response_definition
        info = request_info(request, context)
        await asyncio.sleep(definition.response_delay_ms / 1000)
        trailers = pairs(definition.response_trailers)
        await context.send_initial_metadata(pairs(definition.response_headers))
        if definition.WhichOneof("response") == "error":
            error = definition.error
            details = [*error.details, any_message.pack(info)]
            status = status_pb2.Status(code=error.code, message=error.message, details=details)
            details_entry = ("grpc-status-details-bin", status.SerializeToString())
            await context.abort(error.code, error.message, (*trailers, details_entry))
        context.set_trailing_metadata(trailers)
        payload = pb.ConformancePayload(data=definition.response_data, request_info=info)
        return response_type(payload=payload)

    return respond


def without_details(error: bytes) -> bytes:
    """Return an error without the details of Zoomgate, which the suite does not know."""
    fields = json.loads(error)
    fields["details"] = [item for item in fields["details"] if not item["type"].startswith("google.rpc.")]
    return json.dumps(fields).encode()


def decode(method: Method, respond: Handler) -> Handler:
    """Decode the requests. A stage of the pipeline, instead of the one that authenticates callers."""

    async def respond_to_decoded(request: Any, context: Any) -> Any:
        return await respond(await method.receive(request, context), context)

    return respond_to_decoded


def request_info(request: Any, context: Any) -> Any:
    """Return what the server has received."""
    values: dict[str, list[str]] = {}
    for name, value in context.invocation_metadata():
        values.setdefault(name, []).append(value)
    info = pb.ConformancePayload.RequestInfo(requests=[any_message.pack(request)])
    info.request_headers.extend(pb.Header(name=name, value=items) for name, items in values.items())
    remaining = context.time_remaining()
    if remaining is not None:
        info.timeout_ms = int(remaining * 1000)
    return info


def pairs(headers: Any) -> list[tuple[str, str]]:
    return [(header.name, value) for header in headers for value in header.value]


async def main() -> None:
    """Serve until SIGTERM."""
    (size,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    wanted = pb.ServerCompatRequest.FromString(sys.stdin.buffer.read(size))
    pipeline = Pipeline(grpc.aio.server(), [convert_errors, decode])
    pipeline.add_registered_method_handlers(
        f"{PACKAGE}.ConformanceService",
        {
            name: grpc.unary_unary_rpc_method_handler(
                unary(response),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, request, response in (
                ("Unary", pb.UnaryRequest, pb.UnaryResponse),
                ("IdempotentUnary", pb.IdempotentUnaryRequest, pb.IdempotentUnaryResponse),
            )
        },
    )
    endpoint = ConnectEndpoint(
        pipeline,
        clock=SystemClock(),
        large_requests=ConcurrencyLimit(Limit.LARGE_REQUESTS, 2, SystemClock(), new_metrics("test")),
        max_request_bytes=wanted.message_receive_limit or DEFAULT_LIMIT,
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await endpoint.handle(request, "")
        if response.status != HTTPStatus.OK and response.content_type == "application/json":
            response.body = without_details(response.body)
        return response

    app = web.Application()
    app.router.add_route("*", "/{service}/{method}", handle)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    ready = pb.ServerCompatResponse(host="127.0.0.1", port=port).SerializeToString()
    sys.stdout.buffer.write(struct.pack(">I", len(ready)) + ready)
    sys.stdout.buffer.flush()
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    await terminated.wait()
    await runner.cleanup()


asyncio.run(main())
