"""Connections in a record store: what is deleted when its time is over."""

import time
from dataclasses import replace

import pytest

from zoomgate_server.clock import SystemClock
from zoomgate_server.tokens.cipher import Key, KeyRing
from zoomgate_server.tokens.connection_record import ConnectionRecord, State, encode
from zoomgate_server.tokens.connection_store import ConnectionStore
from zoomgate_server.tokens.memory import MemoryStore
from zoomgate_server.tokens.store import Record
from zoomgate_server.tokens.token import TokenPair
from zoomgate_server.tokens.vault import Vault

VAULT = Vault(app="app", keys=KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)]))
NOW = time.time()


def connection(user_email: str, state: State, expire_at: float | None) -> ConnectionRecord:
    """A connection in a state."""
    return ConnectionRecord(
        user_email=user_email,
        state=state,
        grant="g",
        generation=1,
        create_time=NOW,
        consent_time=NOW,
        update_time=NOW,
        refresh_time=NOW,
        tokens=None if state is State.DISCONNECTED else TokenPair("a", "r", "bearer", "", "", NOW, NOW),
        expire_at=expire_at,
    )


@pytest.mark.parametrize(
    ("record", "stays"),
    [
        (encode(VAULT, connection("a@example.com", State.DISCONNECTED, NOW - 1)), False),
        (encode(VAULT, connection("a@example.com", State.DISCONNECTED, NOW + 86_400)), True),
        (encode(VAULT, connection("a@example.com", State.ACTIVE, None)), True),
        (replace(encode(VAULT, connection("a@example.com", State.ACTIVE, None)), expire_at=NOW - 1), True),
        (
            replace(
                encode(VAULT, connection("a@example.com", State.ACTIVE, None)),
                expire_at=NOW - 1,
                state=State.DISCONNECTED.value,
            ),
            True,
        ),
        (
            replace(encode(VAULT, connection("a@example.com", State.DISCONNECTED, NOW - 1)), value=b"\x02"),
            True,
        ),
    ],
    ids=["ended long ago", "ended lately", "active", "active, a column changed", "state forged", "damaged"],
)
async def test_what_ended_long_ago_is_deleted_and_nothing_else(record: Record, stays: bool) -> None:
    """The columns that anybody can write who can write the database delete nothing that is sealed as active."""
    store = MemoryStore(time.time)
    connections = ConnectionStore(
        app="app", store=store, vault=VAULT, clock=SystemClock(), on_read=lambda: None
    )
    await store.put(record, 0)
    assert await connections.clean() == (not stays)
    assert ((await store.get(record.key))[0] is not None) == stays
