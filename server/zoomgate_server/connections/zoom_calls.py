"""Calls of Zoom's API with a user's token."""

from zoomgate_server.call_context import Call
from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import AccessTokens, work_deadline
from zoomgate_server.connections.record import Cause
from zoomgate_server.connections.token_cache import CachedToken
from zoomgate_server.errors import ReauthRequired, RefreshInProgress, ScopeMissing
from zoomgate_server.zoom import errors as zoom_errors
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse


class ZoomCalls:
    """Calls Zoom's API on a user's behalf, and repeats a call once whose token Zoom rejected."""

    def __init__(self, *, access_tokens: AccessTokens, zoom: ZoomClient, clock: Clock) -> None:
        self._access_tokens = access_tokens
        self._zoom = zoom
        self._clock = clock

    async def send(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API with the user's token and give any complete answer.

        An answer of 401 with one of Zoom's token codes was refused before it was processed: the record is read again, the token
        refreshed at most once, and the request repeated once.

        Raises:
            ZoomRateLimited: Zoom answered 429.
            ScopeMissing: The consent does not cover the call.
            ReauthRequired: Zoom refuses the token even after a refresh.
            RefreshInProgress: So it does, and somebody renews the token again meanwhile.
            ZoomUnavailable, ZoomOutcomeUnknown, ZoomResponseTooLarge, DeadlineTooShort: As `ZoomClient.send`.
            CallerNotAllowed, and what `Refresher.refresh` raises.
        """
        token = await self._access_tokens.for_call(call, user_email)
        response = await self._send(call, request, token)
        if response.status < 400:
            return response
        if zoom_errors.is_token_rejected(response):
            token = await self._access_tokens.after_rejection(call, user_email, token)
            response = await self._send(call, request, token)
            if zoom_errors.is_token_rejected(response):
                if await self._access_tokens.is_being_replaced(user_email, token):
                    raise RefreshInProgress(
                        "The user's token was renewed again during this call: call again in a moment",
                        retry_after=1.0,
                    )
                raise ReauthRequired(
                    "Zoom refuses this user's token although it was just renewed: let the person consent again",
                    metadata={"cause": Cause.REJECTED.value, "http_status": "401"},
                )
        if response.status == 429:
            raise zoom_errors.rate_limited(response)
        scopes = zoom_errors.missing_scopes(response)
        if scopes is not None:
            raise ScopeMissing(
                "The user's consent does not cover this call: add the scope to the Zoom app and let the person consent again",
                metadata={"scopes": " ".join(scopes), "http_status": str(response.status)},
            )
        return response

    async def send_typed(self, call: Call, user_email: str, request: ZoomRequest) -> ZoomResponse:
        """Call Zoom's API as `send` does and give the answer if it is a success.

        Raises:
            ZoomgateError: What Zoom's refusal means (`zoom/errors.py` has the table).
        """
        response = await self.send(call, user_email, request)
        if 200 <= response.status < 300:
            return response
        raise zoom_errors.typed_failure(request, response)

    async def _send(self, call: Call, request: ZoomRequest, token: CachedToken) -> ZoomResponse:
        return await self._zoom.send(
            request, token.tokens.access_token, timeout=work_deadline(call) - self._clock.monotonic()
        )
