"""Client that downloads files from Zoom, with redirects, ranges and bounded memory."""

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from zoomgate_server.errors import RedirectNotAllowed, ZoomBadResponse
from zoomgate_server.zoom import bounded_body, response_headers
from zoomgate_server.zoom.client import (
    CONNECT_SECONDS,
    check_timeout,
    deadline_passed,
    response_too_large,
    unavailable,
)
from zoomgate_server.zoom.file_urls import FileHosts, FileUrl
from zoomgate_server.zoom.request import Target, ZoomRequest, ZoomResponse, is_allowed_header
from zoomgate_server.zoom.session import open_session

MAX_REDIRECTS = 5

_BUFFER_BYTES = 256 * 1024
"""Size of aiohttp's buffer of a response, which is full at twice this size. A chunk is at most that and one read of the socket."""

_OK, _PARTIAL = 200, 206
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FORWARDED = response_headers.FORWARDED | {"content-length", "content-range", "content-disposition"}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)", re.ASCII)
_MAX_DIGITS = 18
_STRONG_ETAG = re.compile(r'"[!#-~]{0,256}"', re.ASCII)


class Interrupted(Exception):
    """The connection was lost, or stalled, before the end of the file."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of downloads, in seconds.

    Attributes:
        stall: Maximum time between two parts of a file.
    """

    stall: float = 30.0


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A request for a file, or for the rest of one.

    Attributes:
        offset: The position of the first byte.
        etag: The version of the file to which `offset` belongs, or empty if `offset` is 0.
    """

    url: FileUrl
    headers: tuple[tuple[str, str], ...] = ()
    offset: int = 0
    etag: str = ""

    def as_zoom_request(self) -> ZoomRequest:
        """Return the request without the secrets in its query."""
        return ZoomRequest("GET", Target(self.url.path))


@dataclass(frozen=True, slots=True)
class FileResponse(ZoomResponse):
    """A response whose body is a file or a part of it and has not been read, or the complete response of a failure."""

    _response: aiohttp.ClientResponse | None = field(default=None, repr=False)

    @property
    def is_file(self) -> bool:
        """Whether the body is the file or a part of it."""
        return self._response is not None

    @property
    def etag(self) -> str:
        """The version of the file, or empty if it has no strong ETag: only those identify the bytes (RFC 9110, section 13.1.5)."""
        etag = self.header("etag")
        return etag if self.is_file and is_etag(etag) else ""

    @property
    def offset(self) -> int:
        """The position of the first byte."""
        content_range = self._content_range()
        return int(content_range[1]) if content_range else 0

    @property
    def size(self) -> int | None:
        """The size of the whole file, or None if it is unknown."""
        content_range = self._content_range()
        size = content_range[3] if content_range else self.header("content-length")
        return int(size) if self.is_file and size and len(size) <= _MAX_DIGITS else None

    async def read(self) -> bytes:
        """Return the next bytes of the file, or no bytes at its end.

        Raises:
            Interrupted: The connection was lost, or stalled.
        """
        if self._response is None:
            return b""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Interrupted from None

    def close(self) -> None:
        """Close the connection, unless the body was read completely."""
        if self._response is not None:
            self._response.close()

    def _content_range(self) -> re.Match[str] | None:
        if self.status != _PARTIAL or not (match := _CONTENT_RANGE.fullmatch(self.header("content-range"))):
            return None
        start, end, size = (int(number) if number else math.inf for number in match.groups())
        return match if start <= end < size else None


class FileClient:
    """A client that downloads files with a user's access token.

    It must be created in the event loop that uses it, and closed.
    """

    def __init__(
        self,
        *,
        api_url: str,
        hosts: FileHosts,
        user_agent: str,
        max_response_bytes: int,
        timing: Timing = Timing(),
    ) -> None:
        self._hosts = hosts
        self._limit = max_response_bytes
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=timing.stall)
        self._session = open_session(api_url, user_agent, timeout, ttl_dns_cache=60)

    async def close(self) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def open(self, request: FileRequest, access_token: str, *, timeout: float) -> FileResponse:
        """Request a file, follow redirects, and return the response as soon as its headers have arrived. The response must be closed.

        A failure is returned with its complete body.

        Raises:
            DeadlineTooShort: Less than 0.3 seconds are left; nothing was sent.
            DeadlineExceeded: No response was received within the timeout.
            ZoomUnavailable: Zoom could not be reached, or the response was lost.
            RedirectNotAllowed: A redirect to a host that is not allowed, without https, or one too many.
            ZoomBadResponse: The file is compressed.
            ZoomResponseTooLarge: The body of a failure exceeds the limit.
        """
        check_timeout(timeout)
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                response = await self._follow(request, access_token)
                return await self._converted(response)
        except bounded_body.BodyTooLarge as error:
            raise response_too_large(
                request.as_zoom_request(), response.status, error.size, self._limit
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise (
                deadline_passed(request.as_zoom_request()) if deadline.expired() else unavailable()
            ) from None

    async def _converted(self, response: aiohttp.ClientResponse) -> FileResponse:
        headers = response_headers.select(response.headers, _FORWARDED)
        is_file = response.status in (_OK, _PARTIAL)
        if is_file and not bounded_body.compressions(response):
            return FileResponse(response.status, headers, b"", response)
        async with response:
            if is_file:
                raise ZoomBadResponse(
                    "Zoom compressed the file although the request excludes compression; report the problem to the operator",
                    metadata={"http_status": str(response.status)},
                )
            body = await bounded_body.read(response, self._limit)
            return FileResponse(response.status, headers, body)

    async def _follow(self, request: FileRequest, access_token: str) -> aiohttp.ClientResponse:
        """Send the request, follow redirects, and return the last response.

        The access token is not sent after a redirect to a different origin, as in browsers and curl.
        """
        if not all(is_allowed_header(name) for name, _ in request.headers):
            raise ValueError("callers may not set this header")
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        headers |= {name.title(): value for name, value in request.headers}
        if request.offset:
            headers |= {"Range": f"bytes={request.offset}-", "If-Range": request.etag}
        if request.url.accepts_token:
            headers["Authorization"] = f"Bearer {access_token}"
        url = request.url.url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(url, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.close()
            target = self._hosts.redirect(url, location)
            if target.origin() != url.origin():
                headers.pop("Authorization", None)
            url = target
        raise RedirectNotAllowed(
            f"Zoom redirected the download more than {MAX_REDIRECTS} times; request a new download URL",
            metadata={"host": url.host or ""},
        )

    async def _get(self, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        return await self._session.get(
            url, headers=headers, allow_redirects=False, read_bufsize=_BUFFER_BYTES
        )


def is_etag(text: str) -> bool:
    """Return whether a text is a strong ETag."""
    return _STRONG_ETAG.fullmatch(text) is not None
