"""Tests for the encryption and decryption of blobs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomgate_server.encryption.cipher import Key, KeyRing, associated_data
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable

RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
PARTS = st.lists(st.one_of(st.text(max_size=8), st.integers(0, 10**12)), max_size=5)


@given(st.binary(max_size=300), st.binary(max_size=60))
def test_encrypted_blob_decrypts_to_its_plaintext(plaintext: bytes, associated: bytes) -> None:
    """Encrypting the same plaintext again returns a different blob."""
    blob = RING.seal(plaintext, associated)
    assert RING.open(blob, associated) == plaintext
    assert RING.seal(plaintext, associated) != blob


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=60), st.binary(max_size=20), st.data())
def test_any_flipped_bit_is_detected(plaintext: bytes, associated: bytes, data: st.DataObject) -> None:
    """A change of the associated data is detected, too."""
    blob = bytearray(RING.seal(plaintext, associated))
    bit = data.draw(st.integers(0, 8 * len(blob) - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises((RecordUnreadable, KeyUnavailable)):
        RING.open(bytes(blob), associated)
    with pytest.raises(RecordUnreadable):
        RING.open(RING.seal(plaintext, associated), associated + b"x")


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_documented_errors_only(blob: bytes) -> None:
    with pytest.raises((RecordUnreadable, KeyUnavailable)):
        RING.open(blob, b"")


@given(PARTS, PARTS)
def test_different_parts_have_different_associated_data(one: list[str | int], other: list[str | int]) -> None:
    """For example, ("ab", "c") and ("a", "bc") are encoded differently."""
    same = [str(part) for part in one] == [str(part) for part in other]
    assert (associated_data(*one) == associated_data(*other)) is same
