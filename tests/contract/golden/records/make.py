"""Makes the records of a version of the format: `PYTHONPATH=tests python tests/contract/golden/records/make.py v3`.

A folder that is there already is never written anew: it says what was stored once and has to open for ever. Nonces are random, so the
bytes of two runs differ.
"""

import asyncio
import json
import sys
from base64 import b64encode
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from support import version_1
from zoomgate_server.authorization import pending
from zoomgate_server.authorization.pending import PendingAuthorization
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import (
    Attempt,
    Cause,
    ConnectionRecord,
    LastError,
    Lease,
    State,
)
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey

APP = "zoom.us|golden-app"
NOW = 1_790_000_000.0
RING = KeyRing([Key("901de001", bytes(range(100, 132)), primary=True)])


def pair(number: int) -> TokenPair:
    return TokenPair(
        f"access-{number}", f"refresh-{number}", "bearer", "meeting:write user:read", "", NOW + 3600, NOW
    )


ACTIVE = ConnectionRecord(
    user_email="monica@example.com",
    state=State.ACTIVE,
    grant="0123456789abcdef",
    generation=7,
    create_time=NOW - 1000.5,
    consent_time=NOW - 1000.5,
    update_time=NOW,
    refresh_time=NOW,
    epoch=9,
    lease=Lease("holder-1", 9, NOW + 90),
    pending=(Attempt(8, NOW - 30), Attempt(9, NOW)),
    commit_id="commit-7",
    recent_refreshes=(NOW - 60, NOW),
    access_expire_at=NOW + 3600,
    tokens=pair(1),
    alternate_pairs=(pair(2), pair(3)),
    owner="key|monica",
    zoom_user_id="zoom-user-1",
    zoom_account_id="zoom-account-1",
    initiated_by="key|calendar",
    due_at=NOW + 3000,
)
CONNECTIONS = {
    "active": ACTIVE,
    "reauth": replace(
        ACTIVE,
        user_email="omar@example.com",
        zoom_user_id="zoom-user-2",
        state=State.REAUTH_REQUIRED,
        cause=Cause.REJECTED,
        lease=None,
        pending=(),
        alternate_pairs=(),
        last_error=LastError("ZOOM_REAUTH_REQUIRED", "Zoom refused the refresh token", NOW),
    ),
    "tombstone": replace(
        ACTIVE,
        user_email="basil@example.com",
        zoom_user_id="zoom-user-3",
        state=State.DISCONNECTED,
        cause=Cause.REVOKED,
        lease=None,
        pending=(),
        alternate_pairs=(),
        tokens=None,
        access_expire_at=None,
        revoking=pair(4),
        revoke_until=NOW + 86_400,
        expire_at=NOW + 30 * 86_400,
    ),
}
STATE = PendingAuthorization(
    kind="authorization",
    user_email="monica@example.com",
    code_verifier="verifier-verifier-verifier-verifier-verifier",
    options=b'{"color":"green"}',
    initiated_by="key|calendar",
    owner=None,
    browser_key=bytes(range(32)),
    return_to="home",
    create_at=NOW,
    expire_at=NOW + 600,
)


def columns(record: Record) -> dict[str, Any]:
    """A record as JSON."""
    fields = asdict(record) | {"value": b64encode(record.value).decode()}
    return fields.pop("key") | fields


async def records(envelope: Envelope) -> dict[str, tuple[Record, Any]]:
    """Every kind of record by its name, with what it opens to."""
    store = MemoryStore(lambda: NOW)
    prove = key_check.verify if isinstance(envelope, Envelope) else version_1.prove
    await prove(store, envelope)
    secret = await shared_secret.obtain(store, envelope, "page-tokens")
    mark, _ = await store.get(RecordKey(APP, Kind.KEY_CHECK, "canary"))
    meta, _ = await store.get(RecordKey(APP, Kind.META, "page-tokens"))
    assert mark is not None
    assert meta is not None
    subject = pending.subject_for("a-secret-state")
    state = pending.encode(envelope, subject, STATE)
    return {
        **{
            name: (connection_record.encode(envelope, found), asdict(found))
            for name, found in CONNECTIONS.items()
        },
        "state": (
            state,
            asdict(STATE)
            | {
                "options": STATE.options.decode(),
                "browser_key": b64encode(STATE.browser_key or b"").decode(),
            },
        ),
        "canary": (mark, {"canary": "sings"}),
        "secret": (meta, {"bytes": b64encode(secret).decode()}),
    }


async def make(version: int) -> None:
    """Write the folder of a version."""
    folder = Path(__file__).parent / f"v{version}"
    folder.mkdir()
    envelope = version_1.Vault(app=APP, keys=RING) if version == 1 else Envelope(app=APP, keys=RING)
    for name, (record, opened) in (await records(envelope)).items():
        assert record.value[0] == version
        text = json.dumps({"record": columns(record), "opened": opened}, indent=2)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    asyncio.run(make(int(sys.argv[1].removeprefix("v"))))
