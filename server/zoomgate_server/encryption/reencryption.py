"""Sealing stored records anew: with the key that seals now, in the version of the format that the store has.

It goes beside a running service. A record is written only if nobody wrote it since it was read, with all that it said; whoever was
faster is read again. So nothing is lost, and a sweep that was interrupted goes on where it stopped: what is done is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zoomgate_server.encryption import key_check
from zoomgate_server.encryption.cipher import Ring
from zoomgate_server.encryption.envelope import OLDEST, Envelope, key_id_of, name_of, version_of
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import Kind, Record, RecordStore
from zoomgate_server.storage.scan import each, pages


@dataclass(slots=True)
class ReencryptionResult:
    """What a sweep did.

    Attributes:
        resealed: How many records it sealed anew.
        current: How many needed nothing.
        failed: Names of the records that could not be opened, and why; they are as they were.
    """

    reencrypted: int = 0
    current: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def reencrypt(store: RecordStore, keys: Ring, on_records: Callable[[int], None]) -> ReencryptionResult:
    """Seal every record of the store anew that was sealed with another key than the primary, or in an older version than the store has.

    Args:
        store: The store.
        keys: The key ring.
        on_records: Told how many more records are done.

    Raises:
        StoreError: The store failed; a new sweep goes on where this one stopped.
    """
    swept = ReencryptionResult()
    for app in await store.apps():
        envelope = Envelope(app=app, keys=keys)
        envelope.version = OLDEST
        mark, _ = await store.get(key_check.key_of(app))
        if mark is not None:
            await _seal_anew(store, envelope, mark, swept)  # the vault follows its version

        async def anew(record: Record, envelope: Envelope = envelope) -> None:
            if record.key.kind is not Kind.KEY_CHECK:
                await _seal_anew(store, envelope, record, swept)

        async for page in pages(store, app):
            await each(page, anew, on_records)
    return swept


async def _seal_anew(
    store: RecordStore, envelope: Envelope, record: Record | None, swept: ReencryptionResult
) -> None:
    while record is not None:
        try:
            opened = envelope.open(record)
        except RecordFault as error:
            swept.failed[name_of(record.key)] = error.message
            return
        if (key_id_of(record.value), record.key_id) == (envelope.key_id, envelope.key_id) and version_of(
            record.value
        ) >= envelope.version:
            swept.current += 1
            return
        value = envelope.seal(
            record.key,
            grant=opened.grant,
            generation=opened.generation,
            header=opened.header,
            secret=opened.secret,
        )
        if await store.put(replace(record, value=value, key_id=key_id_of(value)), record.rev) is not None:
            swept.reencrypted += 1
            return
        record, _ = await store.get(record.key)
