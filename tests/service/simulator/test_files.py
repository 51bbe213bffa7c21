"""Tests for the files of the simulator, and for clients that break off or send no valid HTTP."""

import asyncio
from urllib.parse import urlsplit

import aiohttp
import pytest

from support.harness import SECONDS
from support.zoom_app import Client


@pytest.mark.parametrize(
    ("requested", "status", "content_range", "size"),
    [
        ("bytes=0-0", 206, "bytes 0-0/10", 1),
        ("bytes=5-", 206, "bytes 5-9/10", 5),
        ("bytes=5-99", 206, "bytes 5-9/10", 5),
        ("bytes=10-", 416, "bytes */10", 0),
        ("bytes=999999999999999-", 416, "bytes */10", 0),
        ("bytes=0-", 200, None, 10),
        ("bytes=5-2", 200, None, 10),
        ("bytes=20-2", 200, None, 10),
        ("bytes=-", 200, None, 10),
        ("bytes=a-b", 200, None, 10),
        ("items=1-2", 200, None, 10),
    ],
)
async def test_valid_range_is_sent_and_an_invalid_one_ignored(
    client: Client, requested: str, status: int, content_range: str | None, size: int
) -> None:
    async with aiohttp.request(
        "GET", f"{client.simulator.url}/rec/file/10/a.mp4", headers={"Range": requested}
    ) as response:
        assert (response.status, response.headers.get("Content-Range")) == (status, content_range)
        assert len(await response.read()) == size


@pytest.mark.parametrize(
    ("target", "read", "reason"),
    [
        (b"/rec/file/1000000000/a.mp4", 1000, "the client closed the connection after"),
        ("/v2/users/me?name=\u00e9".encode(), -1, ""),
        (b"/v2/users/\xff", -1, ""),
    ],
)
async def test_fault_of_a_client_is_no_error_of_the_simulator(
    client: Client, caplog: pytest.LogCaptureFixture, target: bytes, read: int, reason: str
) -> None:
    address = urlsplit(client.simulator.url)
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target)
        await reader.read(read)
        writer.transport.abort()
        await client.simulator.stop()
    assert caplog.records == []
    assert [
        entry.reason for entry in client.simulator.log.latest() if not entry.reason.startswith(reason)
    ] == []
