"""Tests of the endpoint for RPCs over HTTP that need an RPC of their own."""

from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.rpc.connect import MAX_INLINE_BYTES, ConnectEndpoint
from zoomgate_server.rpc.middleware.drain import Drain
from zoomgate_server.rpc.middleware.error_status import convert_errors
from zoomgate_server.rpc.middleware.pipeline import Handler, Method, Pipeline

BODY = bytes(64 * MAX_INLINE_BYTES)


@pytest.mark.parametrize(
    ("service", "method", "request_type", "response", "reason"),
    [
        (
            "ProxyService",
            "Post",
            proxy.PostRequest,
            proxy.PostResponse(response=proxy.ZoomResponse(body=BODY)),
            "ZOOM_OUTCOME_UNKNOWN",
        ),
        (
            "ProxyService",
            "Get",
            proxy.GetRequest,
            proxy.GetResponse(response=proxy.ZoomResponse(body=BODY)),
            "SHUTTING_DOWN",
        ),
        (
            "AuthService",
            "RefreshToken",
            auth.RefreshTokenRequest,
            auth.RefreshTokenResponse(token=auth.Token(access_token="a" * len(BODY))),
            "SHUTTING_DOWN",
        ),
    ],
    ids=["write", "read", "idempotent"],
)
async def test_call_whose_response_is_converted_at_the_end_of_the_drain_states_whether_it_may_be_repeated(
    service: str, method: str, request_type: Any, response: Any, reason: str
) -> None:
    """A retry could repeat a write that has taken effect, but not a read or what the contract declares as idempotent."""
    drain = Drain()

    async def respond(_request: Any, _context: Any) -> Any:
        drain.end_calls_after(0)
        return response

    pipeline = Pipeline(grpc.aio.server(), [convert_errors, drain.wrap, receive])
    handler = grpc.unary_unary_rpc_method_handler(
        respond, request_type.FromString, type(response).SerializeToString
    )
    pipeline.add_registered_method_handlers(f"zoomgate.v1.{service}", {method: handler})
    endpoint = ConnectEndpoint(
        pipeline,
        clock=SystemClock(),
        large_requests=ConcurrencyLimit(Limit.LARGE_REQUESTS, 1, SystemClock(), new_metrics("test")),
        max_request_bytes=1000,
    )

    async def handle(request: web.Request) -> web.Response:
        return await endpoint.handle(request, "")

    app = web.Application()
    app.router.add_post("/{service}/{method}", handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = server.make_url(f"/zoomgate.v1.{service}/{method}")
        async with session.post(url, json={}) as failure:
            assert (await failure.json())["details"][0]["debug"]["reason"] == reason
        await endpoint.stop(1.0)


def receive(method: Method, respond: Handler) -> Handler:
    """Receive the requests. A stage of the pipeline, instead of the one that authenticates callers."""

    async def respond_to_received(request: Any, context: Any) -> Any:
        return await respond(await method.receive(request, context), context)

    return respond_to_received
