"""Which key sealed which records and journal entries.

Before a key is retired, nothing may be left that only this key opens.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zoomgate_server.encryption.cipher import KEY_ID_BYTES, sealing_key
from zoomgate_server.encryption.envelope import FORMAT, key_id_of
from zoomgate_server.storage.record_store import Column, Kind, RecordStore
from zoomgate_server.storage.scan import pages

JOURNAL = "journal"
"""The folder of the token journal in the data directory. Its files start with the record format and a sealed blob."""


class UnknownFileError(Exception):
    """The sealing key of a journal file cannot be determined. The text is one sentence for the operator."""


async def by_key(store: RecordStore) -> dict[str, Counter[str]]:
    """Count the records by sealing key and kind, using the key ID column."""
    counts: dict[str, Counter[str]] = {}
    for app in await store.apps():
        for kind in Kind:
            for key_id, count in (await store.count(app, kind, Column.KEY_ID)).items():
                counts.setdefault(key_id, Counter())[kind.value] += count
    return counts


async def sealed_with(store: RecordStore, key_id: str, on_records: Callable[[int], None]) -> Counter[str]:
    """Count the records of each kind that a key sealed. Reads every value, so a wrong key ID column hides nothing.

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
    """Count the journal files by sealing key, leaving out files that were cut before the sealed part and so hold no tokens.

    Raises:
        UnknownFileError: A file cannot be read, or has a format that this release does not read.
    """
    counts: Counter[str] = Counter()
    folder = data_dir / JOURNAL
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            with path.open("rb") as file:
                start = file.read(2 + KEY_ID_BYTES)
        except FileNotFoundError:
            continue  # deleted since the folder was listed
        except OSError as error:
            raise UnknownFileError(
                f"{path} cannot be read ({error.strerror}); check its owner and mode"
            ) from None
        if len(start) < 2 + KEY_ID_BYTES:
            continue
        key_id = sealing_key(start[1:]) if start[0] == FORMAT else None
        if key_id is None:
            raise UnknownFileError(
                f"{path} has an unknown format; start the service, which empties the journal, and delete what is left of it"
            )
        counts[key_id] += 1
    return counts
