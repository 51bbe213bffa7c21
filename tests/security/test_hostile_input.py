"""Nonsense in requests: each row is refused with its code, reason and fields, and reaches nobody."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator

import grpc.aio
import orjson
import pytest
import pytest_asyncio

from security import fields, headers_and_bodies, targets
from security.row import Row, without_remedy
from support.harness import MONICA, Harness, metadata, running
from support.raw_upstream import OK, RawUpstream, answer, raw_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [*targets.ROWS, *headers_and_bodies.ROWS, *fields.ROWS]
Service = tuple[Harness, RawUpstream]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with a connected user whose API is a bare socket; all rows share it, since none may change it."""
    async with (
        raw_upstream() as raw,
        running(tmp_path_factory.mktemp("data"), zoom_api_url=raw.url) as zoomgate,
    ):
        raw.answers = [answer("200 OK", b'{"id":"u","email":"monica@example.com"}'), OK]
        await zoomgate.connect()
        raw.requests.clear()
        yield zoomgate, raw


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name[:80])
async def test_nonsense_is_refused_and_reaches_nobody(service: Service, row: Row) -> None:
    """The answer has the row's code and reason, names exactly the wrong fields, and neither Zoom's API nor its OAuth hears of it."""
    zoomgate, raw = service
    raw.requests.clear()
    before = dict(zoomgate.simulator.zoom.counters)
    refusal = await row.refusal(zoomgate)
    assert refusal.short == (row.code, row.reason), refusal
    assert set(refusal.violations) == row.fields
    assert not row.fields or refusal.message.partition(": ")[0] in row.fields
    assert raw.requests == []
    assert dict(zoomgate.simulator.zoom.counters) == before


async def test_every_refusal_says_what_to_send_instead(service: Service) -> None:
    """Each violation and each message of an INVALID_ARGUMENT has an instruction behind its rule, and no library's words."""
    zoomgate, _ = service
    refusals = [await row.refusal(zoomgate) for row in ROWS if row.code == "INVALID_ARGUMENT"]
    assert len(refusals) > 300
    assert without_remedy(refusals) == []
    words = " ".join(refusal.message for refusal in refusals).lower()
    assert not [word for word in ("traceback", "exception", "python", "protobuf", "aiohttp") if word in words]


async def test_what_is_more_than_fits_is_told_too(service: Service) -> None:
    """Very many wrong fields are listed as far as they fit; the rest has a number and an instruction."""
    zoomgate, _ = service
    many = targets.parameters(*[("", "\x00")] * 100)
    refusal = await zoomgate.refusal(zoomgate.proxy.Get, targets.call("Get", "/users/me", query=many))
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "more fields are invalid" in refusal.violations["…"]
    assert without_remedy([refusal]) == []


@pytest.mark.parametrize(
    "address",
    ["monica@example.com" + "m" * 1_000_000, "m" * 1_000_000 + "@example.com"],
    ids=["behind", "before"],
)
async def test_refused_names_are_not_kept(service: Service, address: str) -> None:
    """Names of a megabyte leave nothing behind, however many come."""
    zoomgate, _ = service
    tracemalloc.start()
    for number in range(20):
        await zoomgate.refusal(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=f"{number}{address}"))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5_000_000


async def test_unknown_fields_are_ignored(service: Service) -> None:
    """Fields of a later contract change nothing, on any level."""
    zoomgate, raw = service
    raw.answers = [OK]
    later = b"\xfa\xff\xff\xff\x0f\x01x\xc0\x3e\x01"
    sent = proxy.GetRequest(user_email=MONICA, url="/users/me").SerializeToString() + later
    await zoomgate.call(zoomgate.channel.unary_unary("/zoomgate.v1.ProxyService/Get"), sent)
    assert raw.lines() == ["GET /v2/users/me HTTP/1.1"]
    raw.requests.clear()


async def test_names_in_the_metadata_move_no_call(service: Service) -> None:
    """Whatever a caller writes about hosts and methods, the call goes to the pinned origin, as the method it is."""
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


async def test_bytes_pass_as_they_are(service: Service) -> None:
    """What calls itself JSON and is none is the caller's affair in `raw`: it is neither read nor changed."""
    zoomgate, raw = service
    for body in (b"{not json", b"\xff\x00", b"[" * 1_000_000, b"NaN"):
        wanted = proxy.PostRequest(user_email=MONICA, url="/x", raw=body, content_type="application/json")
        await zoomgate.call(zoomgate.proxy.Post, wanted)
        assert raw.requests.pop().endswith(b"\r\n\r\n" + body)


async def test_the_edges_of_what_is_accepted_arrive_exactly(service: Service) -> None:
    """The largest ids, the last second of the year 9999 and the longest texts are sent as they are."""
    zoomgate, raw = service
    raw.answers = [answer("200 OK", b'{"id":1}')]
    await zoomgate.call(
        zoomgate.meetings.GetMeeting, meetings.GetMeetingRequest(user_email=MONICA, meeting_id=10**12)
    )
    assert raw.requests.pop().startswith(b"GET /v2/meetings/1000000000000 HTTP/1.1\r\n")
    request = fields.starting(253_402_300_799)
    request.meeting_details.topic = "ü" * 200
    await zoomgate.call(zoomgate.meetings.CreateMeeting, request)
    sent = orjson.loads(raw.requests.pop().partition(b"\r\n\r\n")[2])
    assert (sent["start_time"], sent["topic"]) == ("9999-12-31T23:59:59Z", "ü" * 200)


async def test_a_flood_of_nonsense_leaves_the_service_as_it_was(service: Service) -> None:
    """All rows at once are all refused, and the next call is served."""
    zoomgate, raw = service
    raw.answers = [OK]
    small = [row for row in ROWS if len(repr(row.request)) < 10_000]
    refusals = await asyncio.gather(*(row.refusal(zoomgate) for row in small))
    assert [refusal.short for refusal in refusals] == [(row.code, row.reason) for row in small]
    assert raw.requests == []
    wanted = proxy.GetRequest(user_email=MONICA, url="/users/me")
    assert (await zoomgate.call(zoomgate.proxy.Get, wanted)).response.status == 200
