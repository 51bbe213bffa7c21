"""Tests for encryption at rest and for the detection of changes to stored data."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import MONICA, OMAR, Harness, RpcError, running
from support.memory_store import MemoryStore
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Kind, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore

PAIR = TokenPair("access-secret", "refresh-secret", "a b", 3600.0, 0.0)


def ring(*ids: str, primary: str) -> KeyRing:
    return KeyRing(
        [Key(key_id, bytes.fromhex(key_id) + bytes(range(28)), key_id == primary) for key_id in ids]
    )


def connection(zoom_user_id: str = "z", **fields: object) -> ConnectionRecord:
    default = ConnectionRecord(
        zoom_user_id=zoom_user_id,
        user_email=MONICA,
        state=State.ACTIVE,
        grant="g",
        generation=3,
        create_time=1.0,
        consent_time=1.0,
        update_time=2.0,
        refresh_time=2.0,
        tokens=PAIR,
        zoom_account_id="a",
        owner="key|x",
    )
    return replace(default, **fields)  # type: ignore[arg-type]


async def test_no_secret_is_stored_in_plaintext(zoomgate: Harness) -> None:
    """No file in the data directory contains a token, an authorization's state or an authorization's options in plaintext."""
    started = await zoomgate.begin_authorization(options={"note": "options-are-encrypted-too"})
    await zoomgate.connect()
    token = (await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    secrets = [token.access_token, token.refresh_token, started.state, "options-are-encrypted-too"]
    files = [path for path in zoomgate.data_dir.iterdir() if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name


def test_decoding_returns_the_encoded_connection() -> None:
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    for fields in (
        {"alternate_pairs": (PAIR,), "superseded_pairs": (PAIR, PAIR), "due_at": 5.0},
        {"zoom_email": OMAR, "renamed_from": "old@example.com", "used_token_digests": ("b", "a")},
        {"user_email": "", "state": State.DISCONNECTED, "tokens": None, "pairs_to_revoke": (PAIR, PAIR)},
    ):
        original = connection(**fields)
        assert connection_record.decode(envelope, connection_record.encode(envelope, original)) == original


@pytest.mark.parametrize("position", range(0, 400, 7))
def test_changed_byte_makes_the_record_unreadable(position: int) -> None:
    """A record with a changed byte in the ciphertext is never treated as absent."""
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    record = connection_record.encode(envelope, connection())
    ciphertext_start = 5 + int.from_bytes(record.value[1:5], "big")
    position = ciphertext_start + position % (len(record.value) - ciphertext_start)
    changed = bytearray(record.value)
    changed[position] ^= 1
    with pytest.raises((RecordUnreadable, KeyUnavailable)):
        connection_record.decode(envelope, replace(record, value=bytes(changed)))


def test_moved_truncated_or_relabeled_record_is_rejected() -> None:
    """A newer format version is reported as unsupported, and any other change as corruption."""
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    record = connection_record.encode(envelope, connection())
    other = connection_record.encode(envelope, connection("other"))
    changed_records = [
        replace(record, value=other.value),
        replace(record, value=b""),
        replace(record, value=record.value[:-1]),
        replace(record, value=record.value[:3]),
        replace(record, value=b"\x03" + b"\xff" * 40),
        replace(record, state=State.DISCONNECTED.value),
        replace(record, user_email=OMAR),
        replace(record, user_email=None),
        replace(record, key=RecordKey("app", Kind.USER, "other")),
        replace(record, key=RecordKey("other-app", Kind.USER, "z")),
        replace(record, value=record.value.replace(b'"generation":3', b'"generation":4')),
    ]
    for changed in changed_records:
        with pytest.raises(RecordUnreadable) as error:
            connection_record.decode(envelope, changed)
        assert "secret" not in str(error.value)
    with pytest.raises(RecordVersionUnsupported):
        connection_record.decode(envelope, replace(record, value=b"\x04" + record.value[1:]))


def test_old_key_decrypts_primary_key_encrypts_and_missing_key_is_reported() -> None:
    old = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    both = Envelope(app="app", keys=ring("0a0a0a0a", "0b0b0b0b", primary="0b0b0b0b"))
    new = Envelope(app="app", keys=ring("0b0b0b0b", primary="0b0b0b0b"))
    record = connection_record.encode(old, connection())
    assert connection_record.decode(both, record) == connection()
    assert connection_record.encode(both, connection()).key_id == "0b0b0b0b"
    with pytest.raises(KeyUnavailable) as error:
        connection_record.decode(new, record)
    assert error.value.metadata["key_id"] == "0a0a0a0a"


async def test_key_check_rejects_a_key_ring_that_does_not_match() -> None:
    """The key ring must decrypt the key check record or, if this record is missing, contain the keys of all other records."""
    store = MemoryStore(time.time)
    right = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    await key_check.verify(store, right)
    await key_check.verify(store, right)
    with pytest.raises(KeyUnavailable):
        await key_check.verify(store, Envelope(app="app", keys=ring("0b0b0b0b", primary="0b0b0b0b")))
    same_id = KeyRing([Key("0a0a0a0a", bytes(range(32)), primary=True)])
    with pytest.raises(RecordUnreadable):
        await key_check.verify(store, Envelope(app="app", keys=same_id))
    await store.put(connection_record.encode(right, connection()), 0)
    stored, _ = await store.get(RecordKey("app", Kind.KEY_CHECK, "key_check"))
    assert stored is not None
    await store.delete(stored.key, stored.rev)
    with pytest.raises(KeyUnavailable):
        await key_check.verify(store, Envelope(app="app", keys=ring("0b0b0b0b", primary="0b0b0b0b")))


async def test_tampered_record_is_reported_and_replaced_by_a_new_consent(tmp_path: Path) -> None:
    """Calls for the affected user fail with DATA_LOSS, calls for other users succeed, and a new consent has a higher generation."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
    store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
    other, _ = await store.find("loopback|zoomgate-dev", OMAR)
    mine, _ = await store.find("loopback|zoomgate-dev", MONICA)
    assert mine is not None
    assert other is not None
    await store.put(replace(mine, value=other.value), mine.rev)
    await store.close()
    async with running(tmp_path / "data") as zoomgate:
        request = pb.GetConnectionRequest(user_email=MONICA)
        refusal: RpcError = await zoomgate.error_of(zoomgate.auth.GetConnection, request)
        assert refusal.short == ("DATA_LOSS", "RECORD_UNREADABLE")
        assert refusal.metadata["record"].startswith("user/")
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))
        await zoomgate.connect()
        replaced = await zoomgate.call(zoomgate.auth.GetConnection, request)
        assert replaced.connection.generation > 1


def test_repr_contains_no_secrets() -> None:
    """A repr may appear in tracebacks and logs, so it must not contain secrets."""
    text = repr(
        [
            PAIR,
            connection(pairs_to_revoke=(PAIR,), alternate_pairs=(PAIR,), superseded_pairs=(PAIR,)),
            Key("0a0a0a0a", b"0123456789abcdef" * 2, True),
        ]
    )
    assert "secret'" not in text.replace("secret=", "")
    assert "access-secret" not in text
    assert "0123456789abcdef" not in text


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [Key("0a0a0a0a", bytes(range(32)), primary=False)],
        [Key("0a0a0a0a", bytes(range(32)), primary=True), Key("0b0b0b0b", bytes(range(32)), primary=True)],
        [Key("0a0a0a0a", bytes(range(32)), primary=True), Key("0a0a0a0a", bytes(range(32)), primary=False)],
        [Key("0a0a0a0a", bytes(32), primary=True)],
        [Key("0a0a0a0a", bytes(range(31)), primary=True)],
        [Key("A", bytes(range(32)), primary=True)],
    ],
)
def test_invalid_key_ring_is_rejected(keys: list[Key]) -> None:
    """A key ring needs exactly one primary key, distinct and well-formed IDs, and keys of 32 random bytes."""
    with pytest.raises(ValueError, match=r"\w"):
        KeyRing(keys)


def test_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """A file that is missing, malformed or accessible to other users is rejected, and the message explains what to do."""
    path = tmp_path / "keys.json"
    key_id = key_file.create(path)
    assert key_file.load(path).primary_id == key_id
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(key_file.KeyFileError, match="never overwritten"):
        key_file.create(path)
    path.chmod(0o644)
    with pytest.raises(key_file.KeyFileError, match="chmod 600"):
        key_file.load(path)
    for content in (
        b"",
        b"{}",
        b'{"keys": [1]}',
        b'{"keys": [{"id": "x", "secret": "!", "state": "primary"}]}',
        b"[]",
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(key_file.KeyFileError):
            key_file.load(path)
    with pytest.raises(key_file.KeyFileError, match="does not exist"):
        key_file.load(tmp_path / "missing.json")
