"""Size-limited reading of response bodies, including a check for completeness.

Bodies are decompressed by this module and not by aiohttp, which returns a truncated compressed body as if it were complete.
"""

import zlib

import aiohttp

ACCEPT_ENCODING = "gzip, deflate"
"""Value of the `Accept-Encoding` header. Sessions must also set `auto_decompress=False`."""

_GZIP_OR_ZLIB = 47
_RAW_DEFLATE = -15


class BodyTooLarge(Exception):
    """The decompressed body exceeds the limit.

    Attributes:
        size: The number of bytes, or None if it is unknown.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read and decompress a body of at most `limit` bytes.

    Raises:
        BodyTooLarge: The body exceeds the limit; the rest was not read.
        aiohttp.ClientError, TimeoutError: The body did not arrive completely.
    """
    codings = compressions(response)
    if not codings and (response.content_length or 0) > limit:
        raise BodyTooLarge(response.content_length)
    body = await _read(response.content, limit)
    return _decompressed(body, codings, limit) if codings and body else body


def compressions(response: aiohttp.ClientResponse) -> list[str]:
    """Return the names of the compressions of a body, in the order in which they were applied."""
    headers = (
        *response.headers.getall("Content-Encoding", ()),
        *response.headers.getall("Transfer-Encoding", ()),
    )
    codings = (coding.strip() for header in headers for coding in header.lower().split(","))
    return [coding for coding in codings if coding not in ("", "identity", "chunked")]


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    chunks, size = [], 0
    while not content.at_eof():
        chunk = await content.readany()
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
    return b"".join(chunks)


def _decompressed(body: bytes, codings: list[str], limit: int) -> bytes:
    """Decompress a complete body, never beyond the limit."""
    if codings not in (["gzip"], ["x-gzip"], ["deflate"]):
        raise aiohttp.ClientPayloadError("unexpected content encoding")
    # "deflate" means zlib's format (RFC 9110, section 8.4.1.2), but some servers send raw deflate; the first byte distinguishes them
    raw = codings == ["deflate"] and body[0] & 0x0F != 8
    decoder = zlib.decompressobj(_RAW_DEFLATE if raw else _GZIP_OR_ZLIB)
    try:
        decompressed = decoder.decompress(body, limit + 1)
    except zlib.error:
        raise aiohttp.ClientPayloadError("the body does not match its content encoding") from None
    if len(decompressed) > limit:
        raise BodyTooLarge
    if not decoder.eof or decoder.unused_data:
        raise aiohttp.ClientPayloadError("truncated compressed data, or trailing data")
    return decompressed
