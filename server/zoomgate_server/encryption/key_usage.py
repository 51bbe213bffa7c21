"""Which key sealed what: before a key is given up, nothing may be left that only it opens."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zoomgate_server.encryption.cipher import KEY_ID_BYTES, sealing_key
from zoomgate_server.encryption.envelope import key_id_of
from zoomgate_server.storage.record_store import Column, Kind, RecordStore
from zoomgate_server.storage.scan import pages

JOURNAL = "journal"
"""The folder beside the store whose files begin with a sealed blob each."""


class UnknownFileError(Exception):
    """A file of the journal does not say which key sealed it. The text is one sentence for the operator."""


async def by_key(store: RecordStore) -> dict[str, Counter[str]]:
    """Count the records by the key that sealed them and by their kind, as their columns say it."""
    found: dict[str, Counter[str]] = {}
    for app in await store.apps():
        for kind in Kind:
            for key_id, count in (await store.count(app, kind, Column.KEY_ID)).items():
                found.setdefault(key_id, Counter())[kind.value] += count
    return found


async def sealed_with(store: RecordStore, key_id: str, on_records: Callable[[int], None]) -> Counter[str]:
    """Count the records, by their kind, that a key sealed: by the bytes of every value, which a wrong column does not change.

    Args:
        store: The store.
        key_id: Id of the key.
        on_records: Told how many more records were looked at.
    """
    found: Counter[str] = Counter()
    for app in await store.apps():
        async for page in pages(store, app):
            for record in page:
                found[record.key.kind.value] += key_id in (key_id_of(record.value), record.key_id)
            on_records(len(page))
    return +found


def journal_by_key(data_dir: Path) -> Counter[str]:
    """Count the files of the journal by the key that sealed them. A file without a sealed part holds nothing and is left out.

    Raises:
        UnknownFileError: A file cannot be read, or is of a form that this release does not know.
    """
    found: Counter[str] = Counter()
    folder = data_dir / JOURNAL
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            with path.open("rb") as file:
                start = file.read(1 + KEY_ID_BYTES)
        except FileNotFoundError:
            continue  # it was no longer needed
        except OSError as error:
            raise UnknownFileError(
                f"{path} cannot be read ({error.strerror}): check its owner and mode"
            ) from None
        if len(start) < 1 + KEY_ID_BYTES:
            continue
        key_id = sealing_key(start)
        if key_id is None:
            raise UnknownFileError(
                f"{path} does not say which key sealed it: start the service, which empties the journal"
            )
        found[key_id] += 1
    return found
