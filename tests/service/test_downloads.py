"""Tests for ProxyService.Download. In some tests, scripted servers replace Zoom and the host of the file."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from security.memory import peak_of
from support.captured_logs import LogStream
from support.harness import (
    MONICA,
    SECONDS,
    Harness,
    RpcError,
    caller_entry,
    caller_key,
    metadata,
    running,
    service,
    serving,
    write_callers,
)
from support.raw_upstream import CUT, Endless, RawUpstream, http_response, raw_upstream, serving_upstream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceStub
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import file_downloads
from zoomgate_server.rpc.middleware import pipeline
from zoomgate_server.zoom import file_client

SIZE = 3_000_000
WITHOUT_PAUSES = file_downloads.Timing(pauses=(0.0, 0.0, 0.0))
TIMING = Timing(downloads=WITHOUT_PAUSES)
SHORT_STALL = Timing(downloads=WITHOUT_PAUSES, file_requests=file_client.Timing(stall=0.4))
FILE = pb.DownloadRequest(user_email=MONICA, url="/file")
Service = tuple[Harness, RawUpstream]


@pytest.fixture
async def zoomgate(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service with a connected user, which resumes downloads without pauses."""
    async with running(tmp_path / "data", timing=TIMING) as harness:
        await harness.connect()
        yield harness


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Service]:
    """Run a service with a connected user and a scripted server in place of Zoom's API."""
    async with serving_upstream(tmp_path / "data", SHORT_STALL) as both:
        yield both


def recording(zoomgate: Harness, size: int = SIZE, **fields: Any) -> pb.DownloadRequest:
    """Return a request for a recording of the simulator."""
    url = f"{zoomgate.simulator.url}/rec/download/{size}/meeting.mp4"
    return pb.DownloadRequest(user_email=MONICA, url=url, **fields)


def stream(zoomgate: Harness, request: pb.DownloadRequest, caller: str = "service") -> Any:
    """Start a download."""
    return zoomgate.proxy.Download(request, metadata=metadata(caller))


async def download(
    zoomgate: Harness, request: pb.DownloadRequest, caller: str = "service"
) -> tuple[pb.DownloadHead, bytes]:
    """Download a file; return its head and content."""
    call = stream(zoomgate, request, caller)
    first, *parts = [part async for part in call]
    assert all(len(part.chunk) <= 2**20 for part in parts)
    return first.head, b"".join(part.chunk for part in parts)


async def failure_of(call: Any) -> RpcError:
    """Read the rest of a stream that must fail; return the failure."""
    try:
        async with asyncio.timeout(SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return RpcError.of(error)
    raise AssertionError("the stream ended without an error")


def content(zoomgate: Harness, size: int = SIZE) -> bytes:
    """Return the content of a recording."""
    files, result = zoomgate.simulator.files, b""
    while len(result) < size:
        result += files.content(size, len(result))
    return result


def header(head: pb.DownloadHead, name: str) -> str:
    return next((entry.value for entry in head.headers if entry.name == name), "")


def file_response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return the response of a file's server. With a length larger than the body, the connection is cut."""
    response = http_response(status, body, 'ETag: "1"', *headers)
    length = len(body) if length is None else length
    return response.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % length)


async def test_file_is_delivered_unchanged_after_its_head(zoomgate: Harness) -> None:
    head, body = await download(zoomgate, recording(zoomgate))
    assert (head.status, head.size, head.etag) == (200, SIZE, f'"1-{SIZE}"')
    assert header(head, "content-type") == "video/mp4"
    assert body == content(zoomgate)


async def test_empty_file_has_a_head_and_no_chunks(zoomgate: Harness) -> None:
    head, body = await download(zoomgate, recording(zoomgate, 0))
    assert (head.status, head.size, body) == (200, 0, b"")


async def test_download_continues_after_cuts_with_the_missing_bytes(zoomgate: Harness) -> None:
    """Cuts before the first byte, in the middle, and before the last byte; more of them than there are attempts without progress."""
    zoomgate.simulator.files.cuts = [0, 1, 700_000, 700_001, 700_001, 1_500_000, 2_000_000, SIZE - 1]
    _, body = await download(zoomgate, recording(zoomgate))
    assert body == content(zoomgate)
    assert zoomgate.simulator.files.cuts == []


async def test_caller_resumes_with_offset_and_etag(zoomgate: Harness) -> None:
    whole = content(zoomgate)
    request = recording(zoomgate, offset=1_234_567, etag=f'"1-{SIZE}"')
    head, body = await download(zoomgate, request)
    assert (head.status, head.size, head.etag) == (206, SIZE, f'"1-{SIZE}"')
    assert body == whole[1_234_567:]


async def test_offset_beyond_the_end_returns_the_status_of_zoom(zoomgate: Harness) -> None:
    head, body = await download(zoomgate, recording(zoomgate, offset=SIZE, etag=f'"1-{SIZE}"'))
    assert (head.status, body, head.HasField("size")) == (416, b"", False)


async def test_versions_of_a_file_are_never_mixed(scripted: Service) -> None:
    """The file changes while it is downloaded: nothing of the second version is delivered, whatever the server responds."""
    zoomgate, raw = scripted
    rest = ("Content-Range: bytes 3-5/6", 'ETag: "2"')
    for changed in (
        http_response("200 OK", b"xyzxyz", 'ETag: "2"'),
        http_response("206 Partial Content", b"xyz", *rest),
        http_response("412 Precondition Failed", b"{}"),
        http_response("416 Range Not Satisfiable", b""),
    ):
        raw.responses = [Endless(file_response(b"abc", length=6)), changed]
        call, received = stream(zoomgate, FILE), b""
        while len(received) < 3:
            received += (await call.read()).chunk
        error = await failure_of(call)
        assert (error.short, error.metadata["cause"]) == (
            ("ABORTED", "DOWNLOAD_NOT_RESUMABLE"),
            "FILE_CHANGED",
        )
        assert received == b"abc"


async def test_file_that_changes_before_its_first_byte_is_not_delivered(scripted: Service) -> None:
    """Its head describes the first version."""
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=6)), http_response("200 OK", b"xyz", 'ETag: "2"')]
    call = stream(zoomgate, FILE)
    assert (await call.read()).head.size == 6
    assert (await failure_of(call)).metadata["cause"] == "FILE_CHANGED"


async def test_resuming_a_file_that_has_changed_fails_before_any_message(zoomgate: Harness) -> None:
    zoomgate.simulator.files.version = 2
    request = recording(zoomgate, offset=5, etag=f'"1-{SIZE}"')
    error = await zoomgate.error_of(zoomgate.proxy.Download, request)
    assert error.metadata["cause"] == "FILE_CHANGED"


@pytest.mark.parametrize(
    ("attribute", "cause"), [("has_ranges", "RANGES_NOT_SUPPORTED"), ("has_etags", "NO_ETAG")]
)
async def test_cut_file_that_cannot_be_resumed_fails(zoomgate: Harness, attribute: str, cause: str) -> None:
    files = zoomgate.simulator.files
    setattr(files, attribute, False)
    files.cuts = [1_000_000]
    error = await failure_of(stream(zoomgate, recording(zoomgate)))
    assert (error.short, error.metadata["cause"]) == (("ABORTED", "DOWNLOAD_NOT_RESUMABLE"), cause)
    assert files.cuts == []


async def test_server_that_is_down_ends_the_download_with_a_retryable_error(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.close_after_response = True
    raw.responses = [file_response(b"abc", length=9), http_response("503 Down", b"{}")]
    error = await failure_of(stream(zoomgate, FILE))
    assert error.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
    assert len(raw.requests) == 4


async def test_file_deleted_during_the_download_ends_it(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.close_after_response = True
    raw.responses = [file_response(b"abc", length=9), http_response("404 Not Found", b"{}")]
    error = await failure_of(stream(zoomgate, FILE))
    assert error.metadata["cause"] == "FILE_CHANGED"


REST = "206 Partial Content"


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (file_response(b"d" * 10, "Content-Range: bytes 3-12/13", status=REST), "ZOOM_BAD_RESPONSE"),
        (file_response(b"d" * 10, "Content-Range: bytes 3-8/9", status=REST), "ZOOM_BAD_RESPONSE"),
        (file_response(b"d" * 6, "Content-Range: bytes 3-8/99", status=REST), "ZOOM_BAD_RESPONSE"),
        (file_response(b"d" * 6, "Content-Range: bytes 3-2/9", status=REST), "DOWNLOAD_NOT_RESUMABLE"),
        (file_response(b"d" * 6, "Content-Range: bytes 3-100/9", status=REST), "DOWNLOAD_NOT_RESUMABLE"),
        (file_response(b"d" * 6, status=REST), "DOWNLOAD_NOT_RESUMABLE"),
    ],
    ids=["larger", "too long", "total", "reversed", "end after the total", "no range"],
)
async def test_rest_that_does_not_complete_the_file_is_rejected(
    scripted: Service, rest: bytes, reason: str
) -> None:
    zoomgate, raw = scripted
    raw.close_after_response = True
    raw.responses = [Endless(file_response(b"abc", length=9)), rest]
    error = await failure_of(stream(zoomgate, FILE))
    assert error.reason == reason


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_expired_download_url_can_be_replaced_by_a_new_one(scripted: Service, status: str) -> None:
    zoomgate, raw = scripted
    raw.close_after_response = True
    raw.responses = [Endless(file_response(b"abc", length=9)), http_response(status, b"{}")]
    error = await failure_of(stream(zoomgate, FILE))
    assert error.metadata["cause"] == "ACCESS_EXPIRED"
    assert "continue with offset" in error.message


async def test_temporary_failures_of_the_rest_are_retried(scripted: Service) -> None:
    """One of them has a body above the limit of responses."""
    zoomgate, raw = scripted
    raw.close_after_response = True
    raw.responses = [
        Endless(file_response(b"abc", length=6)),
        http_response("408 Request Timeout", b"{}"),
        http_response("503 Down", bytes(20 * 2**20)),
        file_response(b"def", "Content-Range: bytes 3-5/6", status=REST),
    ]
    assert (await download(zoomgate, FILE))[1] == b"abcdef"


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
async def test_size_beyond_the_range_of_the_field_is_unknown(scripted: Service, size: int) -> None:
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"abc", length=size))]
    call = stream(zoomgate, FILE)
    head = (await call.read()).head
    assert not head.HasField("size")
    call.cancel()


INVALID_HOSTS = ["a..zoom.us", ".zoom.us", f"{'a' * 64}.zoom.us", "xn--a.zoom.us"]


@pytest.mark.parametrize("host", INVALID_HOSTS)
async def test_invalid_host_names_are_rejected(scripted: Service, host: str) -> None:
    zoomgate, raw = scripted
    request = pb.DownloadRequest(user_email=MONICA, url=f"https://{host}/x")
    error = await zoomgate.error_of(zoomgate.proxy.Download, request)
    assert error.reason == "INVALID_PATH"
    raw.responses = [http_response("302 Found", b"", f"Location: https://{host}/x")]
    error = await zoomgate.error_of(zoomgate.proxy.Download, FILE)
    assert error.reason == "REDIRECT_NOT_ALLOWED"


async def test_stalled_file_is_resumed(scripted: Service) -> None:
    zoomgate, raw = scripted
    stalled = Endless(file_response(b"abc", length=6))
    raw.responses = [
        stalled,
        file_response(b"def", "Content-Range: bytes 3-5/6", status="206 Partial Content"),
    ]
    _, body = await download(zoomgate, FILE)
    assert body == b"abcdef"
    assert b"\r\nRange: bytes=3-\r\n" in raw.requests[1]
    assert b'\r\nIf-Range: "1"\r\n' in raw.requests[1]


PARTS: dict[str, tuple[bytes, str]] = {
    "a part instead of the whole": (
        file_response(b"abc", "Content-Range: bytes 0-2/6", status="206 Partial Content"),
        "ZOOM_BAD_RESPONSE",
    ),
    **{
        f"a compressed file with {headers}": (file_response(b"abc", *headers), "ZOOM_BAD_RESPONSE")
        for headers in (
            ("Content-Encoding: gzip",),
            ("Content-Encoding: identity", "Content-Encoding: gzip"),
            ("Content-Encoding: identity, GZIP",),
        )
    },
    "a file that is compressed for the transfer": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "ZOOM_BAD_RESPONSE",
    ),
    "a redirect loop": (http_response("302 Found", b"", "Location: /v2/file"), "REDIRECT_NOT_ALLOWED"),
    "no response": (CUT, "ZOOM_UNAVAILABLE"),
    "a page that is too large": (
        http_response("404 Not Found", b"x" * 5_000_000),
        "ZOOM_RESPONSE_TOO_LARGE",
    ),
}


@pytest.mark.parametrize("name", PARTS)
async def test_unusable_response_fails_before_any_message(scripted: Service, name: str) -> None:
    zoomgate, raw = scripted
    raw.responses, reason = [PARTS[name][0]], PARTS[name][1]
    raw.close_after_response = True
    assert (await zoomgate.error_of(zoomgate.proxy.Download, FILE)).reason == reason


CONTINUATIONS = {
    "another position": ("bytes 2-5/6", '"1"', "RANGES_NOT_SUPPORTED"),
    "another unit": ("items 3-5/6", '"1"', "RANGES_NOT_SUPPORTED"),
    "another version": ("bytes 3-5/6", '"2"', "FILE_CHANGED"),
    "a weak ETag": ("bytes 3-5/6", 'W/"1"', "FILE_CHANGED"),
}


@pytest.mark.parametrize("name", CONTINUATIONS)
async def test_continuation_with_other_bytes_is_rejected(scripted: Service, name: str) -> None:
    zoomgate, raw = scripted
    content_range, etag, cause = CONTINUATIONS[name]
    headers = (f"Content-Range: {content_range}", f"ETag: {etag}")
    raw.responses = [http_response("206 Partial Content", b"def", *headers)]
    request = pb.DownloadRequest(user_email=MONICA, url="/file", offset=3, etag='"1"')
    error = await zoomgate.error_of(zoomgate.proxy.Download, request)
    assert (error.reason, error.metadata["cause"]) == ("DOWNLOAD_NOT_RESUMABLE", cause)


async def test_continuation_that_is_shorter_than_requested_is_continued(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [
        file_response(b"bc", "Content-Range: bytes 1-2/6", status="206 Partial Content"),
        file_response(b"def", "Content-Range: bytes 3-5/6", status="206 Partial Content"),
    ]
    request = pb.DownloadRequest(user_email=MONICA, url="/file", offset=1, etag='"1"')
    assert (await download(zoomgate, request))[1] == b"bcdef"


async def test_failure_is_returned_with_its_body(zoomgate: Harness) -> None:
    url = f"{zoomgate.simulator.url}/rec/download/nothing/meeting.mp4"
    head, body = await download(zoomgate, pb.DownloadRequest(user_email=MONICA, url=url))
    assert head.status == 404
    assert b"3301" in body
    assert not head.etag


REFUSED = {
    "another host": "https://evil.com/x?token=secret",
    "another host without a scheme": "//evil.com/x",
    "a private address": "http://10.0.0.1/x",
    "a private address with https": "https://10.0.0.1/x",
    "the metadata service": "http://169.254.169.254/latest/meta-data",
    "another loopback name": "http://localhost:1/x",
    "an IPv6 loopback address": "http://[::1]:1/x",
    "plain http": "http://zoom.us/x",
    "another port": "https://zoom.us:8443/x",
    "a port out of range": "https://zoom.us:99999/x",
    "a user": "https://zoom.us@evil.com/x",
    "a similar host": "https://evilzoom.us/x",
    "a host as a label": "https://zoom.us.evil.com/x",
    "a trailing dot": "https://zoom.us./x",
    "a file": "file:///etc/passwd",
    "a script": "javascript:alert(1)",
    "a broken address": "http://[::1",
    "a backslash": "https://evil.com\\@zoom.us/x",
    "a user and upper case": "HTTPS://zoom.us@EVIL.com/x",
    "an empty port and another host": "https://127.0.0.1:@evil.com/x",
    "a full-width host": "https://\uff11\uff12\uff17.0.0.1/x",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_redirect_to_any_other_place_is_not_followed(scripted: Service, name: str) -> None:
    """The error names the host, but contains no other part of the URL."""
    zoomgate, raw = scripted
    raw.responses = [http_response("302 Found", b"", f"Location: {REFUSED[name]}")]
    error = await zoomgate.error_of(zoomgate.proxy.Download, FILE)
    assert error.short == ("FAILED_PRECONDITION", "REDIRECT_NOT_ALLOWED")
    assert "secret" not in str(error)
    assert len(raw.requests) == 1


async def test_token_is_not_sent_to_the_target_of_a_redirect(tmp_path: Path) -> None:
    """Nor to a host to which that target redirects back."""
    async with raw_upstream() as host, serving_upstream(tmp_path, TIMING) as (zoomgate, raw):
        raw.responses = [
            http_response("302 Found", b"", f"Location: http://127.0.0.1:{host.port}/file?signature=s"),
            file_response(b"abc"),
        ]
        host.responses = [http_response("302 Found", b"", f"Location: {raw.url}/file")]
        _, body = await download(zoomgate, FILE)
        assert body == b"abc"
        assert b"\r\nAuthorization: Bearer sim-at-" in raw.requests[0]
        assert host.lines() == ["GET /file?signature=s HTTP/1.1"]
        assert not [head for head in (*host.requests, raw.requests[1]) if b"uthorization" in head]


async def test_download_token_replaces_the_access_token_and_is_sent_unchanged(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [file_response(b"abc")]
    url = f"{raw.url.removesuffix('/v2')}/rec/download/a%20b?access_token=d.o-w_n%2Fload"
    await download(zoomgate, pb.DownloadRequest(user_email=MONICA, url=url))
    assert raw.lines() == ["GET /rec/download/a%20b?access_token=d.o-w_n%2Fload HTTP/1.1"]
    assert b"uthorization" not in raw.requests[0]


@pytest.mark.parametrize("end", ["/x", "/x y", "/%zz", "/\u00fc", ":99999/x", "@evil.com/x"])
async def test_download_tokens_are_never_logged_or_returned_in_errors(
    scripted: Service, log: LogStream, end: str
) -> None:
    """Neither tokens in URLs of callers, valid or not, nor those in redirects; the session checks all logs for such tokens."""
    zoomgate, raw = scripted
    start = len(log.getvalue())
    raw.responses = [
        http_response("302 Found", b"", f"Location: https://evil.com{end}?token=sim-at-redirect")
    ]
    for url in (f"{raw.url.removesuffix('/v2')}{end}?access_token=sim-at-own", "/file"):
        request = pb.DownloadRequest(user_email=MONICA, url=url)
        assert "sim-at" not in str(await zoomgate.error_of(zoomgate.proxy.Download, request))
    assert "sim-at" not in log.getvalue()[start:]


@pytest.mark.parametrize("coding", ["", "identity", "Identity, ,"])
async def test_coding_that_changes_nothing_is_accepted(scripted: Service, coding: str) -> None:
    zoomgate, raw = scripted
    raw.responses = [file_response(b"abc", f"Content-Encoding: {coding}")]
    assert (await download(zoomgate, FILE))[1] == b"abc"


async def test_compression_is_excluded(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [file_response(b"abc")]
    await download(zoomgate, FILE)
    assert b"\r\nAccept-Encoding: identity\r\n" in raw.requests[0]
    assert b"\r\nAccept: */*\r\n" in raw.requests[0]


async def test_rejected_token_is_refreshed_before_the_download(zoomgate: Harness) -> None:
    zoomgate.simulator.zoom.expire(MONICA)
    assert (await download(zoomgate, recording(zoomgate)))[0].status == 200
    assert zoomgate.stat("token.refresh_token.issued") == 1


async def test_paths_of_files_need_a_permission(tmp_path: Path) -> None:
    """The permission applies to the path without `/v2`, on every host."""
    callers = {"service": service("service"), "files": service("files", proxy_paths=("/rec/file/**",))}
    async with running(tmp_path, callers=callers, timing=TIMING) as zoomgate:
        await zoomgate.connect()
        request = recording(zoomgate)
        error = await zoomgate.error_of(zoomgate.proxy.Download, request, "files")
        assert error.short == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
        request.url = request.url.replace("/rec/download/", "/rec/file/")
        assert (await download(zoomgate, request, "files"))[0].status == 200


async def test_download_ends_when_the_caller_may_no_longer_call(tmp_path: Path) -> None:
    """The caller is removed from the callers file while the file is delivered."""
    reload, entry = asyncio.Event(), caller_entry("reader", "service", 'users = ["*"]\nproxy_paths = ["/**"]')
    write_callers(tmp_path / "callers", entry)
    environ = {"ZOOMGATE_CALLERS": str(tmp_path / "callers")}
    async with (
        raw_upstream() as raw,
        running(
            tmp_path / "data", environ=environ, zoom_api_url=raw.url, timing=TIMING, reload=reload
        ) as zoomgate,
    ):
        raw.responses = [http_response("200 OK", b'{"id":"u","email":"monica@example.com"}')]
        await zoomgate.connect()
        raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
        call = stream(zoomgate, FILE, "reader")
        assert (await call.read()).head.status == 200
        write_callers(tmp_path / "callers", caller_entry("other", "service", 'users = ["*"]'))
        reload.set()
        error = await failure_of(call)
        assert error.reason == "CALLER_UNAUTHENTICATED"


@pytest.mark.parametrize("process", ["this process", "another process"])
async def test_download_ends_when_the_user_is_disconnected(scripted: Service, process: str) -> None:
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
    call = stream(zoomgate, FILE)
    assert (await call.read()).head.status == 200
    async with serving(zoomgate.simulator, zoomgate.data_dir, zoom_api_url=raw.url) as other:
        disconnecting = zoomgate if process == "this process" else other
        request = auth.DeleteConnectionRequest(user_email=MONICA)
        await disconnecting.call(disconnecting.auth.DeleteConnection, request)
        assert (await failure_of(call)).short == ("FAILED_PRECONDITION", "ZOOM_NOT_CONNECTED")


async def test_download_ends_when_a_different_zoom_user_takes_the_address(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
    call = stream(zoomgate, FILE)
    assert (await call.read()).head.status == 200
    async with serving(zoomgate.simulator, zoomgate.data_dir) as other:
        await other.connect()
        assert (await failure_of(call)).short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")


async def test_download_continues_after_a_refresh(scripted: Service) -> None:
    """The connection is read again, since its change may have ended the authorization."""
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
    call = stream(zoomgate, FILE)
    assert (await call.read()).head.status == 200
    async with serving(zoomgate.simulator, zoomgate.data_dir, zoom_api_url=raw.url) as other:
        await other.call(other.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
    reads = zoomgate.store.calls["find"]
    async with asyncio.timeout(SECONDS):
        while zoomgate.store.calls["find"] == reads:
            assert (await call.read()).chunk
    for _ in range(20):
        assert (await call.read()).chunk
    call.cancel()


async def test_download_ends_at_the_shutdown_and_can_be_resumed(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        zoomgate, raw = await stack.enter_async_context(serving_upstream(tmp_path, TIMING))
        raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
        async with grpc.aio.insecure_channel(zoomgate.grpc_address) as channel:
            call = ProxyServiceStub(channel).Download(FILE, metadata=metadata())
            assert (await call.read()).head.status == 200
            stopping = asyncio.create_task(stack.aclose())
            error = await failure_of(call)
            assert error.short == ("UNAVAILABLE", "SHUTTING_DOWN")
            await stopping


async def test_file_is_not_read_further_after_the_caller_has_left(scripted: Service) -> None:
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
    call = stream(zoomgate, FILE)
    assert (await call.read()).head.status == 200
    call.cancel()
    async with asyncio.timeout(SECONDS):
        await raw.ended.wait()


async def test_caller_that_leaves_without_reading_is_no_failure_of_the_service(
    scripted: Service, log: LogStream
) -> None:
    """The service is blocked in a write, which fails when the caller leaves."""
    zoomgate, raw = scripted
    raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
    start = len(log.getvalue())
    for _ in range(5):
        call, sent = stream(zoomgate, FILE), -1
        await call.read()
        while raw.sent > sent:
            sent = raw.sent
            await zoomgate.call(zoomgate.auth.GetToken, auth.GetTokenRequest(user_email=MONICA))
        raw.ended.clear()
        call.cancel()
        async with asyncio.timeout(SECONDS):
            await raw.ended.wait()
    lines = [json.loads(text) for text in log.getvalue()[start:].splitlines()]
    ends = {
        (line["event"], line.get("status")) for line in lines if line.get("method") == "ProxyService.Download"
    }
    assert ends == {("rpc", "CANCELLED")}


async def test_caller_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    """Meanwhile, the service does not read the file."""
    timing = replace(TIMING, streams=pipeline.Timing(write_timeout=0.5))
    async with serving_upstream(tmp_path, timing) as (zoomgate, raw):
        raw.responses = [Endless(file_response(b"", length=10**12), bytes(100_000))]
        call = stream(zoomgate, FILE)
        await call.read()
        async with asyncio.timeout(SECONDS):
            await raw.ended.wait()
        error = await failure_of(call)
        assert error.metadata == {"limit": "unread_seconds"}
        assert raw.sent < 64 * 2**20


async def download_in_a_process(zoomgate: Harness, request: pb.DownloadRequest) -> None:
    """Download a file with the command, and discard its content."""
    arguments = ("proxy", "download", request.user_email, request.url, "-")
    environ = {"ZOOMGATE_SERVER": zoomgate.grpc_address, "ZOOMGATE_KEY": caller_key("service")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "zoomgate_server",
        *arguments,
        stdout=subprocess.DEVNULL,
        env=os.environ | environ,
    )
    assert await process.wait() == 0


@pytest.mark.slow
async def test_large_file_needs_little_memory(zoomgate: Harness) -> None:
    """1 GiB, with cuts; the limit includes the memory of the simulator."""
    await download_in_a_process(zoomgate, recording(zoomgate, 20 * 2**20))
    zoomgate.simulator.files.cuts = [2**20, 2**29]
    with peak_of(16):
        await download_in_a_process(zoomgate, recording(zoomgate, 2**30))
    assert zoomgate.simulator.files.cuts == []


@pytest.mark.slow
async def test_slow_reader_needs_little_memory(zoomgate: Harness) -> None:
    """While the caller does not read, at most the buffers of the connections are filled."""
    call = stream(zoomgate, recording(zoomgate, 2**30))
    with peak_of(16):
        for _ in range(5):
            assert await call.read() is not grpc.aio.EOF
            for _ in range(20):
                await zoomgate.call(zoomgate.proxy.Get, pb.GetRequest(user_email=MONICA, url="/users/me"))
    call.cancel()
