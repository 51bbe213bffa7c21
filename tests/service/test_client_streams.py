"""Tests for the lists and downloads of both clients with a real service, over the network."""

import asyncio
import io
import json
import os
import pty
import select
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from support.harness import MONICA, Harness, caller_key
from support.raw_upstream import Endless, RawUpstream, http_response, serving_upstream
from zoomgate import AsyncClient, Client, errors
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import file_downloads
from zoomgate_server.zoom import file_client

TIMING = Timing(downloads=file_downloads.Timing(pauses=(0.0,)), file_requests=file_client.Timing(stall=0.5))
LISTS = ("pages", "meetings.list_meetings.all")
Service = tuple[Harness, RawUpstream]
Run = Callable[..., Any]
"""Function that calls a method of a client, by its name, and returns the result; of a list, all pages."""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving_upstream(tmp_path / "data", TIMING) as (zoomgate, raw):
        raw.close_after_response = True
        yield zoomgate, raw


@pytest.fixture(params=["blocking", "asyncio"])
async def run(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[Run]:
    address, key = service[0].grpc_address, caller_key("service")
    async with AsyncClient(address, key=key) as asynchronous:
        with Client(address, key=key) as blocking:

            async def call(name: str, *args: Any, **arguments: Any) -> Any:
                if request.param == "blocking":
                    method = attrgetter(name)(blocking)
                    if name in LISTS:
                        return await asyncio.to_thread(lambda: list(method(*args, **arguments)))
                    return await asyncio.to_thread(method, *args, **arguments)
                result = attrgetter(name)(asynchronous)(*args, **arguments)
                return [page async for page in result] if name in LISTS else await result

            yield call


def part(body: bytes, start: int = 0, size: int = 6, etag: str = '"1"') -> bytes:
    """Return the response with the rest of a file from `start` on. If the body is shorter than that, the connection is cut."""
    status = "206 Partial Content" if start else "200 OK"
    response = http_response(status, body, f"ETag: {etag}", f"Content-Range: bytes {start}-{size - 1}/{size}")
    return response.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % (size - start))


def stalling(response: bytes) -> Endless:
    """Return an incomplete response that stalls instead of ending, so that its bytes are delivered."""
    return Endless(response)


DOWN = http_response("503 Service Unavailable", b"{}")


async def test_download_is_resumed_until_it_is_complete(service: Service, run: Run, tmp_path: Path) -> None:
    """The service gives up after one attempt without data; the client then requests the rest."""
    _, raw = service
    raw.responses = [stalling(part(b"ab")), DOWN, part(b"cdef", 2)]
    path, progress = tmp_path / "file", []
    head = await run("download", MONICA, "/file", path, on_progress=lambda *state: progress.append(state))
    assert path.read_bytes() == b"abcdef"
    assert (head.status, head.size) == (200, 6)
    assert progress[0] == (0, 6)
    assert progress[-1] == (6, 6)
    assert sorted(progress) == progress
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["file"]


async def test_download_writes_to_an_open_file(service: Service, run: Run) -> None:
    _, raw = service
    raw.responses = [part(b"abcdef")]
    file = io.BytesIO()
    await run("download", MONICA, "/file", file)
    assert file.getvalue() == b"abcdef"


class Unbuffered(io.BytesIO):
    """A file that accepts two bytes at a time."""

    def write(self, data: Any) -> int:
        return super().write(data[:2])


async def test_all_bytes_are_written_to_an_unbuffered_file(service: Service, run: Run) -> None:
    _, raw = service
    raw.responses = [part(b"abcdef")]
    file = Unbuffered()
    await run("download", MONICA, "/file", file)
    assert file.getvalue() == b"abcdef"


async def test_fifo_is_written_and_stays_a_fifo(service: Service, run: Run, tmp_path: Path) -> None:
    """The file is larger than the buffer of the FIFO."""
    _, raw = service
    body = b"abcdef" * 50_000
    raw.responses = [part(body, size=len(body))]
    path = tmp_path / "fifo"
    os.mkfifo(path)
    received = asyncio.get_running_loop().run_in_executor(None, path.read_bytes)
    await run("download", MONICA, "/file", path)
    assert path.is_fifo()
    assert await received == body


async def test_event_loop_is_not_blocked_while_a_fifo_has_no_reader(service: Service, tmp_path: Path) -> None:
    zoomgate, raw = service
    raw.responses = [part(b"abcdef")]
    path = tmp_path / "fifo"
    os.mkfifo(path)
    async with AsyncClient(zoomgate.grpc_address, key=caller_key("service")) as client:
        canceled = asyncio.create_task(client.download(MONICA, "/file", path))
        await asyncio.sleep(0)
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
        download = asyncio.create_task(client.download(MONICA, "/file", path))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(path.read_bytes) == b"abcdef"
        await download


@pytest.fixture(params=["FIFO", "terminal"])
def unread(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Return the path of a FIFO or terminal, and the file descriptor of a reader that does not read."""
    if request.param == "FIFO":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        opened = [os.open(path, os.O_RDONLY | os.O_NONBLOCK)]
    else:
        opened = list(pty.openpty())
        path = os.ttyname(opened[1])
    yield path, opened[0]
    for descriptor in opened:
        os.close(descriptor)


async def test_timeout_of_a_download_includes_the_wait_for_the_first_reader_of_a_fifo(
    run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.DeadlineExceeded, match="did not accept"):
        await run("download", MONICA, "/file", tmp_path / "fifo", timeout=0.2)


async def test_timeout_of_a_download_ends_the_wait_for_a_reader_that_does_not_read(
    service: Service, run: Run, unread: tuple[str, int]
) -> None:
    _, raw = service
    raw.responses = [part(bytes(300_000), size=300_000)]
    with pytest.raises(errors.DeadlineExceeded):
        await run("download", MONICA, "/file", unread[0], timeout=1.0)


async def test_canceled_download_does_not_wait_for_a_reader_that_does_not_read(
    service: Service, unread: tuple[str, int]
) -> None:
    zoomgate, raw = service
    raw.responses = [part(bytes(300_000), size=300_000)]
    path, reader = unread
    async with AsyncClient(zoomgate.grpc_address, key=caller_key("service")) as client:
        download = asyncio.create_task(client.download(MONICA, "/file", path))
        await asyncio.to_thread(select.select, [reader], [], [])
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download


async def test_timeout_of_a_download_ends_a_response_that_stalls(
    service: Service, run: Run, tmp_path: Path
) -> None:
    _, raw = service
    raw.responses = [stalling(part(b"ab"))]
    with pytest.raises(errors.DeadlineExceeded):
        await run("download", MONICA, "/file", tmp_path / "file", timeout=0.2)
    assert not (tmp_path / "file").exists()


async def test_timeout_of_a_download_includes_its_resumptions(
    service: Service, run: Run, tmp_path: Path
) -> None:
    """Zoom does not deliver the rest. Without a timeout, the client fails after twelve requests."""
    _, raw = service
    raw.responses = [stalling(part(b"ab")), DOWN]
    with pytest.raises(errors.ZoomgateError):
        await run("download", MONICA, "/file", tmp_path / "file", timeout=2.0)
    assert len(raw.requests) < 12


async def test_target_of_a_symbolic_link_is_replaced_and_keeps_its_mode(
    service: Service, run: Run, tmp_path: Path
) -> None:
    _, raw = service
    raw.responses = [part(b"abcdef")]
    link, target = tmp_path / "link", tmp_path / "target"
    target.touch(0o600)
    link.symlink_to(target)
    await run("download", MONICA, "/file", link)
    assert link.is_symlink()
    assert target.read_bytes() == b"abcdef"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


async def test_file_may_have_the_longest_possible_name(service: Service, run: Run, tmp_path: Path) -> None:
    _, raw = service
    raw.responses = [part(b"abcdef")]
    path = tmp_path / ("x" * 255)
    await run("download", MONICA, "/file", path)
    assert path.read_bytes() == b"abcdef"


@pytest.mark.parametrize("status", ["201 Created", "202 Accepted", "204 No Content"])
async def test_response_that_is_no_file_is_not_stored(
    service: Service, run: Run, tmp_path: Path, status: str
) -> None:
    _, raw = service
    raw.responses = [http_response(status, b"" if status.startswith("204") else b"{}")]
    with pytest.raises(errors.UnexpectedStatus):
        await run("download", MONICA, "/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


async def test_temporary_failures_while_a_download_is_resumed_are_retried(
    service: Service, run: Run, tmp_path: Path
) -> None:
    """The service has given up, and its next requests for the rest receive temporary failures."""
    _, raw = service
    late = http_response("408 Request Timeout", b"{}")
    raw.responses = [stalling(part(b"ab")), DOWN, DOWN, late, DOWN, part(b"cdef", 2)]
    await run("download", MONICA, "/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"abcdef"


async def test_failed_download_leaves_the_existing_file_unchanged(
    service: Service, run: Run, tmp_path: Path
) -> None:
    """The file changes between two attempts; no temporary file remains."""
    _, raw = service
    path = tmp_path / "file"
    path.write_text("earlier")
    raw.responses = [stalling(part(b"ab")), part(b"xyz", 2, etag='"2"')]
    with pytest.raises(errors.ZoomgateError) as failure:
        await run("download", MONICA, "/file", path)
    assert failure.value.reason == "DOWNLOAD_NOT_RESUMABLE"
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["file"]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b'{"code":3301,"message":"Gone"}', 3301, "Gone"),
        (b'{"errorCode":7,"errorMessage":"Gone"}', 7, "Gone"),
        (b"<html>", None, "404"),
        (b"", None, "404"),
    ],
)
async def test_failure_of_zoom_is_raised(
    service: Service, run: Run, tmp_path: Path, body: bytes, code: int | None, text: str
) -> None:
    _, raw = service
    raw.responses = [http_response("404 Not Found", body)]
    for arguments in (("download", MONICA, "/file", tmp_path / "file"), ("pages", MONICA, "/list")):
        with pytest.raises(errors.UnexpectedStatus, match=text) as failure:
            await run(*arguments)
        assert (failure.value.http_status, failure.value.zoom_code) == (404, code)
    assert not (tmp_path / "file").exists()


async def test_service_that_never_delivers_more_ends_the_download(
    service: Service, run: Run, tmp_path: Path
) -> None:
    """A download without an ETag is not resumed, and neither is one that has received nothing."""
    _, raw = service
    raw.responses = [part(b"ab", etag='W/"1"')]
    with pytest.raises(errors.ZoomgateError) as failure:
        await run("download", MONICA, "/file", tmp_path / "file")
    assert failure.value.metadata["cause"] == "NO_ETAG"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b"[1]", b'{"n": ' + b"1" * 5000 + b"}"])
async def test_page_that_is_no_json_object_is_an_error_of_zoom(
    service: Service, run: Run, body: bytes
) -> None:
    _, raw = service
    raw.responses = [http_response("200 OK", body)]
    with pytest.raises(errors.ZoomgateError) as failure:
        await run("pages", MONICA, "/list")
    assert failure.value.reason == "ZOOM_BAD_RESPONSE"


async def test_pages_are_parsed(service: Service, run: Run) -> None:
    _, raw = service
    pages = [{"users": [1], "next_page_token": "a"}, {"users": [2], "next_page_token": ""}]
    raw.responses = [http_response("200 OK", json.dumps(page).encode()) for page in pages]
    assert await run("pages", MONICA, "/users", query={"page_size": "1"}) == pages
    assert raw.lines() == [
        "GET /v2/users?page_size=1 HTTP/1.1",
        "GET /v2/users?page_size=1&next_page_token=a HTTP/1.1",
    ]
    raw.responses = [http_response("200 OK", json.dumps(page).encode()) for page in pages]
    assert await run("pages", MONICA, "/users", query=[("a", "b"), ("a", "c")], max_items=1) == pages[:1]
    assert raw.lines()[-1] == "GET /v2/users?a=b&a=c HTTP/1.1"


async def test_blocking_pages_can_be_closed_early(service: Service) -> None:
    zoomgate, raw = service
    raw.responses = [http_response("200 OK", b'{"next_page_token":"%d"}' % number) for number in range(9)]

    def read_first() -> Any:
        with (
            Client(zoomgate.grpc_address, key=caller_key("service")) as client,
            closing(client.pages(MONICA, "/users")) as pages,
        ):
            return next(pages)

    assert await asyncio.to_thread(read_first) == {"next_page_token": "0"}


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"]])
async def test_typed_list_that_repeats_a_page_token_fails(
    service: Service, run: Run, tokens: list[str]
) -> None:
    _, raw = service
    bodies = [{"meetings": [{"id": 1}], "next_page_token": token} for token in tokens]
    raw.responses = [http_response("200 OK", json.dumps(body).encode()) for body in bodies]
    with pytest.raises(errors.ZoomgateError) as failure:
        await run("meetings.list_meetings.all", user_email=MONICA)
    assert failure.value.reason == "ZOOM_BAD_RESPONSE"
    assert len(raw.requests) == len(tokens)


async def test_update_of_a_meeting_is_not_retried(service: Service, run: Run) -> None:
    _, raw = service
    raw.responses = [DOWN]
    with pytest.raises(errors.ZoomgateError):
        await run(
            "meetings.update_meeting", user_email=MONICA, meeting_id=1, meeting_details={"topic": "Review"}
        )
    raw.responses = [http_response("302 Found", b"")]
    with pytest.raises(errors.ZoomgateError):
        await run(
            "meetings.update_meeting", user_email=MONICA, meeting_id=1, meeting_details={"topic": "Review"}
        )
    assert len(raw.requests) == 2
