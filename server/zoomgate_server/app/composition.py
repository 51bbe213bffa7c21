"""Composition root: the domain objects, built from settings, a store, and a key ring."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass

from zoomgate_server import private_file
from zoomgate_server.app import store_binding
from zoomgate_server.app.timing import Timing
from zoomgate_server.app.zoom_clients import open_clients, open_file_client
from zoomgate_server.audit.trail import FINGERPRINT_SECRET, AuditTrail
from zoomgate_server.authorization.browser_flow import BrowserFlow
from zoomgate_server.authorization.caller_flow import CallerFlow
from zoomgate_server.authorization.limits import PendingLimits
from zoomgate_server.authorization.repository import AuthorizationRepository
from zoomgate_server.clock import Clock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.access_tokens import AccessTokens
from zoomgate_server.connections.account_linking import AccountLinker
from zoomgate_server.connections.connection_import import ConnectionImporter
from zoomgate_server.connections.count_gauge import ConnectionCountGauge
from zoomgate_server.connections.disconnection import Disconnector
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.exchange_mark import ExchangeMarkRepository
from zoomgate_server.connections.file_downloads import FileDownloads
from zoomgate_server.connections.journal_recovery import JournalRecovery
from zoomgate_server.connections.proactive_refresh import ProactiveRefresh
from zoomgate_server.connections.queries import ConnectionQueries
from zoomgate_server.connections.refresh import protocol as refresh_protocol
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.retention import RetentionPolicy
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.connections.zoom_pages import ZoomPages
from zoomgate_server.encryption import shared_secret
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing
from zoomgate_server.rpc.middleware.error_status import reason_of
from zoomgate_server.rpc.services.auth import AuthService
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.proxy import ProxyService
from zoomgate_server.rpc.services.registrants import RegistrantsService
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.telemetry import background_tasks, logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.watch.watchers import Watchers
from zoomgate_server.webhooks.receiver import WebhookReceiver
from zoomgate_server.webhooks.seen_events import SeenEvents
from zoomgate_server.zoom import urls
from zoomgate_server.zoom.file_urls import FileHosts
from zoomgate_server.zoom.oauth import OAuthClient

_log = logs.get("zoomgate.app")


@dataclass(frozen=True, slots=True)
class Components:
    """The domain objects that the servers use."""

    audit: AuditTrail
    account_linker: AccountLinker
    browser_flow: BrowserFlow
    change_feed: ChangeFeed
    disconnector: Disconnector
    connection_counts: ConnectionCountGauge
    refresher: Refresher
    journal_recovery: JournalRecovery
    key_ring: ReloadingKeyRing
    webhooks: WebhookReceiver
    proactive_refresh: ProactiveRefresh
    retention: RetentionPolicy
    auth: AuthService
    meetings: MeetingsService
    registrants: RegistrantsService
    proxy: ProxyService
    oauth: OAuthClient
    timing: Timing

    @classmethod
    async def build(
        cls,
        settings: Settings,
        store: RecordStore,
        loaded_key_ring: KeyRing,
        clock: Clock,
        metrics: Metrics,
        timing: Timing,
        stack: AsyncExitStack,
    ) -> "Components":
        """Build the domain objects; the exit stack closes the opened clients and files."""
        app = settings.app
        key_ring = ReloadingKeyRing(
            settings.keys, loaded_key_ring, clock, metrics.key_ring_reloads.inc, timing.key_ring
        )
        journal = TokenJournal(
            settings.data_dir / "journal",
            app=app,
            key_ring=key_ring,
            metrics=metrics,
            timing=timing.journal,
        )
        stack.push_async_callback(journal.close)  # last, since a running attempt may still receive tokens
        is_usable = await journal.prepare()
        envelope = Envelope(app=app, keys=key_ring)
        await store_binding.verify(settings, store, envelope, stack, journal_is_usable=is_usable)
        fingerprints = await shared_secret.obtain(store, envelope, FINGERPRINT_SECRET)
        audit = _audit_trail(settings, fingerprints, clock, metrics, timing)
        stack.callback(audit.close)
        page_tokens = PageTokens(await shared_secret.obtain(store, envelope, "page-tokens"))
        connections = ConnectionRepository(
            app=app, store=store, envelope=envelope, clock=clock, on_read=metrics.store_reads.inc
        )
        zoom, oauth = open_clients(settings, clock, stack, timing.token_requests)
        refresh_limit = ConcurrencyLimit(Limit.REFRESHES, settings.max_concurrent_refreshes, clock, metrics)
        exchange_limit = ConcurrencyLimit(Limit.EXCHANGES, settings.max_concurrent_exchanges, clock, metrics)
        call_limit = ConcurrencyLimit(Limit.ZOOM_CALLS, settings.max_concurrent_zoom_calls, clock, metrics)
        download_limit = ConcurrencyLimit(Limit.DOWNLOADS, settings.max_concurrent_downloads, clock, metrics)
        api_names = (urls.ZOOM_API_URL, *(f"https://{host}/v2" for host in settings.zoom_api_hosts))
        file_hosts = FileHosts(settings.zoom_api_url, api_names, settings.download_hosts)
        driver = EffectDriver(
            connections=connections,
            marks=ExchangeMarkRepository(store=store, envelope=envelope),
            journal=journal,
            oauth=oauth,
            zoom=zoom,
            clock=clock,
            audit=audit,
            drop_token=lambda user_email: access_tokens.drop(user_email),  # noqa: PLW0108 - defined below
        )
        refresher = Refresher(
            driver=driver,
            clock=clock,
            metrics=metrics,
            audit=audit,
            limit=refresh_limit,
            config=refresh_protocol.Config(
                forced_interval=settings.forced_refresh_seconds,
                max_refreshes=settings.max_refreshes_per_hour,
                timing=timing.refreshes,
            ),
        )
        access_tokens = AccessTokens(
            connections=connections, refresher=refresher, clock=clock, metrics=metrics, timing=timing.tokens
        )
        disconnector = Disconnector(
            driver,
            connections=connections,
            refresher=refresher,
            limit=refresh_limit,
            clock=clock,
            timing=timing.disconnections,
            lease=timing.refreshes,
        )
        zoom_calls = ZoomCalls(
            access_tokens=access_tokens, zoom=zoom, limit=call_limit, clock=clock, timing=timing.zoom_requests
        )
        change_feed = ChangeFeed(
            connections=connections, clock=clock, on_change=access_tokens.drop_changed, timing=timing.feed
        )
        account_linker = AccountLinker(
            driver,
            clock=clock,
            key=await shared_secret.obtain(store, envelope, "exchange"),
            limit=exchange_limit,
            seen_generation=access_tokens.seen_generation,
            timing=timing.refreshes,
        )
        authorizations = AuthorizationRepository(store=store, envelope=envelope, reason_of=reason_of)
        caller_flow = CallerFlow(
            authorizations=authorizations,
            connections=connections,
            account_linker=account_linker,
            oauth=oauth,
            limits=PendingLimits(
                clock, per_user=settings.max_pending_per_user, per_caller=settings.max_pending_per_caller
            ),
            audit=audit,
            redirect_uri=settings.redirect_uri,
            return_to=settings.return_to,
        )
        browser_flow = BrowserFlow(
            authorizations=authorizations,
            connections=connections,
            account_linker=account_linker,
            oauth=oauth,
            clock=clock,
            audit=audit,
            return_to=settings.return_to,
            timing=timing.browsers,
        )
        importer = ConnectionImporter(
            account_linker, audit=audit, count=lambda outcome: metrics.imports.labels(outcome).inc()
        )
        rng = random.Random()  # noqa: S311 - for jitter only, not for secrets
        return cls(
            audit=audit,
            account_linker=account_linker,
            browser_flow=browser_flow,
            change_feed=change_feed,
            disconnector=disconnector,
            connection_counts=ConnectionCountGauge(connections, clock, metrics),
            refresher=refresher,
            journal_recovery=JournalRecovery(
                journal=journal,
                refresher=refresher,
                account_linker=account_linker,
                clock=clock,
                limit=refresh_limit,
                metrics=metrics,
                timing=timing.recovery,
            ),
            key_ring=key_ring,
            webhooks=WebhookReceiver(
                secrets=settings.webhook_secret,
                client_id=settings.client_id,
                disconnector=disconnector,
                events=SeenEvents(store=store, envelope=envelope),
                now=connections.now,
                clock=clock,
                count=lambda outcome: metrics.webhooks.labels(outcome).inc(),
                audit=audit,
                timing=timing.webhooks,
            ),
            proactive_refresh=ProactiveRefresh(
                connections=connections,
                refresher=refresher,
                access_tokens=access_tokens,
                limit=refresh_limit,
                clock=clock,
                metrics=metrics,
                per_minute=settings.proactive_refreshes_per_minute,
                rng=rng,
                timing=timing.proactive_refreshes,
            ),
            retention=RetentionPolicy(
                app=app,
                store=store,
                envelope=envelope,
                clock=clock,
                reauth_days=settings.reauth_retention_days,
                audit=audit,
                on_pruned=lambda kind: metrics.pruned_records.labels(kind).inc(),
                rng=rng,
            ),
            auth=AuthService(
                authorizations=caller_flow,
                importer=importer,
                access_tokens=access_tokens,
                queries=ConnectionQueries(connections),
                disconnector=disconnector,
                watchers=Watchers(feed=change_feed, metrics=metrics, timing=timing.watches),
                page_tokens=page_tokens,
                required_scopes=settings.required_scopes,
                clock=clock,
                audit=audit.require if settings.audit_required else audit,
            ),
            meetings=MeetingsService(
                zoom_calls=zoom_calls,
                page_tokens=page_tokens,
                defaults={
                    "topic": settings.default_topic,
                    "duration": settings.default_duration_minutes,
                    "timezone": settings.default_timezone,
                },
                clock=clock,
            ),
            registrants=RegistrantsService(zoom_calls=zoom_calls, page_tokens=page_tokens),
            proxy=ProxyService(
                zoom_calls=zoom_calls,
                pages=ZoomPages(zoom_calls, clock, timing.pages),
                downloads=FileDownloads(
                    access_tokens=access_tokens,
                    zoom_calls=zoom_calls,
                    files=open_file_client(settings, file_hosts, stack, timing.file_requests),
                    limit=download_limit,
                    clock=clock,
                    timing=timing.downloads,
                ),
                base_urls=(*api_names, settings.zoom_api_url),
                file_hosts=file_hosts,
                max_response_bytes=settings.max_response_bytes,
            ),
            oauth=oauth,
            timing=timing,
        )

    def background_tasks(self) -> dict[str, background_tasks.TaskFactory]:
        """Return the background tasks by name."""
        return {
            "changes": self.change_feed.run,
            "publisher": self.change_feed.run_publisher,
            "revocations": self.disconnector.retry_revocations,
            "journal": self.journal_recovery.run,
            "ages": self.refresher.report_pending_age,
            "keys": self.key_ring.watch_file,
            "audit": self.audit.flush_suppressed,
            "retention": self.retention.run,
            **self.proactive_refresh.background_tasks(),
        }

    async def drain(self) -> None:
        """Wait for running background tasks, since tokens issued by Zoom must be stored before the store closes."""
        now = asyncio.get_running_loop().time
        deadline = now() + self.timing.drain
        self.oauth.stop_after(self.timing.drain - self.timing.refreshes.call)
        drains = (self.refresher.drain, self.account_linker.tasks.drain, self.journal_recovery.tasks.drain)
        if not all(await asyncio.gather(*(drain(deadline - now()) for drain in drains))):
            _log.error("drain.incomplete", refreshes=self.refresher.running)
        await self.disconnector.tasks.drain(deadline - now())
        await self.retention.tasks.drain()


def _audit_trail(
    settings: Settings, key: bytes, clock: Clock, metrics: Metrics, timing: Timing
) -> AuditTrail:
    try:
        if settings.audit is not None and settings.audit.parent == settings.data_dir:
            private_file.create_folder(settings.data_dir)
        return AuditTrail(
            settings.audit, key=key, clock=clock, on_lost=metrics.audit_failures.inc, timing=timing.audit
        )
    except OSError as error:
        raise StartError(
            f"{settings.names['audit']}: cannot write to {settings.audit} ({error.strerror}); set it to a writable file or `log`"
        ) from None
