"""An HTTP server on a bare socket: it shows what was really sent, and answers whatever bytes it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CUT = b""
"""Tells the server to end the connection without an answer."""


@dataclass(frozen=True)
class Endless:
    """An answer that never ends.

    Attributes:
        head: What it begins with.
        part: What comes then, again and again; nothing at all makes the answer stop there.
        pause: Seconds between two parts.
    """

    head: bytes
    part: bytes = b""
    pause: float = 0.0


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """An HTTP answer with a body of JSON."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class RawUpstream:
    """Reads requests and gives scripted answers.

    Attributes:
        requests: Every request, byte by byte.
        answers: What to answer next; the last one stays.
        open: While it is not set, requests wait for their answers.
        connections: How many were accepted.
        close_after_answer: End each connection after its first answer.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answers: list[bytes | Endless] = [OK]
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self.close_after_answer = False
        self.port = 0

    @property
    def url(self) -> str:
        """Base address of the API."""
        return f"http://127.0.0.1:{self.port}/v2"

    def lines(self) -> list[str]:
        """The request lines."""
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
                given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if isinstance(given, Endless):
                    await _go_on(given, reader, writer)
                if not given or isinstance(given, Endless):
                    return
                writer.write(given)
                await writer.drain()
                if self.close_after_answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _go_on(answer: Endless, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer until the other side has had enough."""
    writer.write(answer.head)
    while answer.part:
        writer.write(answer.part)
        await writer.drain()
        if answer.pause:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), answer.pause)
    await reader.read()


@asynccontextmanager
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    """Run a raw upstream on a free port."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server:
        yield upstream
