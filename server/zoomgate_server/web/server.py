"""HTTP server for the consent pages, webhooks, health checks and metrics."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from zoomgate_server import build_info
from zoomgate_server.authorization.browser_flow import BrowserFlow
from zoomgate_server.errors import StoreUnavailable, ZoomgateError
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import background_tasks, logs, spans
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.web import consent_pages, webhook_endpoint
from zoomgate_server.web.pages import Pages
from zoomgate_server.webhooks.receiver import PATH as WEBHOOKS
from zoomgate_server.webhooks.receiver import WebhookReceiver

MAX_REQUEST_LINE = 8 * 1024
"""The maximum size of a request line in bytes. A URL with a code and a state is much shorter."""

_SHUTDOWN_SECONDS = 5.0
"""Maximum time to wait for requests in progress at the shutdown, and then for those whose senders have disconnected."""

RPC = r"/{service:zoomgate\.v1[^/]*}/{method:(?s:.*)}"
"""The route of the RPCs. It includes misspelled paths, whose callers receive an error with a reason."""

_RPC_ROUTE = "/{service}/{method}"
"""The same route as in metrics and logs."""

_MAX_SHORT_BODY = 64 * 1024
"""Maximum size in bytes of a body after which the connection of a rejected request can be used again."""

RpcHandler = Callable[[web.Request, str], Awaitable[web.Response]]
"""A handler of RPCs. Receives a request and the address of the client."""

_TRACED = ("/oauth/", WEBHOOKS)
_HSTS = "max-age=31536000"
_FORWARDING_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto")
"""The headers that proxies add, though not all proxies do by default."""

_log = logs.get("zoomgate.web")


def _is_not_malformed_request(record: logging.LogRecord) -> bool:
    """Filter out aiohttp's errors about malformed HTTP, with which any sender could flood the log."""
    if record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError):
        return True
    _log.debug("http.malformed", problem=type(record.exc_info[1]).__name__)
    return False


_server_log = logging.getLogger("aiohttp.server.zoomgate")
_server_log.addFilter(_is_not_malformed_request)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the HTTP server, in seconds.

    Attributes:
        open_timeout: Maximum time that the consent pages wait while the service is starting. Zoom delivers a code only once, so an
            immediate failure would lose the code.
        discard: Maximum time for which the body of a rejected request is read.
    """

    open_timeout: float = 10.0
    discard: float = 1.0
    webhooks: webhook_endpoint.Timing = webhook_endpoint.Timing()


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of the service that process requests. They are available once the store is.

    Attributes:
        before_metrics: Updates the gauges before each scrape.
        rpc: None if no RPCs are served.
    """

    browser_flow: BrowserFlow
    webhooks: WebhookReceiver
    before_metrics: Callable[[], Awaitable[None]]
    rpc: RpcHandler | None


class WebServer:
    """HTTP server for the `/oauth/` pages, `/healthz`, `/readyz`, `/metrics`, `/webhooks/zoom`, RPCs, and the page at `/`.

    The server can start before the store is available. `/healthz` then succeeds immediately, and `/readyz` reports what is missing.

    Args:
        webhooks_enabled: Whether a webhook secret is configured. Without one, `/webhooks/zoom` returns 404.
        secure: Whether browsers use https. With https, the cookie is `Secure` with the `__Host-` prefix, and HSTS is enabled.
        trusted_proxies: The networks of the reverse proxies. If any are configured, the `/oauth/` pages and RPCs are served only
            through them.
        metrics_networks: The networks of the clients that may scrape `/metrics`. If none are configured, all clients except the
            trusted proxies.
        home_links: Further links of the page at `/`, as URLs by their texts. If None, there is no page at `/`.
        tracer: Starts the spans of requests for pages and webhooks.
        has_rpc: Whether RPCs are served.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        pages: Pages,
        webhooks_enabled: bool,
        secure: bool,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
        metrics_networks: Sequence[IPv4Network | IPv6Network] = (),
        home_links: Mapping[str, str] | None = None,
        tracer: spans.Tracer | None = None,
        has_rpc: bool = False,
        timing: Timing = Timing(),
    ) -> None:
        self._home_links = home_links
        self._tracer = tracer
        self._metrics = metrics
        self._pages = pages
        self._consent_pages = consent_pages.ConsentPages(pages, secure=secure, browser_flow=self._when_open)
        self._webhooks_enabled = webhooks_enabled
        self._secure = secure
        self._timing = timing
        self._backend: Backend | None = None
        self._opened = asyncio.Event()
        self._not_ready = "store"
        self._proxies = trusted_proxies
        self._metrics_networks = metrics_networks
        self._runner: web.AppRunner | None = None
        self._has_rpc = has_rpc
        self._requests = background_tasks.TaskSet()

    async def start(self, listener: socket.socket) -> None:
        """Start serving on a bound socket."""
        app = web.Application(middlewares=[self._middleware], client_max_size=64 * 1024)
        self._consent_pages.add_routes(app.router)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render_metrics)
        if self._has_rpc:
            app.router.add_route("*", RPC, self._call_rpc)
        if self._home_links is not None:
            app.router.add_get("/", self._home)
        if self._webhooks_enabled:
            app.router.add_post(WEBHOOKS, self._webhook)
        runner = web.AppRunner(
            app,
            access_log=None,  # aiohttp's access log would contain authorization codes
            logger=_server_log,
            handle_signals=False,
            max_line_size=MAX_REQUEST_LINE,
            max_field_size=MAX_REQUEST_LINE,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            auto_decompress=False,  # prevents decompression bombs, and signatures cover the bytes as sent
            lingering_time=0.0,  # see `_middleware`
            handler_cancellation=True,  # see `_middleware`
        )
        await runner.setup()
        self._runner = runner
        await web.SockSite(runner, listener).start()

    def open(self, backend: Backend) -> None:
        """Start serving the consent pages, webhooks and RPCs."""
        self._backend = backend
        self._opened.set()

    def set_ready(self, not_ready_reason: str = "") -> None:
        """Set what `/readyz` reports: ready if the reason is empty, otherwise the one-word reason."""
        self._not_ready = not_ready_reason

    async def stop(self) -> None:
        """Stop listening and finish the requests in progress, also those whose senders have disconnected. Idempotent."""
        self._opened.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await self._requests.drain(_SHUTDOWN_SECONDS)

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Respond to a request. If the sender disconnects, an RPC is canceled; all other work is completed."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        responding = self._trace(request, route, handler)
        if route != _RPC_ROUTE:
            return await self._requests.shield(responding)
        response = await responding
        if request.content.is_eof():
            return response
        if request.content_length is not None and request.content_length <= _MAX_SHORT_BODY:
            await self._discard_body(request)  # then the connection can be used again
        if not request.content.is_eof():
            # closing the connection of a caller that is sending would reset it, and the response would be lost
            response.force_close()
            await response.prepare(request)
            await response.write_eof()
            await self._discard_body(request)
        return response

    async def _discard_body(self, request: web.Request) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(self._timing.discard):
                while await request.content.readany():
                    pass

    async def _trace(
        self,
        request: web.Request,
        route: str,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Trace each request for a page or webhook."""
        with self._span(request, route) as span:
            response = await self._respond(request, route, handler)
            spans.set_http_status(span, response.status, first_fault=consent_pages.FIRST_FAULT)
            return response

    def _span(self, request: web.Request, route: str) -> spans.Span:
        """Start the span of a request for a known path, unless it is a probe or a scrape."""
        if self._tracer is None or not route.startswith(_TRACED):
            return spans.NOT_RECORDED
        attributes = {
            "http.request.method": request.method,
            "http.route": route,
            "url.path": route,
            "url.scheme": request.scheme,
        }
        traceparent = request.headers.get(spans.TRACEPARENT, "")
        return self._tracer.start(f"{request.method} {route}", attributes, traceparent=traceparent)

    async def _respond(
        self,
        request: web.Request,
        route: str,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Count and log each request without its query, add the security headers, and hide exception messages."""
        try:
            response = self._reject_by_path(request) or await handler(request)
        except web.HTTPException as error:
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            response = web.Response(status=error.status, text=error.reason, headers=allowed)
        except Exception as error:  # noqa: BLE001 - no response may contain the message of an exception
            consent_pages.fail_span(error)
            if not isinstance(error, ZoomgateError | StoreError):
                _log.exception("http.failed", route=route)
            # Zoom retries a webhook only after a 5xx status or no response
            is_page = route.startswith("/oauth/")
            response = consent_pages.error_response(error) if is_page else web.Response(status=500)
        response.headers.update(self._pages.headers)
        if self._secure:
            response.headers["Strict-Transport-Security"] = _HSTS
        self._metrics.http_requests.labels(route, f"{response.status // 100}xx").inc()
        client = self._client(request)
        _log.debug("http.request", method=request.method, route=route, status=response.status, client=client)
        return response

    def _reject_by_path(self, request: web.Request) -> web.Response | None:
        """Return an error response if the path must not be served to this client; otherwise return None.

        With proxies, pages and RPCs are rejected if requested directly or over plain http.
        """
        if request.path == "/metrics":
            return None if self._may_scrape(request) else web.Response(status=404)
        is_private = request.path.startswith(("/oauth/", "/zoomgate."))
        is_proxied = _is_in(self._proxies, request.remote)
        if not self._proxies or not (is_private or is_proxied):
            return None
        if not is_proxied:
            _log.warning("http.proxy_bypassed", client=request.remote)
            return web.Response(status=403, text="This is available only through the reverse proxy.\n")
        # each proxy may have added a value; the first one states how the browser connected
        scheme = request.headers.get("X-Forwarded-Proto", "https").partition(",")[0]
        if self._secure and scheme.strip().lower() != "https":
            _log.warning("http.insecure_forwarded_request")
            return web.Response(status=403, text="This is available only over https.\n")
        return None

    def _may_scrape(self, request: web.Request) -> bool:
        """Return whether a client may read the metrics.

        A proxy may add no header to a request, so its address is rejected unless the operator has listed it as a scraper's.
        """
        if not self._metrics_networks:
            return not _is_in(self._proxies, request.remote)
        is_forwarded = any(name in request.headers for name in _FORWARDING_HEADERS)
        return _is_in(self._metrics_networks, request.remote) and not is_forwarded

    def _client(self, request: web.Request) -> str:
        """Return the client address: the last address in the forwarding chain that is not a trusted proxy."""
        chain = [part.strip() for part in ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")]
        client = request.remote or ""
        while _is_in(self._proxies, client) and chain and chain[-1]:
            client = chain.pop()
        return client[:64]

    async def _home(self, _request: web.Request) -> web.StreamResponse:
        links = {"Readiness": "/readyz", "Metrics": "/metrics", **(self._home_links or {})}
        page = self._pages.home(build_info.version(), self._not_ready, links)
        return web.Response(text=page, content_type="text/html")

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        if self._backend is None:
            return web.Response(status=503)  # Zoom retries
        return await webhook_endpoint.handle(
            self._backend.webhooks, request, self._client(request), self._timing.webhooks
        )

    async def _call_rpc(self, request: web.Request) -> web.StreamResponse:
        if self._backend is None or self._backend.rpc is None:
            return web.Response(status=503)
        return await self._backend.rpc(request, self._client(request))

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        if self._not_ready:
            return web.Response(status=503, text=f"not ready: {self._not_ready}\n")
        return web.Response(text="ready\n")

    async def _render_metrics(self, _request: web.Request) -> web.StreamResponse:
        if self._backend is not None:
            await self._backend.before_metrics()
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _when_open(self) -> BrowserFlow:
        """Return the authorization flow; wait up to `open_timeout`, then raise StoreUnavailable, while the service is starting."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), self._timing.open_timeout)
        if self._backend is None:
            raise StoreUnavailable
        return self._backend.browser_flow


def _is_in(networks: Sequence[IPv4Network | IPv6Network], address: str | None) -> bool:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in networks)
