"""Random secrets that all processes with the same store share."""

import secrets
from base64 import b64decode, b64encode

from zoomgate_server.encryption.envelope import Envelope, key_id_of
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore


async def obtain(store: RecordStore, envelope: Envelope, name: str) -> bytes:
    """Return the 32 random bytes stored under a name, creating them if needed.

    Raises:
        RecordFault: The stored secret cannot be decrypted. See `Envelope.open`.
        StoreError: The store failed.
    """
    key = RecordKey(envelope.app, Kind.META, name)
    while True:
        record, now = await store.get(key)
        if record is not None:
            return _bytes(record, envelope)
        secret = {"bytes": b64encode(secrets.token_bytes(32)).decode()}
        value = envelope.seal(key, grant="", generation=0, header={}, secret=secret)
        await store.put(Record(key=key, value=value, key_id=key_id_of(value), changed_at=now), 0)


async def find(store: RecordStore, envelope: Envelope, name: str) -> bytes | None:
    """Return the bytes stored under a name, or None if they have not been created yet.

    Raises:
        RecordFault: The stored secret cannot be decrypted. See `Envelope.open`.
        StoreError: The store failed.
    """
    record, _ = await store.get(RecordKey(envelope.app, Kind.META, name))
    return None if record is None else _bytes(record, envelope)


def _bytes(record: Record, envelope: Envelope) -> bytes:
    return b64decode(envelope.open(record).secret["bytes"])
