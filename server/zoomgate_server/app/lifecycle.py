"""The composition root: builds everything, and owns start, drain and stop."""

import asyncio
import contextlib
import math
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

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
from zoomgate_server.app import listeners
from zoomgate_server.app.stores import StoppedWaiting, open_store
from zoomgate_server.app.zoom_clients import start_clients
from zoomgate_server.audit.trail import FINGERPRINT_SECRET, AuditTrail
from zoomgate_server.authorization.flow import Authorizations
from zoomgate_server.authorization.repository import AuthorizationStore
from zoomgate_server.call_context import AuditEvent, Principal
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.access_tokens import Connections
from zoomgate_server.connections.account_linking import Adoption
from zoomgate_server.connections.count_gauge import ConnectionCounts
from zoomgate_server.connections.disconnection import Endings
from zoomgate_server.connections.journal_recovery import Recovery
from zoomgate_server.connections.proactive_refresh import Upkeep
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionStore
from zoomgate_server.connections.retention import Reaper
from zoomgate_server.connections.token_cache import TokenCache
from zoomgate_server.connections.token_journal import Journal
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Vault
from zoomgate_server.encryption.reloading_key_ring import ReloadedRing
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.rpc import callers_file, tls
from zoomgate_server.rpc.middleware import access_policy
from zoomgate_server.rpc.middleware.access_log import AccessLog
from zoomgate_server.rpc.middleware.authentication import Authentication, CallerKeys, StaticKey
from zoomgate_server.rpc.middleware.error_status import Status
from zoomgate_server.rpc.middleware.pipeline import Pipeline
from zoomgate_server.rpc.services.auth import AuthService
from zoomgate_server.rpc.services.meetings import MeetingDefaults, MeetingsService
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.proxy import ProxyService
from zoomgate_server.settings import Settings
from zoomgate_server.startup import Started, StartError
from zoomgate_server.storage.instrumented import CountedStore
from zoomgate_server.storage.record_store import RecordStore, StoreError
from zoomgate_server.telemetry import background_tasks, logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.watch.watchers import Watches
from zoomgate_server.web.pages import Pages
from zoomgate_server.web.server import WebServer
from zoomgate_server.webhooks.receiver import Webhooks
from zoomgate_server.webhooks.seen_events import WebhookStore

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


async def serve(
    settings: Settings,
    *,
    announce: Callable[[Started], None],
    anonymous: Principal | None = None,
    extra_keys: Sequence[StaticKey] = (),
    shared_metrics: Path | None = None,
    others_serve: bool = False,
) -> None:
    """Run the service until SIGTERM or SIGINT, then drain.

    Args:
        settings: Everything that can be set.
        announce: Called once health says SERVING.
        anonymous: Who calls without a credential are from; for the bundled simulator only.
        extra_keys: Keys beside those of the callers file.
        shared_metrics: Set for one of several processes: they share the ports, and their metrics are in this folder.
        others_serve: Whether some of those serve already. The ports are taken last then, so that nobody is led to a process that cannot
            serve yet, and the store is waited for as long as it takes. Else they are taken first, and probes are answered meanwhile.

    Raises:
        StartError: It cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with run(
            settings,
            anonymous=anonymous,
            extra_keys=extra_keys,
            shared_metrics=shared_metrics,
            others_serve=others_serve,
            stop=stop,
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
    others_serve: bool = False,
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
        web = WebServer(
            metrics=metrics,
            secure=(settings.public_url or settings.redirect_uri).startswith("https://"),
            trusted_proxies=settings.trusted_proxies,
            pages=Pages(brand_name=settings.brand_name, brand_color=settings.brand_color),
            hears_events=bool(settings.webhook_secrets),
        )

        async def take_ports() -> Started:
            grpc_port = _bind_grpc(server, settings)
            listener = stack.enter_context(listeners.listen(settings.http_listen, shared=shared))
            await web.start(listener)
            stack.push_async_callback(web.stop)
            http_port = listener.getsockname()[1]
            return Started(
                _shown(settings.listen.host, grpc_port), _shown(settings.http_listen.host, http_port)
            )

        # first: a taken one must be noticed before anything is written
        started = (
            Started(str(settings.listen), str(settings.http_listen)) if others_serve else await take_ports()
        )
        if others_serve:
            settings = replace(settings, store_wait_seconds=math.inf)
        if not settings.redirect_uri:
            settings = replace(settings, redirect_uri=f"http://{started.http}/oauth/callback")
        ring_is_new = not os.access(settings.keys_path, os.F_OK)
        store, key_ring = await open_store(settings, stack, stop or asyncio.Event())
        web.say_ready("starting")
        store = CountedStore(store, metrics.store_error)
        try:
            parts = await _Parts.build(settings, store, key_ring, clock, metrics, stack)
        except (ZoomgateError, StoreError) as error:
            raise StartError(str(error)) from None
        if ring_is_new:
            details = {"key_id": key_ring.primary_id, "file": str(settings.keys_path)}
            parts.audit(
                AuditEvent.unattended("keys.created", "ok", "", principal="zoomgate", details=details)
            )
        # first is outermost: the log sees the final status, and refusals of the authentication are ordinary errors
        pipeline = Pipeline(
            server,
            [
                AccessLog(metrics),
                Status(),
                Authentication(keys=CallerKeys(keys), anonymous=anonymous, clock=clock, audit=parts.audit),
            ],
        )
        health = health_aio.HealthServicer()
        _register(pipeline, parts, health, settings)
        stack.push_async_callback(parts.drain)  # after the HTTP server: a callback may still bring a code
        if others_serve:
            await take_ports()
        stack.push_async_callback(web.stop)
        web.open(parts.authorizations, parts.webhooks, parts.connection_counts.update)
        stack.enter_context(background_tasks.running(parts.works()))
        await server.start()
        stack.push_async_callback(
            _stop_serving, server, health, web, parts.change_feed, settings.drain_seconds
        )
        await _say(health, health_pb2.HealthCheckResponse.SERVING)
        if not parts.webhooks.listens:
            _log.info("webhooks.off", set="ZOOMGATE_WEBHOOK_SECRET")
        web.say_ready()
        _log.info("service.started", grpc=started.grpc, http=started.http, callers=len(keys))
        yield started
        _log.info("service.draining")
    _log.info("service.stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the servers serve."""

    audit: AuditTrail
    authorizations: Authorizations
    connections: Connections
    change_feed: ChangeFeed
    endings: Endings
    connection_counts: ConnectionCounts
    refresher: Refresher
    recovery: Recovery
    ring: ReloadedRing
    webhooks: Webhooks
    upkeep: Upkeep
    reaper: Reaper
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
        app = settings.app
        ring = ReloadedRing(settings.keys_path, key_ring, clock, metrics.key_ring_reloaded)
        vault = Vault(app=app, keys=ring)
        await key_check.prove(store, vault)
        audit = _audit_trail(
            settings, await shared_secret.obtain(store, vault, FINGERPRINT_SECRET), clock, metrics
        )
        stack.callback(audit.close)
        page_tokens = PageTokens(await shared_secret.obtain(store, vault, "page-tokens"))
        connection_store = ConnectionStore(
            app=app, store=store, vault=vault, clock=clock, on_read=metrics.store_read
        )
        zoom, oauth = await start_clients(settings, clock, stack)
        journal = Journal(settings.data_dir / "journal", app=app, ring=ring, observer=metrics)
        stack.push_async_callback(journal.close)
        await journal.prepare()
        cache = TokenCache()
        endings = Endings(connections=connection_store, cache=cache, oauth=oauth, clock=clock, audit=audit)
        refresher = Refresher(
            connections=connection_store,
            spend=oauth.refresh,
            discard=endings.discard,
            journal=journal,
            clock=clock,
            metrics=metrics,
            audit=audit,
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
            audit=audit,
        )
        authorizations = Authorizations(
            authorizations=AuthorizationStore(app=app, store=store, vault=vault),
            connections=connection_store,
            adoption=adoption,
            oauth=oauth,
            discard=endings.discard,
            clock=clock,
            audit=audit,
            redirect_uri=settings.redirect_uri,
            return_to=settings.return_to,
            max_pending_per_user=settings.max_pending_per_user,
            max_pending_per_caller=settings.max_pending_per_caller,
        )
        defaults = settings.meeting_defaults
        chance = random.Random()  # noqa: S311 - it spreads work over time and keeps no secret
        return cls(
            audit=audit,
            authorizations=authorizations,
            connections=connections,
            change_feed=change_feed,
            endings=endings,
            connection_counts=ConnectionCounts(connection_store, clock, metrics),
            refresher=refresher,
            recovery=Recovery(journal=journal, refresher=refresher, adoption=adoption, metrics=metrics),
            ring=ring,
            webhooks=Webhooks(
                secrets=settings.webhook_secrets,
                client_id=settings.client_id,
                endings=endings,
                events=WebhookStore(app=app, store=store, vault=vault),
                now=connection_store.now,
                clock=clock,
                count=metrics.webhook,
                audit=audit,
            ),
            upkeep=Upkeep(
                connections=connection_store,
                refresher=refresher,
                cache=cache,
                keep=connections.keep,
                clock=clock,
                metrics=metrics,
                per_minute=settings.upkeep_per_minute,
                chance=chance,
            ),
            reaper=Reaper(
                app=app,
                store=store,
                vault=vault,
                clock=clock,
                reauth_days=settings.reap_reauth_days,
                audit=audit,
                on_reaped=metrics.reaped,
                chance=chance,
            ),
            auth=AuthService(
                authorizations=authorizations,
                connections=connections,
                endings=endings,
                watches=Watches(feed=change_feed, metrics=metrics),
                page_tokens=page_tokens,
                clock=clock,
                audit=audit.require if settings.audit_required else audit,
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

    def works(self) -> dict[str, background_tasks.Work]:
        """Name what goes on beside the calls."""
        return {
            "changes": self.change_feed.run,
            "revocations": self.endings.sweep_revocations,
            "journal": self.recovery.run,
            "ages": self.refresher.watch,
            "keys": self.ring.follow,
            "audit": self.audit.tell_left_out,
            "reaping": self.reaper.run,
            **self.upkeep.works(),
        }

    async def drain(self) -> None:
        """Wait for what no call owns: a token that Zoom answered must be stored before the store closes."""
        work = (self.refresher, self.authorizations, self.recovery)
        if not all(await asyncio.gather(*(part.drain(REFRESH_DRAIN_SECONDS) for part in work))):
            _log.error("drain.incomplete", refreshes=self.refresher.running)
        await self.endings.drain(5.0)
        await self.reaper.drain()


def _audit_trail(settings: Settings, key: bytes, clock: SystemClock, metrics: Metrics) -> AuditTrail:
    try:
        if settings.audit_path is not None and settings.audit_path.parent == settings.data_dir:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return AuditTrail(settings.audit_path, key=key, clock=clock, on_lost=metrics.audit_failed)
    except OSError as error:
        raise StartError(
            f"ZOOMGATE_AUDIT: {settings.audit_path} cannot be written ({error.strerror}): name a file that can, or set it to log"
        ) from None


def _caller_keys(settings: Settings) -> list[StaticKey]:
    if settings.callers_path is None:
        return []
    try:
        found = callers_file.load(settings.callers_path, access_policy.CALLABLE_METHODS)
    except callers_file.CallersError as error:
        raise StartError("\n".join(f"ZOOMGATE_CALLERS: {problem}" for problem in error.problems)) from None
    return [StaticKey(caller.key_sha256, caller.principal) for caller in found]


def _bind_grpc(server: grpc.aio.Server, settings: Settings) -> int:
    """Take the gRPC port. Who connects waits until the server starts: to clients it is a server that is not there yet."""
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
    web: WebServer,
    change_feed: ChangeFeed,
    seconds: float,
) -> None:
    """Say that no new calls are wanted, and let the running ones end."""
    web.say_ready("draining")
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
