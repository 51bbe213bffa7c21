"""Construction of connection repositories and effect drivers over a store of the test."""

from typing import Any

from support.memory_journal import MemoryJournal
from zoomgate_server.audit.event import AuditSink
from zoomgate_server.clock import Clock
from zoomgate_server.connections.driver import EffectDriver
from zoomgate_server.connections.exchange_mark import ExchangeMarkRepository
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import RecordStore

KEY_RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
ENVELOPE = Envelope(app="app", keys=KEY_RING)


def create_repository(
    store: RecordStore, clock: Clock, envelope: Envelope = ENVELOPE
) -> ConnectionRepository:
    """Return the repository of the connections in a store."""
    return ConnectionRepository(
        app=envelope.app, store=store, envelope=envelope, clock=clock, on_read=lambda: None
    )


def create_driver(
    store: RecordStore,
    clock: Clock,
    oauth: Any,
    *,
    envelope: Envelope = ENVELOPE,
    journal: Any = None,
    zoom: Any = None,
    audit: AuditSink = lambda _: None,
) -> EffectDriver:
    """Return a driver that performs the effects of protocols with a store and a simulation of Zoom.

    Args:
        oauth: Has those methods of `OAuthClient` that the protocols call.
        journal: Has the methods of `TokenJournal` that the driver calls. None for a `MemoryJournal`.
        zoom: Has the method `send` of `ZoomClient`. None if no protocol identifies a Zoom user.
    """
    return EffectDriver(
        connections=create_repository(store, clock, envelope),
        marks=ExchangeMarkRepository(store=store, envelope=envelope),
        journal=MemoryJournal() if journal is None else journal,
        oauth=oauth,
        zoom=zoom,
        clock=clock,
        audit=audit,
        drop_token=lambda _: None,
    )
