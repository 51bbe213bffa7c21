"""Reading of the body of an HTTP request, with limits on its size and on the time to read it."""

import asyncio

from aiohttp import web


class BodyTooLarge(Exception):
    """The body exceeds the limit."""


async def read(request: web.Request, *, limit: int, timeout: float) -> bytes:
    """Return the body of a request.

    Args:
        limit: Maximum size in bytes.
        timeout: Maximum time in seconds.

    Raises:
        BodyTooLarge: The body exceeds the limit.
        TimeoutError: The body did not arrive in time.
        ConnectionError: The connection was closed before the body had arrived.
    """
    body = bytearray()
    async with asyncio.timeout(timeout):
        await read_into(body, request, limit, limit=limit)
    return bytes(body)


async def read_into(body: bytearray, request: web.Request, size: int, *, limit: int) -> None:
    """Append the body of a request to `body` until that has more than `size` bytes. The limit is that of `read`."""
    if (request.content_length or 0) > limit:
        raise BodyTooLarge
    while len(body) <= size and (chunk := await request.content.readany()):
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge
