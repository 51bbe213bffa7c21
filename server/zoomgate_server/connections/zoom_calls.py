"""Calls to Zoom's API with a user's access token."""

import functools
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens
from zoomgate_server.errors import RefreshInProgress
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom import errors as zoom_errors
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse

_Result = TypeVar("_Result")
_Response = TypeVar("_Response", bound=ZoomResponse)

CAPACITY = 10_000
"""Maximum number of endpoints that are known to reject a user's token. The oldest is evicted first."""

_NAME = re.compile(r"[a-z_-]*")
"""A segment of a path that is a name of Zoom's API, not an ID."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of calls, in seconds.

    Attributes:
        refresh_pause: How long an endpoint that rejects a user's token even after a refresh causes no further refresh for that user, as
            long as Zoom accepts the token for the user's profile.
    """

    refresh_pause: float = 600.0


class ZoomCalls:
    """Client that calls Zoom's API on behalf of users, and retries a call once if Zoom rejects the token."""

    def __init__(
        self,
        *,
        access_tokens: AccessTokens,
        zoom: ZoomClient,
        limit: ConcurrencyLimit,
        clock: Clock,
        timing: Timing = Timing(),
    ) -> None:
        self._access_tokens = access_tokens
        self._zoom = zoom
        self._limit = limit
        self._clock = clock
        self._timing = timing
        self._paused: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        """Until when rejections by a user's endpoints cause no refresh, by Zoom user, HTTP method and path without IDs."""

    async def send(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API with the user's token and return any complete response.

        Raises:
            ServerOverloaded: Too many calls to Zoom are running; nothing was sent.
            ZoomUnavailable, ZoomOutcomeUnknown, ZoomResponseTooLarge, DeadlineTooShort, DeadlineExceeded: See `ZoomClient.send`.
            ZoomgateError: See `send_with`.
        """
        return await self.send_with(call, user_email, request, functools.partial(self._send, call, request))

    async def send_with(
        self,
        call: Call,
        user_email: str,
        request: ZoomRequest,
        send: Callable[[AccessToken], Awaitable[_Response]],
    ) -> _Response:
        """Send a request with the user's token and return any response.

        If Zoom rejects the token, Zoom has not processed the call. In this case, the record is read again, the token is refreshed at most
        once, and the request is retried once with a token of the same Zoom user. Some endpoints reject every token of a user, for example
        if the Zoom plan does not cover them. Their response is returned, and they cause no further refresh for a while, unless Zoom
        rejects the token elsewhere too.

        Args:
            request: The request, which identifies the endpoint.
            send: Function that sends the request with a token.

        Raises:
            ZoomRateLimited: A rate limit of Zoom is reached.
            ScopeMissing: The consent does not cover the call.
            RefreshInProgress: Zoom rejected the token even after a refresh, and another refresh of the token is running or has finished.
            CallerNotAllowed: The connection belongs to a different member.
            ZoomgateError: See `Refresher.refresh`.
        """
        token = await self._access_tokens.for_call(call, user_email)
        response = await send(token)
        is_rejected = zoom_errors.is_token_rejected(response)
        if is_rejected or self._paused:
            endpoint = _endpoint(token, request)
            if not is_rejected:
                self._paused.pop(endpoint, None)
            elif (
                self._paused.get(endpoint, 0.0) <= self._clock.monotonic()
                # the authorization itself may have ended since
                or zoom_errors.is_token_rejected(await self._send(call, endpoints.current_user(), token))
            ):
                response = await self._retry(call, user_email, send, token, response, endpoint)
        failure = zoom_errors.rate_limit(response, self._clock.wall) or zoom_errors.scope_missing(
            request, response
        )
        if failure is not None:
            raise failure
        return response

    async def send_typed(
        self,
        call: Call,
        user_email: str,
        request: ZoomRequest,
        read: Callable[[ZoomResponse], _Result | None],
    ) -> _Result:
        """Call Zoom's API with `send` and return the result that `read` finds in a 2xx response.

        Args:
            read: Returns None if the response is not one that Zoom documents for success.

        Raises:
            ZoomgateError: The error for Zoom's response, according to the table in `zoom/errors.py`.
        """
        response = await self.send(call, user_email, request)
        result = read(response) if 200 <= response.status < 300 else None
        if result is None:
            raise zoom_errors.error_for(request, response, self._clock.wall)
        return result

    async def _retry(
        self,
        call: Call,
        user_email: str,
        send: Callable[[AccessToken], Awaitable[_Response]],
        rejected: AccessToken,
        response: _Response,
        endpoint: tuple[str, str, str],
    ) -> _Response:
        """Retry a call with a newer token, and return the response, or the first one if the token was refreshed just before the call."""
        token = await self._access_tokens.after_rejection(call, user_email, rejected)
        is_newer = token.tokens.access_token != rejected.tokens.access_token
        if is_newer:
            response = await send(token)
            if not zoom_errors.is_token_rejected(response):
                return response
        if await self._access_tokens.is_being_replaced(token):
            raise RefreshInProgress(
                "The user's token was refreshed again during this call; retry in a moment", retry_after=1.0
            )
        if is_newer:
            self._paused[endpoint] = self._clock.monotonic() + self._timing.refresh_pause
            self._paused.move_to_end(endpoint)
            if len(self._paused) > CAPACITY:
                self._paused.popitem(last=False)
        return response

    async def _send(self, call: Call, request: ZoomRequest, token: AccessToken) -> ZoomResponse:
        await self._limit.acquire(call.deadline)
        try:
            return await self._zoom.send(
                request, token.tokens.access_token, timeout=call.deadline - self._clock.monotonic()
            )
        finally:
            self._limit.release()


def _endpoint(token: AccessToken, request: ZoomRequest) -> tuple[str, str, str]:
    """Return the key of a user's endpoint in the pauses: Zoom user, method and path without IDs."""
    segments = request.target.path.split("/")
    path = "/".join(segment if _NAME.fullmatch(segment) else "*" for segment in segments)
    return token.zoom_user_id, request.method, path
