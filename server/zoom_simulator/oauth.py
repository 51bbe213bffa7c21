"""The OAuth endpoints: authorize, token, revoke."""

import hmac
from base64 import b64decode
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from zoom_simulator import consent_page, pages
from zoom_simulator.options import LOOPBACK_REDIRECTS, SimulatedUser
from zoom_simulator.request_log import because
from zoom_simulator.state import TokenRefused, ZoomState

_NONCE_COOKIE = "simulator-consent"
_CARRIED = frozenset(
    {"client_id", "redirect_uri", "response_type", "state", "code_challenge", "code_challenge_method"}
)
"""What the consent page carries over from its address; who consents is chosen on the page."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OAuthEndpoints:
    """Serves `/oauth/…`.

    Args:
        state: What the simulated Zoom knows.
    """

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Show the consent page, or what is wrong with the address."""
        problem = self._problem(dict(request.query))
        if problem is not None:
            return problem
        nonce = self._state.random.text(16)
        hidden = {name: value for name, value in request.query.items() if name in _CARRIED} | {"nonce": nonce}
        options = self._state.options
        page = consent_page.page(list(self._state.users.values()), options.scopes, hidden, options.client_id)
        because("showed the consent page")
        response = web.Response(text=page, content_type="text/html", headers=pages.SECURITY_HEADERS)
        response.set_cookie(_NONCE_COOKIE, nonce, max_age=900, httponly=True, samesite="Strict")
        return response

    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Take the decision and go back to the app."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not hmac.compare_digest(form.get("nonce", ""), request.cookies.get(_NONCE_COOKIE, "-")):
            because("the form does not come from the consent page of this browser: its cookie does not fit")
            return _failure(4700, "This consent page is not from this browser")
        problem = self._problem(form)
        if problem is not None:
            return problem
        if form.get("decision") != "allow":
            because("consent was declined: the browser goes back with access_denied")
            return web.Response(status=302, headers={"Location": with_query(form, error="access_denied")})
        user = self._state.users.get(form.get("user", ""))
        if user is None:
            because("nobody has the account that was chosen")
            return _failure(4700, "Unknown user")
        return web.Response(status=302, headers={"Location": self.consent(user, form)})

    def consent(self, user: SimulatedUser, form: dict[str, str]) -> str:
        """Record a consent and give the address that the browser goes to."""
        because("consented: the browser goes back to the app with a code", user=user.email)
        self._state.counters["oauth.consents"] += 1
        code = self._state.issue_code(
            user,
            form["redirect_uri"],
            challenge=form.get("code_challenge", ""),
            challenge_method=form.get("code_challenge_method", ""),
        )
        return with_query(form, code=code)

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Exchange a code or rotate a refresh token."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        grant_type = form.get("grant_type", "")
        try:
            self._authenticate(request)
            answer = self._answer(grant_type, form)
        except TokenRefused as refused:
            self._state.counters[f"token.{grant_type or 'none'}.refused"] += 1
            return web.json_response(refused.body, status=refused.status)
        self._state.counters[f"token.{grant_type}.issued"] += 1
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """End a token; an unknown one is as good as ended."""
        form = await request.post()
        try:
            self._authenticate(request)
        except TokenRefused as refused:
            return web.json_response(refused.body, status=refused.status)
        known = self._state.revoke(str(form.get("token", "")))
        self._state.counters["revoke.known" if known else "revoke.unknown"] += 1
        return web.json_response({"status": "success"})

    def _answer(self, grant_type: str, form: dict[str, str]) -> dict[str, Any]:
        match grant_type:
            case "authorization_code":
                return self._state.exchange(
                    form.get("code", ""), form.get("redirect_uri", ""), form.get("code_verifier", "")
                )
            case "refresh_token":
                return self._state.refresh(form.get("refresh_token", ""))
            case "":
                because("grant_type is missing: write authorization_code or refresh_token")
                raise TokenRefused(400, "invalid_request", "Missing grant type", 4706)
            case _:
                because("grant_type is neither authorization_code nor refresh_token")
                raise TokenRefused(400, "unsupported_grant_type", "Unsupported grant type", 4705)

    def _authenticate(self, request: web.Request) -> None:
        """Check the app's credentials, which come by HTTP Basic alone."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            client_id, _, secret = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            client_id = secret = ""
        options = self._state.options
        if scheme.lower() != "basic" or client_id != options.client_id:
            because(f"the app did not authenticate by HTTP Basic as client id {options.client_id}")
            raise TokenRefused(400, "invalid_client", "Invalid client_id or client_secret", 4702)
        if not hmac.compare_digest(secret.encode(), options.client_secret.encode()):
            because("client secret is wrong")
            raise TokenRefused(400, "invalid_client", "Invalid client_id or client_secret", 4704)

    def _problem(self, query: dict[str, str]) -> web.Response | None:
        """Say what is wrong with an authorization request, as Zoom does: without going back to the app."""
        if query.get("client_id") != self._state.options.client_id:
            because(f"client_id is not {self._state.options.client_id}")
            return _failure(4702, "Invalid client_id")
        if not self.redirect_allowed(query.get("redirect_uri", "")):
            because("redirect_uri is not registered")
            return _failure(4700, "Invalid redirect url")
        if query.get("response_type") != "code":
            because("response_type is not code")
            return _failure(4700, "Invalid response type")
        return None

    def redirect_allowed(self, uri: str) -> bool:
        """Tell whether an address is registered."""
        allowed = self._state.options.redirect_uris
        if uri in allowed:
            return True
        try:
            parts = urlsplit(uri)
        except ValueError:
            return False
        return LOOPBACK_REDIRECTS in allowed and parts.scheme == "http" and parts.hostname in _LOOPBACK


def with_query(form: dict[str, str], **result: str) -> str:
    """Give the address of the app with the result of a consent."""
    if form.get("state"):
        result["state"] = form["state"]
    uri = form["redirect_uri"]
    return f"{uri}{'&' if urlsplit(uri).query else '?'}{urlencode(result)}"


def _failure(code: int, message: str) -> web.Response:
    body = {"status": False, "errorCode": code, "errorMessage": message, "result": None}
    return web.json_response(body, status=400)
