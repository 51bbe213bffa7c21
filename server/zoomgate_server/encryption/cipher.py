"""Sealing bytes with AES-256-GCM under a ring of keys.

A sealed blob is `0x01 | key id (4 bytes) | nonce (12 bytes) | ciphertext and tag`. Nonces are random: at most 2^32 blobs may be sealed
under one key (NIST SP 800-38D, section 8.3).
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
    """A set of keys that must not be used. The text names no key material."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a ring.

    Attributes:
        key_id: 8 hex digits, unique in the ring.
        secret: 32 random bytes.
        primary: Whether new blobs are sealed with it; the others only open.
    """

    key_id: str
    secret: bytes = field(repr=False)
    primary: bool


class Ring(Protocol):
    """What seals and opens."""

    @property
    def primary_id(self) -> str:
        """Id of the key that seals, in hex."""
        ...

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all keys, in hex."""
        ...

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Seal bytes; `open` needs the same associated bytes."""
        ...

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Open what `seal` made.

        Raises:
            KeyUnavailable: The key that sealed it is not in the ring.
            RecordUnreadable: It is damaged, was sealed for something else, or is no sealed blob.
        """
        ...


class KeyRing:
    """Seals with its primary key and opens with any.

    Args:
        keys: Oldest first; exactly one of them primary.

    Attributes:
        keys: As given.

    Raises:
        KeyRingError: None or several are primary, two share an id, or one is not 32 bytes long or obviously not random.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        primaries = [key for key in keys if key.primary]
        if len(primaries) != 1:
            raise KeyRingError(f"{len(primaries)} keys are primary: exactly one must be")
        if len({key.key_id for key in keys}) != len(keys):
            raise KeyRingError("two keys share an id")
        for key in keys:
            if len(key.secret) != KEY_BYTES:
                raise KeyRingError(f"key {key.key_id} has {len(key.secret)} bytes instead of {KEY_BYTES}")
            if len(set(key.secret)) < 8:
                raise KeyRingError(f"key {key.key_id} is not random")
            if len(key.key_id) != 2 * KEY_ID_BYTES or key.key_id != key.key_id.lower():
                raise KeyRingError("a key id is not 8 lower-case hex digits")
        self.keys = tuple(keys)
        self._ciphers: Mapping[bytes, AESGCM] = {
            bytes.fromhex(key.key_id): AESGCM(key.secret) for key in keys
        }
        self._primary = bytes.fromhex(primaries[0].key_id)

    @property
    def primary_id(self) -> str:
        """Id of the key that seals, in hex."""
        return self._primary.hex()

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all keys, in hex."""
        return frozenset(key_id.hex() for key_id in self._ciphers)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Seal bytes; `open` needs the same associated bytes."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._primary].encrypt(nonce, plaintext, associated)
        return bytes((_FORMAT,)) + self._primary + nonce + sealed

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Open what `seal` made.

        Raises:
            KeyUnavailable: The key that sealed it is not in the ring.
            RecordUnreadable: It is damaged, was sealed for something else, or is no sealed blob.
        """
        if len(blob) < _HEADER_BYTES + _TAG_BYTES or blob[0] != _FORMAT:
            raise RecordUnreadable("A stored record is damaged")
        key_id = blob[1 : 1 + KEY_ID_BYTES]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise KeyUnavailable(
                f"Key {key_id.hex()}, which sealed a stored record, is not in the key ring; restore the key file that contains it",
                metadata={"key_id": key_id.hex()},
            )
        try:
            return cipher.decrypt(blob[1 + KEY_ID_BYTES : _HEADER_BYTES], blob[_HEADER_BYTES:], associated)
        except InvalidTag:
            raise RecordUnreadable("A stored record is damaged or was sealed for something else") from None


def sealing_key(blob: bytes) -> str | None:
    """Give the id of the key that sealed a blob, in hex, or None if it is no sealed blob. Works on the first few bytes of one."""
    if len(blob) < 1 + KEY_ID_BYTES or blob[0] != _FORMAT:
        return None
    return blob[1 : 1 + KEY_ID_BYTES].hex()


def associated_data(*parts: str | int | bytes) -> bytes:
    """Join parts so that no two lists of parts give the same bytes: each is preceded by its length."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
