"""The key check: a record that proves at startup that the key ring fits the store.

Without it, a wrong key would be noticed user by user only, or even be mistaken for users who need to consent again.
"""

from dataclasses import replace

from zoomgate_server.encryption.envelope import Envelope, key_id_of, require_supported
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable
from zoomgate_server.storage.record_store import (
    ENCRYPTED_KINDS,
    KEY_CHECK,
    Column,
    KeyUsage,
    Kind,
    Record,
    RecordKey,
    RecordStore,
)

_SECRET = {"purpose": "key_check"}


def key_of(app: str) -> RecordKey:
    """Return the record key of an app's key check."""
    return RecordKey(app, Kind.KEY_CHECK, KEY_CHECK)


def check(sealed: KeyUsage, envelope: Envelope) -> None:
    """Check that the key ring opens the stored records.

    Raises:
        KeyUnavailable: A key that sealed stored records is not in the ring.
        RecordUnreadable: The key check is corrupt, or the ring holds another secret under the same key ID.
        RecordVersionUnsupported: The key check has another format version.
    """
    if sealed.key_check is not None:
        try:
            envelope.open(sealed.key_check)
        except RecordUnreadable as error:
            raise RecordUnreadable(
                "The key ring does not open the store's key check: either the key check is corrupt, or the ring holds another key under the"
                " same ID; restore the key file that the store was created with",
                metadata=error.metadata,
            ) from None
    # An empty ID belongs to a corrupt record, which fails for its own user only.
    unknown = sorted(sealed.key_ids - envelope.key_ids - {""})
    if unknown:
        raise KeyUnavailable(
            f"The store has records that were sealed with {', '.join(unknown)}, which is not in the key ring; restore the key file that"
            " contains it",
            metadata={"key_id": ",".join(unknown)},
        )


async def verify(store: RecordStore, envelope: Envelope) -> Record:
    """Check that the key ring opens the store, and create the key check if it is missing.

    Raises:
        RecordFault: As for `check`; also if the key check is missing and the stored records have another format version.
        StoreError: The store failed.
    """
    key = key_of(envelope.app)
    while True:
        record, now = await store.get(key)
        used: set[str] = set()
        for kind in ENCRYPTED_KINDS:
            used |= set(await store.count(envelope.app, kind, Column.KEY_ID))
        check(KeyUsage(record, frozenset(used)), envelope)
        if record is not None:
            return record
        for kind in ENCRYPTED_KINDS:
            for sample in await store.page(envelope.app, kind, limit=1):
                require_supported(sample)
        value = envelope.seal(key, grant="", generation=0, header={}, secret=_SECRET)
        created = Record(key=key, value=value, key_id=key_id_of(value), changed_at=now)
        rev = await store.put(created, 0)
        if rev is not None:
            return replace(created, rev=rev)
