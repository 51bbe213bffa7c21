"""Events of Zoom's that were dealt with, so that one that comes again does nothing."""

import hashlib

from zoomgate_server.encryption.envelope import Envelope, key_id_of
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore

REMEMBERED_SECONDS = 3 * 3600.0
"""How long an event is remembered: longer than one that is repeated is accepted."""


class SeenEvents:
    """Remembers the events of one Zoom app by their digests.

    Every method raises `StoreError` when the store fails.

    Args:
        app: OAuth origin and client id.
        store: Where the records are.
        vault: Seals them. There is nothing in them; so they are like all others when keys are replaced.
    """

    def __init__(self, *, app: str, store: RecordStore, envelope: Envelope) -> None:
        self._app = app
        self._store = store
        self._envelope = envelope

    async def has(self, body: bytes) -> bool:
        """Tell whether an event was dealt with; its name and time are part of the body."""
        record, now = await self._store.get(self._key(body))
        return record is not None and (record.expire_at is None or now < record.expire_at)

    async def add(self, body: bytes) -> None:
        """Note that an event was dealt with. Of several processes at once it does not matter which one does."""
        key = self._key(body)
        found, now = await self._store.get(key)
        value = self._envelope.seal(key, grant="", generation=0, header={}, secret={})
        record = Record(key=key, value=value, key_id=key_id_of(value), expire_at=now + REMEMBERED_SECONDS)
        await self._store.put(record, 0 if found is None else found.rev)

    def _key(self, body: bytes) -> RecordKey:
        return RecordKey(self._app, Kind.WEBHOOK, hashlib.sha256(body).hexdigest())
