"""AES-256-GCM encryption under the primary key of a key ring.

An encrypted blob is `0x01 | key ID (4 bytes) | nonce (12 bytes) | ciphertext and tag`. Nonces are random, so at most 2^32 blobs
may be encrypted under one key (NIST SP 800-38D, section 8.3).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from zoomgate_server.errors import KeyUnavailable, RecordUnreadable

KEY_BYTES = 32
KEY_ID_BYTES = 4
_FORMAT = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = 1 + KEY_ID_BYTES + _NONCE_BYTES


class KeyRingError(ValueError):
    """The keys do not form a valid key ring. The message contains no key material."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a key ring.

    Attributes:
        key_id: 8 lower-case hex digits, unique in the ring.
        secret: 32 random bytes.
        primary: Whether the key encrypts new blobs. Other keys only decrypt.
    """

    key_id: str
    secret: bytes = field(repr=False)
    primary: bool


class Ring(Protocol):
    """Interface of a key ring."""

    @property
    def primary_id(self) -> str:
        """ID of the primary key, in hex."""
        ...

    @property
    def ids(self) -> frozenset[str]:
        """IDs of all keys, in hex."""
        ...

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt bytes under the primary key. `open` requires the same associated data."""
        ...

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Decrypt a blob.

        Raises:
            KeyUnavailable: The key that encrypted the blob is not in the ring.
            RecordUnreadable: The blob is corrupt or was encrypted with different associated data.
        """
        ...


class KeyRing:
    """A key ring that encrypts with its primary key and decrypts with any key.

    Args:
        keys: Oldest first. Exactly one of them is primary.

    Raises:
        KeyRingError: Not exactly one key is primary, two keys share an ID, an ID is malformed, a key is not 32 bytes long, or a key is
            evidently not random.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        primaries = [key for key in keys if key.primary]
        if len(primaries) != 1:
            raise KeyRingError(f"{len(primaries)} keys are primary; exactly one key must be primary")
        if len({key.key_id for key in keys}) != len(keys):
            raise KeyRingError("two keys share an ID")
        for key in keys:
            if len(key.secret) != KEY_BYTES:
                raise KeyRingError(
                    f"key {key.key_id} has {len(key.secret)} bytes; a key must have {KEY_BYTES}"
                )
            if len(set(key.secret)) < 8:
                raise KeyRingError(f"key {key.key_id} is not random; create keys with `zoomgate keys new`")
            if len(key.key_id) != 2 * KEY_ID_BYTES or key.key_id != key.key_id.lower():
                raise KeyRingError("a key ID is malformed; use 8 lower-case hex digits")
        self.keys = tuple(keys)
        self._ciphers: Mapping[bytes, AESGCM] = {
            bytes.fromhex(key.key_id): AESGCM(key.secret) for key in keys
        }
        self._primary = bytes.fromhex(primaries[0].key_id)

    @property
    def primary_id(self) -> str:
        """ID of the primary key, in hex."""
        return self._primary.hex()

    @property
    def ids(self) -> frozenset[str]:
        """IDs of all keys, in hex."""
        return frozenset(key_id.hex() for key_id in self._ciphers)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt bytes under the primary key. See `Ring.seal`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._primary].encrypt(nonce, plaintext, associated)
        return bytes((_FORMAT,)) + self._primary + nonce + sealed

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Decrypt a blob. See `Ring.open`."""
        if len(blob) < _HEADER_BYTES + _TAG_BYTES or blob[0] != _FORMAT:
            raise RecordUnreadable("A stored record is corrupt")
        key_id = blob[1 : 1 + KEY_ID_BYTES]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise KeyUnavailable(
                f"Key {key_id.hex()}, which encrypted a stored record, is not in the key ring; restore the key file that contains it",
                metadata={"key_id": key_id.hex()},
            )
        try:
            return cipher.decrypt(blob[1 + KEY_ID_BYTES : _HEADER_BYTES], blob[_HEADER_BYTES:], associated)
        except InvalidTag:
            raise RecordUnreadable("A stored record is corrupt or belongs to a different record") from None


def sealing_key(blob: bytes) -> str | None:
    """Return the ID of the key that encrypted a blob, in hex, or None if the bytes are not a blob. The first 5 bytes are sufficient."""
    if len(blob) < 1 + KEY_ID_BYTES or blob[0] != _FORMAT:
        return None
    return blob[1 : 1 + KEY_ID_BYTES].hex()


def associated_data(*parts: str | int | bytes) -> bytes:
    """Join parts unambiguously: each part is preceded by its length, so different lists of parts always yield different bytes."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
