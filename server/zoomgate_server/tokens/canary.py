"""A record that proves at the start that the key ring opens what is stored.

Without it a wrong key would come to light user by user, or, worse, be taken for users who have to consent again.
"""

from zoomgate_server.errors import KeyUnavailable
from zoomgate_server.tokens.store import Column, Kind, Record, RecordKey, RecordStore
from zoomgate_server.tokens.vault import Vault

_SECRET = {"canary": "sings"}


async def prove(store: RecordStore, vault: Vault) -> None:
    """Open the canary, or put one into a store that has none and whose records the ring can open.

    Raises:
        KeyUnavailable: A key that sealed something in the store is not in the ring.
        RecordUnreadable: The canary is damaged, or a key with the right id is the wrong key.
        RecordVersionUnsupported: A newer version wrote the canary.
        StoreError: The store failed.
    """
    key = RecordKey(vault.app, Kind.CANARY, "canary")
    record, now = await store.get(key)
    if record is not None:
        vault.open(record)
    for kind in (Kind.USER, Kind.STATE):
        unknown = sorted(set(await store.count(vault.app, kind, Column.KEY_ID)) - vault.key_ids)
        if unknown:
            raise KeyUnavailable(
                "The store has records that were sealed with a key which is not in the key ring",
                metadata={"key_id": ",".join(unknown)},
            )
    if record is None:
        value = vault.seal(key, grant="", generation=0, header={}, secret=_SECRET)
        await store.put(Record(key=key, value=value, key_id=vault.key_id, changed_at=now), 0)
