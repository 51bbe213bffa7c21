"""A record that proves at the start that the key ring opens what is stored, and says which version of the format is written.

Without it a wrong key would come to light user by user, or, worse, be taken for users who have to consent again. And a process of an
older release would start, and then fail for the users whose records a newer one wrote.
"""

from dataclasses import replace

from zoomgate_server.errors import KeyUnavailable
from zoomgate_server.tokens.store import Column, Kind, Record, RecordKey, RecordStore
from zoomgate_server.tokens.vault import NEWEST, OLDEST, Vault, key_id_of

_SECRET = {"canary": "sings"}


def key_of(app: str) -> RecordKey:
    """Name the canary of an app."""
    return RecordKey(app, Kind.CANARY, "canary")


async def prove(store: RecordStore, vault: Vault) -> Record:
    """Open the canary, or put one into a store that has none and whose records the ring can open. The vault then writes its version.

    A store without a record gets the newest version; one that lost its canary keeps the oldest, which every release reads.

    Raises:
        KeyUnavailable: A key that sealed something in the store is not in the ring.
        RecordUnreadable: The canary is damaged, or a key with the right id is the wrong key.
        RecordVersionUnsupported: A newer version wrote the canary.
        StoreError: The store failed.
    """
    key = key_of(vault.app)
    while True:
        record, now = await store.get(key)
        if record is not None:
            vault.version = vault.open(record).version
        used: set[str] = set()
        for kind in (Kind.USER, Kind.STATE):
            used |= set(await store.count(vault.app, kind, Column.KEY_ID))
        unknown = sorted(used - vault.key_ids - {""})  # that of a damaged record fails for its user alone
        if unknown:
            raise KeyUnavailable(
                f"The store has records that were sealed with {', '.join(unknown)}, which is not in the key ring: put the key file back"
                " that has it",
                metadata={"key_id": ",".join(unknown)},
            )
        if record is not None:
            return record
        vault.version = OLDEST if used else NEWEST
        value = vault.seal(key, grant="", generation=0, header={}, secret=_SECRET)
        made = Record(key=key, value=value, key_id=key_id_of(value), changed_at=now)
        rev = await store.put(made, 0)
        if rev is not None:
            return replace(made, rev=rev)


async def upgrade(store: RecordStore, vault: Vault) -> bool:
    """Let the newest version be written from now on. Releases that do not read it refuse to start afterwards. False if it is so already.

    Raises:
        KeyUnavailable, RecordUnreadable, RecordVersionUnsupported, StoreError: As `prove`.
    """
    while True:
        record = await prove(store, vault)
        if vault.version == NEWEST:
            return False
        vault.version = NEWEST
        value = vault.seal(record.key, grant="", generation=0, header={}, secret=_SECRET)
        if await store.put(replace(record, value=value, key_id=key_id_of(value)), record.rev) is not None:
            return True
