"""Encryption and decryption of record values.

A value is `format (1 byte) | header length (4 bytes) | header (JSON) | sealed part`. The header is readable without a key. The sealed part
is bound to the Zoom app, to the record's app, kind and subject, and to every byte of the header, and it repeats subject, grant and
generation (docs/adr/0007-record-format.md). A value that cannot be opened raises an error and is never treated as absent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zoomgate_server.encryption.cipher import KEY_ID_BYTES, Ring, associated_data, sealing_key
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Record, RecordKey

FORMAT = 3
"""The only supported version of the record format: the first byte of every record and of every journal entry."""

_LENGTH_BYTES = 4
_PURPOSE = "zoomgate/record/v3"


@dataclass(frozen=True, slots=True)
class DecryptedValue:
    """The content of a record value.

    Attributes:
        grant: The consent that the value belongs to.
        generation: Number of the token pair.
        header: The fields that are readable without a key.
        secret: The fields that were encrypted.
    """

    grant: str
    generation: int
    header: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)


class Envelope:
    """Seals and opens the record values of one Zoom app.

    Args:
        app: OAuth origin and client ID. Must equal the `app` of every record key.
        keys: The key ring.
    """

    def __init__(self, *, app: str, keys: Ring) -> None:
        self.app = app
        self._keys = keys

    @property
    def key_id(self) -> str:
        """ID of the primary key. For the key that sealed a stored value, see `key_id_of`."""
        return self._keys.primary_id

    @property
    def key_ids(self) -> frozenset[str]:
        """IDs of all keys in the ring."""
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
        """Return the value of a record. Header and secret may contain JSON types only."""
        clear = orjson.dumps({**header, "grant": grant, "generation": generation})
        inside = orjson.dumps(
            {"subject": key.subject, "grant": grant, "generation": generation, "secret": secret}
        )
        sealed = self._keys.seal(inside, self._associated(key, clear))
        return bytes((FORMAT,)) + len(clear).to_bytes(_LENGTH_BYTES, "big") + clear + sealed

    def open(self, record: Record) -> DecryptedValue:
        """Open the value of a record.

        Raises:
            RecordUnreadable: The value is corrupt or belongs to another record.
            RecordVersionUnsupported: The value has another format version.
            KeyUnavailable: The key that sealed the value is not in the ring.
        """
        clear, sealed = _parts(record)
        try:
            header = orjson.loads(clear)
            grant, generation = header.pop("grant"), header.pop("generation")
            if not isinstance(grant, str) or not isinstance(generation, int):
                raise unreadable(record.key)
            inside = orjson.loads(self._keys.open(sealed, self._associated(record.key, clear)))
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
        return DecryptedValue(grant, generation, header, inside["secret"])

    def _associated(self, key: RecordKey, clear: bytes) -> bytes:
        return associated_data(_PURPOSE, self.app, key.app, key.kind.value, key.subject, clear)


def require_supported(record: Record) -> None:
    """Check the format version of a record.

    Raises:
        RecordUnreadable: The value is empty, or zeroed.
        RecordVersionUnsupported: The value has another format version.
    """
    if (
        not record.value or record.value[0] == 0
    ):  # no release wrote format 0, but a lost disk page reads as zeros
        raise unreadable(record.key)
    if record.value[0] != FORMAT:
        raise unsupported(record.value[0], name_of(record.key))


def _parts(record: Record) -> tuple[bytes, bytes]:
    """Split a value into header and sealed part. Raises like `require_supported`."""
    require_supported(record)
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(record.value[1:start], "big")
    return record.value[start:end], record.value[end:]


def key_id_of(value: bytes) -> str:
    """Return the ID of the key that sealed a value, or an empty string if it cannot be determined."""
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(value[1:start], "big")
    return sealing_key(value[end : end + 1 + KEY_ID_BYTES]) or ""


def name_of(key: RecordKey) -> str:
    """Return a name of a record for operators that does not identify the user."""
    return f"{key.kind.value}/{hashlib.sha256(key.subject.encode()).hexdigest()[:8]}"


def unreadable(key: RecordKey) -> RecordUnreadable:
    """Return the error for a record that cannot be opened."""
    return RecordUnreadable(
        "A stored record is corrupt or was tampered with; a new consent of the user replaces it",
        metadata={"record": name_of(key)},
    )


def unsupported(version: int, name: str) -> RecordVersionUnsupported:
    """Return the error for a record or journal entry of another format version.

    Args:
        name: Name of the record or journal entry for operators.
    """
    remedy = (
        "Upgrade this server to the release that wrote the record"
        if version > FORMAT
        else f"Format {version} was only used before the first release; start with an empty store and journal"
    )
    return RecordVersionUnsupported(
        f"Record format {version} is not supported; this release reads format {FORMAT}. {remedy}",
        metadata={"version": str(version), "record": name},
    )
