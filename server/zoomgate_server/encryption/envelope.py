"""Turns what we know into a stored value and back; the only place that sees both forms.

A value is `version (1 byte) | length of the header (4 bytes) | header (JSON) | sealed part`. The header is readable without a key, the
sealed part is bound to app, kind, subject, grant and generation, and repeats the last three inside. In version 2 it is bound to every byte
of the header as well (docs/adr/0007-record-format-2.md). What cannot be opened raises; it is never taken for absent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zoomgate_server.encryption.cipher import KEY_ID_BYTES, Ring, associated_data, sealing_key
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Record, RecordKey

OLDEST, NEWEST = 1, 2
"""The versions of the format that are read, and may be written."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened value.

    Attributes:
        grant: The consent that it belongs to.
        generation: Which token pair of the user it holds.
        header: What is readable without a key; before version 2 only grant and generation in it are authentic.
        secret: What was sealed.
        version: Of the format.
    """

    grant: str
    generation: int
    header: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)
    version: int


class Envelope:
    """Seals and opens values.

    Args:
        app: OAuth origin and client id; every key of a record must carry it.
        keys: The key ring.

    Attributes:
        version: Which version of the format is written. The store decides, by its canary: see `canary.prove`. A process that opens a
            newer value follows, since then the store was upgraded while the process ran.
    """

    def __init__(self, *, app: str, keys: Ring) -> None:
        self.app = app
        self.version = NEWEST
        self._keys = keys

    @property
    def key_id(self) -> str:
        """Id of the key that seals now. What sealed a value that is there already says `key_id_of`."""
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
        version = self.version
        sealed = self._keys.seal(inside, self._associated(version, key, grant, generation, clear))
        return bytes((version,)) + len(clear).to_bytes(_LENGTH_BYTES, "big") + clear + sealed

    def open(self, record: Record) -> Opened:
        """Open the value of a record.

        Raises:
            RecordUnreadable: It is damaged or belongs to another record.
            RecordVersionUnsupported: A newer version wrote it.
            KeyUnavailable: The key that sealed it is not in the ring.
        """
        version, clear, sealed = _parts(record)
        try:
            header = orjson.loads(clear)
            grant, generation = header.pop("grant"), header.pop("generation")
            if not isinstance(grant, str) or not isinstance(generation, int):
                raise unreadable(record.key)
            inside = orjson.loads(
                self._keys.open(sealed, self._associated(version, record.key, grant, generation, clear))
            )
        except KeyUnavailable as error:
            raise KeyUnavailable(
                error.message, metadata={**error.metadata, "record": name_of(record.key)}
            ) from None
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, RecordUnreadable):
            raise unreadable(record.key) from None
        if (inside["subject"], inside["grant"], inside["generation"]) != (
            record.key.subject,
            grant,
            generation,
        ):
            raise unreadable(record.key)
        self.version = max(self.version, version)
        return Opened(grant, generation, header, inside["secret"], version)

    def _associated(self, version: int, key: RecordKey, grant: str, generation: int, clear: bytes) -> bytes:
        bound = (f"zoomgate/record/v{version}", self.app, key.app, key.kind.value, key.subject)
        return associated_data(*bound, grant, generation) if version == 1 else associated_data(*bound, clear)


def _parts(record: Record) -> tuple[int, bytes, bytes]:
    """Take a value apart: version, header and sealed part.

    Raises:
        RecordUnreadable: It is empty, or of a version that never was.
        RecordVersionUnsupported: A newer version wrote it.
    """
    value = record.value
    if not value or value[0] < OLDEST:
        raise unreadable(record.key)
    if value[0] > NEWEST:
        raise RecordVersionUnsupported(
            "A newer version of Zoomgate wrote a stored record: upgrade this one",
            metadata={"version": str(value[0]), "record": name_of(record.key)},
        )
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(value[1:start], "big")
    return value[0], value[start:end], value[end:]


def version_of(value: bytes) -> int:
    """Give the version of the format that a value is written in; 0 for an empty one."""
    return value[0] if value else 0


def key_id_of(value: bytes) -> str:
    """Give the id of the key that sealed a value, or an empty string if it cannot be told."""
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(value[1:start], "big")
    return sealing_key(value[end : end + 1 + KEY_ID_BYTES]) or ""


def name_of(key: RecordKey) -> str:
    """Name a record for operators without naming the person."""
    return f"{key.kind.value}/{hashlib.sha256(key.subject.encode()).hexdigest()[:8]}"


def unreadable(key: RecordKey) -> RecordUnreadable:
    """The error for a record that cannot be opened."""
    return RecordUnreadable(
        "A stored record is damaged or was tampered with; a new consent of the user replaces it",
        metadata={"record": name_of(key)},
    )
