"""Calls Zoom's REST API over one pool of connections to one pinned origin."""

import math

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType
from yarl import URL

from zoomgate_server.errors import (
    DeadlineTooShort,
    ZoomgateError,
    ZoomOutcomeUnknown,
    ZoomResponseTooLarge,
    ZoomUnavailable,
)
from zoomgate_server.zoom import bounded_body
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse, is_allowed_header
from zoomgate_server.zoom.resolver import PublicResolver, is_loopback_host

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
MIN_SECONDS = 0.3
"""Less time than this is no use to a call."""

_CONNECT_SECONDS = 5.0
_CONNECT_SHARE = 0.8
"""Of a call's time: connecting gives up before the call does, so that a write that was never sent is told as such."""

_READS = frozenset({"GET", "HEAD"})
_RESENT_BY_AIOHTTP = frozenset({"PUT", "DELETE"})
_PASSED_ON = frozenset(
    {
        "content-type",
        "content-language",
        "date",
        "etag",
        "last-modified",
        "location",
        "retry-after",
        "x-zm-trackingid",
        "x-ratelimit-category",
        "x-ratelimit-type",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
)


class ZoomClient:
    """Sends requests with a user's token. `start` belongs to the event loop that uses it.

    Args:
        api_url: The API's base address, such as `https://api.zoom.us/v2`; no request leaves its origin and path.
        user_agent: Names this service to Zoom.
        max_response_bytes: Bodies above this, decompressed, are refused.
    """

    def __init__(
        self, *, api_url: str, user_agent: str, max_response_bytes: int = MAX_RESPONSE_BYTES
    ) -> None:
        self._base = api_url.rstrip("/")
        base = URL(self._base)
        self._origin = base.origin()
        self._base_path = base.raw_path.rstrip("/") + "/"
        self._loopback = is_loopback_host(base.host or "")
        self._limit = max_response_bytes
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the number of calls is limited where calls come in
                resolver=None if self._loopback else PublicResolver(),
                ttl_dns_cache=60,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # a cookie set for one user must not reach the next
            headers={
                "User-Agent": self._user_agent,
                "Accept": "application/json",
                "Accept-Encoding": bounded_body.ACCEPT_ENCODING,
            },
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: ZoomRequest, access_token: str, *, timeout: float) -> ZoomResponse:
        """Send a request and give any complete answer, whatever its status. Redirects are not followed.

        Args:
            request: What to send; its target was checked.
            access_token: The user's.
            timeout: Seconds for all of it.

        Raises:
            DeadlineTooShort: Less than 0.3 seconds are left; nothing was sent.
            ZoomUnavailable: Nothing was sent, or a read got no complete answer.
            ZoomOutcomeUnknown: A write was sent and got no complete answer.
            ZoomResponseTooLarge: The body is over the limit.
        """
        if self._session is None:
            raise RuntimeError("the client is not started")
        if timeout < MIN_SECONDS:
            raise DeadlineTooShort("Too little of the deadline is left to call Zoom: nothing was sent")
        headers = {"Authorization": f"Bearer {access_token}"}
        if request.content_type is not None:
            headers["Content-Type"] = request.content_type
        for name, value in request.headers:
            if not is_allowed_header(name):
                raise ValueError("a header that callers may not set came through")
            headers[name] = value
        try:
            async with (
                self._session.request(
                    request.method,
                    self._url(request),
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=timeout,
                        connect=min(_CONNECT_SECONDS, timeout * _CONNECT_SHARE),
                        ceil_threshold=math.inf,  # else aiohttp rounds long times up, and the caller's deadline comes first
                    ),
                    middlewares=(_send_once,) if request.method in _RESENT_BY_AIOHTTP else None,
                ) as response
            ):
                body = await bounded_body.read(response, self._limit)
                return ZoomResponse(response.status, self._headers(response), body)
        except bounded_body.BodyTooLarge:
            raise ZoomResponseTooLarge(
                f"Zoom's answer is larger than {self._limit} bytes",
                metadata={"limit_bytes": str(self._limit)},
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise unavailable() from None
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise no_answer(request) from None

    def _url(self, request: ZoomRequest) -> URL:
        """Build the address byte by byte, and look once more that it stays where it belongs."""
        target = request.target
        raw = f"{self._base}{target.path}?{target.query}" if target.query else self._base + target.path
        url = URL(raw, encoded=True)
        if url.origin() != self._origin or not url.raw_path.startswith(self._base_path):
            raise ValueError("a checked path left the pinned origin")
        return url

    def _headers(self, response: aiohttp.ClientResponse) -> tuple[tuple[str, str], ...]:
        """Pick what callers may see; a redirect to elsewhere stays hidden."""
        kept = []
        for name, value in response.headers.items():
            lower = name.lower()
            if lower in _PASSED_ON and (lower != "location" or self._is_ours(value)):
                kept.append((lower, value if value.isascii() else _without_surrogates(value)))
        return tuple(kept)

    def _is_ours(self, location: str) -> bool:
        return location.startswith(f"{self._origin}/") or (
            location.startswith("/") and not location.startswith("//")
        )


def _without_surrogates(value: str) -> str:
    """Make text of a header whose bytes are no UTF-8: aiohttp escapes those bytes as characters that cannot be encoded again."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _LostError(aiohttp.ClientError):
    """The connection ended after something may have been sent."""


async def _send_once(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a PUT or DELETE again when the connection dies: Zoom may have acted on the first."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _LostError from error


def unavailable(**metadata: str) -> ZoomUnavailable:
    """The error for a call that changed nothing at Zoom."""
    return ZoomUnavailable(
        "Zoom cannot be reached: call again in a moment", metadata=metadata, retry_after=2.0
    )


def no_answer(request: ZoomRequest, **metadata: str) -> ZoomgateError:
    """The error for a request that was sent and has no usable answer."""
    if request.method in _READS:
        return unavailable(**metadata)
    return ZoomOutcomeUnknown(
        "Zoom's answer was lost, and the call may have taken effect: look before you repeat it",
        metadata=metadata,
    )
