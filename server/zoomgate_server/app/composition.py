"""The composition root: builds the domain from settings, a store and a key ring."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass

from zoomgate_server.app.zoom_clients import start_clients
from zoomgate_server.audit.trail import FINGERPRINT_SECRET, AuditTrail
from zoomgate_server.authorization.flow import Authorizations
from zoomgate_server.authorization.repository import AuthorizationStore
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.access_tokens import Connections
from zoomgate_server.connections.account_linking import Adoption
from zoomgate_server.connections.count_gauge import ConnectionCounts
from zoomgate_server.connections.disconnection import Endings
from zoomgate_server.connections.journal_recovery import Recovery
from zoomgate_server.connections.proactive_refresh import Upkeep
from zoomgate_server.connections.queries import ConnectionQueries
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.repository import ConnectionStore
from zoomgate_server.connections.retention import Reaper
from zoomgate_server.connections.token_cache import TokenCache
from zoomgate_server.connections.token_journal import Journal
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Vault
from zoomgate_server.encryption.reloading_key_ring import ReloadedRing
from zoomgate_server.rpc.services.auth import AuthService
from zoomgate_server.rpc.services.meetings import MeetingDefaults, MeetingsService
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.proxy import ProxyService
from zoomgate_server.settings import Settings
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.telemetry import background_tasks, logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.change_feed import ChangeFeed
from zoomgate_server.watch.watchers import Watches
from zoomgate_server.webhooks.receiver import Webhooks
from zoomgate_server.webhooks.seen_events import WebhookStore

REFRESH_DRAIN_SECONDS = 40.0
"""How long running refreshes get to store what Zoom answered; a call to Zoom's token endpoint takes 35 seconds at most."""


_log = logs.get("zoomgate.app")


@dataclass(frozen=True, slots=True)
class Components:
    """Everything that the servers use."""

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
    ) -> "Components":
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
            clock=clock,
            metrics=metrics,
        )
        zoom_calls = ZoomCalls(access_tokens=connections, zoom=zoom, clock=clock)
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
                queries=ConnectionQueries(connection_store),
                endings=endings,
                watches=Watches(feed=change_feed, metrics=metrics),
                page_tokens=page_tokens,
                clock=clock,
                audit=audit.require if settings.audit_required else audit,
            ),
            meetings=MeetingsService(
                zoom_calls=zoom_calls,
                defaults=MeetingDefaults(
                    topic=defaults.topic,
                    duration_minutes=defaults.duration_minutes,
                    timezone=defaults.timezone,
                ),
            ),
            proxy=ProxyService(zoom_calls=zoom_calls, api_url=settings.zoom_api_url),
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
