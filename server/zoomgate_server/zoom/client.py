"""Client of Zoom's REST API: one connection pool to one pinned origin."""

import asyncio
import contextlib
import math
import re
from collections.abc import Iterator

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType
from yarl import URL

from zoomgate_server.call_context import current_unknown_outcome
from zoomgate_server.errors import (
    DeadlineExceeded,
    DeadlineTooShort,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomResponseTooLarge,
    ZoomUnavailable,
)
from zoomgate_server.zoom import bounded_body, response_headers
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse, is_allowed_header
from zoomgate_server.zoom.session import open_session

MIN_SECONDS = 0.3
"""Minimum time for a call, in seconds; a call with less time left is not sent."""

CONNECT_SECONDS = 5.0
_CONNECT_SHARE = 0.8
"""Fraction of a call's timeout that is available for connecting. Connecting must time out before the call does: otherwise, a write that was
not sent would be reported as possibly sent.
"""

_PATH = re.compile(r"/(?![/\\\t])")
"""Pattern of the start of a path. Browsers read `/\\` like `//`, the start of a host, and ignore tabs."""

_RETRIED_BY_AIOHTTP = frozenset({"PUT", "DELETE"})
_FORWARDED_HEADERS = response_headers.FORWARDED | {"location"}


class ZoomClient:
    """A client that sends requests with a user's access token, only to URLs below `api_url`.

    It must be created in the event loop that uses it, and closed.
    """

    def __init__(self, *, api_url: str, user_agent: str, max_response_bytes: int) -> None:
        self._base = api_url.rstrip("/")
        base = URL(self._base)
        self._origin = base.origin()
        self._base_path = base.raw_path.rstrip("/") + "/"
        self._limit = max_response_bytes
        # the timeouts are set for each call
        self._session = open_session(
            self._base, user_agent, aiohttp.ClientTimeout(total=None), ttl_dns_cache=60
        )

    async def close(self) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def send(self, request: ZoomRequest, access_token: str, *, timeout: float) -> ZoomResponse:
        """Send a request to a validated target, and return any complete response, whatever its status. Redirects are not followed.

        Args:
            timeout: Seconds until the deadline of the call.

        Raises:
            DeadlineTooShort: Less than 0.3 seconds are left, or too little to connect; nothing was sent.
            DeadlineExceeded: A read received no complete response before the deadline.
            ZoomUnavailable: Nothing was sent, or the response to a read was lost.
            ZoomOutcomeUnknown: A write may have been sent and received no complete response.
            ZoomResponseTooLarge: The response body exceeds the limit.
        """
        check_timeout(timeout)
        connect = min(CONNECT_SECONDS, timeout * _CONNECT_SHARE)
        headers = {"Authorization": f"Bearer {access_token}"}
        if request.content_type is not None:
            headers["Content-Type"] = request.content_type
        for name, value in request.headers:
            if not is_allowed_header(name):
                raise ValueError("callers may not set this header")
            headers[name] = value
        try:
            async with (
                self._session.request(
                    request.method,
                    self._url(request),
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                    # aiohttp would add one to a write without a body
                    skip_auto_headers=None if request.is_read else ("Content-Type",),
                    timeout=aiohttp.ClientTimeout(
                        total=timeout,
                        connect=connect,
                        ceil_threshold=math.inf,  # otherwise aiohttp rounds long timeouts up, beyond the caller's deadline
                    ),
                    middlewares=(_prevent_resend,) if request.method in _RETRIED_BY_AIOHTTP else None,
                ) as response
            ):
                body = await bounded_body.read(response, self._limit)
                return ZoomResponse(response.status, self._headers(response), body)
        except bounded_body.BodyTooLarge as error:
            raise response_too_large(request, response.status, error.size, self._limit) from None
        except aiohttp.ConnectionTimeoutError:
            raise (DeadlineTooShort() if connect < CONNECT_SECONDS else unavailable()) from None
        except aiohttp.ClientConnectorError:
            raise unavailable() from None
        except TimeoutError:
            raise deadline_passed(request) from None
        except (aiohttp.ClientError, OSError):
            raise response_lost(request) from None
        except asyncio.CancelledError:
            if not request.is_read:
                current_unknown_outcome.set(response_lost(request))
            raise

    def _url(self, request: ZoomRequest) -> URL:
        """Build the URL without normalization, and verify again that the result is below the pinned base URL."""
        target = request.target
        raw = f"{self._base}{target.path}?{target.query}" if target.query else self._base + target.path
        url = URL(raw, encoded=True)
        if url.origin() != self._origin or not url.raw_path.startswith(self._base_path):
            raise ValueError("the URL is not below the pinned base URL")
        return url

    def _headers(self, response: aiohttp.ClientResponse) -> tuple[tuple[str, str], ...]:
        """Return the headers that callers may receive. A `Location` on a different origin is omitted."""
        return tuple(
            (name, value)
            for name, value in response_headers.select(response.headers, _FORWARDED_HEADERS)
            if name != "location" or self._is_same_origin(value)
        )

    def _is_same_origin(self, location: str) -> bool:
        return location.startswith(f"{self._origin}/") or _PATH.match(location) is not None


class _ConnectionLostError(aiohttp.ClientError):
    """The connection was lost after the request may have been sent."""


async def _prevent_resend(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Prevent aiohttp from resending a PUT or DELETE after a lost connection, since Zoom may have processed the first request."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLostError from error


def check_timeout(timeout: float) -> None:
    """Check that there is enough time for a call, in seconds."""
    if timeout < MIN_SECONDS:
        raise DeadlineTooShort


def unavailable(retry_after: float = response_headers.DEFAULT_SECONDS, **metadata: str) -> ZoomUnavailable:
    """Return the error for a call that changed nothing in Zoom."""
    status = metadata.get("http_status")
    cause = (
        f"did not respond properly (HTTP status {status})"
        if status
        else "cannot be reached, or did not respond completely"
    )
    return ZoomUnavailable(f"Zoom {cause}; retry in a moment", metadata=metadata, retry_after=retry_after)


def deadline_passed(request: ZoomRequest) -> ZoomgateError:
    """Return the error for a request that was sent but received no response before the deadline of the call."""
    if request.is_read:
        return DeadlineExceeded("Zoom did not respond before the deadline of the call; set a longer deadline")
    return ZoomOutcomeUnknown(
        "The deadline of the call ended before Zoom responded, and the call may have taken effect; check before retrying, and set a longer"
        " deadline"
    )


@contextlib.contextmanager
def outage_on_timeout(condition: bool) -> Iterator[None]:
    """Report a read without a response as an outage of Zoom if the time limit was not the caller's deadline, which is the condition."""
    try:
        yield
    except DeadlineExceeded:
        if not condition:
            raise
        raise unavailable() from None


def response_lost(
    request: ZoomRequest, retry_after: float = response_headers.DEFAULT_SECONDS, **metadata: str
) -> ZoomgateError:
    """Return the error for a request that was sent but received no response that proves its outcome."""
    if request.is_read:
        return unavailable(retry_after, **metadata)
    status = metadata.get("http_status")
    cause = f"Zoom did not respond properly (HTTP status {status})" if status else "Zoom's response was lost"
    return ZoomOutcomeUnknown(
        f"{cause}, and the call may have taken effect; check before retrying", metadata=metadata
    )


def response_too_large(
    request: ZoomRequest, status: int, size: int | None, limit: int
) -> ZoomResponseTooLarge:
    """Return the error for a response that is larger than the limit; `size` is None if it is unknown."""
    metadata = {"http_status": str(status), "limit_bytes": str(limit)}
    if size is not None:
        metadata["size_bytes"] = str(size)
    remedy = (
        "request less data, for example with page_size, or have the operator raise ZOOMGATE_MAX_RESPONSE_BYTES"
        if request.is_read
        else "Zoom has processed the call, so do not repeat it; the operator can raise ZOOMGATE_MAX_RESPONSE_BYTES"
    )
    return ZoomResponseTooLarge(
        f"Zoom responded with status {status} and {'too many' if size is None else size} bytes, but the limit is {limit}; {remedy}",
        metadata=metadata,
    )
