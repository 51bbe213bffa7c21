"""Sealing stored records anew: with the key that seals now, in the version of the format that the store has.

It goes beside a running service. A record is written only if nobody wrote it since it was read, with all that it said; whoever was
faster is read again. So nothing is lost, and a sweep that was interrupted goes on where it stopped: what is done is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zoomgate_server.encryption import key_check
from zoomgate_server.encryption.cipher import Ring
from zoomgate_server.encryption.envelope import OLDEST, Vault, key_id_of, name_of, version_of
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import Kind, Record, RecordStore
from zoomgate_server.storage.scan import each, pages


@dataclass(slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        resealed: How many records it sealed anew.
        current: How many needed nothing.
        failed: Names of the records that could not be opened, and why; they are as they were.
    """

    resealed: int = 0
    current: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def sweep(store: RecordStore, keys: Ring, on_records: Callable[[int], None]) -> Swept:
    """Seal every record of the store anew that was sealed with another key than the primary, or in an older version than the store has.

    Args:
        store: The store.
        keys: The key ring.
        on_records: Told how many more records are done.

    Raises:
        StoreError: The store failed; a new sweep goes on where this one stopped.
    """
    swept = Swept()
    for app in await store.apps():
        vault = Vault(app=app, keys=keys)
        vault.version = OLDEST
        mark, _ = await store.get(key_check.key_of(app))
        if mark is not None:
            await _seal_anew(store, vault, mark, swept)  # the vault follows its version

        async def anew(record: Record, vault: Vault = vault) -> None:
            if record.key.kind is not Kind.CANARY:
                await _seal_anew(store, vault, record, swept)

        async for page in pages(store, app):
            await each(page, anew, on_records)
    return swept


async def _seal_anew(store: RecordStore, vault: Vault, record: Record | None, swept: Swept) -> None:
    while record is not None:
        try:
            opened = vault.open(record)
        except RecordFault as error:
            swept.failed[name_of(record.key)] = error.message
            return
        if (key_id_of(record.value), record.key_id) == (vault.key_id, vault.key_id) and version_of(
            record.value
        ) >= vault.version:
            swept.current += 1
            return
        value = vault.seal(
            record.key,
            grant=opened.grant,
            generation=opened.generation,
            header=opened.header,
            secret=opened.secret,
        )
        if await store.put(replace(record, value=value, key_id=key_id_of(value)), record.rev) is not None:
            swept.resealed += 1
            return
        record, _ = await store.get(record.key)
