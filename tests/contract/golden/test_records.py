"""Tests that golden records and a golden journal entry can be decrypted. The first release with each format wrote its golden files."""

import json
from base64 import b64decode
from dataclasses import MISSING, asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zoomgate_server.authorization import pending
from zoomgate_server.connections import exchange_mark
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import FORMAT, Envelope, key_id_of
from zoomgate_server.errors import RecordUnreadable
from zoomgate_server.storage.record_store import Kind, Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics

DIRECTORY = Path(__file__).parent / "records" / f"v{FORMAT}"
JOURNAL_ENTRY = DIRECTORY / "journal_entry.json"
RECORDS = sorted(path for path in DIRECTORY.glob("*.json") if path != JOURNAL_ENTRY)
APP = "zoom.us|golden-app"
RING = KeyRing([Key("901de001", bytes(range(100, 132)), primary=True)])
ENVELOPE = Envelope(app=APP, keys=RING)


def decrypted(record: Record) -> Any:
    """Return the decrypted content of a record as JSON."""
    match record.key.kind:
        case Kind.USER:
            connection = connection_record.decode(ENVELOPE, record)
            # `read_update_time` is set when a record is read and is not part of the stored content
            return asdict(replace(connection, read_update_time=None))
        case Kind.EXCHANGE:
            return asdict(exchange_mark.decode(ENVELOPE, record))
        case Kind.STATE:
            return asdict(pending.decode(ENVELOPE, record))
        case _:
            return ENVELOPE.open(record).secret


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_golden_record_decrypts_to_its_original_content(file: Path) -> None:
    golden = json.loads(file.read_text())
    fields = golden["record"]
    key = RecordKey(fields.pop("app"), Kind(fields.pop("kind")), fields.pop("subject"))
    record = Record(key=key, value=b64decode(fields.pop("value")), **fields)
    assert record.value[0] == FORMAT
    assert key_id_of(record.value) == record.key_id == "901de001"
    content = json.loads(json.dumps(decrypted(record)))
    assert {name: content[name] for name in golden["opened"]} == golden["opened"]
    assert not any(content[name] for name in content.keys() - golden["opened"].keys())


async def test_golden_journal_entry_decrypts_to_its_original_content(tmp_path: Path) -> None:
    golden = json.loads(JOURNAL_ENTRY.read_text())
    content = b64decode(golden["file"])
    assert content[0] == FORMAT
    (tmp_path / f"{golden['opened']['entry_id']}.entry").write_bytes(content)
    journal = TokenJournal(tmp_path, app=APP, key_ring=RING, metrics=Metrics("0", []))
    (entry,) = map(asdict, await journal.claim())
    assert {name: entry[name] for name in golden["opened"]} == golden["opened"]
    assert not any(entry[name] for name in entry.keys() - golden["opened"].keys())
    await journal.close()


def resealed(header: dict[str, Any]) -> Record:
    """Return the golden connection with a changed header."""
    fields = json.loads((DIRECTORY / "active.json").read_text())["record"]
    key = RecordKey(fields.pop("app"), Kind(fields.pop("kind")), fields.pop("subject"))
    record = Record(key=key, value=b64decode(fields.pop("value")), **fields)
    opened = ENVELOPE.open(record)
    clear = {name: value for name, value in (opened.header | header).items() if value is not MISSING}
    clear = {name: value for name, value in clear.items() if name not in ("grant", "generation")}
    value = ENVELOPE.seal(
        key, grant=opened.grant, generation=opened.generation, header=clear, secret=dict(opened.secret)
    )
    return replace(record, value=value)


def test_record_with_a_missing_field_is_unreadable() -> None:
    with pytest.raises(RecordUnreadable):
        connection_record.decode(ENVELOPE, resealed({"consent_time": MISSING}))


def test_unknown_field_is_ignored() -> None:
    record = resealed({})
    assert connection_record.decode(ENVELOPE, resealed({"unknown": 1})) == connection_record.decode(
        ENVELOPE, record
    )


def test_golden_records_cover_every_kind() -> None:
    """The golden records include a connection in each state."""
    connections = {"active", "reauth", "tombstone"}
    assert {file.stem for file in RECORDS} == connections | {
        "authorization",
        "exchange_mark",
        "key_check",
        "seen_event",
        "shared_secret",
    }
    kinds = {json.loads(file.read_text())["record"]["kind"] for file in RECORDS}
    assert kinds == {Kind.USER, Kind.STATE, Kind.EXCHANGE, Kind.KEY_CHECK, Kind.META, Kind.WEBHOOK}
