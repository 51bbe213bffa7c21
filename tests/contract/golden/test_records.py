"""Records of every version of the format, as they were stored once."""

import json
from base64 import b64decode, b64encode
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zoomgate_server.authorization import pending
from zoomgate_server.connections import record as connection_record
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope, key_id_of, version_of
from zoomgate_server.storage.record_store import Kind, Record, RecordKey

FOLDER = Path(__file__).parent / "records"
FILES = sorted(FOLDER.glob("v*/*.json"))
VAULT = Envelope(
    app="zoom.us|golden-app", keys=KeyRing([Key("901de001", bytes(range(100, 132)), primary=True)])
)


def opened(record: Record) -> Any:
    """What a record opens to, as JSON."""
    match record.key.kind:
        case Kind.USER:
            connection = connection_record.decode(VAULT, record)
            return asdict(
                replace(connection, read_update_time=None)
            )  # says how it was read, and is not stored
        case Kind.STATE:
            found = pending.decode(VAULT, record)
            key = b64encode(found.browser_key or b"").decode()
            return asdict(found) | {"options": found.options.decode(), "browser_key": key}
        case _:
            return VAULT.open(record).secret


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_was_stored_once_opens_for_ever(file: Path) -> None:
    """A record of any version opens to what it opened to when it was made; what came later has its default."""
    golden = json.loads(file.read_text())
    fields = golden["record"]
    name = RecordKey(fields.pop("app"), Kind(fields.pop("kind")), fields.pop("subject"))
    record = Record(key=name, value=b64decode(fields.pop("value")), **fields)
    assert version_of(record.value) == int(file.parent.name.removeprefix("v"))
    assert key_id_of(record.value) == record.key_id == "901de001"
    found = json.loads(json.dumps(opened(record)))
    assert {name: found[name] for name in golden["opened"]} == golden["opened"]
    assert not any(found[name] for name in found.keys() - golden["opened"].keys())


def test_every_version_has_its_records() -> None:
    """Connections in each state, a begun authorization, the canary and a shared secret."""
    names = {"active", "reauth", "tombstone", "state", "canary", "secret"}
    assert {folder.name: {file.stem for file in folder.iterdir()} for folder in FOLDER.glob("v*")} == {
        "v1": names,
        "v2": names,
    }
