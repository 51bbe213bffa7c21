"""Three traps of grpc.aio, over a real port: what the stages around every handler keep from callers."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from support.harness import ADMIN, Refusal, key_of, metadata, service
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import auth_service_pb2_grpc
from zoomgate_server.cli.caller_key import digest
from zoomgate_server.clock import SystemClock
from zoomgate_server.errors import FieldViolation, InvalidRequest
from zoomgate_server.rpc.middleware.access_log import AccessLog
from zoomgate_server.rpc.middleware.authentication import Authentication, CallerKeys, StaticKey
from zoomgate_server.rpc.middleware.error_status import Status
from zoomgate_server.rpc.middleware.pipeline import Pipeline
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics


class Misbehaving(auth_service_pb2_grpc.AuthServiceServicer):
    """A servicer whose methods go wrong in the ways of the traps."""

    async def ListConnections(self, request: Any, context: Any) -> Any:
        """Wait for a task that somebody else cancels."""

        async def forever() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(forever())
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def GetConnection(self, request: Any, context: Any) -> Any:
        """Fail with a secret in the text."""
        raise RuntimeError("no route to mongodb://user:hunter2@host with refresh_token=hunter2")

    async def CheckToken(self, request: Any, context: Any) -> Any:
        """Do what is asked."""
        return pb.CheckTokenResponse(expired=True)

    async def DeleteConnection(self, request: Any, context: Any) -> Any:
        """Refuse more fields than a status can carry."""
        raise InvalidRequest([FieldViolation(f"field[{index}]", "x" * 400) for index in range(500)])


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the misbehaving servicer behind the real stages."""
    keys = CallerKeys([StaticKey(digest(key_of(who.name)), who) for who in (ADMIN, service("service"))])
    stages = [
        AccessLog(Metrics("0", ["AuthService.ListConnections"])),
        Status(),
        Authentication(keys=keys, anonymous=None, clock=SystemClock(), audit=lambda _event: None),
    ]
    server = grpc.aio.server()
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(Misbehaving(), Pipeline(server, stages).registrar)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


async def refusal_of(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return Refusal.of(error.value)


async def test_a_leaked_cancellation_ends_the_call(channel: grpc.aio.Channel) -> None:
    """A caller without a deadline gets UNAVAILABLE when the work is cancelled underneath, and does not hang."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    async with asyncio.timeout(10):
        refusal = await refusal_of(
            stub.ListConnections(pb.ListConnectionsRequest(), metadata=metadata("admin"))
        )
    assert refusal.short == ("UNAVAILABLE", "SHUTTING_DOWN")


async def test_the_text_of_an_exception_stays_here(channel: grpc.aio.Channel) -> None:
    """What nobody foresaw is INTERNAL with a fixed text and the request id."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    wanted = pb.GetConnectionRequest(user_email="monica@example.com")
    entries = (*metadata("admin"), ("x-request-id", "find-me"))
    refusal = await refusal_of(stub.GetConnection(wanted, metadata=entries, timeout=5))
    assert refusal.short == ("INTERNAL", "INTERNAL")
    assert refusal.message == "Internal error; see the server log for this request_id"
    assert refusal.metadata == {"request_id": "find-me"}


async def test_undecodable_requests_are_refused_by_us(channel: grpc.aio.Channel) -> None:
    """Garbage and invalid UTF-8 are INVALID_ARGUMENT in our words."""
    raw = channel.unary_unary("/zoomgate.v1.AuthService/GetConnection")
    for garbage in (b"\xff\xff", b"\x0a\x02\xc3\x28"):
        refusal = await refusal_of(raw(garbage, metadata=metadata("admin"), timeout=5))
        assert refusal.short == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        assert refusal.metadata == {"type": "zoomgate.v1.GetConnectionRequest"}
        assert "protobuf" not in refusal.message.lower()


async def test_failures_bring_the_request_id_back(channel: grpc.aio.Channel) -> None:
    """The trailing metadata of a failed call has the id, beside the details of the status."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    for entries in (metadata("admin"), ()):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetConnection(
                pb.GetConnectionRequest(user_email="monica@example.com"),
                metadata=(*entries, ("x-request-id", "find-me")),
                timeout=5,
            )
        assert ("x-request-id", "find-me") in tuple(error.value.trailing_metadata())
        assert Refusal.of(error.value).reason


async def test_a_log_that_cannot_be_written_fails_no_call(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the log's pipe closed or its disk full, callers get their answers."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(logs._access, "out", logs._Lines(Gone()))
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    answer = await stub.CheckToken(
        pb.CheckTokenRequest(user_email="monica@example.com"), metadata=metadata("service"), timeout=5
    )
    assert answer.expired


async def test_statuses_fit_into_what_clients_take(channel: grpc.aio.Channel) -> None:
    """Very many violations are cut with a note instead of exhausting the client's header limit."""
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    wanted = pb.DeleteConnectionRequest(user_email="monica@example.com")
    refusal = await refusal_of(stub.DeleteConnection(wanted, metadata=metadata("admin"), timeout=5))
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "…" in refusal.violations


async def test_a_method_without_a_policy_row_is_refused(channel: grpc.aio.Channel) -> None:
    """What the policy does not name is closed, to everybody."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    keys = CallerKeys([StaticKey(digest(key_of("admin")), ADMIN)])
    stages = [
        Status(),
        Authentication(keys=keys, anonymous=ADMIN, clock=SystemClock(), audit=lambda _event: None),
    ]
    server = grpc.aio.server()
    Pipeline(server, stages).registrar.add_registered_method_handlers(
        "zoomgate.v1.NewService", {"New": handler}
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        refusal = await refusal_of(opened.unary_unary("/zoomgate.v1.NewService/New")(b"", timeout=5))
    await server.stop(None)
    assert refusal.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
