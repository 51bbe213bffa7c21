"""The key check, a record that proves at startup that the key ring matches the store, and that identifies the store.

Without a key check, a wrong key ring would be noticed only when calls for individual users fail, and those users might even be asked to
consent again. The key check contains the store's ID: random digits that a store and its backups have in common.
"""

import secrets

from zoomgate_server.encryption.envelope import Envelope, key_id_of, require_supported
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable
from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    EncryptionState,
    Kind,
    Query,
    Record,
    RecordKey,
    RecordStore,
)
from zoomgate_server.storage.scan import encryption_state


def key_of(app: str) -> RecordKey:
    """Return the record key of an app's key check."""
    return RecordKey(app, Kind.KEY_CHECK, KEY_CHECK)


def check(state: EncryptionState, envelope: Envelope) -> str | None:
    """Check that the key ring can decrypt the stored records. Return the store's ID, or None if there is no key check yet.

    Raises:
        KeyUnavailable: A key that encrypted stored records is not in the ring.
        RecordUnreadable: The key check is corrupt, or the ring contains a different secret under the same key ID.
        RecordVersionUnsupported: The key check has an unsupported format version.
    """
    store_id: str | None = None
    if state.key_check is not None:
        try:
            store_id = envelope.open(state.key_check).secret["store_id"]
        except RecordUnreadable as error:
            raise RecordUnreadable(
                "The key ring cannot decrypt the store's key check: either the key check is corrupt, or the ring contains a different key"
                " under the same ID; restore the key file with which the store was created",
                metadata=error.metadata,
            ) from None
    # An empty ID belongs to a corrupt record, which affects only its own user.
    unknown = sorted(state.key_ids - envelope.key_ids - {""})
    if unknown:
        raise KeyUnavailable(
            f"The store contains records that were encrypted with key {', '.join(unknown)}, which is not in the key ring; restore"
            " the key file that contains it",
            metadata={"key_id": ",".join(unknown)},
        )
    return store_id


async def verify(store: RecordStore, envelope: Envelope, *, create: bool = True) -> str | None:
    """Check that the key ring matches the store, and return the store's ID; see `check`.

    Without a key check, one record of each kind must have a supported format version.

    Args:
        create: Whether a missing key check is created, with a new ID.
    """
    key = key_of(envelope.app)
    while True:
        state = await encryption_state(store, envelope.app)
        store_id = check(state, envelope)
        if store_id is not None or not create:
            return store_id
        for kind in Kind:
            for record in await store.page(envelope.app, kind, Query(limit=1)):
                require_supported(record)
        secret = {"store_id": secrets.token_hex(16)}
        value = envelope.seal(key, grant="", generation=0, header={}, secret=secret)
        await store.put(Record(key=key, value=value, key_id=key_id_of(value)), 0)
