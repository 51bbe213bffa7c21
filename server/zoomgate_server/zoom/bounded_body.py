"""Reading an answer's body without trusting its size or its end.

Bodies are decompressed here and not by aiohttp, which gives what there is of a compressed body that was cut short as if it were whole.
"""

import zlib

import aiohttp

ACCEPT_ENCODING = "gzip, deflate"
"""What sessions whose answers are read here must ask for; they must not decompress by themselves."""

_GZIP_OR_ZLIB = 47
_RAW_DEFLATE = -15


class BodyTooLarge(Exception):
    """The body, decompressed, is larger than the limit."""


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, decompressed.

    Raises:
        BodyTooLarge: There is more; the rest was not read.
        aiohttp.ClientError, TimeoutError: It did not arrive whole.
    """
    encoding = response.headers.get("Content-Encoding")
    body = await _read(response.content, limit)
    return body if encoding is None or not body else _decompressed(body, encoding.strip().lower(), limit)


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    first = await content.readany()
    if content.at_eof():
        if len(first) > limit:
            raise BodyTooLarge
        return first
    parts, size = [first], len(first)
    while size <= limit:
        part = await content.readany()
        if not part and content.at_eof():
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise BodyTooLarge


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a whole body, never beyond the limit."""
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise aiohttp.ClientPayloadError("an encoding that nobody asked for")
    # what servers call deflate is mostly zlib's format (RFC 9110, section 8.4.1.2), which tells by its first byte
    raw = encoding == "deflate" and body[0] & 0x0F != 8
    decoder = zlib.decompressobj(_RAW_DEFLATE if raw else _GZIP_OR_ZLIB)
    try:
        plain = decoder.decompress(body, limit + 1)
    except zlib.error:
        raise aiohttp.ClientPayloadError("not compressed as it says") from None
    if len(plain) > limit:
        raise BodyTooLarge
    if not decoder.eof or decoder.unused_data:
        raise aiohttp.ClientPayloadError("compressed data that was cut short or goes on")
    return plain
