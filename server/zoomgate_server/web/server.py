"""The HTTP server: consent in the browser, health, metrics."""

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from zoomgate_server.authorization.flow import Authorizations
from zoomgate_server.errors import (
    AppCredentialsRejected,
    CodeRefused,
    IdentityMismatch,
    InvalidState,
    StoreUnavailable,
    ZoomBadResponse,
    ZoomgateError,
)
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.web.pages import OUTCOMES, Pages
from zoomgate_server.web.webhook_endpoint import handle as answer_webhook
from zoomgate_server.webhooks.receiver import PATH as WEBHOOKS
from zoomgate_server.webhooks.receiver import WebhookReceiver

MAX_REQUEST_LINE = 8 * 1024
"""Bytes of a request line; codes and states together need far less."""

MAX_PARAMETER = 2048
"""Characters of one query parameter."""

OPEN_SECONDS = 10.0
"""How long pages about consents wait for a service that is starting: a code that Zoom sends back comes once."""

_COOKIE = "zoomgate-browser"
_COOKIE_SECONDS = 900
_HSTS = "max-age=31536000"
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_ERRORS = (
    (InvalidState, "link_expired"),
    (IdentityMismatch, "other_user"),
    (CodeRefused, "code_refused"),
    (AppCredentialsRejected, "misconfigured"),
    (ZoomBadResponse, "misconfigured"),  # a scope is missing most often; to try again does not help
)
_INVALID_STATES = {"OTHER_BROWSER": "other_browser", "USED": "link_used"}
_DENIALS = {
    "server_error": "try_later",
    "temporarily_unavailable": "try_later",
    "invalid_request": "misconfigured",
    "invalid_scope": "misconfigured",
    "unauthorized_client": "misconfigured",
    "unsupported_response_type": "misconfigured",
}
"""What an `error` at the callback is told as (RFC 6749, section 4.1.2.1); any other is that the person declined."""

_log = logs.get("zoomgate.web")


class _Malformed(logging.Filter):
    """Keeps what is no HTTP out of the log: it is its sender's mistake, and anybody may send as much of it as he likes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line of aiohttp's is about anything else."""
        if record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError):
            return True
        _log.debug("http.malformed", problem=type(record.exc_info[1]).__name__)
        return False


_server_log = logging.getLogger("aiohttp.server.zoomgate")
_server_log.addFilter(_Malformed())


class WebServer:
    """Serves what browsers open and Zoom calls: the `/oauth/` pages, `/healthz`, `/readyz`, `/metrics`, `/webhooks/zoom`.

    It may start before the store is there: `/healthz` answers from then on, and `/readyz` says what is waited for.

    Args:
        metrics: What `/metrics` shows; requests are counted there too.
        pages: What people see.
        hears_events: Whether there is a secret for Zoom's events; else their path is unknown.
        secure: Whether browsers come over https: the cookie then is `Secure` and has the `__Host-` prefix, and browsers are told to stay
            with https (HSTS).
        trusted_proxies: Networks of the proxies in front. Where there are any, pages are for browsers that come through them, and metrics
            for those who do not.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        pages: Pages,
        hears_events: bool,
        secure: bool,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._metrics = metrics
        self._pages = pages
        self._hears_events = hears_events
        self._secure = secure
        self._authorizations: Authorizations | None = None
        self._webhooks: WebhookReceiver | None = None
        self._before_metrics: Callable[[], Awaitable[None]] | None = None
        self._opened = asyncio.Event()
        self._not_ready = "store"
        self._proxies = tuple(trusted_proxies)
        self._cookie = f"__Host-{_COOKIE}" if secure else _COOKIE
        self._runner: web.AppRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a bound socket."""
        app = web.Application(middlewares=[self._middleware], client_max_size=64 * 1024)
        app.router.add_get("/oauth/start", self._start_page, allow_head=False)
        app.router.add_get("/oauth/continue", self._start_consent, allow_head=False)
        app.router.add_get("/oauth/callback", self._callback, allow_head=False)
        app.router.add_get("/oauth/result", self._result)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render_metrics)
        if self._hears_events:
            app.router.add_post(WEBHOOKS, self._webhook)
        runner = web.AppRunner(
            app,
            access_log=None,  # its request lines would have codes in them
            logger=_server_log,
            handle_signals=False,
            max_line_size=MAX_REQUEST_LINE,
            max_field_size=MAX_REQUEST_LINE,
            shutdown_timeout=5.0,
            auto_decompress=False,  # a few bytes may stand for very many, and signatures are of what was sent
            lingering_time=0.0,  # else a body that was refused is read on, as fast as it comes
        )
        await runner.setup()
        self._runner = runner
        await web.SockSite(runner, listener).start()

    def open(
        self,
        authorizations: Authorizations,
        webhooks: WebhookReceiver,
        before_metrics: Callable[[], Awaitable[None]],
    ) -> None:
        """Serve pages about consents, and take Zoom's events, from now on.

        Args:
            authorizations: Begins and completes.
            webhooks: Takes events.
            before_metrics: Brings up to date what is not counted as it happens.
        """
        self._authorizations = authorizations
        self._webhooks = webhooks
        self._before_metrics = before_metrics
        self._opened.set()

    def set_ready(self, why_not: str = "") -> None:
        """Let `/readyz` say that calls can be served, or why not: one word."""
        self._not_ready = why_not

    async def stop(self) -> None:
        """Finish what is being served and stop listening. Idempotent."""
        self._opened.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Count, log without the query, add the security headers, and let no exception text out."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        try:
            response = self._reject_by_path(request) or await handler(request)
        except web.HTTPException as answer:
            allowed = {"Allow": answer.headers["Allow"]} if "Allow" in answer.headers else None
            response = web.Response(status=answer.status, text=answer.reason, headers=allowed)
        except Exception:  # noqa: BLE001 - the last resort; the text goes to the log alone
            _log.exception("http.failed", route=route)
            # Zoom repeats an event after 5xx, and after nothing else
            response = web.Response(status=500) if route == WEBHOOKS else _redirect("try_later")
        response.headers.update(self._pages.headers)
        if self._secure:
            response.headers["Strict-Transport-Security"] = _HSTS
        self._metrics.http_request(route, response.status)
        _log.debug(
            "http.request",
            method=request.method,
            route=route,
            status=response.status,
            client=self._client(request),
        )
        return response

    def _reject_by_path(self, request: web.Request) -> web.Response | None:
        """Refuse pages around the proxies, over plain http through them, and metrics through them; None if all is well."""
        if not self._proxies:
            return None
        proxied = self._is_proxy(request.remote)
        if not request.path.startswith("/oauth/"):
            return web.Response(status=404) if proxied and request.path == "/metrics" else None
        if not proxied:
            _log.warning("http.proxy_bypassed", client=request.remote)
            return web.Response(status=403, text="This page is served through its proxy only.\n")
        # every proxy on the way may have added one, and so may the browser
        schemes = ",".join(request.headers.getall("X-Forwarded-Proto", ["https"])).lower().split(",")
        if self._secure and any(scheme.strip() != "https" for scheme in schemes):
            _log.warning("http.insecure_forwarded_request")
            return web.Response(status=403, text="This page is served over https only.\n")
        return None

    def _client(self, request: web.Request) -> str:
        """Say where a request comes from: the last address in the chain that is no proxy of ours."""
        chain = [part.strip() for part in ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")]
        client = request.remote or ""
        while self._is_proxy(client) and chain and chain[-1]:
            client = chain.pop()
        return client[:64]

    def _is_proxy(self, address: str | None) -> bool:
        try:
            found = ip_address(address or "")
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None) or found
        return any(mapped in network for network in self._proxies)

    async def _start_page(self, request: web.Request) -> web.StreamResponse:
        """Say who asks for whose account, before anything happens."""
        ticket = _single(request, "ticket")
        if not ticket:
            return _redirect("bad_request")
        try:
            user_email = await (await self._when_open()).peek_user(ticket)
        except ZoomgateError as error:
            return _redirect(_outcome(error))
        way = f"/oauth/continue?{urlencode({'ticket': ticket})}"
        return web.Response(text=self._pages.start(user_email, way), content_type="text/html")

    async def _start_consent(self, request: web.Request) -> web.StreamResponse:
        """Send the person on to Zoom, with a cookie that ties what comes back to this browser."""
        ticket = _single(request, "ticket")
        if not ticket:
            return _redirect("bad_request")
        cookie = self._browser_cookie(request) or secrets.token_urlsafe(32)
        try:
            start = await (await self._when_open()).start_in_browser(ticket, cookie)
        except ZoomgateError as error:
            return _redirect(_outcome(error))
        response = web.Response(status=303, headers={"Location": start.zoom_url})
        response.set_cookie(
            self._cookie,
            cookie,
            max_age=_COOKIE_SECONDS,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="Lax",
        )
        return response

    async def _callback(self, request: web.Request) -> web.StreamResponse:
        """Take what Zoom sends back, then go to a clean address, so that no code stays in the history."""
        state = _single(request, "state")
        code = _single(request, "code", required=False)
        error = _single(request, "error", required=False)
        if state is None or code is None or error is None or bool(code) == bool(error):
            return _redirect("bad_request")
        try:
            done = await (await self._when_open()).callback(state, code, self._browser_cookie(request))
        except ZoomgateError as failure:
            _log.info("oauth.callback_failed", reason=type(failure).__name__)
            return _redirect(_outcome(failure))
        if done.failure is not None:
            _log.info("oauth.callback_failed", reason=type(done.failure).__name__)
            outcome = _DENIALS.get(error, "declined") if error else _outcome(done.failure)
            return _redirect(outcome, done.view)
        if done.location is not None:
            return web.Response(status=303, headers={"Location": done.location})
        return _redirect("connected", done.view)

    async def _result(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("outcome", "")
        outcome = OUTCOMES.get(name, OUTCOMES["bad_request"])
        view, cookie = _single(request, "view"), self._browser_cookie(request)
        user_email, scopes = "", tuple[str, ...]()
        if view and cookie:
            try:
                shown = await (await self._when_open()).result_view(view, cookie)
                user_email, scopes = shown.user_email, shown.scopes if name == "connected" else ()
            except ZoomgateError:
                pass  # the page says less then
        page = self._pages.result(outcome, user_email, scopes)
        return web.Response(status=outcome.status, text=page, content_type="text/html")

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        if self._webhooks is None:
            return web.Response(status=503)  # Zoom comes again
        return await answer_webhook(self._webhooks, request, self._client(request))

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        if self._not_ready:
            return web.Response(status=503, text=f"not ready: {self._not_ready}\n")
        return web.Response(text="ready\n")

    async def _render_metrics(self, _request: web.Request) -> web.StreamResponse:
        if self._before_metrics is not None:
            await self._before_metrics()
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _when_open(self) -> Authorizations:
        """Give what begins and completes consents.

        Raises:
            StoreUnavailable: The service is not that far yet.
        """
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._opened.wait()
        except TimeoutError:
            pass  # told below
        if self._authorizations is None:
            raise StoreUnavailable("Zoomgate is starting: try again in a moment")
        return self._authorizations

    def _browser_cookie(self, request: web.Request) -> str:
        """Give this browser's cookie, or an empty string if it has none of ours."""
        value = request.cookies.get(self._cookie, "")
        return value if _COOKIE_VALUE.fullmatch(value) else ""


def _single(request: web.Request, name: str, *, required: bool = True) -> str | None:
    """Give a query parameter that appears at most once and is not too long; None if it breaks a rule, empty if it is absent."""
    values = request.query.getall(name, [])
    if not values and not required:
        return ""
    if len(values) != 1 or not values[0] or len(values[0]) > MAX_PARAMETER:
        return None
    return values[0]


def _outcome(error: ZoomgateError) -> str:
    if isinstance(error, InvalidState) and error.metadata.get("cause") in _INVALID_STATES:
        return _INVALID_STATES[error.metadata["cause"]]
    return next((name for kind, name in _ERRORS if isinstance(error, kind)), "try_later")


def _redirect(outcome: str, view: str = "") -> web.Response:
    """Go to the page of an outcome."""
    query = {"outcome": outcome} | ({"view": view} if view else {})
    return web.Response(status=303, headers={"Location": f"/oauth/result?{urlencode(query)}"})
