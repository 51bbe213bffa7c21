"""Files to download, such as recordings: a download URL that requires a token and redirects to the file, which supports ranges."""

import re
import sys

from aiohttp import web

from zoom_simulator.errors import ApiError, ErrorResponse
from zoom_simulator.request_log import log_reason, mark_connection_cut
from zoom_simulator.state import ZoomState

MAX_SIZE = 2**40

_BLOCK = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?", re.ASCII)


class Files:
    """The files at `/rec/download/{size}/{name}`, each with as many bytes as its path names.

    Attributes:
        version: The version of all files. Files of different versions have no block in common.
        has_ranges: Whether requests for a part of a file are answered with that part.
        has_etags: Whether responses identify the version of the file.
        cuts: The positions in the file at which the connections of the next responses are cut, one for each response.
    """

    def __init__(self, state: ZoomState) -> None:
        self._state = state
        self.reset()

    def reset(self) -> None:
        """Restore the initial state."""
        self.version = 1
        self.has_ranges = True
        self.has_etags = True
        self.cuts: list[int] = []

    def content(self, size: int, start: int = 0) -> bytes:
        """Return the content of a file from a position on, of at most one block."""
        index, skipped = divmod(start, _BLOCK)
        block = index.to_bytes(8) + self.version.to_bytes(8) + bytes(_BLOCK - 16)
        return block[skipped : skipped + size - start]

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Check the token, which may also be the parameter `access_token`, and redirect to the file."""
        try:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            token = token if scheme.lower() == "bearer" else request.query.get("access_token", "")
            if not token:
                raise ApiError(
                    401, 124, "Invalid access token.", reason="no access token; send Authorization: Bearer"
                )
            self._state.authenticate(token)
            _size(request)
        except ErrorResponse as error:
            return error.response()
        log_reason("redirected to the file")
        location = request.rel_url.with_path(request.path.replace("/rec/download/", "/rec/file/", 1))
        return web.Response(status=302, headers={"Location": str(location.with_query(signature="s"))})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return a file, or the requested part of it."""
        try:
            size = _size(request)
        except ErrorResponse as error:
            return error.response()
        etag = f'"{self.version}-{size}"'
        start, stop = 0, size
        match = _RANGE.fullmatch(request.headers.get("Range", "")) if self.has_ranges else None
        if match is not None and request.headers.get("If-Range", etag) == etag:
            first, last = int(match[1]), int(match[2] or sys.maxsize)
            if first <= last:  # otherwise the range is invalid, and ignored
                start, stop = first, min(size, last + 1)
        if start >= size > 0:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        response = web.StreamResponse(status=200 if (start, stop) == (0, size) else 206)
        response.content_type = "video/mp4"
        response.content_length = stop - start
        if response.status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if self.has_etags:
            response.headers["ETag"] = etag
        cut = self.cuts.pop(0) if self.cuts else None
        end = stop if cut is None else max(start, min(stop, cut))
        log_reason(f"sent bytes {start} to {end} of {size}")
        await response.prepare(request)
        try:
            while start < end:
                chunk = self.content(end, start)
                await response.write(chunk)
                start += len(chunk)
        except ConnectionError:
            log_reason(f"the client closed the connection after {start} of {size} bytes were sent")
            mark_connection_cut()
        if end < stop and request.transport is not None:
            request.transport.close()
            mark_connection_cut()
        return response


def _size(request: web.Request) -> int:
    text = request.match_info["size"]
    if not re.fullmatch(r"[0-9]{1,13}", text, re.ASCII) or int(text) > MAX_SIZE:
        raise ApiError(
            404, 3301, "This recording does not exist.", reason=f"the size is not a number up to {MAX_SIZE}"
        )
    return int(text)
