"""Encryption and decryption of record values, and their format.

A value is `format (1 byte) | header length (4 bytes) | header (JSON) | ciphertext`. The header is readable without a key. The ciphertext
is bound to the envelope's app, to the record's app, kind and subject, and to every byte of the header. The plaintext repeats the
record's subject and the header's grant and generation (docs/adr/0007-record-format.md). A value that cannot be decrypted raises an error
and is never treated as absent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from zoomgate_server.encryption.cipher import Ring, associated_data, sealing_key
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Record, RecordKey

FORMAT = 3
"""The only supported version of the record format, and the first byte of every record and journal entry."""

_LENGTH_BYTES = 4
_PURPOSE = "zoomgate/record/v3"


@dataclass(frozen=True, slots=True)
class DecryptedValue:
    """The content of a record value.

    Attributes:
        header: The fields that are readable without a key.
        secret: The fields that were encrypted.
    """

    grant: str
    generation: int
    header: Mapping[str, Any]
    secret: Mapping[str, Any] = field(repr=False)


class Envelope:
    """Encryption and decryption of the record values of one Zoom app.

    Args:
        app: OAuth origin and client ID. Must equal the `app` of every record key.
    """

    def __init__(self, *, app: str, keys: Ring) -> None:
        self.app = app
        self._keys = keys

    @property
    def key_id(self) -> str:
        """ID of the primary key. For the key that encrypted a stored value, see `key_id_of`."""
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
        """Encrypt the value of a record. Header and secret may contain JSON types only."""
        clear = orjson.dumps({**header, "grant": grant, "generation": generation})
        inside = orjson.dumps(
            {"subject": key.subject, "grant": grant, "generation": generation, "secret": secret}
        )
        ciphertext = self._keys.seal(inside, self._associated(key, clear))
        return bytes((FORMAT,)) + len(clear).to_bytes(_LENGTH_BYTES, "big") + clear + ciphertext

    def open(self, record: Record) -> DecryptedValue:
        """Decrypt the value of a record.

        Raises:
            RecordUnreadable: The value is corrupt or belongs to a different record.
            RecordVersionUnsupported: The value has an unsupported format version.
            KeyUnavailable: The key that encrypted the value is not in the ring.
        """
        require_supported(record)
        clear, ciphertext = _split(record.value)
        try:
            header = orjson.loads(clear)
            grant, generation = header.pop("grant"), header.pop("generation")
            inside = orjson.loads(self._keys.open(ciphertext, self._associated(record.key, clear)))
        except KeyUnavailable as error:
            raise KeyUnavailable(
                error.message, metadata={**error.metadata, "record": name_of(record.key)}
            ) from None
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, RecordUnreadable):
            raise unreadable(record.key) from None
        expected = record.key.subject, grant, generation
        if (inside["subject"], inside["grant"], inside["generation"]) != expected:
            raise unreadable(record.key)
        return DecryptedValue(grant, generation, header, inside["secret"])

    def _associated(self, key: RecordKey, clear: bytes) -> bytes:
        return associated_data(_PURPOSE, self.app, key.app, key.kind.value, key.subject, clear)


def require_supported(record: Record) -> None:
    """Reject a record with an unsupported format version."""
    # no release wrote format 0, but a lost disk page reads as zeros
    if not record.value or record.value[0] == 0:
        raise unreadable(record.key)
    if record.value[0] != FORMAT:
        raise unsupported(record.value[0], name_of(record.key))


def _split(value: bytes) -> tuple[bytes, bytes]:
    """Split a value into header and ciphertext."""
    start = 1 + _LENGTH_BYTES
    end = start + int.from_bytes(value[1:start], "big")
    return value[start:end], value[end:]


def key_id_of(value: bytes) -> str:
    """Return the ID of the key that encrypted a value, or an empty string if it cannot be determined."""
    _, ciphertext = _split(value)
    return sealing_key(ciphertext) or ""


def name_of(key: RecordKey) -> str:
    """Return a pseudonymous name of a record for logs and error messages."""
    return f"{key.kind.value}/{hashlib.sha256(key.subject.encode()).hexdigest()[:8]}"


def unreadable(key: RecordKey) -> RecordUnreadable:
    """Return the error for a record that cannot be decrypted."""
    return RecordUnreadable(
        "A stored record is corrupt or was tampered with; ask the user to consent again, which replaces it",
        metadata={"record": name_of(key)},
    )


def unsupported(version: int, name: str) -> RecordVersionUnsupported:
    """Return the error for a record or journal entry, given by its pseudonymous name, of an unsupported format version."""
    return RecordVersionUnsupported(
        f"Record format {version} is not supported; this release reads format {FORMAT}."
        " Run the release that wrote the record",
        metadata={"version": str(version), "record": name},
    )
