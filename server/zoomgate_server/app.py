"""The composition root: builds everything, and owns start, drain and stop."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from zoomgate.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    meetings_service_pb2,
    meetings_service_pb2_grpc,
    proxy_service_pb2,
    proxy_service_pb2_grpc,
)
from zoomgate_server import background, callers, logs, ports, tls
from zoomgate_server.adoption import Adoption
from zoomgate_server.authorizations import Authorizations
from zoomgate_server.change_feed import ChangeFeed
from zoomgate_server.clock import SystemClock
from zoomgate_server.connection_counts import ConnectionCounts
from zoomgate_server.connections import Connections
from zoomgate_server.endings import Endings
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.interceptors import policy
from zoomgate_server.interceptors.access_log import AccessLog
from zoomgate_server.interceptors.authentication import Authentication, CallerKeys, StaticKey
from zoomgate_server.interceptors.method_handler import Pipeline
from zoomgate_server.interceptors.status import Status
from zoomgate_server.metrics import Metrics
from zoomgate_server.recovery import Recovery
from zoomgate_server.refresh.driver import Refresher
from zoomgate_server.rpc_context import AuditEvent, Principal
from zoomgate_server.services.auth import AuthService
from zoomgate_server.services.meetings import MeetingDefaults, MeetingsService
from zoomgate_server.services.page_token import PageTokens
from zoomgate_server.services.proxy import ProxyService
from zoomgate_server.settings import Settings
from zoomgate_server.start import Started, StartError
from zoomgate_server.store_opening import StoppedWaiting, open_store
from zoomgate_server.token_cache import TokenCache
from zoomgate_server.tokens import canary, shared_secret
from zoomgate_server.tokens.authorization_store import AuthorizationStore
from zoomgate_server.tokens.cipher import KeyRing
from zoomgate_server.tokens.connection_store import ConnectionStore
from zoomgate_server.tokens.counted_store import CountedStore
from zoomgate_server.tokens.journal import Journal
from zoomgate_server.tokens.reloaded_ring import ReloadedRing
from zoomgate_server.tokens.store import RecordStore, StoreError
from zoomgate_server.tokens.vault import Vault
from zoomgate_server.watches import Watches
from zoomgate_server.web.pages import Pages
from zoomgate_server.web.server import WebServer
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.oauth import OAuthClient

MAX_REQUEST_BYTES = 4 * 1024 * 1024
REFRESH_DRAIN_SECONDS = 40.0
"""How long running refreshes get to store what Zoom answered; a call to Zoom's token endpoint takes 35 seconds at most."""

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.max_concurrent_streams", 100),
    # else streams that have ended count until they are cleaned up, and calls of a client that keeps to the limit are reset
    ("grpc.http.overload_protection", 0),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.max_connection_idle_ms", 10 * 60_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (auth_service_pb2, "AuthService"),
        (meetings_service_pb2, "MeetingsService"),
        (proxy_service_pb2, "ProxyService"),
    )
)
_log = logs.get("zoomgate.app")
_audit_log = logs.get("zoomgate.audit")


async def serve(
    settings: Settings,
    *,
    announce: Callable[[Started], None],
    anonymous: Principal | None = None,
    extra_keys: Sequence[StaticKey] = (),
    shared_metrics: Path | None = None,
) -> None:
    """Run the service until SIGTERM or SIGINT, then drain.

    Args:
        settings: Everything that can be set.
        announce: Called once health says SERVING.
        anonymous: Who calls without a credential are from; for the bundled simulator only.
        extra_keys: Keys beside those of the callers file.
        shared_metrics: Set for one of several processes: they share the ports, and their metrics are in this folder.

    Raises:
        StartError: It cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with run(
            settings, anonymous=anonymous, extra_keys=extra_keys, shared_metrics=shared_metrics, stop=stop
        ) as started:
            announce(started)
            await stop.wait()
    except StoppedWaiting:
        _log.info("service.stopped")


@contextlib.asynccontextmanager
async def run(
    settings: Settings,
    *,
    anonymous: Principal | None = None,
    extra_keys: Sequence[StaticKey] = (),
    shared_metrics: Path | None = None,
    stop: asyncio.Event | None = None,
) -> AsyncIterator[Started]:
    """Run the service as long as the context lasts; see `serve`. `stop` ends the waiting for a store that cannot be reached."""
    clock = SystemClock()
    methods = [method.full_name for service in _SERVICES for method in service.methods]
    metrics = Metrics(
        version("zoomgate-server"), [name.removeprefix("zoomgate.v1.") for name in methods], shared_metrics
    )
    shared = shared_metrics is not None
    keys = [*_caller_keys(settings), *extra_keys]
    async with AsyncExitStack() as stack:
        # off for a process that serves alone, else two unrelated servers share a port in silence
        server = grpc.aio.server(options=[*SERVER_OPTIONS, ("grpc.so_reuseport", int(shared))])
        # first is outermost: the log sees the final status, and refusals of the authentication are ordinary errors
        pipeline = Pipeline(
            server,
            [
                AccessLog(metrics),
                Status(),
                Authentication(keys=CallerKeys(keys), anonymous=anonymous, clock=clock, audit=_audit),
            ],
        )
        # ports first: a taken one must be noticed before anything is written
        grpc_port = _bind_grpc(server, settings)
        http_socket = stack.enter_context(ports.listen(settings.http_listen, shared=shared))
        http_port = http_socket.getsockname()[1]
        http_shown = _shown(settings.http_listen.host, http_port)
        if not settings.redirect_uri:
            settings = replace(settings, redirect_uri=f"http://{http_shown}/oauth/callback")
        store, key_ring = await open_store(settings, stack, stop or asyncio.Event())
        store = CountedStore(store, metrics.store_error)
        try:
            parts = await _Parts.build(settings, store, key_ring, clock, metrics, stack)
        except (ZoomgateError, StoreError) as error:
            raise StartError(str(error)) from None
        health = health_aio.HealthServicer()
        _register(pipeline, parts, health, settings)
        ready = asyncio.Event()
        web = WebServer(
            authorizations=parts.authorizations,
            metrics=metrics,
            before_metrics=parts.connection_counts.update,
            ready=ready.is_set,
            secure=(settings.public_url or settings.redirect_uri).startswith("https://"),
            trusted_proxies=settings.trusted_proxies,
            pages=Pages(brand_name=settings.brand_name, brand_color=settings.brand_color),
        )
        stack.push_async_callback(parts.drain)  # after the HTTP server: a callback may still bring a code
        await web.start(http_socket)
        stack.push_async_callback(web.stop)
        stack.enter_context(background.running(parts.works()))
        await server.start()
        stack.push_async_callback(
            _stop_serving, server, health, ready, parts.change_feed, settings.drain_seconds
        )
        await _say(health, health_pb2.HealthCheckResponse.SERVING)
        ready.set()
        http_port = http_socket.getsockname()[1]
        started = Started(
            _shown(settings.listen.host, grpc_port), _shown(settings.http_listen.host, http_port)
        )
        _log.info("service.started", grpc=started.grpc, http=started.http, callers=len(keys))
        yield started
        _log.info("service.draining")
    _log.info("service.stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the servers serve."""

    authorizations: Authorizations
    connections: Connections
    change_feed: ChangeFeed
    endings: Endings
    connection_store: ConnectionStore
    connection_counts: ConnectionCounts
    refresher: Refresher
    recovery: Recovery
    states: AuthorizationStore
    auth: AuthService
    meetings: MeetingsService
    proxy: ProxyService

    @classmethod
    async def build(
        cls,
        settings: Settings,
        store: RecordStore,
        key_ring: KeyRing,
        clock: SystemClock,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> "_Parts":
        """Put the domain together. Clients that are opened are closed by the stack."""
        app = app_key(settings)
        ring = ReloadedRing(settings.keys_path, key_ring, clock, metrics.key_ring_reloaded)
        vault = Vault(app=app, keys=ring)
        await canary.prove(store, vault)
        page_tokens = PageTokens(await shared_secret.obtain(store, vault, "page-tokens"))
        connection_store = ConnectionStore(
            app=app, store=store, vault=vault, clock=clock, on_read=metrics.store_read
        )
        states = AuthorizationStore(app=app, store=store, vault=vault)
        user_agent = f"zoomgate/{version('zoomgate-server')}"
        zoom = ZoomClient(api_url=settings.zoom_api_url, user_agent=user_agent)
        oauth = OAuthClient(
            oauth_url=settings.zoom_oauth_url,
            api_url=settings.zoom_api_url,
            client_id=settings.client_id,
            client_secrets=[secret.reveal() for secret in settings.client_secrets],
            redirect_uri=settings.redirect_uri,
            user_agent=user_agent,
            wall=clock.wall,
        )
        for client in (zoom, oauth):
            await client.start()
            stack.push_async_callback(client.close)
        journal = Journal(settings.data_dir / "journal", app=app, ring=ring, observer=metrics)
        stack.push_async_callback(journal.close)
        await journal.prepare()
        cache = TokenCache()
        endings = Endings(connections=connection_store, cache=cache, oauth=oauth, clock=clock, audit=_audit)
        refresher = Refresher(
            connections=connection_store,
            spend=oauth.refresh,
            discard=endings.discard,
            journal=journal,
            clock=clock,
            metrics=metrics,
            forced_interval=settings.forced_refresh_seconds,
            max_refreshes=settings.max_refreshes_per_hour,
        )
        connections = Connections(
            connections=connection_store,
            refresher=refresher,
            cache=cache,
            zoom=zoom,
            clock=clock,
            metrics=metrics,
        )
        change_feed = ChangeFeed(
            connections=connection_store, clock=clock, on_change=connections.forget_changed
        )
        adoption = Adoption(
            connections=connection_store,
            journal=journal,
            cache=cache,
            oauth=oauth,
            zoom=zoom,
            discard=endings.discard,
            audit=_audit,
        )
        authorizations = Authorizations(
            authorizations=states,
            connections=connection_store,
            adoption=adoption,
            oauth=oauth,
            discard=endings.discard,
            clock=clock,
            audit=_audit,
            redirect_uri=settings.redirect_uri,
            return_to=settings.return_to,
            max_pending_per_user=settings.max_pending_per_user,
            max_pending_per_caller=settings.max_pending_per_caller,
        )
        defaults = settings.meeting_defaults
        return cls(
            authorizations=authorizations,
            connections=connections,
            change_feed=change_feed,
            endings=endings,
            connection_store=connection_store,
            connection_counts=ConnectionCounts(connection_store, clock, metrics),
            refresher=refresher,
            recovery=Recovery(journal=journal, refresher=refresher, adoption=adoption, metrics=metrics),
            states=states,
            auth=AuthService(
                authorizations=authorizations,
                connections=connections,
                endings=endings,
                watches=Watches(feed=change_feed, metrics=metrics),
                page_tokens=page_tokens,
                clock=clock,
            ),
            meetings=MeetingsService(
                zoom_calls=connections,
                defaults=MeetingDefaults(
                    topic=defaults.topic,
                    duration_minutes=defaults.duration_minutes,
                    timezone=defaults.timezone,
                ),
            ),
            proxy=ProxyService(zoom_calls=connections, api_url=settings.zoom_api_url),
        )

    def works(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Name what goes on beside the calls."""
        return {
            "changes": self.change_feed.run(),
            "revocations": self.endings.sweep_revocations(),
            "journal": self.recovery.run(),
            "ages": self.refresher.watch(),
            "expired": background.clean(self.states, self.connection_store),
        }

    async def drain(self) -> None:
        """Wait for what no call owns: a token that Zoom answered must be stored before the store closes."""
        stored = await self.refresher.drain(REFRESH_DRAIN_SECONDS)
        stored &= await self.authorizations.drain(REFRESH_DRAIN_SECONDS)
        if not stored:
            _log.error("drain.incomplete", refreshes=self.refresher.running)
        await self.endings.drain(5.0)


def app_key(settings: Settings) -> str:
    """Name the Zoom app in the store: OAuth origin and client id."""
    parts = urlsplit(settings.zoom_oauth_url)
    origin = parts.netloc if parts.scheme == "https" else "loopback"  # simulators change their ports
    return f"{origin}|{settings.client_id}"


def _caller_keys(settings: Settings) -> list[StaticKey]:
    if settings.callers_path is None:
        return []
    try:
        found = callers.load(settings.callers_path, policy.CALLABLE_METHODS)
    except callers.CallersError as error:
        raise StartError("\n".join(f"ZOOMGATE_CALLERS: {problem}" for problem in error.problems)) from None
    return [StaticKey(caller.key_sha256, caller.principal) for caller in found]


def _bind_grpc(server: grpc.aio.Server, settings: Settings) -> int:
    """Take the gRPC port; who connects waits until the server starts."""
    credentials = _tls_credentials(settings)
    try:
        if credentials is not None:
            return server.add_secure_port(str(settings.listen), credentials)
        return server.add_insecure_port(str(settings.listen))
    except RuntimeError:
        raise StartError(
            f"ZOOMGATE_LISTEN: {settings.listen} cannot be listened on (in use, or not permitted): choose another port"
        ) from None


def _tls_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Give credentials that follow the files of the certificate, or None without TLS."""
    if settings.tls is None:
        return None
    try:
        pair = tls.ReloadedPair(*settings.tls, on_change=_say_certificate)
    except tls.TlsError as error:
        raise StartError(str(error)) from None

    def configuration(found: tls.CertificatePair) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(found.key, found.chain)])

    def changed() -> grpc.ServerCertificateConfiguration | None:
        found = pair.changed()
        return None if found is None else configuration(found)

    # None, which keeps the pair, is missing from the type of the callback
    return grpc.dynamic_ssl_server_credentials(configuration(pair.current), changed)  # type: ignore[arg-type]


def _say_certificate(problem: str | None) -> None:
    if problem is None:
        _log.info("tls.certificate_replaced")
    else:
        _log.warning("tls.certificate_kept", problem=problem)


def _register(
    pipeline: Pipeline, parts: _Parts, health: "health_aio.HealthServicer", settings: Settings
) -> None:
    registrar = pipeline.registrar
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(parts.auth, registrar)
    meetings_service_pb2_grpc.add_MeetingsServiceServicer_to_server(parts.meetings, registrar)
    proxy_service_pb2_grpc.add_ProxyServiceServicer_to_server(parts.proxy, registrar)
    health_pb2_grpc.add_HealthServicer_to_server(health, registrar)
    if settings.reflection:
        names = [service.full_name for service in _SERVICES]
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        servicer = reflection.aio.ReflectionServicer([*names, health_name, reflection.SERVICE_NAME])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, registrar)


async def _stop_serving(
    server: grpc.aio.Server,
    health: "health_aio.HealthServicer",
    ready: asyncio.Event,
    change_feed: ChangeFeed,
    seconds: float,
) -> None:
    """Say that no new calls are wanted, and let the running ones end."""
    ready.clear()
    await health.enter_graceful_shutdown()
    change_feed.close()  # watches would not end by themselves
    await server.stop(seconds)


async def _say(
    health: "health_aio.HealthServicer", status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType"
) -> None:
    for name in ("", *(service.full_name for service in _SERVICES)):
        await health.set(name, status)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _audit(event: AuditEvent) -> None:
    """The audit trail of this version: lines in the log, under a name of their own."""
    _audit_log.info(
        "audit",
        action=event.action,
        outcome=event.outcome,
        principal=event.principal,
        on_behalf_of=event.on_behalf_of,
        user=event.user_email,
        request_id=event.request_id,
    )
