"""Tests for the stored causes of a disconnection."""

import pytest

from zoomgate_server.connections.record import Cause, ConnectionRecord, State, decode, encode
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Record

ENVELOPE = Envelope(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))
GENERAL_CAUSES = {"REJECTED", "OUTCOME_LOST", "REVOKED", "SCOPE"}
"""Permitted values of the stored `cause`. Any other value would make the record unreadable."""


def disconnected(cause: Cause) -> ConnectionRecord:
    return ConnectionRecord(
        user_email="monica@example.com",
        state=State.DISCONNECTED,
        cause=cause,
        grant="g",
        generation=2,
        create_time=1.0,
        consent_time=1.0,
        update_time=2.0,
        refresh_time=1.0,
    )


@pytest.mark.parametrize("cause", Cause)
def test_specific_cause_is_stored_as_revoked(cause: Cause) -> None:
    """The record decodes to the specific cause, but a release that does not know this cause reads REVOKED."""
    record = encode(ENVELOPE, disconnected(cause))
    assert decode(ENVELOPE, record) == disconnected(cause)
    header = ENVELOPE.open(record).header
    assert header["cause"] in GENERAL_CAUSES
    assert header["cause"] == (cause if cause in GENERAL_CAUSES else "REVOKED")


@pytest.mark.parametrize("revocation_cause", ["SOMETHING_NEW", "REJECTED", "", 7, None])
def test_unknown_revocation_cause_is_read_as_revoked(revocation_cause: object) -> None:
    """A cause that a later release added does not make the record unreadable."""
    encoded = encode(ENVELOPE, disconnected(Cause.REVOKED))
    opened = ENVELOPE.open(encoded)
    header = {**opened.header, "revocation_cause": revocation_cause}
    value = ENVELOPE.seal(encoded.key, grant="g", generation=2, header=header, secret=opened.secret)
    record = Record(key=encoded.key, value=value, state=encoded.state)
    assert decode(ENVELOPE, record) == disconnected(Cause.REVOKED)
