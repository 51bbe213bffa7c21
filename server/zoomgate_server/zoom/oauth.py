"""Zoom's OAuth endpoints.

Token requests go over connections that are used once: a kept-alive one that dies would look the same as an answer that was lost. What
came back is classified only by a fully read answer, since HTTP clients make up a status for line noise.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson
from yarl import URL

from zoomgate_server.zoom import bounded_body, retry_after
from zoomgate_server.zoom.resolver import PublicResolver, is_loopback_host
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    BadResponse,
    Issued,
    NotSent,
    Rejected,
    Revoked,
    RevokeOutcome,
    Throttled,
    TokenOutcome,
    Unknown,
)

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 30.0
"""Long on purpose: to give up on a refresh that Zoom processes is to lose its answer."""

MAX_BODY_BYTES = 64 * 1024
MAX_TOKEN = 8 * 1024
MIN_EXPIRES_IN = 60.0
MAX_EXPIRES_IN = 86_400.0
DEFAULT_EXPIRES_IN = 3600.0

ZOOM_API_HOSTS = frozenset(
    {"api.zoom.us", *(f"api-{region}.zoom.us" for region in ("us", "au", "ca", "eu", "in", "sa", "sg", "uk"))}
)
"""Hosts that a token answer may name (https://developers.zoom.us/changelog/platform/regional-cluster-api-url-updates/)."""

_OUR_ERRORS = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
_OUR_CODES = frozenset({"4702", "4704", "4705", "4706", "4709", "4717"})
_REFUSED_ERRORS = frozenset({"invalid_grant"})
_REFUSED_CODES = frozenset({"4711", "4733", "4734", "4735", "4737", "4738", "4740", "4741"})
_REFUSED_REASON = "invalid token"


class OAuthClient:
    """Sends people to Zoom and exchanges what they bring back.

    Args:
        oauth_url: Base address, such as `https://zoom.us/oauth`.
        api_url: The configured API address; a token answer may name it.
        client_id: The Zoom app.
        client_secrets: Its secrets, newest first: an older one is tried when Zoom refuses a newer one.
        redirect_uri: Exactly what is registered at Zoom.
        user_agent: Names this service to Zoom.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        *,
        oauth_url: str,
        api_url: str,
        client_id: str,
        client_secrets: Sequence[str],
        redirect_uri: str,
        user_agent: str,
        wall: Callable[[], float],
    ) -> None:
        self._base = oauth_url.rstrip("/")
        self._api_origin = _origin(api_url)
        self._client_id = client_id
        self._secrets = tuple(client_secrets)
        self._redirect_uri = redirect_uri
        self._user_agent = user_agent
        self._wall = wall
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the session."""
        loopback = is_loopback_host(urlsplit(self._base).hostname or "")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                force_close=True, limit=0, resolver=None if loopback else PublicResolver()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self._user_agent,
                "Accept": "application/json",
                "Accept-Encoding": bounded_body.ACCEPT_ENCODING,
            },
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def authorize_url(self, state: str, code_challenge: str) -> str:
        """Give the address at which the person consents."""
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
        """Exchange an authorization code, which works once and for 5 minutes."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri}
        if code_verifier is not None:
            form["code_verifier"] = code_verifier
        return await self._token(form)

    async def refresh(self, refresh_token: str) -> TokenOutcome:
        """Spend a refresh token.

        What Zoom issues for it counts even with a foreign address, which nothing follows: the old one is spent.
        """
        outcome = await self._token({"grant_type": "refresh_token", "refresh_token": refresh_token})
        if isinstance(outcome, BadResponse) and outcome.issued is not None:
            return outcome.issued
        return outcome

    async def revoke(self, token: str) -> RevokeOutcome:
        """Revoke an access or refresh token. A token that Zoom does not know is revoked (RFC 7009, section 2.2)."""
        outcome: RevokeOutcome = AppRejected("no client secret")
        for secret in self._secrets:
            answer = await self._post("revoke", {"token": token}, secret)
            if isinstance(answer, NotSent | Unknown):
                return answer
            status, _, body = answer
            verdict = None if status == 200 else _verdict(status, _object(body))
            if verdict is None or isinstance(verdict, Rejected):
                return Revoked()
            if not isinstance(verdict, AppRejected):
                return Unknown(f"HTTP {status}")
            outcome = verdict
        return outcome

    async def _token(self, form: Mapping[str, str]) -> TokenOutcome:
        outcome: TokenOutcome = AppRejected("no client secret")
        for secret in self._secrets:
            answer = await self._post("token", form, secret)
            if isinstance(answer, NotSent | Unknown):
                return answer
            status, headers, body = answer
            outcome = classify(status, headers, body, api_origin=self._api_origin, wall=self._wall)
            if not isinstance(outcome, AppRejected) or outcome.code != "invalid_client":
                return outcome  # else nothing was spent, and an older secret may still be the right one
        return outcome

    async def _post(
        self, endpoint: str, form: Mapping[str, str], secret: str
    ) -> tuple[int, Mapping[str, str], bytes] | NotSent | Unknown:
        """Send a form and read the whole answer."""
        if self._session is None:
            raise RuntimeError("the client is not started")
        if self._session.closed:  # somebody who was not waited for any longer goes on while the process ends
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


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    api_origin: str,
    wall: Callable[[], float],
) -> TokenOutcome:
    """Say what a complete answer of the token endpoint means. Total: it never raises.

    Only the exact patterns that Zoom documents give `Refused` (https://developers.zoom.us/docs/integrations/oauth-error-messages/).
    """
    if status == 429:
        return Throttled(retry_after.parse(headers.get("Retry-After", ""), wall))
    answer = _object(body)
    if status == 200:
        return Unknown("no JSON object") if answer is None else _issued(answer, api_origin)
    return _verdict(status, answer)


def _verdict(status: int, answer: Mapping[str, Any] | None) -> Rejected | AppRejected | Throttled | Unknown:
    """Say what an answer that is no success means. Only a JSON object with a 4xx is Zoom's own word about the request."""
    if 300 <= status < 400:
        return AppRejected(f"redirect {status}")
    if not 400 <= status < 500 or answer is None:
        return Unknown(f"HTTP {status}")
    error, reason, code = _texts(answer)
    if error in _OUR_ERRORS or code in _OUR_CODES:
        return AppRejected("invalid_client" if code in ("4702", "4704") else error or code)
    if status in (400, 401) and (
        error in _REFUSED_ERRORS or code in _REFUSED_CODES or reason.lower().startswith(_REFUSED_REASON)
    ):
        return Rejected(code or error, reason[:200])
    return Throttled(retry_after.DEFAULT_SECONDS)


def _texts(answer: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give OAuth's error, Zoom's reason and Zoom's numeric code."""
    error, reason = (
        answer.get("error"),
        answer.get("reason") or answer.get("message") or answer.get("errorMessage"),
    )
    code = answer.get("code", answer.get("errorCode"))
    return (
        error if isinstance(error, str) else "",
        reason if isinstance(reason, str) else "",
        str(code) if isinstance(code, int | str) and not isinstance(code, bool) else "",
    )


def _issued(answer: Mapping[str, Any], api_origin: str) -> TokenOutcome:
    access, refresh = answer.get("access_token"), answer.get("refresh_token")
    kind, scope, api_url = (
        answer.get("token_type", "bearer"),
        answer.get("scope", ""),
        answer.get("api_url", ""),
    )
    if not isinstance(access, str) or not is_token(access):
        return Unknown("no access token")
    if refresh is not None and refresh != "" and not is_token(refresh):
        return Unknown("a refresh token that is none")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return BadResponse("not a bearer token")
    issued = Issued(
        access_token=access,
        refresh_token=refresh or None,
        token_type="bearer",
        scope=scope[:16_384] if isinstance(scope, str) else "",
        api_url="",
        expires_in=_expires_in(answer.get("expires_in")),
    )
    if not isinstance(api_url, str) or not _is_known_api(api_url, api_origin):
        return BadResponse("a foreign api_url", issued)
    return replace(issued, api_url=api_url)


def is_token(value: object) -> bool:
    """Tell whether something may be a token: 1 to 8,192 visible ASCII characters."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_TOKEN
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _is_known_api(api_url: str, api_origin: str) -> bool:
    if not api_url:
        return True
    try:
        parts = urlsplit(api_url)
        return _origin(api_url) == api_origin or (
            parts.scheme == "https" and parts.netloc in ZOOM_API_HOSTS and parts.path in ("", "/")
        )
    except ValueError:
        return False


def _basic(name: str, secret: str) -> str:
    return "Basic " + b64encode(f"{name}:{secret}".encode()).decode("ascii")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _expires_in(value: object) -> float:
    """Clamp the lifetime: an answer without a usable one counts as Zoom's usual hour."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DEFAULT_EXPIRES_IN
    return float(min(max(value, MIN_EXPIRES_IN), MAX_EXPIRES_IN))


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None
