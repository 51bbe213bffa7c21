"""The protocols that end connections on behalf of a caller, or because of an event of Zoom."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from zoomgate_server.audit.event import ZOOM, Actor, AuditEvent
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.lifecycle.effects import (
    Audit,
    DropToken,
    Find,
    Protocol,
    Read,
    ReadZoomUser,
    Snapshot,
    put_confirmed,
)
from zoomgate_server.connections.record import Cause, ConnectionRecord, State
from zoomgate_server.errors import ConnectionNotFound, RecordFault, ZoomgateError
from zoomgate_server.storage.record_store import StoreError


class EventOutcome(StrEnum):
    """What an event of Zoom has done."""

    DISCONNECTED = "disconnected"
    NOT_CONNECTED = "not_connected"
    OLDER_THAN_CONSENT = "older_than_consent"
    NEAR_CONSENT = "near_consent"


def disconnect(
    user_email: str, actor: Actor, authorize: Callable[[ConnectionRecord], None]
) -> Protocol[ConnectionRecord]:
    """End the connection with an address on behalf of a caller, and return the tombstone.

    Args:
        authorize: Called with the connection; raises an error if the caller may not end it.

    Raises:
        ConnectionNotFound: There is no connection.
    """
    while True:
        snapshot: Snapshot = yield Find(user_email)
        record = snapshot.record
        if record is None or not decisions.is_connected(record):
            raise ConnectionNotFound
        authorize(record)
        tombstone = decisions.end(record, Cause.REVOKED, snapshot.store_now)
        event = AuditEvent("connection.disconnected", "ok", user_email, actor, record.generation)
        ended = yield from write_tombstone(tombstone, event)
        if ended is not None:
            return ended


def end_by_event(
    zoom_user_id: str, cause: Cause, happened_at: float
) -> Protocol[tuple[EventOutcome, ConnectionRecord | None]]:
    """End the connection of a Zoom user who removed the app or no longer exists.

    An event near a consent may have happened before or after it. Such an event ends nothing: if Zoom rejects the access token, a refresh
    must decide.

    Returns:
        The outcome, and the tombstone, or the connection that must be refreshed, or None.
    """
    while True:
        snapshot: Snapshot = yield Read(zoom_user_id)
        record = snapshot.record
        if record is None or not decisions.is_connected(record):
            return EventOutcome.NOT_CONNECTED, None
        earliest, latest = decisions.around_consent(record)
        if earliest <= happened_at <= latest:
            is_rejected = yield from _is_access_token_rejected(record)
            return EventOutcome.NEAR_CONSENT, record if is_rejected else None
        if happened_at < earliest:
            return EventOutcome.OLDER_THAN_CONSENT, None
        tombstone = decisions.end(record, cause, snapshot.store_now)
        details = {"cause": cause.value}
        event = AuditEvent(
            "connection.disconnected", "ok", record.user_email, ZOOM, record.generation, details=details
        )
        ended = yield from write_tombstone(tombstone, event)
        if ended is not None:
            return EventOutcome.DISCONNECTED, ended


def _is_access_token_rejected(record: ConnectionRecord) -> Protocol[bool]:
    if record.tokens is None or record.state is not State.ACTIVE:
        return False
    try:
        return (yield ReadZoomUser(record.tokens.access_token)) is None
    except ZoomgateError:
        return False


def write_tombstone(tombstone: ConnectionRecord, event: AuditEvent) -> Protocol[ConnectionRecord | None]:
    """Write a tombstone of the user whom the event names, and return it as written. Return None if the record was changed in the meantime.

    If it remains unknown whether the tombstone was written, the audit event is recorded before the error is raised, because a retry of the
    call may find no connection to audit.
    """
    try:
        rev = yield from put_confirmed(tombstone)
    except (StoreError, RecordFault):
        yield Audit(event._replace(outcome="STORE_UNAVAILABLE"))
        raise
    if rev is None:
        return None
    yield DropToken(event.user_email)
    yield Audit(event)
    return replace(tombstone, rev=rev)
