"""Storage of processed webhook events, so that a repeated event has no effect."""

import hashlib

from zoomgate_server.encryption.envelope import Envelope, key_id_of
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore

RETENTION_SECONDS = 3 * 3600.0
"""Retention period of a processed event. Longer than the maximum age of an accepted event."""


class SeenEvents:
    """Repository of the processed events of one Zoom app, by their digests.

    Every method raises `StoreError` if the store fails.

    Args:
        envelope: Encrypts the records, although their content is empty, so that they are re-encrypted in the same way as all other records.
    """

    def __init__(self, *, store: RecordStore, envelope: Envelope) -> None:
        self._store = store
        self._envelope = envelope

    async def has(self, body: bytes) -> bool:
        """Return whether an event was processed. The body identifies the event, because the body contains the event's name and time."""
        record, now = await self._store.get(self._key(body))
        return record is not None and (record.expire_at is None or now < record.expire_at)

    async def add(self, body: bytes) -> None:
        """Record that an event was processed. If several processes record the same event at once, one successful write is sufficient."""
        key = self._key(body)
        found, now = await self._store.get(key)
        value = self._envelope.seal(key, grant="", generation=0, header={}, secret={})
        record = Record(key=key, value=value, key_id=key_id_of(value), expire_at=now + RETENTION_SECONDS)
        await self._store.put(record, 0 if found is None else found.rev)

    def _key(self, body: bytes) -> RecordKey:
        return RecordKey(self._envelope.app, Kind.WEBHOOK, hashlib.sha256(body).hexdigest())
