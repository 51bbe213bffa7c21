"""The vault and the canary check of the releases that know version 1 of the format alone, as they were."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zoomgate_server.encryption.cipher import KeyRing, associated_data
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Column, Kind, Record, RecordKey, RecordStore

VERSION = 1
_PURPOSE = "zoomgate/record/v1"
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened value.

    Attributes:
        grant: The consent that it belongs to.
        generation: Which token pair of the user it holds.
        header: What is readable without a key; only grant and generation in it are authentic.
        secret: What was sealed.
    """

    grant: str
    generation: int
    header: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)


class Vault:
    """Seals and opens values.

    Args:
        app: OAuth origin and client id; every key of a record must carry it.
        keys: The key ring.
    """

    def __init__(self, *, app: str, keys: KeyRing) -> None:
        self.app = app
        self._keys = keys

    @property
    def key_id(self) -> str:
        """Id of the key that seals now."""
        return self._keys.primary_id

    @property
    def key_ids(self) -> frozenset[str]:
        """Ids of the keys that open."""
        return self._keys.ids

    def seal(
        self,
        key: RecordKey,
        *,
        grant: str,
        generation: int,
        header: Mapping[str, Any],
        secret: Mapping[str, Any],
    ) -> bytes:
        """Give the value of a record. Header and secret hold JSON's types alone."""
        clear = orjson.dumps({**header, "grant": grant, "generation": generation})
        inside = orjson.dumps(
            {"subject": key.subject, "grant": grant, "generation": generation, "secret": secret}
        )
        sealed = self._keys.seal(inside, self._associated(key, grant, generation))
        return bytes((VERSION,)) + len(clear).to_bytes(_LENGTH_BYTES, "big") + clear + sealed

    def open(self, record: Record) -> Opened:
        """Open the value of a record.

        Raises:
            RecordUnreadable: It is damaged or belongs to another record.
            RecordVersionUnsupported: A newer version wrote it.
            KeyUnavailable: The key that sealed it is not in the ring.
        """
        value = record.value
        if not value:
            raise unreadable(record.key)
        if value[0] != VERSION:
            raise RecordVersionUnsupported(
                "A newer version of Zoomgate wrote a stored record: upgrade this one",
                metadata={"version": str(value[0]), "record": name_of(record.key)},
            )
        start = 1 + _LENGTH_BYTES
        end = start + int.from_bytes(value[1:start], "big")
        try:
            header = orjson.loads(value[start:end])
            grant, generation = header.pop("grant"), header.pop("generation")
            if not isinstance(grant, str) or not isinstance(generation, int):
                raise unreadable(record.key)
            inside = orjson.loads(
                self._keys.open(value[end:], self._associated(record.key, grant, generation))
            )
        except KeyUnavailable as error:
            raise KeyUnavailable(
                error.message, metadata={**error.metadata, "record": name_of(record.key)}
            ) from None
        except (orjson.JSONDecodeError, KeyError, AttributeError, RecordUnreadable):
            raise unreadable(record.key) from None
        if (inside["subject"], inside["grant"], inside["generation"]) != (
            record.key.subject,
            grant,
            generation,
        ):
            raise unreadable(record.key)
        return Opened(grant, generation, header, inside["secret"])

    def _associated(self, key: RecordKey, grant: str, generation: int) -> bytes:
        return associated_data(_PURPOSE, self.app, key.app, key.kind.value, key.subject, grant, generation)


def name_of(key: RecordKey) -> str:
    """Name a record for operators without naming the person."""
    return f"{key.kind.value}/{hashlib.sha256(key.subject.encode()).hexdigest()[:8]}"


def unreadable(key: RecordKey) -> RecordUnreadable:
    """The error for a record that cannot be opened."""
    return RecordUnreadable(
        "A stored record is damaged or was tampered with; a new consent of the user replaces it",
        metadata={"record": name_of(key)},
    )


_SECRET = {"canary": "sings"}


async def prove(store: RecordStore, envelope: Vault) -> None:
    """Open the canary, or put one into a store that has none and whose records the ring can open.

    Raises:
        KeyUnavailable: A key that sealed something in the store is not in the ring.
        RecordUnreadable: The canary is damaged, or a key with the right id is the wrong key.
        RecordVersionUnsupported: A newer version wrote the canary.
        StoreError: The store failed.
    """
    key = RecordKey(envelope.app, Kind.KEY_CHECK, "canary")
    record, now = await store.get(key)
    if record is not None:
        envelope.open(record)
    for kind in (Kind.USER, Kind.STATE):
        unknown = sorted(set(await store.count(envelope.app, kind, Column.KEY_ID)) - envelope.key_ids)
        if unknown:
            raise KeyUnavailable(
                "The store has records that were sealed with a key which is not in the key ring",
                metadata={"key_id": ",".join(unknown)},
            )
    if record is None:
        value = envelope.seal(key, grant="", generation=0, header={}, secret=_SECRET)
        await store.put(Record(key=key, value=value, key_id=envelope.key_id, changed_at=now), 0)
