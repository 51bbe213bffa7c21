"""Tests for invalid requests: each request is rejected with the expected code, reason and fields, and nothing is sent to Zoom."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator

import grpc.aio
import orjson
import pytest
import pytest_asyncio

from security import fields, file_urls, headers_and_bodies, targets
from security.row import Row, without_remedy
from support.connect_channel import GRPC, over
from support.harness import MONICA, Harness, metadata, running
from support.raw_upstream import OK, RawUpstream, http_response, raw_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [*targets.ROWS, *headers_and_bodies.ROWS, *fields.ROWS, *file_urls.ROWS]
Service = tuple[Harness, RawUpstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Run a service with a connected user, and replace Zoom's API by an HTTP server with scripted responses; yield both.

    All test cases share the service, since no test case changes it.
    """
    async with (
        raw_upstream() as raw,
        running(tmp_path_factory.mktemp("data"), zoom_api_url=raw.url) as zoomgate,
    ):
        raw.responses = [http_response("200 OK", b'{"id":"u","email":"monica@example.com"}'), OK]
        await zoomgate.connect()
        raw.requests.clear()
        yield zoomgate, raw


@pytest.mark.parametrize(
    ("row", "protocol"),
    [
        pytest.param(row, protocol, id=f"{row.name[:80]}-{protocol}")
        for row in ROWS
        for protocol in row.protocols
    ],
)
async def test_invalid_request_is_rejected_without_calling_zoom(
    service: Service, row: Row, protocol: str
) -> None:
    """The error lists exactly the invalid fields; neither Zoom's API nor the OAuth endpoints receive a request."""
    zoomgate, raw = service
    raw.requests.clear()
    before = dict(zoomgate.simulator.zoom.counters)
    async with over(protocol, zoomgate) as connected:
        error = await row.error(connected)
    reason = row.reason or ("" if protocol == GRPC else "REQUEST_TOO_LARGE")
    assert error.short == (row.code, reason), error
    assert set(error.violations) == row.fields
    assert not row.fields or error.message.partition(": ")[0] in row.fields
    assert raw.requests == []
    assert dict(zoomgate.simulator.zoom.counters) == before


async def test_every_rejection_contains_an_instruction(service: Service) -> None:
    """Every violation and message of an INVALID_ARGUMENT error states how to correct the request, and names no library."""
    zoomgate, _ = service
    errors = [await row.error(zoomgate) for row in ROWS if row.code == "INVALID_ARGUMENT"]
    assert len(errors) > 300
    assert without_remedy(errors) == []
    text = " ".join(error.message for error in errors).lower()
    assert not [word for word in ("traceback", "exception", "python", "protobuf", "aiohttp") if word in text]


async def test_violations_that_do_not_fit_are_counted(service: Service) -> None:
    """The error states the number of omitted violations and how to correct the request."""
    zoomgate, _ = service
    many = targets.parameters(*[("", "\x00")] * 100)
    error = await zoomgate.error_of(zoomgate.proxy.Get, targets.call("Get", "/users/me", query=many))
    assert error.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "more fields are invalid" in error.violations["…"]
    assert without_remedy([error]) == []


@pytest.mark.parametrize(
    "address",
    ["monica@example.com" + "m" * 1_000_000, "m" * 1_000_000 + "@example.com"],
    ids=["long domain", "long local part"],
)
async def test_rejected_user_names_are_not_retained(service: Service, address: str) -> None:
    """Rejected user names of one megabyte each are not retained in memory."""
    zoomgate, _ = service
    tracemalloc.start()
    for number in range(20):
        await zoomgate.error_of(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=f"{number}{address}"))
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert allocated < 5_000_000


async def test_unknown_fields_are_ignored(service: Service) -> None:
    """Fields of a later API version have no effect at any nesting level."""
    zoomgate, raw = service
    raw.responses = [OK]
    later = b"\xfa\xff\xff\xff\x0f\x01x\xc0\x3e\x01"
    sent = proxy.GetRequest(user_email=MONICA, url="/users/me").SerializeToString() + later
    await zoomgate.call(zoomgate.channel.unary_unary("/zoomgate.v1.ProxyService/Get"), sent)
    assert raw.lines() == ["GET /v2/users/me HTTP/1.1"]
    raw.requests.clear()


async def test_metadata_does_not_redirect_a_call(service: Service) -> None:
    """Metadata that names other hosts or methods changes neither the host nor the method of the request to Zoom."""
    zoomgate, raw = service
    tricks = [
        ("host", "evil.com"),
        ("x-forwarded-host", "evil.com"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/oauth/token"),
        ("forwarded", "host=evil.com"),
    ]
    options = [("grpc.default_authority", "evil.com")]
    async with grpc.aio.insecure_channel(zoomgate.grpc_address, options=options) as channel:
        await ProxyServiceStub(channel).Get(
            proxy.GetRequest(user_email=MONICA, url="/users/me"), metadata=(*metadata(), *tricks), timeout=20
        )
    sent = raw.requests.pop()
    assert sent.startswith(b"GET /v2/users/me HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{raw.port}\r\n".encode() in sent
    assert b"evil" not in sent


async def test_raw_bodies_are_sent_unchanged(service: Service) -> None:
    """Bytes in `raw` are neither parsed nor changed, even if they are declared as JSON but are invalid JSON."""
    zoomgate, raw = service
    for body in (b"{not json", b"\xff\x00", b"[" * 1_000_000, b"NaN"):
        request = proxy.PostRequest(user_email=MONICA, url="/x", raw=body, content_type="application/json")
        await zoomgate.call(zoomgate.proxy.Post, request)
        assert raw.requests.pop().endswith(b"\r\n\r\n" + body)


async def test_largest_accepted_values_are_sent_unchanged(service: Service) -> None:
    """The largest ID, the last second of the year 9999, and the longest topic are sent unchanged."""
    zoomgate, raw = service
    raw.responses = [http_response("200 OK", b'{"id":1}')]
    await zoomgate.call(
        zoomgate.meetings.GetMeeting, meetings.GetMeetingRequest(user_email=MONICA, meeting_id=10**12)
    )
    assert raw.requests.pop().startswith(b"GET /v2/meetings/1000000000000 HTTP/1.1\r\n")
    request = fields.create_with_start(253_402_300_799)
    request.meeting_details.topic = "ü" * 200
    await zoomgate.call(zoomgate.meetings.CreateMeeting, request)
    sent = orjson.loads(raw.requests.pop().partition(b"\r\n\r\n")[2])
    assert (sent["start_time"], sent["topic"]) == ("9999-12-31T23:59:59Z", "ü" * 200)


async def test_flood_of_invalid_requests_does_not_affect_the_service(service: Service) -> None:
    """All invalid requests, sent concurrently, are rejected, and the next call succeeds."""
    zoomgate, raw = service
    raw.responses = [OK]
    small = [row for row in ROWS if len(repr(row.request)) < 10_000]
    errors = await asyncio.gather(*(row.error(zoomgate) for row in small))
    assert [error.short for error in errors] == [(row.code, row.reason) for row in small]
    assert raw.requests == []
    request = proxy.GetRequest(user_email=MONICA, url="/users/me")
    assert (await zoomgate.call(zoomgate.proxy.Get, request)).response.status == 200
