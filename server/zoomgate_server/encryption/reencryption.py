"""Re-encryption of stored records under the primary key, while services are running.

A record is written only if it has not changed since it was read. After a conflict, the record is read again, so no update is lost.
An interrupted run can be repeated: records that are already re-encrypted are skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from zoomgate_server.encryption.cipher import Ring
from zoomgate_server.encryption.envelope import Envelope, key_id_of, name_of
from zoomgate_server.errors import RecordFault
from zoomgate_server.storage.record_store import Record, RecordStore
from zoomgate_server.storage.scan import pages, process_each


@dataclass(slots=True)
class ReencryptionResult:
    """The result of a re-encryption.

    Attributes:
        reencrypted: Number of records that were re-encrypted.
        current: Number of records that were already encrypted with the primary key.
        failed: Error messages of the records that cannot be decrypted, by the pseudonymous name of the record. These records are unchanged.
    """

    reencrypted: int = 0
    current: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def reencrypt(store: RecordStore, keys: Ring, on_records: Callable[[int], None]) -> ReencryptionResult:
    """Re-encrypt every record of the store that is not encrypted with the primary key.

    Args:
        on_records: Called with the number of records processed since the last call.
    """
    result = ReencryptionResult()
    for app in await store.apps():
        reencrypt_record = partial(_reencrypt_record, store, Envelope(app=app, keys=keys), result)
        async for page in pages(store, app):
            await process_each(page, reencrypt_record, on_records)
    return result


async def _reencrypt_record(
    store: RecordStore, envelope: Envelope, result: ReencryptionResult, record: Record | None
) -> None:
    while record is not None:
        try:
            opened = envelope.open(record)
        except RecordFault as error:
            result.failed[name_of(record.key)] = error.message
            return
        if (key_id_of(record.value), record.key_id) == (envelope.key_id, envelope.key_id):
            result.current += 1
            return
        value = envelope.seal(
            record.key,
            grant=opened.grant,
            generation=opened.generation,
            header=opened.header,
            secret=opened.secret,
        )
        if await store.put(replace(record, value=value, key_id=key_id_of(value)), record.rev) is not None:
            result.reencrypted += 1
            return
        record, _ = await store.get(record.key)
