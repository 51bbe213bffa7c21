"""Tests for ProxyService.ListPages. In some tests, a scripted server replaces Zoom's API."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict

from security.memory import peak_of
from support.harness import MONICA, SECONDS, Harness, RpcError, metadata, running
from support.raw_upstream import OK, Endless, RawUpstream, http_response, serving_upstream
from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import file_downloads, zoom_pages
from zoomgate_server.rpc.middleware import authentication
from zoomgate_server.zoom.urls import MAX_VALUE

Service = tuple[Harness, RawUpstream]
MEETINGS = "/users/me/meetings"


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Service]:
    """Run a service with a connected user and a scripted server in place of Zoom's API."""
    async with serving_upstream(tmp_path / "data") as both:
        yield both


def page(token: Any = "", items: int = 1, **fields: Any) -> bytes:
    """Return the response with a page of a list."""
    body = {"meetings": [{"id": number} for number in range(items)], "next_page_token": token} | fields
    return http_response("200 OK", json.dumps(body).encode())


def stream(zoomgate: Harness, url: str = MEETINGS, **fields: Any) -> Any:
    """Start a list."""
    request = ParseDict({"user_email": MONICA, "url": url} | fields, pb.ListPagesRequest())
    return zoomgate.proxy.ListPages(request, metadata=metadata())


async def read(call: Any) -> tuple[list[pb.ZoomResponse], RpcError | None]:
    """Read a stream to its end. Return the pages, and the failure if it ended with one."""
    pages = []
    try:
        async with asyncio.timeout(SECONDS):
            while (message := await call.read()) is not grpc.aio.EOF:
                pages.append(message.response)
    except grpc.aio.AioRpcError as error:
        return pages, RpcError.of(error)
    return pages, None


def schedule(zoomgate: Harness, count: int) -> None:
    """Create meetings of the user in the simulator."""
    zoom = zoomgate.simulator.zoom
    for number in range(count):
        zoom.schedule(zoom.user(MONICA), {"topic": f"Meeting {number}", "type": 2, "agenda": "a" * 900})


async def test_all_pages_are_delivered_in_order(zoomgate: Harness) -> None:
    await zoomgate.connect()
    schedule(zoomgate, 7)
    pages, failure = await read(stream(zoomgate, query=[{"name": "page_size", "value": "3"}]))
    topics = [[row["topic"] for row in json.loads(page.body)["meetings"]] for page in pages]
    numbers = ["Meeting 0 1 2", "Meeting 3 4 5", "Meeting 6"]
    assert [" ".join(["Meeting", *(topic[8:] for topic in page)]) for page in topics] == numbers
    assert failure is None


async def test_pages_are_unchanged_and_requested_with_the_same_query(scripted: Service) -> None:
    """The token of the previous page replaces any token of the caller."""
    zoomgate, raw = scripted
    body = b'{"users" : [ 1.50 ],"next_page_token":"a+/=\\u0026 b"}'
    raw.responses = [http_response("200 OK", body), OK]
    pages, failure = await read(
        stream(
            zoomgate,
            f"{MEETINGS}?type=live&next_page_token=first&next%5Fpage_token=second&x=%2F",
            headers=[{"name": "accept-language", "value": "de"}],
        )
    )
    assert [page.body for page in pages] == [body, b"{}"]
    assert failure is None
    assert raw.lines() == [
        f"GET /v2{MEETINGS}?type=live&next_page_token=first&next%5Fpage_token=second&x=%2F HTTP/1.1",
        f"GET /v2{MEETINGS}?type=live&x=%2F&next_page_token=a%2B%2F%3D%26%20b HTTP/1.1",
    ]
    assert all(b"\r\naccept-language: de\r\n" in request for request in raw.requests)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"max_pages": 1}, 1),
        ({"max_pages": 3}, 3),
        ({"max_items": 1}, 1),
        ({"max_items": 4}, 1),
        ({"max_items": 5}, 2),
        ({"max_pages": 2, "max_items": 100}, 2),
        ({"max_pages": 9, "max_items": 9}, 3),
    ],
)
async def test_stream_ends_at_its_limits_without_an_error(
    scripted: Service, limits: dict[str, int], count: int
) -> None:
    """Pages are complete, and no page is requested beyond the limit."""
    zoomgate, raw = scripted
    raw.responses = [page(f"token{number}", items=4) for number in range(20)]
    pages, failure = await read(stream(zoomgate, **limits))
    assert (len(pages), failure) == (count, None)
    assert len(raw.requests) == count


BROKEN = {
    "the same token again": [page("a"), page("a")],
    "a cycle of tokens": [page("a"), page("b"), page("c"), page("a")],
    "a token that is a number": [page(7)],
    "a token that is a list": [page(["a"])],
    "a token that is too long": [page("a" * (MAX_VALUE + 1))],
    "a token with a surrogate": [page("\ud800")],
    "truncated JSON": [http_response("200 OK", b'{"meetings":[')],
    "a list": [http_response("200 OK", b"[]")],
    "an HTML page": [http_response("200 OK", b"<html>")],
    "no content": [http_response("200 OK", b"")],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_list_without_a_proper_end_fails_after_its_last_page(scripted: Service, name: str) -> None:
    """A list that may be incomplete never ends without an error, nor endlessly."""
    zoomgate, raw = scripted
    raw.responses = [*BROKEN[name]]
    pages, failure = await read(stream(zoomgate))
    assert len(pages) == len(BROKEN[name]) == len(raw.requests)
    assert failure is not None
    assert failure.short == ("INTERNAL", "ZOOM_BAD_RESPONSE")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Error", "302 Found"])
async def test_failure_is_delivered_as_the_last_page(scripted: Service, status: str) -> None:
    zoomgate, raw = scripted
    raw.responses = [page("a"), http_response(status, b'{"next_page_token":"b"}')]
    pages, failure = await read(stream(zoomgate))
    assert [page.status for page in pages] == [200, int(status[:3])]
    assert failure is None


async def test_longest_page_token_is_accepted(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [page("a" * MAX_VALUE), page()]
    pages, failure = await read(stream(zoomgate))
    assert (len(pages), failure) == (2, None)


async def test_rate_limit_between_pages_is_an_error_with_a_delay(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [page("a"), http_response("429 Too Many", b'{"code":429}', "Retry-After: 7")]
    pages, failure = await read(stream(zoomgate))
    assert failure is not None
    assert (len(pages), failure.reason, failure.retry_after) == (1, "ZOOM_RATE_LIMITED", 7.0)


async def test_token_that_expires_between_pages_is_refreshed_once(zoomgate: Harness) -> None:
    await zoomgate.connect()
    schedule(zoomgate, 40)
    call = stream(zoomgate, f"{MEETINGS}?page_size=1")
    assert (await call.read()).response.status == 200
    zoomgate.simulator.zoom.expire(MONICA)
    pages, failure = await read(call)
    assert ([page.status for page in pages], failure) == ([200] * 39, None)
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_limits_of_unary_calls_do_not_apply_to_streams(tmp_path: Path) -> None:
    timing = Timing(calls=authentication.Timing(default_limit=0.3, max_limit=0.3))
    async with running(tmp_path, timing=timing) as zoomgate:
        await zoomgate.connect()
        request = pb.GetRequest(user_email=MONICA, url=MEETINGS)
        assert (await zoomgate.error_of(zoomgate.proxy.Get, request)).reason == "DEADLINE_TOO_SHORT"
        pages, failure = await read(stream(zoomgate))
        assert ([page.status for page in pages], failure) == ([200], None)


async def test_deadline_of_the_caller_ends_a_stream(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [Endless(b"")]
    request = pb.ListPagesRequest(user_email=MONICA, url=MEETINGS)
    error = await zoomgate.error_of(zoomgate.proxy.ListPages, request, seconds=1.0)
    assert error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    async with asyncio.timeout(SECONDS):
        await raw.ended.wait()


async def test_page_and_headers_of_a_file_have_a_time_limit(tmp_path: Path) -> None:
    """Also without a deadline of the caller."""
    timing = Timing(pages=zoom_pages.Timing(page=0.5), downloads=file_downloads.Timing(headers=0.5))
    async with serving_upstream(tmp_path, timing) as (zoomgate, raw):
        raw.responses = [Endless(b"")]
        file = pb.DownloadRequest(user_email=MONICA, url="/file")
        for call in (stream(zoomgate), zoomgate.proxy.Download(file, metadata=metadata())):
            _, failure = await read(call)
            assert failure is not None
            assert failure.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")


async def test_request_for_a_page_is_canceled_when_the_caller_leaves(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [page("a"), Endless(b""), page("b")]
    call = stream(zoomgate)
    await call.read()
    async with asyncio.timeout(SECONDS):
        while len(raw.requests) < 2:
            await asyncio.sleep(0)
        call.cancel()
        await raw.ended.wait()
    await zoomgate.call(zoomgate.proxy.Get, pb.GetRequest(user_email=MONICA, url="/after"))
    assert sum(MEETINGS in line for line in raw.lines()) == 2


async def test_pages_are_requested_only_as_fast_as_they_are_read(scripted: Service) -> None:
    """At most as many pages are requested ahead as fit into the buffers of gRPC."""
    zoomgate, raw = scripted
    raw.responses = [page(f"token{number}", filler="x" * 1_000_000) for number in range(60)]
    call = stream(zoomgate)
    await call.read()
    for _ in range(5):
        await zoomgate.call(zoomgate.proxy.Get, pb.GetRequest(user_email=MONICA, url="/other"))
    assert sum(MEETINGS in line for line in raw.lines()) < 30
    call.cancel()


@pytest.mark.slow
async def test_many_large_pages_need_little_memory(scripted: Service) -> None:
    """100 pages of 300 items."""
    zoomgate, raw = scripted
    filler = "a" * 1000
    responses = [
        http_response(
            "200 OK",
            json.dumps(
                {
                    "meetings": [{"id": number, "agenda": filler} for number in range(300)],
                    "next_page_token": f"token{index}" if index < 99 else "",
                }
            ).encode(),
        )
        for index in range(100)
    ]
    raw.responses = responses[:2]
    await read(stream(zoomgate, max_pages=2))
    raw.responses = responses
    count = 0
    with peak_of(40):
        call = stream(zoomgate)
        while await call.read() is not grpc.aio.EOF:
            count += 1
    assert count == 100
