"""An HTTP server on a raw socket, which records the exact bytes of requests and sends scripted responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.harness import Harness, running
from zoomgate_server.app.timing import Timing
from zoomgate_server.clock import Clock, SystemClock

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CUT = b""
"""Scripted response that makes the server close the connection without responding."""


@dataclass(frozen=True)
class Endless:
    """A response that never ends.

    Attributes:
        head: The bytes sent first.
        part: The bytes sent repeatedly after that; if empty, the response stalls.
        pause: Seconds between two parts.
    """

    head: bytes
    part: bytes = b""
    pause: float = 0.0


def http_response(status: str, body: bytes, *headers: str) -> bytes:
    """Return an HTTP response with a JSON body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class RawUpstream:
    """An HTTP server with scripted responses.

    Attributes:
        requests: The exact bytes of every request.
        responses: The next responses; the last response is repeated.
        open: All responses are delayed until this event is set.
        connections: The number of accepted connections.
        close_after_response: Whether to close each connection after its first response.
        sent: The number of bytes that endless responses have sent.
        ended: Set when the client has closed the connection of an endless response.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.responses: list[bytes | Endless] = [OK]
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self.close_after_response = False
        self.sent = 0
        self.ended = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.port}/v2"

    def lines(self) -> list[str]:
        """Return the request lines."""
        return [request.split(b"\r\n", 1)[0].decode("latin-1") for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                await self.open.wait()
                response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
                if isinstance(response, Endless):
                    await self._send_endlessly(response, reader, writer)
                if not response or isinstance(response, Endless):
                    return
                writer.write(response)
                await writer.drain()
                if self.close_after_response:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _send_endlessly(
        self, response: Endless, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send the response until the client closes the connection."""
        try:
            writer.write(response.head)
            while response.part:
                writer.write(response.part)
                self.sent += len(response.part)
                await writer.drain()
                if response.pause:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), response.pause)
            await reader.read()
        finally:
            self.ended.set()


@asynccontextmanager
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    """Run an HTTP server with scripted responses on a free port."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server:
        yield upstream


@asynccontextmanager
async def serving_upstream(
    data_dir: Path, timing: Timing = Timing(), clock: Clock = SystemClock()
) -> AsyncIterator[tuple[Harness, RawUpstream]]:
    """Run a service with a connected user, and replace Zoom's API by an HTTP server with scripted responses; yield both."""
    async with (
        raw_upstream() as raw,
        running(data_dir, zoom_api_url=raw.url, timing=timing, clock=clock) as zoomgate,
    ):
        raw.responses = [http_response("200 OK", b'{"id":"u","email":"monica@example.com"}'), OK]
        await zoomgate.connect()
        raw.requests.clear()
        yield zoomgate, raw
