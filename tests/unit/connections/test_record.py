"""What is stored about a connection, read by this release and by others."""

import pytest

from zoomgate_server.connections.record import Cause, ConnectionRecord, State, decode, encode
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Record

VAULT = Envelope(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))
FIRST_CAUSES = {"REJECTED", "OUTCOME_LOST", "REVOKED", "SCOPE"}
"""What the first releases know; another word there makes a record unreadable to them."""


def ended(cause: Cause) -> ConnectionRecord:
    """A connection that ended."""
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
def test_every_cause_is_read_by_earlier_releases(cause: Cause) -> None:
    """This release reads the cause as it was, and earlier ones find a word that they know."""
    record = encode(VAULT, ended(cause))
    assert decode(VAULT, record) == ended(cause)
    header = VAULT.open(record).header
    assert header["cause"] in FIRST_CAUSES
    assert header["cause"] == (cause if cause in FIRST_CAUSES else "REVOKED")


@pytest.mark.parametrize("kind", ["SOMETHING_NEW", "REJECTED", "", 7, None])
def test_a_kind_of_revoked_of_a_later_release_is_revoked(kind: object) -> None:
    """A word that this release does not know makes no record unreadable."""
    plain = encode(VAULT, ended(Cause.REVOKED))
    opened = VAULT.open(plain)
    header = {**opened.header, "revocation_cause": kind}
    value = VAULT.seal(plain.key, grant="g", generation=2, header=header, secret=opened.secret)
    record = Record(key=plain.key, value=value, state=plain.state)
    assert decode(VAULT, record) == ended(Cause.REVOKED)
