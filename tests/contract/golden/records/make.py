"""Script that creates the golden records and the golden journal entry of the current format.

Run `PYTHONPATH=tests python tests/contract/golden/records/make.py`. An existing directory is never overwritten, since later
releases must read its files. Nonces are random, so every run produces different bytes.
"""

import asyncio
import json
import tempfile
from base64 import b64encode
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from support.memory_store import MemoryStore
from zoomgate_server.authorization import pending
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.connections import exchange_mark
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.exchange_mark import ExchangeMark
from zoomgate_server.connections.record import (
    Cause,
    ConnectionRecord,
    LastError,
    Lease,
    PendingAttempt,
    State,
)
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import FORMAT, Envelope
from zoomgate_server.storage.record_store import Kind, Query, Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.webhooks.seen_events import SeenEvents

APP = "zoom.us|golden-app"
NOW = 1_790_000_000.0
RING = KeyRing([Key("901de001", bytes(range(100, 132)), primary=True)])


def pair(number: int) -> TokenPair:
    return TokenPair(f"access-{number}", f"refresh-{number}", "meeting:write user:read", NOW + 3600, NOW)


ACTIVE = ConnectionRecord(
    zoom_user_id="zoom-user-1",
    user_email="monica@example.com",
    state=State.ACTIVE,
    grant="0123456789abcdef",
    generation=7,
    create_time=NOW - 2000.5,
    consent_time=NOW - 1000.5,
    update_time=NOW,
    refresh_time=NOW,
    epoch=9,
    lease=Lease("holder-1", 9, NOW + 90),
    pending_attempts=(PendingAttempt(8, NOW - 30), PendingAttempt(9, NOW)),
    commit_id="commit-7",
    previous_commit_ids=("commit-6", "commit-5"),
    used_token_digests=("digest-2", "digest-1"),
    recent_refresh_times=(NOW - 60, NOW),
    access_expire_at=NOW + 3600,
    tokens=pair(1),
    alternate_pairs=(pair(2), pair(3)),
    superseded_pairs=(pair(6), pair(7)),
    owner="key|monica",
    zoom_email="monica.north@example.com",
    address_time=NOW - 1000.5,
    renamed_from="monica.old@example.com",
    zoom_account_id="zoom-account-1",
    initiated_by="key|calendar",
    due_at=NOW + 3000,
)
CONNECTIONS = {
    "active": ACTIVE,
    "reauth": replace(
        ACTIVE,
        zoom_user_id="zoom-user-2",
        user_email="omar@example.com",
        state=State.REAUTH_REQUIRED,
        cause=Cause.REJECTED,
        lease=None,
        pending_attempts=(),
        alternate_pairs=(),
        last_error=LastError("ZOOM_REAUTH_REQUIRED", "Zoom rejected the refresh token", NOW),
    ),
    "tombstone": replace(
        ACTIVE,
        zoom_user_id="zoom-user-3",
        user_email="basil@example.com",
        state=State.DISCONNECTED,
        cause=Cause.APP_DEAUTHORIZED,
        lease=None,
        pending_attempts=(),
        alternate_pairs=(),
        superseded_pairs=(),
        tokens=None,
        access_expire_at=None,
        pairs_to_revoke=(pair(4), pair(8)),
        revoke_until=NOW + 86_400,
        expire_at=NOW + 30 * 86_400,
    ),
}
AUTHORIZATION = PendingAuthorization(
    kind="authorization",
    user_email="monica@example.com",
    zoom_email="monica.north@example.com",
    code_verifier="verifier-verifier-verifier-verifier-verifier",
    options='{"color":"green"}',
    initiated_by="key|calendar",
    owner=None,
    browser_key=b64encode(bytes(range(32))).decode(),
    return_to="home",
    create_at=NOW,
    expire_at=NOW + 600,
)
MARK = ExchangeMark(
    fingerprint="f" * 64,
    holder="0123456789abcdef" * 2,
    marked_at=NOW,
    delivered=True,
    zoom_user_id="zoom-user-1",
)
ENTRY = Entry(
    entry_id="0123456789abcdef" * 2,
    origin=Origin.CONSENT,
    user_email="monica@example.com",
    zoom_user_id="zoom-user-1",
    grant="0123456789abcdef",
    generation=7,
    tokens=pair(5),
    zoom_email="monica.north@example.com",
    registered_with="zoom-user-1",
    epoch=9,
    fingerprint="f" * 64,
    marked_at=NOW - 1.0,
    owner="key|monica",
    initiated_by="key|calendar",
)


def columns(record: Record) -> dict[str, Any]:
    """Return a record as JSON."""
    fields = asdict(record) | {"value": b64encode(record.value).decode()}
    return fields.pop("key") | fields


async def records() -> dict[str, tuple[Record, Any]]:
    """Return records of every kind by name, with their decrypted content as JSON."""
    store, envelope = MemoryStore(lambda: NOW), Envelope(app=APP, keys=RING)
    store_id = await key_check.verify(store, envelope)
    stored_check, _ = await store.get(key_check.key_of(APP))
    secret = await shared_secret.obtain(store, envelope, "page-tokens")
    stored_secret, _ = await store.get(RecordKey(APP, Kind.META, "page-tokens"))
    await SeenEvents(store=store, envelope=envelope).add(b"event")
    (event,) = await store.page(APP, Kind.WEBHOOK, Query(limit=1))
    assert stored_check is not None
    assert stored_secret is not None
    authorization = pending.encode(envelope, pending.subject_for("a-secret-state"), AUTHORIZATION)
    return {
        **{
            name: (connection_record.encode(envelope, connection), asdict(connection))
            for name, connection in CONNECTIONS.items()
        },
        "authorization": (authorization, asdict(AUTHORIZATION)),
        "exchange_mark": (exchange_mark.encode(envelope, MARK), asdict(MARK)),
        "key_check": (stored_check, {"store_id": store_id}),
        "shared_secret": (stored_secret, {"bytes": b64encode(secret).decode()}),
        "seen_event": (event, {}),
    }


async def journal_entry() -> bytes:
    """Return the content of a journal entry's file."""
    with tempfile.TemporaryDirectory() as directory:
        journal = TokenJournal(Path(directory), app=APP, key_ring=RING, metrics=Metrics("0", []))
        assert await journal.append(ENTRY)
        (file,) = Path(directory).iterdir()
        content = file.read_bytes()
        await journal.close()
    return content


async def make() -> None:
    """Write the golden files of the current format to the directory of this format."""
    directory = Path(__file__).parent / f"v{FORMAT}"
    directory.mkdir()
    for name, (record, opened) in (await records()).items():
        text = json.dumps({"record": columns(record), "opened": opened}, indent=2)
        (directory / f"{name}.json").write_text(text + "\n")
    entry = {"file": b64encode(await journal_entry()).decode(), "opened": asdict(ENTRY)}
    (directory / "journal_entry.json").write_text(json.dumps(entry, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(make())
