"""HTTP handlers of the consent pages."""

import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from zoomgate_server.authorization.browser_flow import BrowserFlow, BrowserView
from zoomgate_server.authorization.denial import reason_of
from zoomgate_server.errors import (
    CONNECTION_PENDING,
    AppCredentialsRejected,
    AuthorizationDeclined,
    AuthorizationRequestRefused,
    CodeRefused,
    IdentityMismatch,
    InvalidRequest,
    InvalidState,
    NotConnected,
    OtherUserConnected,
    ReauthRequired,
    RedirectUriRefused,
    ScopeMissing,
    TokenRequestRefused,
    ZoomBadResponse,
    ZoomgateError,
    ZoomUserAlreadyConnected,
)
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs, spans
from zoomgate_server.web.pages import OUTCOMES, Pages

MAX_PARAMETER = 2048
"""The maximum length of a query parameter in characters."""

FIRST_FAULT = 500
"""The first HTTP status that is a fault of the service."""

_COOKIE = "zoomgate-browser"
_COOKIE_SECONDS = 900
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_ERRORS: Mapping[type[Exception], str] = {
    InvalidRequest: "bad_request",
    IdentityMismatch: "other_user",
    OtherUserConnected: "other_user_connected",
    ZoomUserAlreadyConnected: "already_connected",
    CodeRefused: "code_refused",
    ReauthRequired: "code_refused",
    TokenRequestRefused: "code_refused",
    NotConnected: "disconnected",
    AuthorizationDeclined: "declined",
    AuthorizationRequestRefused: "misconfigured",
    AppCredentialsRejected: "misconfigured",
    RedirectUriRefused: "misconfigured",
    ScopeMissing: "misconfigured",
    ZoomBadResponse: "misconfigured",  # a retry would fail again
}
_SHOWN_WITH_VIEW = ("connected", "pending")
"""The outcomes whose pages are shown only to the browser of the user."""

_INVALID_STATES = {"OTHER_BROWSER": "other_browser", "USED": "link_used"}

_log = logs.get("zoomgate.web")


class ConsentPages:
    """Handlers of the `/oauth/` pages.

    Args:
        secure: Whether browsers use https. With https, the cookie is `Secure` with the `__Host-` prefix.
        browser_flow: Returns the authorization flow, or raises StoreUnavailable while the service is starting.
    """

    def __init__(
        self, pages: Pages, *, secure: bool, browser_flow: Callable[[], Awaitable[BrowserFlow]]
    ) -> None:
        self._pages = pages
        self._secure = secure
        self._browser_flow = browser_flow
        self._cookie = f"__Host-{_COOKIE}" if secure else _COOKIE

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes of the pages."""
        router.add_get("/oauth/start", self._start_page, allow_head=False)
        router.add_get("/oauth/continue", self._start_consent, allow_head=False)
        router.add_get("/oauth/callback", self._callback, allow_head=False)
        router.add_get("/oauth/result", self._result)

    async def _start_page(self, request: web.Request) -> web.StreamResponse:
        """Return the page that shows the app and the user. Nothing is changed yet."""
        ticket = _parameter(request, "ticket")
        pending = await (await self._browser_flow()).peek(ticket)
        continue_url = f"/oauth/continue?{urlencode({'ticket': ticket})}"
        return web.Response(
            text=self._pages.start(pending.user_email, pending.zoom_email, continue_url),
            content_type="text/html",
        )

    async def _start_consent(self, request: web.Request) -> web.StreamResponse:
        """Redirect the user to Zoom and set the cookie that binds the callback to this browser."""
        ticket = _parameter(request, "ticket")
        cookie = self._browser_cookie(request) or secrets.token_urlsafe(32)
        zoom_url = await (await self._browser_flow()).start(ticket, cookie)
        response = web.Response(status=303, headers={"Location": zoom_url})
        response.set_cookie(
            self._cookie, cookie, max_age=_COOKIE_SECONDS, secure=self._secure, httponly=True, samesite="Lax"
        )
        return response

    async def _callback(self, request: web.Request) -> web.StreamResponse:
        """Process Zoom's redirect, then redirect to a URL without the code to keep it out of the browser history."""
        state = _parameter(request, "state", required=False)
        code = _parameter(request, "code", required=False)
        error = _parameter(request, "error", required=False)
        if bool(code) == bool(error):
            return _redirect("bad_request")
        if not state:
            return self._without_state(request, error)
        try:
            result = await (await self._browser_flow()).callback(
                state, code, error, self._browser_cookie(request)
            )
        except (ZoomgateError, StoreError) as failure:
            _log.info("oauth.callback_failed", reason=type(failure).__name__)
            raise
        outcome = "connected"
        if result.failure is not None:
            outcome = _outcome(result.failure)
            fail_span(result.failure)
            _log.info("oauth.callback_failed", reason=type(result.failure).__name__, error=error[:64])
        if not result.return_url:
            if outcome in _SHOWN_WITH_VIEW and not result.view:
                outcome = "details_unavailable"
            return _redirect(outcome, result.view)
        parameters = {"outcome": outcome} | ({"ticket": result.ticket} if result.ticket else {})
        return _see_other(result.return_url, parameters)

    def _without_state(self, request: web.Request, error: str) -> web.StreamResponse:
        """Respond to a redirect from Zoom that belongs to no authorization, for example after the app was added in the Marketplace."""
        if not error:
            _log.info("oauth.app_added")
            return _redirect("app_added")
        reason = reason_of(error, request.query.get("error_description", ""))
        _log.info("oauth.callback_error", reason=reason)
        outcome = OUTCOMES["zoom_error"]
        page = self._pages.result(outcome, reason=reason)
        return web.Response(status=outcome.status, text=page, content_type="text/html")

    async def _result(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("outcome", "")
        cookie = self._browser_cookie(request)
        view = None
        if "view" in request.query and cookie:
            # on failure, the page is shown without user and scopes
            with contextlib.suppress(ZoomgateError, StoreError):
                view = await (await self._browser_flow()).result_view(_parameter(request, "view"), cookie)
        if name in _SHOWN_WITH_VIEW and view is None:
            name = "result_unavailable"
        elif name == "connected" and view is not None and view.scopes is None:
            name = "disconnected"
        elif name == "pending" and view is not None and view.is_new:
            name = "connected"
        outcome = OUTCOMES.get(name, OUTCOMES["bad_request"])
        view = view or BrowserView("", "")
        scopes = view.scopes or () if name == "connected" else ()
        page = self._pages.result(outcome, view.user_email, view.zoom_email, scopes)
        return web.Response(status=outcome.status, text=page, content_type="text/html")

    def _browser_cookie(self, request: web.Request) -> str:
        """Return the browser's cookie, or an empty string if it is missing or malformed."""
        value = request.cookies.get(self._cookie, "")
        return value if _COOKIE_VALUE.fullmatch(value) else ""


def error_response(error: Exception) -> web.Response:
    """Return a redirect to the result page for an error."""
    return _redirect(_outcome(error))


def fail_span(error: Exception) -> None:
    """Record an error in the span of the request. It is a fault of the service if the result page has a 5xx status."""
    is_fault = OUTCOMES[_outcome(error)].status >= FIRST_FAULT
    spans.current_span.get().fail(type(error).__name__, is_fault=is_fault)


def _parameter(request: web.Request, name: str, *, required: bool = True) -> str:
    """Return a query parameter. Reject repeated and long values, and an absent or empty one if it is required."""
    values = request.query.getall(name, [])
    if not required and values in ([], [""]):
        return ""
    if len(values) != 1 or not 0 < len(values[0]) <= MAX_PARAMETER:
        raise InvalidRequest.of(name, f"must be sent once, with 1 to {MAX_PARAMETER} characters")
    return values[0]


def _outcome(error: Exception) -> str:
    """Return the result page for an error."""
    if isinstance(error, InvalidState):
        return _INVALID_STATES.get(error.metadata.get("cause", ""), "link_expired")
    is_pending = isinstance(error, ZoomgateError) and CONNECTION_PENDING.items() <= error.metadata.items()
    return _ERRORS.get(type(error), "pending" if is_pending else "try_later")


def _redirect(outcome: str, view: str = "") -> web.Response:
    """Return a redirect to the result page of an outcome."""
    return _see_other("/oauth/result", {"outcome": outcome} | ({"view": view} if view else {}))


def _see_other(url: str, parameters: Mapping[str, str]) -> web.Response:
    """Return a redirect to a URL with additional query parameters."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(parameters))))
    return web.Response(status=303, headers={"Location": parts._replace(query=query).geturl()})
