"""Random secrets that all processes with the same store share."""

import secrets
from base64 import b64decode, b64encode

from zoomgate_server.encryption.envelope import Envelope, key_id_of
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore


async def obtain(store: RecordStore, envelope: Envelope, name: str) -> bytes:
    """Return the 32 random bytes stored under a name, creating them if needed. For the errors, see `Envelope.open`."""
    while (found := await find(store, envelope, name)) is None:
        key = RecordKey(envelope.app, Kind.META, name)
        secret = {"bytes": b64encode(secrets.token_bytes(32)).decode()}
        value = envelope.seal(key, grant="", generation=0, header={}, secret=secret)
        await store.put(Record(key=key, value=value, key_id=key_id_of(value)), 0)
    return found


async def find(store: RecordStore, envelope: Envelope, name: str) -> bytes | None:
    """Return the bytes stored under a name, or None if they have not been created yet. For the errors, see `Envelope.open`."""
    record, _ = await store.get(RecordKey(envelope.app, Kind.META, name))
    return None if record is None else b64decode(envelope.open(record).secret["bytes"])
