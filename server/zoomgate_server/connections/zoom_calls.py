"""Calls to Zoom's API with a user's access token."""

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens
from zoomgate_server.connections.concurrency_limit import ConcurrencyLimit
from zoomgate_server.connections.record import Cause
from zoomgate_server.errors import ReauthRequired, RefreshInProgress, ScopeMissing
from zoomgate_server.zoom import errors as zoom_errors
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse


class ZoomCalls:
    """Client that calls Zoom's API on behalf of users, and retries a call once if Zoom rejects the token."""

    def __init__(
        self, *, access_tokens: AccessTokens, zoom: ZoomClient, limit: ConcurrencyLimit, clock: Clock
    ) -> None:
        self._access_tokens = access_tokens
        self._zoom = zoom
        self._limit = limit
        self._clock = clock

    async def send(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API with the user's token and return any complete response.

        If Zoom responds with 401 and a token error code, Zoom has not processed the call. In this case, the record is read again, the token
        is refreshed at most once, and the request is retried once with a token of the same Zoom user.

        Raises:
            ServerOverloaded: Too many calls to Zoom are running; nothing was sent.
            ZoomRateLimited: Zoom responded with 429.
            ScopeMissing: The consent does not cover the call.
            ReauthRequired: Zoom rejected the token even after a refresh.
            RefreshInProgress: Zoom rejected the token even after a refresh, and another refresh of the token is running or has finished.
            ZoomUnavailable, ZoomOutcomeUnknown, ZoomResponseTooLarge, DeadlineTooShort: See `ZoomClient.send`.
            CallerNotAllowed: The connection belongs to a different member.
            ZoomgateError: See `Refresher.refresh`.
        """
        token = await self._access_tokens.for_call(call, user_email)
        response = await self._send(call, request, token)
        if response.status < 400:
            return response
        if zoom_errors.is_token_rejected(response):
            token = await self._access_tokens.after_rejection(call, user_email, token)
            response = await self._send(call, request, token)
            if zoom_errors.is_token_rejected(response):
                if await self._access_tokens.is_being_replaced(token):
                    raise RefreshInProgress(
                        "The user's token was refreshed again during this call; retry in a moment",
                        retry_after=1.0,
                    )
                raise ReauthRequired(
                    "Zoom rejected this user's token although it was just refreshed; have the user consent again",
                    metadata={"cause": Cause.REJECTED.value, "http_status": "401"},
                )
        if response.status == 429:
            raise zoom_errors.rate_limited(response)
        scopes = zoom_errors.missing_scopes(response)
        if scopes is not None:
            raise ScopeMissing(
                "The user's consent does not cover this call; add the scopes to the Zoom app and have the user consent again",
                metadata={"scopes": " ".join(scopes), "http_status": str(response.status)},
            )
        return response

    async def send_typed(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API with `send` and return a successful response.

        Raises:
            ZoomgateError: The error for Zoom's response, according to the table in `zoom/errors.py`.
        """
        response = await self.send(call, user_email, request)
        if 200 <= response.status < 300:
            return response
        raise zoom_errors.error_for(request, response)

    async def _send(self, call: Call, request: ZoomRequest, token: AccessToken) -> ZoomResponse:
        async with self._limit.slot(call.deadline):
            return await self._zoom.send(
                request, token.tokens.access_token, timeout=call.deadline - self._clock.monotonic()
            )
