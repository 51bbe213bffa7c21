"""Reading an answer's body without trusting its size."""

import aiohttp


class BodyTooLarge(Exception):
    """The body, decompressed, is larger than the limit."""


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, decompressed.

    Raises:
        BodyTooLarge: There is more; the rest was not read.
        aiohttp.ClientError, TimeoutError: It did not arrive whole.
    """
    content = response.content
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
