"""Tests for the stored form of connections."""

from dataclasses import replace
from typing import Any

import pytest

from zoomgate_server.connections.record import Cause, ConnectionRecord, State, decode, encode
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordUnreadable

ENVELOPE = Envelope(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))


def disconnected(cause: Cause) -> ConnectionRecord:
    return ConnectionRecord(
        zoom_user_id="z1",
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
def test_stored_cause_is_read_unchanged(cause: Cause) -> None:
    assert decode(ENVELOPE, encode(ENVELOPE, disconnected(cause))) == disconnected(cause)


@pytest.mark.parametrize(
    "changed",
    [
        {"cause": "SOMETHING_NEW"},
        {"lease": {"holder": "h"}},
        {"lease": "h"},
        {"pending_attempts": None},
        {"pending_attempts": [1]},
    ],
    ids=str,
)
def test_malformed_field_makes_the_record_unreadable(changed: dict[str, Any]) -> None:
    encoded = encode(ENVELOPE, disconnected(Cause.REVOKED))
    opened = ENVELOPE.open(encoded)
    header = {**opened.header, **changed}
    value = ENVELOPE.seal(encoded.key, grant="g", generation=2, header=header, secret=opened.secret)
    with pytest.raises(RecordUnreadable):
        decode(ENVELOPE, replace(encoded, value=value))
