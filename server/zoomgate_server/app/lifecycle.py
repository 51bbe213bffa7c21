"""Lifecycle of one serving process: startup and graceful shutdown."""

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from zoomgate_server import build_info
from zoomgate_server.app import listeners, otlp_exporters
from zoomgate_server.app.composition import Components
from zoomgate_server.app.metric_labels import new_metrics
from zoomgate_server.app.reloadable_files import ReloadableFiles
from zoomgate_server.app.stores import StartCancelled, StoreOpener, open_store
from zoomgate_server.app.timing import Timing
from zoomgate_server.audit.event import ZOOMGATE, AuditEvent
from zoomgate_server.clock import Clock, SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.identity import Principal
from zoomgate_server.rpc import server as rpc_server
from zoomgate_server.rpc.connect import MAX_LARGE_REQUESTS, ConnectEndpoint
from zoomgate_server.rpc.middleware.access_log import AccessLog
from zoomgate_server.rpc.middleware.authentication import Authentication
from zoomgate_server.rpc.middleware.drain import Drain
from zoomgate_server.rpc.middleware.error_status import convert_errors
from zoomgate_server.rpc.middleware.pipeline import Pipeline
from zoomgate_server.settings import Settings
from zoomgate_server.settings.address import Address
from zoomgate_server.startup import ServiceAddresses, StartError
from zoomgate_server.storage.instrumented import instrumented
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import background_tasks, logs, spans
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.web.pages import Pages
from zoomgate_server.web.server import Backend, WebServer

_log = logs.get("zoomgate.app")


async def serve(
    service: Callable[..., AbstractAsyncContextManager[ServiceAddresses]],
    announce: Callable[[ServiceAddresses], None],
) -> None:
    """Run a service until SIGTERM or SIGINT, then shut down gracefully. SIGHUP reloads its files.

    Args:
        service: `run` with its arguments except `stop` and `reload`.
        announce: Called once the health service reports SERVING.

    Raises:
        StartError: The service cannot start.
    """
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    try:
        async with service(stop=stop, reload=reload) as started:
            announce(started)
            await stop.wait()
    except StartCancelled:
        _log.info("service.stopped")


@contextlib.asynccontextmanager
async def run(
    settings: Settings,
    *,
    anonymous: Principal | None = None,
    extra_keys: Mapping[str, Principal] = {},
    home_links: Mapping[str, str] | None = None,
    shared_metrics: Path | None = None,
    peers_serving: bool = False,
    counts_connections: bool = True,
    stop: asyncio.Event | None = None,
    reload: asyncio.Event | None = None,
    open_store: StoreOpener = open_store,
    timing: Timing = Timing(),
    clock: Clock = SystemClock(),
) -> AsyncIterator[ServiceAddresses]:
    """Run the service within the context.

    Args:
        anonymous: The principal of callers without a credential; for the bundled simulator only.
        extra_keys: Callers by the SHA-256 of their keys, in addition to those of the callers file.
        home_links: Links of the page at the root of the HTTP server; see `WebServer`. For development only.
        shared_metrics: Directory of the metrics that several processes share. If set, the processes also share the ports.
        peers_serving: Whether other workers of this service are already serving. If true, the ports are bound last, after the
            process is ready to serve, and the wait for the store is unlimited. If false, the ports are bound first, and probes are
            served during startup.
        counts_connections: Whether to count the connections for the exporter of metrics; false for all but one of the workers.
        stop: The event that cancels the wait for an unreachable store.
        reload: The event that makes the service reload the callers file, the key file and the certificate.
    """
    metrics = new_metrics(build_info.version(), shared_metrics, commit=build_info.commit())
    shared = shared_metrics is not None
    files = ReloadableFiles(settings, extra_keys, metrics, timing.files)
    async with AsyncExitStack() as stack:
        # the supervisor exports the metrics of several workers
        tracer = otlp_exporters.start(settings.opentelemetry, stack, None if shared else metrics.registry)
        server = rpc_server.new_server(shared_port=shared)
        web = WebServer(
            metrics=metrics,
            secure=settings.has_https_pages,
            trusted_proxies=settings.trusted_proxies,
            metrics_networks=settings.metrics_networks,
            pages=Pages(
                brand_name=settings.brand_name,
                brand_color=settings.brand_color,
                connect_url=settings.connect_url,
            ),
            webhooks_enabled=bool(settings.webhook_secret),
            home_links=home_links,
            tracer=tracer,
            has_rpc=settings.connect_rpc,
            timing=timing.web,
        )

        async def bind_ports() -> ServiceAddresses:
            grpc_port = rpc_server.bind(server, str(settings.listen), settings.names, files.certificate)
            listener = stack.enter_context(listeners.listen(settings, shared=shared))
            await web.start(listener)
            stack.push_async_callback(web.stop)
            http_port = listener.getsockname()[1]
            return ServiceAddresses(
                str(Address(settings.listen.host, grpc_port)),
                str(Address(settings.http_listen.host, http_port)),
            )

        if peers_serving:
            started = ServiceAddresses(str(settings.listen), str(settings.http_listen))
            settings = replace(settings, store_wait=math.inf)
        else:  # bind first: a port in use must be detected before anything is written
            started = await bind_ports()
        if not settings.redirect_uri:
            settings = replace(settings, redirect_uri=f"http://{started.http}/oauth/callback")
        is_new_key_ring = not os.access(settings.keys, os.F_OK)
        store, key_ring = await open_store(settings, stack, stop or asyncio.Event(), clock, timing.store)
        web.set_ready("starting")
        try:
            components = await Components.build(
                settings,
                instrumented(store, metrics.store_errors.inc, _database_system(settings)),
                key_ring,
                clock,
                metrics,
                timing,
                stack,
            )
        except (ZoomgateError, StoreError) as error:
            raise StartError(str(error)) from None
        if is_new_key_ring:
            components.audit(_keys_created(key_ring.primary_id, settings.keys))
        authentication = Authentication(
            keys=files.callers,
            anonymous=anonymous,
            clock=clock,
            audit=components.audit,
            timing=timing.calls,
        )
        drain = Drain()
        pipeline = Pipeline(
            server,
            # outermost first, so that the access log records the final status, even if authentication fails
            [AccessLog(metrics, tracer).wrap, convert_errors, drain.wrap, authentication.wrap],
            timing.streams,
        )
        health = health_aio.HealthServicer()
        rpc_server.register(
            pipeline,
            auth=components.auth,
            meetings=components.meetings,
            registrants=components.registrants,
            proxy=components.proxy,
            health=health,
            enable_reflection=settings.reflection,
        )
        # runs after the HTTP server has stopped, since a consent callback may still deliver a code
        stack.push_async_callback(components.drain)
        if peers_serving:
            await bind_ports()
        stack.push_async_callback(web.stop)
        connect = _connect_endpoint(settings, pipeline, clock, metrics, timing)
        web.open(
            Backend(
                browser_flow=components.browser_flow,
                webhooks=components.webhooks,
                before_metrics=components.connection_counts.update,
                rpc=None if connect is None else connect.handle,
            )
        )
        stack.enter_context(
            background_tasks.supervised(
                {
                    **components.background_tasks(),
                    "files": partial(
                        files.reload_on_request,
                        reload or asyncio.Event(),
                        components.key_ring,
                        components.audit,
                    ),
                    "callers": partial(files.watch_callers, components.audit),
                    **(_counts(settings, components) if counts_connections else {}),
                },
                spans.NOT_RECORDED if tracer is None else spans.Background(tracer),
            )
        )
        await server.start()
        stack.push_async_callback(
            _stop_serving,
            server,
            connect,
            health,
            web,
            components.change_feed.close,
            drain,
            settings.drain_seconds,
            timing.responses,
        )
        await rpc_server.set_health(health, health_pb2.HealthCheckResponse.SERVING)
        web.set_ready()
        _log_start(started, callers=len(files.callers), webhooks_enabled=components.webhooks.is_enabled)
        yield started
        _log.info("service.draining")
    _log.info("service.stopped")


def _log_start(started: ServiceAddresses, *, callers: int, webhooks_enabled: bool) -> None:
    if not webhooks_enabled:
        _log.info("webhooks.disabled", set="ZOOMGATE_WEBHOOK_SECRET")
    _log.info(
        "service.started",
        version=build_info.version(),
        commit=build_info.commit(),
        grpc=started.grpc,
        http=started.http,
        callers=callers,
    )


def _keys_created(key_id: str, file: Path) -> AuditEvent:
    return AuditEvent("keys.created", "ok", "", ZOOMGATE, details={"key_id": key_id, "file": str(file)})


def _database_system(settings: Settings) -> str:
    """Return the name of the store in spans."""
    return "sqlite" if isinstance(settings.store, Path) else "mongodb"


def _counts(settings: Settings, components: Components) -> dict[str, background_tasks.TaskFactory]:
    """Return the task that counts connections for the exporter of metrics. For a scrape of `/metrics`, they are counted on demand."""
    config = settings.opentelemetry
    if not config.metrics:
        return {}
    return {"counts": partial(components.connection_counts.run, config.metrics_interval)}


def _connect_endpoint(
    settings: Settings, pipeline: Pipeline, clock: Clock, metrics: Metrics, timing: Timing
) -> ConnectEndpoint | None:
    """Return the endpoint for RPCs over HTTP, if it is enabled."""
    if not settings.connect_rpc:
        return None
    return ConnectEndpoint(
        pipeline,
        clock=clock,
        large_requests=ConcurrencyLimit(Limit.LARGE_REQUESTS, MAX_LARGE_REQUESTS, clock, metrics),
        max_request_bytes=rpc_server.MAX_REQUEST_BYTES,
        allowed_origins=settings.allowed_origins,
        timing=timing.connect,
    )


async def _stop_serving(
    server: grpc.aio.Server,
    connect: ConnectEndpoint | None,
    health: "health_aio.HealthServicer",
    web: WebServer,
    end_watches: Callable[[], None],
    drain: Drain,
    seconds: float,
    response_seconds: float,
) -> None:
    """Stop accepting calls. Wait for the running calls to finish, and then for the responses of those that the drain ends."""
    web.set_ready("draining")
    await health.enter_graceful_shutdown()
    end_watches()
    drain.end_calls_after(seconds)
    stopped = [server.stop(seconds + response_seconds)]
    if connect is not None:
        stopped.append(connect.stop(seconds + response_seconds))
    await asyncio.gather(*stopped)
