"""A minimal HTTP/2 client (RFC 9113, RFC 7541) that can send invalid frames and returns raw frames."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
"""Setting for the number of bytes per stream that the receiver accepts before sending a WINDOW_UPDATE."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int = -1) -> bytes:
    """Return a frame; `length` overrides the length field."""
    payload_length = len(payload) if length < 0 else length
    return struct.pack(">I", payload_length)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode headers as literals, without compression."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def request_headers(
    method: str, metadata: Iterable[tuple[str, str]], timeout: str = ""
) -> list[tuple[str, str]]:
    """Return the headers of a gRPC call; `timeout` is in gRPC's format, such as `500m`."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *metadata,
    ]
    return [*headers, ("grpc-timeout", timeout)] if timeout else headers


def message(body: bytes, *, compressed: int = 0, length: int = -1) -> bytes:
    """Return a message with gRPC's length prefix; `length` overrides the prefix."""
    return struct.pack(">BI", compressed, len(body) if length < 0 else length) + body


class Connection:
    """A raw connection to the gRPC port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes) -> None:
        """Send bytes. Do nothing if the server has already closed the connection."""
        try:
            for part in parts:
                self._writer.write(part)
                await self._writer.drain()
        except ConnectionError:
            pass

    async def frames(self) -> AsyncIterator[tuple[int, int, int, bytes]]:
        """Yield received frames as (kind, flags, stream, payload) until the server closes the connection."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def until_closed(self) -> list[int]:
        """Wait until the server closes the connection, and return the kinds of the frames received."""
        return [kind async for kind, _, _, _ in self.frames()]

    async def until_stream_ends(self, stream: int = 1) -> int | None:
        """Wait until a stream ends, and return the kind of the last frame, or None if the connection was closed."""
        async for kind, flags, number, _ in self.frames():
            if number == stream and (kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)):
                return kind
        return None

    async def read_some(self) -> bytes:
        """Return received bytes, or an empty value if the server has closed the connection."""
        try:
            return await self._reader.read(65_536)
        except ConnectionError:
            return b""


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[Connection]:
    """Open a raw connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def _string(text: str) -> bytes:
    """Encode a string with a 7-bit length prefix (RFC 7541, section 5.1)."""
    raw, rest = text.encode(), len(text.encode()) - 127
    if rest < 0:
        return bytes((len(raw),)) + raw
    length = bytearray((127,))
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + raw
