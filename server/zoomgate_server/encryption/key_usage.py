"""Usage counts of the encryption keys in stored records and journal entries.

A key may be retired only when no record or journal entry is encrypted with that key.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zoomgate_server.encryption.cipher import KEY_ID_BYTES, sealing_key
from zoomgate_server.encryption.envelope import FORMAT, key_id_of
from zoomgate_server.storage.record_store import Kind, RecordStore
from zoomgate_server.storage.scan import pages

JOURNAL = "journal"
"""Name of the token journal's directory in the data directory. Each file in it consists of the record format byte and an encrypted blob,
except for files with `BINDING_SUFFIX`."""

BINDING_SUFFIX = ".store"
"""Suffix of the files in the token journal's directory that contain the IDs of stores."""


class UnknownFileError(Exception):
    """The encryption key of a journal file cannot be determined. The message is one sentence for the operator."""


async def by_key(store: RecordStore) -> dict[str, Counter[str]]:
    """Count the records by encryption key and kind, using the key ID column."""
    counts: dict[str, Counter[str]] = {}
    for app in await store.apps():
        for kind in Kind:
            for key_id, count in (await store.count(app, kind)).items():
                counts.setdefault(key_id, Counter())[kind.value] += count
    return counts


async def sealed_with(store: RecordStore, key_id: str, on_records: Callable[[int], None]) -> Counter[str]:
    """Count the records of each kind that are encrypted with a key.

    The key ID is read from each value, because the key ID column may be wrong.

    Args:
        on_records: Called with the number of records processed since the last call.
    """
    counts: Counter[str] = Counter()
    for app in await store.apps():
        async for page in pages(store, app):
            for record in page:
                counts[record.key.kind.value] += key_id in (key_id_of(record.value), record.key_id)
            on_records(len(page))
    return +counts


def journal_by_key(data_dir: Path) -> Counter[str]:
    """Count the journal files by encryption key. Files too short to contain a key ID contain no tokens and are not counted.

    Raises:
        UnknownFileError: A file cannot be read, or has a format that this release does not read.
    """
    counts: Counter[str] = Counter()
    directory = data_dir / JOURNAL
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.suffix == BINDING_SUFFIX:
            continue
        try:
            with path.open("rb") as file:
                start = file.read(2 + KEY_ID_BYTES)
        except FileNotFoundError:
            continue  # deleted since the directory was listed
        except OSError as error:
            raise UnknownFileError(
                f"{path} cannot be read ({error.strerror}); check its owner and permissions"
            ) from None
        if len(start) < 2 + KEY_ID_BYTES:
            continue
        key_id = sealing_key(start[1:]) if start[0] == FORMAT else None
        if key_id is None:
            raise UnknownFileError(
                f"{path} has an unknown format; start the service, which empties the journal, and delete the files that remain"
            )
        counts[key_id] += 1
    return counts
