"""Client of Zoom's OAuth endpoints.

Every token request uses a new connection: on a kept-alive connection that the server has closed, a request that was not sent could not be
distinguished from a lost response. Only a complete response is treated as success or rejection, since HTTP clients report a status even
for malformed responses.
"""

import asyncio
import contextlib
import math
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from zoomgate_server.external_text import sanitize
from zoomgate_server.zoom import bounded_body, response_headers, tolerant_json
from zoomgate_server.zoom.errors import MAX_MESSAGE
from zoomgate_server.zoom.session import open_session
from zoomgate_server.zoom.token_outcome import (
    DEFAULT_EXPIRES_IN,
    AppRejected,
    BadResponse,
    Issued,
    NotSent,
    Rejected,
    Revoked,
    RevokeOutcome,
    Throttled,
    TokenOutcome,
    UnexplainedRejection,
    Unknown,
    is_token,
)

MAX_BODY_BYTES = 64 * 1024
MIN_EXPIRES_IN = 60.0
MAX_EXPIRES_IN = 86_400.0

_APP_ERRORS = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
_APP_CODES = frozenset({"4702", "4704", "4705", "4706", "4717"})
_REDIRECT_URI_CODE = "4709"
_UNAVAILABLE_ERRORS = frozenset({"server_error", "temporarily_unavailable"})
_REJECTED_ERRORS = frozenset({"invalid_grant"})
_REJECTED_CODES = frozenset({"4711", "4733", "4734", "4735", "4737", "4738", "4740", "4741"})
_REJECTED_REASON = "invalid token"
_CODE_REASON = re.compile(r"\bcode\b", re.IGNORECASE)
_TOKEN_LIKE = r"(?=[A-Za-z_~+=-]*\d)[\w~+=-]{20,}"
"""A word that may be a token or code: long, and with a digit."""

Response = tuple[int, Mapping[str, str], bytes]
"""The status, headers and body of a complete response."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of an OAuth client, in seconds.

    Attributes:
        connect: Maximum time for connecting.
        total: Maximum time for a call, including its repetitions with older client secrets. It is long, since aborting a refresh while
            Zoom processes it would lose the new tokens.
        grace: Additional time after `total`. When a suspended process resumes, the timeout is due before the process has read a response
            that arrived in the meantime.
    """

    connect: float = 5.0
    total: float = 30.0
    grace: float = 1.0


class OAuthClient:
    """A client that builds authorization URLs, and exchanges, refreshes, and revokes tokens.

    It must be created in the event loop that uses it, and closed.

    Args:
        client_secrets: The client secrets, newest first. An older one is used if Zoom rejects a newer one.
        redirect_uri: The redirect URI exactly as registered with Zoom.
    """

    def __init__(
        self,
        *,
        oauth_url: str,
        client_id: str,
        client_secrets: Sequence[str],
        redirect_uri: str,
        user_agent: str,
        wall: Callable[[], float],
        timing: Timing = Timing(),
    ) -> None:
        self._base = oauth_url.rstrip("/")
        self._client_id = client_id
        self._secrets = tuple(client_secrets)
        self._redirect_uri = redirect_uri
        self._wall = wall
        self._timing = timing
        self._closed_at = math.inf
        self._session = open_session(
            self._base, user_agent, aiohttp.ClientTimeout(connect=timing.connect), force_close=True
        )

    def stop_after(self, seconds: float) -> None:
        """Start no call later than this, so that no call is aborted by the end of the process. A later call is reported as not sent."""
        self._closed_at = asyncio.get_running_loop().time() + seconds

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    def authorize_url(self, state: str, code_challenge: str) -> str:
        """Return the URL at which the user consents."""
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": self._redirect_uri,
                "state": state,
                "code_challenge": code_challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{self._base}/authorize?{query}"

    async def exchange_code(self, code: str, *, code_verifier: str | None) -> TokenOutcome:
        """Exchange an authorization code. Codes are single-use and expire after 5 minutes."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri}
        if code_verifier is not None:
            form["code_verifier"] = code_verifier
        return await self._token(form)

    async def refresh(self, refresh_token: str) -> TokenOutcome:
        """Exchange a refresh token for new tokens."""
        return await self._token({"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def revoke(self, token: str) -> RevokeOutcome:
        """Revoke an access or refresh token. A token that Zoom does not know is treated as revoked (RFC 7009, section 2.2)."""
        response = await self._send("revoke", {"token": token}, _is_app_rejected)
        return response if isinstance(response, NotSent | Unknown) else _classify_revocation(*response)

    async def _token(self, form: Mapping[str, str]) -> TokenOutcome:
        response = await self._send("token", form, _is_invalid_client)
        if isinstance(response, NotSent | Unknown):
            return response
        return classify(*response, wall=self._wall, form=form)

    async def _send(
        self, endpoint: str, form: Mapping[str, str], needs_older_secret: Callable[..., bool]
    ) -> Response | NotSent | Unknown:
        """Send a form, and send it again with an older secret after a response that requires this.

        The form is sent again only while at least half of the time is left, since aborting the request could lose the new tokens.
        """
        response: Response | NotSent | Unknown = NotSent("no client secret")
        clock = asyncio.get_running_loop().time
        started = clock()
        if started >= self._closed_at:
            return NotSent("the service is shutting down")
        try:
            async with self._limit():
                for secret in self._secrets:
                    if clock() - started > self._timing.total / 2:
                        return NotSent("too little time left for an older client secret")
                    response = await self._post(endpoint, form, secret)
                    if isinstance(response, NotSent | Unknown) or not needs_older_secret(*response):
                        break
        except TimeoutError as error:
            return Unknown(type(error).__name__)
        return response

    async def _post(
        self, endpoint: str, form: Mapping[str, str], secret: str
    ) -> Response | NotSent | Unknown:
        """Send a form and read the complete response."""
        if self._session.closed:  # a call may still be running after the drain timeout
            return NotSent("the client was closed")
        try:
            async with self._session.post(
                URL(f"{self._base}/{endpoint}", encoded=True),
                data=form,
                headers={"Authorization": _basic(self._client_id, secret)},
                allow_redirects=False,
            ) as response:
                body = await bounded_body.read(response, MAX_BODY_BYTES)
                return response.status, response.headers, body
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return NotSent(type(error).__name__)
        except (aiohttp.ClientError, TimeoutError, OSError, bounded_body.BodyTooLarge) as error:
            return Unknown(type(error).__name__)

    @contextlib.asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """Raise TimeoutError after the maximum time for a call and the grace period, which starts when the event loop is running."""
        loop, timing = asyncio.get_running_loop(), self._timing
        async with asyncio.timeout(None) as timeout:
            timer = loop.call_later(timing.total, lambda: timeout.reschedule(loop.time() + timing.grace))
            try:
                yield
            finally:
                timer.cancel()


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    wall: Callable[[], float],
    form: Mapping[str, str] | None = None,
) -> TokenOutcome:
    """Classify a complete response of the token endpoint. Never raises.

    Only the exact patterns that Zoom documents yield `Rejected` (https://developers.zoom.us/docs/integrations/oauth-error-messages/),
    except for authorization codes, whose rejection costs no connection.

    Args:
        form: The request.
    """
    if status == 429:
        return Throttled(response_headers.parse_retry_after(headers.get("Retry-After", ""), wall))
    response = _json_object(body)
    if status == 200:
        return Unknown("no JSON object") if response is None else _parse_issued(response)
    return _classify_error(status, response, form or {})


def _classify_error(
    status: int, response: Mapping[str, Any] | None, form: Mapping[str, str]
) -> Rejected | AppRejected | UnexplainedRejection | Unknown:
    """Classify an unsuccessful response. Only a JSON object with a 4xx status is treated as a rejection by Zoom."""
    if 300 <= status < 400:
        return AppRejected(f"redirect {status}")
    if not 400 <= status < 500 or status in (408, 499) or response is None:
        return Unknown(f"HTTP {status}")
    error, reason, code = _error_fields(response)
    text, name = _without_secrets(reason, form), code or error
    if error in _UNAVAILABLE_ERRORS:
        return Unknown(error)
    if code == _REDIRECT_URI_CODE or "redirect" in f"{error} {reason}".lower():
        return AppRejected(name, text, redirect_uri=True)
    if error in _APP_ERRORS or code in _APP_CODES:
        return AppRejected("invalid_client" if code in ("4702", "4704") else error or code, text)
    if status in (400, 401) and (
        error in _REJECTED_ERRORS
        or code in _REJECTED_CODES
        or reason.lower().startswith(_REJECTED_REASON)
        or ("code" in form and _CODE_REASON.search(reason))
    ):
        return Rejected(name, text)
    return UnexplainedRejection(name, text, status)


def _is_invalid_client(status: int, _: Mapping[str, str], body: bytes) -> bool:
    """Return whether a token request can be repeated. After other errors, the code or token may have been used."""
    return status != 429 and _classify_error(status, _json_object(body), {}) == AppRejected("invalid_client")


def _classify_revocation(status: int, _: Mapping[str, str], body: bytes) -> RevokeOutcome:
    error = None if status == 200 else _classify_error(status, _json_object(body), {})
    if error is None or isinstance(error, Rejected):
        return Revoked()
    return error if isinstance(error, AppRejected) else Unknown(f"HTTP {status}")


def _is_app_rejected(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether a revocation, which can be repeated without a risk, was rejected because of the app."""
    return isinstance(_classify_revocation(status, headers, body), AppRejected)


def _error_fields(response: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the OAuth error name, Zoom's reason, and Zoom's numeric code."""
    error = response.get("error")
    reason = response.get("reason") or response.get("message") or response.get("errorMessage")
    code = response.get("code", response.get("errorCode"))
    return (
        error if isinstance(error, str) else "",
        reason if isinstance(reason, str) else "",
        str(code) if isinstance(code, int | str) and not isinstance(code, bool) else "",
    )


def _without_secrets(reason: str, form: Mapping[str, str]) -> str:
    """Return Zoom's message without the values of the request, such as the code, and without anything that may be a token."""
    secrets = [re.escape(form[name]) for name in ("code", "code_verifier", "refresh_token") if form.get(name)]
    return sanitize(re.sub("|".join([*secrets, _TOKEN_LIKE]), "***", reason), MAX_MESSAGE)


def _parse_issued(response: Mapping[str, Any]) -> TokenOutcome:
    """Parse issued tokens. The `api_url` is ignored, because calls go to the configured API URL only."""
    access, refresh = response.get("access_token"), response.get("refresh_token")
    token_type, scope = response.get("token_type", "bearer"), response.get("scope", "")
    if not isinstance(access, str) or not is_token(access):
        return Unknown("no access token")
    if refresh is not None and refresh != "" and not is_token(refresh):
        return Unknown("an invalid refresh token")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        return BadResponse("not a bearer token")
    return Issued(
        access_token=access,
        refresh_token=refresh or None,
        scope=scope[:16_384] if isinstance(scope, str) else "",
        expires_in=_expires_in(response.get("expires_in")),
    )


def _basic(name: str, secret: str) -> str:
    return "Basic " + b64encode(f"{name}:{secret}".encode()).decode("ascii")


def _expires_in(value: object) -> float:
    """Limit the token lifetime; a missing or invalid value is treated as one hour, Zoom's usual lifetime."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return DEFAULT_EXPIRES_IN
    return float(min(max(value, MIN_EXPIRES_IN), MAX_EXPIRES_IN))


def _json_object(body: bytes) -> Mapping[str, Any] | None:
    try:
        response = tolerant_json.loads(body)
    except ValueError:
        return None
    return response if isinstance(response, dict) else None
