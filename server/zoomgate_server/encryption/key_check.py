"""A record that proves at the start that the key ring opens what is stored, and says which version of the format is written.

Without it a wrong key would come to light user by user, or, worse, be taken for users who have to consent again. And a process of an
older release would start, and then fail for the users whose records a newer one wrote.
"""

from dataclasses import replace

from zoomgate_server.encryption.envelope import NEWEST, OLDEST, Envelope, key_id_of
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable
from zoomgate_server.storage.record_store import (
    KEY_CHECK,
    KEYED,
    Column,
    Kind,
    Record,
    RecordKey,
    RecordStore,
    Sealed,
)

_SECRET = {"canary": "sings"}


def key_of(app: str) -> RecordKey:
    """Name the canary of an app."""
    return RecordKey(app, Kind.KEY_CHECK, KEY_CHECK)


def check(sealed: Sealed, envelope: Envelope) -> None:
    """Check that the key ring opens what is stored. The vault then writes the canary's version.

    Raises:
        KeyUnavailable: A key that sealed something in the store is not in the ring.
        RecordUnreadable: The canary is damaged, or a key with the right id is the wrong key.
        RecordVersionUnsupported: A newer version wrote the canary.
    """
    if sealed.key_check is not None:
        try:
            envelope.version = envelope.open(sealed.key_check).version
        except RecordUnreadable as error:
            raise RecordUnreadable(
                "The key ring does not open the store's test record: either that is damaged, or a key of the ring has the right id and is"
                " another key; put the key file back that the store was made with",
                metadata=error.metadata,
            ) from None
    unknown = sorted(
        sealed.key_ids - envelope.key_ids - {""}
    )  # that of a damaged record fails for its user alone
    if unknown:
        raise KeyUnavailable(
            f"The store has records that were sealed with {', '.join(unknown)}, which is not in the key ring: put the key file back"
            " that has it",
            metadata={"key_id": ",".join(unknown)},
        )


async def verify(store: RecordStore, envelope: Envelope) -> Record:
    """Open the canary, or put one into a store that has none and whose records the ring can open. The vault then writes its version.

    A store without a record gets the newest version; one that lost its canary keeps the oldest, which every release reads.

    Raises:
        RecordFault: As `check`.
        StoreError: The store failed.
    """
    key = key_of(envelope.app)
    while True:
        record, now = await store.get(key)
        used: set[str] = set()
        for kind in KEYED:
            used |= set(await store.count(envelope.app, kind, Column.KEY_ID))
        check(Sealed(record, frozenset(used)), envelope)
        if record is not None:
            return record
        envelope.version = OLDEST if used else NEWEST
        value = envelope.seal(key, grant="", generation=0, header={}, secret=_SECRET)
        made = Record(key=key, value=value, key_id=key_id_of(value), changed_at=now)
        rev = await store.put(made, 0)
        if rev is not None:
            return replace(made, rev=rev)


async def upgrade(store: RecordStore, envelope: Envelope) -> bool:
    """Let the newest version be written from now on. Releases that do not read it refuse to start afterwards. False if it is so already.

    Raises:
        RecordFault, StoreError: As `prove`.
    """
    while True:
        record = await verify(store, envelope)
        if envelope.version == NEWEST:
            return False
        envelope.version = NEWEST
        value = envelope.seal(record.key, grant="", generation=0, header={}, secret=_SECRET)
        if await store.put(replace(record, value=value, key_id=key_id_of(value)), record.rev) is not None:
            return True
