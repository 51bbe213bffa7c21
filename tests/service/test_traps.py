"""Tests for the pipeline stages over a real port. Callers must be protected from handler errors and known problems of grpc.aio."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from support.captured_logs import LogStream
from support.harness import ADMIN, SECONDS, RpcError, caller_key, metadata, service
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import auth_service_pb2_grpc
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.errors import FieldViolation, InvalidRequest
from zoomgate_server.rpc.connect import ConnectEndpoint
from zoomgate_server.rpc.middleware.access_log import AccessLog
from zoomgate_server.rpc.middleware.authentication import Authentication, CallerKeys
from zoomgate_server.rpc.middleware.error_status import convert_errors
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method, Pipeline, Stage
from zoomgate_server.telemetry.metrics import Metrics


class FailingAuthService(auth_service_pb2_grpc.AuthServiceServicer):
    """A servicer whose methods fail in different ways."""

    async def ListConnections(self, request: Any, context: Any) -> Any:
        """Wait for a task that is canceled."""

        async def forever() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(forever())
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def GetConnection(self, request: Any, context: Any) -> Any:
        """Raise an exception whose text contains a secret."""
        raise RuntimeError("no route to mongodb://user:hunter2@host with refresh_token=hunter2")

    async def CheckToken(self, request: Any, context: Any) -> Any:
        """Succeed."""
        return pb.CheckTokenResponse(expired=True)

    async def RefreshToken(self, request: Any, context: Any) -> Any:
        """Wait until the call is canceled."""
        await asyncio.Event().wait()

    async def GetAuthorization(self, request: Any, context: Any) -> Any:
        """Return a time that JSON cannot represent."""
        return pb.GetAuthorizationResponse(expire_time=Timestamp(seconds=2**60))

    async def DeleteConnection(self, request: Any, context: Any) -> Any:
        """Raise an error with more violations than fit into a status."""
        raise InvalidRequest([FieldViolation(f"field[{index}]", "x" * 400) for index in range(500)])


def pipeline(server: grpc.aio.Server, *last: Stage) -> Pipeline:
    """Add the failing servicer to a server, behind the real stages and the given last ones."""
    keys = CallerKeys({digest(caller_key(caller.name)): caller for caller in (ADMIN, service("service"))})
    stages = [
        AccessLog(Metrics("0", ["AuthService.ListConnections"])).wrap,
        convert_errors,
        Authentication(keys=keys, anonymous=None, clock=SystemClock(), audit=lambda _event: None).wrap,
        *last,
    ]
    registrar: Any = Pipeline(server, stages)
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(FailingAuthService(), registrar)
    return cast("Pipeline", registrar)


@asynccontextmanager
async def serving(*last: Stage) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the failing servicer. Yield a channel to it."""
    server = grpc.aio.server()
    pipeline(server, *last)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to the failing servicer behind the real stages."""
    async with serving() as channel:
        yield channel


@asynccontextmanager
async def serving_http(*last: Stage) -> AsyncIterator[tuple[ConnectEndpoint, aiohttp.ClientSession]]:
    """Serve the failing servicer over HTTP. Yield the endpoint and a session."""
    endpoint = ConnectEndpoint(
        pipeline(grpc.aio.server(), *last),
        clock=SystemClock(),
        large_requests=ConcurrencyLimit(Limit.LARGE_REQUESTS, 1, SystemClock(), Metrics("0", [])),
        max_request_bytes=1024,
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        return await endpoint.handle(request, "")

    async with (
        RawTestServer(handle) as server,
        aiohttp.ClientSession(server.make_url("/"), headers=metadata()) as session,
    ):
        yield endpoint, session


async def error_of(call: Any) -> RpcError:
    with pytest.raises(grpc.aio.AioRpcError) as exc_info:
        await call
    return RpcError.of(exc_info.value)


async def test_leaked_cancellation_is_unavailable(channel: grpc.aio.Channel) -> None:
    """A caller without a deadline receives UNAVAILABLE instead of waiting forever."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    async with asyncio.timeout(10):
        error = await error_of(stub.ListConnections(pb.ListConnectionsRequest(), metadata=metadata("admin")))
    assert error.short == ("UNAVAILABLE", "SHUTTING_DOWN")


async def test_text_of_unexpected_exception_is_not_returned(channel: grpc.aio.Channel) -> None:
    """An unexpected exception is INTERNAL with a fixed message and the request ID."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    request = pb.GetConnectionRequest(user_email="monica@example.com")
    entries = (*metadata("admin"), ("x-request-id", "find-me"))
    error = await error_of(stub.GetConnection(request, metadata=entries, timeout=5))
    assert error.short == ("INTERNAL", "INTERNAL")
    assert error.message == "Internal error; see the server log for this request_id"
    assert error.metadata == {"request_id": "find-me"}


async def test_response_that_cannot_be_encoded_is_internal(log: LogStream) -> None:
    """Over HTTP, too, the error is logged, and has the request ID."""
    headers = {"X-Request-Id": "not-encoded"}
    async with (
        serving_http() as (_, session),
        session.post("/zoomgate.v1.AuthService/GetAuthorization", json={}, headers=headers) as response,
    ):
        body = await response.json()
    assert (response.status, body["code"]) == (500, "internal")
    assert body["details"][0]["debug"]["metadata"] == {"request_id": "not-encoded"}
    events = [line for line in log.getvalue().splitlines() if '"not-encoded"' in line]
    assert [json.loads(line)["event"] for line in events] == ["rpc.failed", "rpc"]


async def test_call_that_does_not_end_does_not_delay_the_shutdown() -> None:
    """A call over HTTP that ignores its cancellation; the gRPC library limits the time of its own calls."""
    reached, released = asyncio.Event(), asyncio.Event()

    def hold(_method: Method, respond: Handler) -> Handler:
        async def wait(request: Any, context: Context) -> Any:
            reached.set()
            await released.wait()
            return await respond(request, context)

        return wait

    async with serving_http(hold) as (endpoint, session):
        call = asyncio.create_task(session.post("/zoomgate.v1.AuthService/CheckToken", json={}))
        await reached.wait()
        async with asyncio.timeout(SECONDS):
            await endpoint.stop(0.0)
        released.set()
        assert (await call).status == 200


async def test_malformed_request_is_invalid_argument(channel: grpc.aio.Channel) -> None:
    """Malformed bytes and invalid UTF-8 are rejected with a Zoomgate error."""
    raw = channel.unary_unary("/zoomgate.v1.AuthService/GetConnection")
    for garbage in (b"\xff\xff", b"\x0a\x02\xc3\x28"):
        error = await error_of(raw(garbage, metadata=metadata("admin"), timeout=5))
        assert error.short == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        assert error.metadata == {"type": "zoomgate.v1.GetConnectionRequest"}
        assert "protobuf" not in error.message.lower()


async def test_failed_call_returns_the_request_id(channel: grpc.aio.Channel) -> None:
    """The trailing metadata of a failed call contains both the request ID and the status details."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    for entries in (metadata("admin"), ()):
        with pytest.raises(grpc.aio.AioRpcError) as exc_info:
            await stub.GetConnection(
                pb.GetConnectionRequest(user_email="monica@example.com"),
                metadata=(*entries, ("x-request-id", "find-me")),
                timeout=5,
            )
        assert ("x-request-id", "find-me") in tuple(exc_info.value.trailing_metadata())
        assert RpcError.of(exc_info.value).reason


@pytest.mark.parametrize("status", ["DEADLINE_EXCEEDED", "CANCELLED"])
async def test_end_of_a_call_by_its_caller_is_logged_with_its_cause(log: LogStream, status: str) -> None:
    """In both cases, gRPC cancels the call."""
    start = len(log.getvalue())
    started = asyncio.Event()

    def note_start(_method: Method, respond: Handler) -> Handler:
        def respond_and_note(request: Any, context: Context) -> Any:
            started.set()
            return respond(request, context)

        return respond_and_note

    async with serving(note_start) as channel:
        call = auth_service_pb2_grpc.AuthServiceStub(channel).RefreshToken(
            pb.RefreshTokenRequest(user_email="monica@example.com"),
            metadata=(*metadata("service"), ("x-request-id", status)),
            timeout=5.0 if status == "DEADLINE_EXCEEDED" else 60.0,
        )
        ended = asyncio.ensure_future(call.code())
        if status == "CANCELLED":
            await started.wait()
            call.cancel()
        assert (await ended).name == status
        async with asyncio.timeout(SECONDS):
            while not (lines := [text for text in log.getvalue()[start:].splitlines() if status in text]):
                await asyncio.sleep(0.01)
    (line,) = map(json.loads, lines)
    assert (line["event"], line["status"]) == ("rpc", status)


async def test_call_succeeds_if_the_log_cannot_be_written(channel: grpc.aio.Channel, log: Any) -> None:
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    log.is_closed_by_reader = True
    try:
        response = await stub.CheckToken(
            pb.CheckTokenRequest(user_email="monica@example.com"), metadata=metadata("service"), timeout=5
        )
    finally:
        log.is_closed_by_reader = False
    assert response.expired


async def test_status_is_truncated_to_the_header_limit_of_clients(channel: grpc.aio.Channel) -> None:
    """The last violation states the number of omitted violations."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    request = pb.DeleteConnectionRequest(user_email="monica@example.com")
    error = await error_of(stub.DeleteConnection(request, metadata=metadata("admin"), timeout=5))
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "…" in error.violations


async def test_method_without_a_policy_is_rejected(channel: grpc.aio.Channel) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _context: request, Empty.FromString, Empty.SerializeToString
    )
    keys = CallerKeys({digest(caller_key("admin")): ADMIN})
    stages = [
        convert_errors,
        Authentication(keys=keys, anonymous=ADMIN, clock=SystemClock(), audit=lambda _event: None).wrap,
    ]
    server = grpc.aio.server()
    Pipeline(server, stages).add_registered_method_handlers("zoomgate.v1.NewService", {"New": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as new_channel:
        error = await error_of(new_channel.unary_unary("/zoomgate.v1.NewService/New")(b"", timeout=5))
    await server.stop(None)
    assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
