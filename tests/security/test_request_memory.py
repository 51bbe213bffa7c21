"""Tests for the memory of requests: what a rejected or open call retains must not add up."""

import contextlib
import gc
import io
from collections.abc import AsyncIterator, Iterator
from functools import partial

import aiohttp
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from grpc_health.v1 import health_pb2, health_pb2_grpc

from security.memory import peak_of
from support.harness import MONICA, Harness, caller_key, metadata
from support.raw_upstream import http_response, serving_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.meeting_pb2 import MeetingDetails
from zoomgate_server.errors import MalformedRequest
from zoomgate_server.rpc.middleware import pipeline

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLS = 40
LARGE = "x" * 4_000_000
GET_TOKEN = "/zoomgate.v1.AuthService/GetToken"
UPDATE = "/zoomgate.v1.MeetingsService/UpdateMeeting"
DOWNLOAD = "/zoomgate.v1.ProxyService/Download"
REJECTED = {
    "without a credential": (GET_TOKEN, auth.GetTokenRequest(user_email=LARGE), False, "UNAUTHENTICATED"),
    "invalid": (GET_TOKEN, auth.GetTokenRequest(user_email=LARGE), True, "INVALID_ARGUMENT"),
    "with an undocumented response from Zoom": (
        UPDATE,
        meetings.UpdateMeetingRequest(
            user_email=MONICA,
            meeting_id=1,
            meeting_details=MeetingDetails(agenda="x", additional_fields={"x": LARGE}),
        ),
        True,
        "INTERNAL",
    ),
    "a stream": (DOWNLOAD, proxy.DownloadRequest(user_email=MONICA, url=LARGE), True, "INVALID_ARGUMENT"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zoomgate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """Run a service with a connected user, for whom Zoom returns undocumented responses."""
    async with serving_upstream(tmp_path_factory.mktemp("data")) as (harness, upstream):
        upstream.responses = [http_response("404 Not Found", b"[]")]
        yield harness


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def error_over_grpc(channel: grpc.aio.Channel, path: str, body: bytes, *, authenticated: bool) -> str:
    """Return the code of an error. The client retains no request."""
    method = channel.unary_stream if path == DOWNLOAD else channel.unary_unary
    call = method(path, request_serializer=lambda _: body)(
        None, metadata=metadata() if authenticated else (), timeout=20
    )
    return (await call.code()).name


@pytest.mark.parametrize(("path", "message", "authenticated", "code"), REJECTED.values(), ids=REJECTED)
async def test_rejected_request_is_released_over_grpc(
    zoomgate: Harness, path: str, message: Message, authenticated: bool, code: str
) -> None:
    """The memory of a request is freed when its call ends, not only by the cyclic garbage collector."""
    body = message.SerializeToString()
    async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        with peak_of(megabytes=60), without_garbage_collection():
            for _ in range(CALLS):
                assert await error_over_grpc(channel, path, body, authenticated=authenticated) == code


@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        (path, message, code)
        for path, message, authenticated, code in REJECTED.values()
        if authenticated and path != DOWNLOAD
    ],
)
async def test_rejected_request_is_released_over_connect(
    zoomgate: Harness, path: str, message: Message, code: str
) -> None:
    body = message.SerializeToString()
    headers = {"Authorization": f"Bearer {caller_key('service')}", "Content-Type": "application/proto"}
    async with aiohttp.ClientSession(zoomgate.http_url, headers=headers) as session:
        with peak_of(megabytes=60), without_garbage_collection():
            for _ in range(CALLS):
                async with session.post(path, data=io.BytesIO(body)) as response:
                    assert (await response.json())["code"] == code.lower()


def of_entries(count: int) -> list[Message]:
    """Return requests with about this number of entries, at different levels."""
    update = meetings.UpdateMeetingRequest(user_email=MONICA, meeting_id=1)
    for _ in range(count):
        update.meeting_details.tracking_fields.add()
    nested = proxy.PostRequest(user_email=MONICA, url="/users/me")
    for _ in range(count // 100):
        nested.json.list_value.values.add().list_value.values.extend([Value(bool_value=True)] * 100)
    in_map = proxy.PostRequest(user_email=MONICA, url="/users/me")
    for number in range(count):
        in_map.json.struct_value.fields[str(number)].bool_value = True
    states = auth.WatchConnectionsRequest(user_emails=["a@b.de"] * count)
    return [update, nested, in_map, states]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(("count", "is_malformed"), [(19_000, False), (21_000, True), (200_000, True)])
async def test_message_with_too_many_entries_is_rejected_before_it_is_processed(
    index: int, count: int, is_malformed: bool
) -> None:
    request = of_entries(count)[index]
    kind = type(request)
    parse = partial(pipeline.parse_binary, kind)
    body = request.SerializeToString()
    if is_malformed:
        with pytest.raises(MalformedRequest, match="20000 entries"):
            pipeline.decoded(kind, parse, body)
    else:
        assert pipeline.decoded(kind, parse, body) == request


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_large_request_without_a_credential_is_rejected(zoomgate: Harness, method: str) -> None:
    """A watch would retain it until its end."""
    async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        accepted = health_pb2.HealthCheckRequest(service="x" * 1000)
        rejected = health_pb2.HealthCheckRequest(service="x" * 1024)
        if method == "Watch":
            watch = stub.Watch(accepted, timeout=20)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            watch.cancel()
            assert (await stub.Watch(rejected, timeout=20).code()).name == "RESOURCE_EXHAUSTED"
        else:
            assert (await stub.Check(accepted, timeout=20).code()).name == "NOT_FOUND"
            assert (await stub.Check(rejected, timeout=20).code()).name == "RESOURCE_EXHAUSTED"
