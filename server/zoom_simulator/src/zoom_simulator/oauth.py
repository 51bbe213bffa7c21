"""The OAuth endpoints: authorize, token and revoke."""

import hmac
from base64 import b64decode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from zoom_simulator import consent_page, pages
from zoom_simulator.errors import TokenError
from zoom_simulator.options import LOOPBACK_REDIRECTS, SimulatedUser
from zoom_simulator.request_log import log_reason
from zoom_simulator.state import UnknownUser, ZoomState

_NONCE_COOKIE = "simulator-consent"
_HIDDEN_FIELDS = frozenset(
    {"client_id", "redirect_uri", "response_type", "state", "code_challenge", "code_challenge_method"}
)
"""Query parameters that the consent form submits unchanged. The parameter `user` is excluded, because the user is selected on the page."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OAuthEndpoints:
    """Handlers of `/oauth/…`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Return the consent page, or an error for an invalid authorization URL."""
        if violation := self.violation(request.query):
            return _error_response(*violation)
        nonce = self._state.random.text(16)
        hidden = {name: value for name, value in request.query.items() if name in _HIDDEN_FIELDS} | {
            "nonce": nonce
        }
        options = self._state.options
        page = consent_page.page(list(self._state.users.values()), options.scopes, hidden, options.client_id)
        log_reason("returned the consent page")
        response = web.Response(text=page, content_type="text/html", headers=pages.SECURITY_HEADERS)
        response.set_cookie(_NONCE_COOKIE, nonce, max_age=900, httponly=True, samesite="Strict")
        return response

    async def submit_consent(self, request: web.Request) -> web.StreamResponse:
        """Process the submitted consent form and redirect to the app."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not hmac.compare_digest(form.get("nonce", ""), request.cookies.get(_NONCE_COOKIE, "-")):
            return _error_response(
                4700,
                "The consent page was not opened in this browser",
                "the form was not submitted from this browser's consent page: the nonce does not match the cookie",
            )
        if violation := self.violation(form):
            return _error_response(*violation)
        if form.get("decision") != "allow":
            log_reason("consent declined: the browser is redirected with access_denied")
            return web.Response(status=302, headers={"Location": redirect_url(form, error="access_denied")})
        try:
            user = self._state.user(form.get("user", ""))
        except UnknownUser:
            return _error_response(4700, "Unknown user", "the selected account does not exist")
        return web.Response(status=302, headers={"Location": self.consent(user, form)})

    def consent(self, user: SimulatedUser, form: dict[str, str]) -> str:
        """Record a consent, and return the redirect URL with the authorization code."""
        log_reason("consent granted: the browser is redirected to the app with a code", user=user.email)
        self._state.counters["oauth.consents"] += 1
        code = self._state.issue_code(
            user,
            form["redirect_uri"],
            challenge=form.get("code_challenge", ""),
            challenge_method=form.get("code_challenge_method", ""),
        )
        return redirect_url(form, code=code)

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Exchange an authorization code or a refresh token."""
        form = await _parameters(request)
        grant_type = form.get("grant_type", "")
        try:
            self._authenticate(request)
            issued = self._issue_tokens(grant_type, form)
        except TokenError as error:
            self._state.counters[f"token.{grant_type or 'none'}.refused"] += 1
            return error.response()
        self._state.counters[f"token.{grant_type}.issued"] += 1
        return web.json_response(issued, headers={"Cache-Control": "no-store"})

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Revoke a token. Revoking an unknown token also succeeds."""
        form = await _parameters(request)
        try:
            self._authenticate(request)
        except TokenError as error:
            return error.response()
        known = self._state.revoke(form.get("token", ""))
        self._state.counters["revoke.known" if known else "revoke.unknown"] += 1
        return web.json_response({"status": "success"})

    def _issue_tokens(self, grant_type: str, form: dict[str, str]) -> dict[str, Any]:
        match grant_type:
            case "authorization_code":
                return self._state.exchange(
                    form.get("code", ""), form.get("redirect_uri", ""), form.get("code_verifier", "")
                )
            case "refresh_token":
                return self._state.refresh(form.get("refresh_token", ""))
            case "":
                raise TokenError("grant_type is missing; use authorization_code or refresh_token", 4706)
            case _:
                raise TokenError("grant_type is neither authorization_code nor refresh_token", 4705)

    def _authenticate(self, request: web.Request) -> None:
        """Check the app's credentials; only HTTP Basic is accepted."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            client_id, _, secret = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            client_id = secret = ""
        options = self._state.options
        if scheme.lower() != "basic" or client_id != options.client_id:
            raise TokenError(f"no HTTP Basic credentials for client ID {options.client_id}", 4702)
        if not hmac.compare_digest(secret.encode(), options.client_secret.encode()):
            raise TokenError("wrong client secret", 4704)

    def violation(self, query: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Return Zoom's error code and message, and the reason, if an authorization request is invalid."""
        if query.get("client_id") != self._state.options.client_id:
            return 4702, "Invalid client_id", f"client_id is not {self._state.options.client_id}"
        if not self._redirect_allowed(query.get("redirect_uri", "")):
            return 4700, "Invalid redirect url", "redirect_uri is not registered"
        if query.get("response_type") != "code":
            return 4700, "Invalid response type", "response_type is not code"
        return None

    def _redirect_allowed(self, uri: str) -> bool:
        allowed = self._state.options.redirect_uris
        if uri in allowed:
            return True
        try:
            parts = urlsplit(uri)
        except ValueError:
            return False
        return LOOPBACK_REDIRECTS in allowed and parts.scheme == "http" and parts.hostname in _LOOPBACK


async def _parameters(request: web.Request) -> dict[str, str]:
    """Return the parameters in the query and in the form of a token request; Zoom accepts both."""
    return {**request.query, **{name: str(value) for name, value in (await request.post()).items()}}


def redirect_url(form: dict[str, str], **result: str) -> str:
    """Return the app's redirect URI with the result of a consent in its query."""
    if form.get("state"):
        result["state"] = form["state"]
    uri = form["redirect_uri"]
    return f"{uri}{'&' if urlsplit(uri).query else '?'}{urlencode(result)}"


def _error_response(code: int, message: str, reason: str) -> web.Response:
    """Return the error that, as in Zoom, the browser shows instead of a redirect to the app."""
    log_reason(reason)
    body = {"status": False, "errorCode": code, "errorMessage": message, "result": None}
    return web.json_response(body, status=400)
