"""A look beneath the vault: what is on the disk, and what happens when somebody changes it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import MONICA, OMAR, Harness, Refusal, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore

PAIR = TokenPair("access-secret", "refresh-secret", "bearer", "a b", "", 3600.0, 0.0)


def ring(*ids: str, primary: str) -> KeyRing:
    return KeyRing(
        [Key(key_id, bytes.fromhex(key_id) + bytes(range(28)), key_id == primary) for key_id in ids]
    )


def connection(user: str = MONICA, **fields: object) -> ConnectionRecord:
    plain = ConnectionRecord(
        user_email=user,
        state=State.ACTIVE,
        grant="g",
        generation=3,
        create_time=1.0,
        consent_time=1.0,
        update_time=2.0,
        refresh_time=2.0,
        tokens=PAIR,
        zoom_user_id="z",
        zoom_account_id="a",
        owner="key|x",
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


async def test_the_disk_holds_no_secret(zoomgate: Harness) -> None:
    """No token, code verifier or option is readable in any file of the data folder, but the key file has the key alone."""
    begun = await zoomgate.begin(options={"note": "options-are-sealed-too"})
    await zoomgate.connect()
    token = (await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    secrets = [token.access_token, token.refresh_token, begun.state, "options-are-sealed-too"]
    files = [path for path in zoomgate.data_dir.iterdir() if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name


def test_a_connection_comes_back_as_it_was() -> None:
    """Sealing and opening gives the same connection."""
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    plain = connection(alternate_pairs=(PAIR,), revoking=PAIR, due_at=5.0)
    assert connection_record.decode(envelope, connection_record.encode(envelope, plain)) == plain


@pytest.mark.parametrize("position", range(0, 400, 7))
def test_a_flipped_bit_is_noticed(position: int) -> None:
    """A changed byte anywhere in the sealed part, or in grant and generation, makes the record unreadable, never absent."""
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    record = connection_record.encode(envelope, connection())
    sealed_from = 5 + int.from_bytes(record.value[1:5], "big")
    position = sealed_from + position % (len(record.value) - sealed_from)
    changed = bytearray(record.value)
    changed[position] ^= 1
    with pytest.raises((RecordUnreadable, KeyUnavailable)):
        connection_record.decode(envelope, replace(record, value=bytes(changed)))


def test_records_cannot_be_moved_cut_or_relabelled() -> None:
    """Another user's value, a shortened one, changed columns and a newer version raise, each in its way."""
    envelope = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    record = connection_record.encode(envelope, connection())
    other = connection_record.encode(envelope, connection(OMAR))
    wrong = [
        replace(record, value=other.value),
        replace(record, value=b""),
        replace(record, value=record.value[:-1]),
        replace(record, value=record.value[:3]),
        replace(record, value=b"\x03" + b"\xff" * 40),
        replace(record, state=State.DISCONNECTED.value),
        replace(record, zoom_user_id="somebody-else"),
        replace(record, key=RecordKey("other-app", Kind.USER, MONICA)),
        replace(record, value=record.value.replace(b'"generation":3', b'"generation":4')),
    ]
    for changed in wrong:
        with pytest.raises(RecordUnreadable) as error:
            connection_record.decode(envelope, changed)
        assert "secret" not in str(error.value)
    with pytest.raises(RecordVersionUnsupported):
        connection_record.decode(envelope, replace(record, value=b"\x04" + record.value[1:]))


def test_keys_rotate_and_a_missing_one_is_named() -> None:
    """An older key still opens, the primary seals, and a ring without the key names it."""
    old = Envelope(app="app", keys=ring("0a0a0a0a", primary="0a0a0a0a"))
    both = Envelope(app="app", keys=ring("0a0a0a0a", "0b0b0b0b", primary="0b0b0b0b"))
    new = Envelope(app="app", keys=ring("0b0b0b0b", primary="0b0b0b0b"))
    record = connection_record.encode(old, connection())
    assert connection_record.decode(both, record) == connection()
    assert connection_record.encode(both, connection()).key_id == "0b0b0b0b"
    with pytest.raises(KeyUnavailable) as error:
        connection_record.decode(new, record)
    assert error.value.metadata["key_id"] == "0a0a0a0a"


async def test_the_canary_proves_the_ring() -> None:
    """A ring that made the canary may start, another may not, and neither may one that lacks the key of a record."""
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
    found, _ = await store.get(RecordKey("app", Kind.KEY_CHECK, "key_check"))
    assert found is not None
    await store.delete(found.key, found.rev)
    with pytest.raises(KeyUnavailable):
        await key_check.verify(store, Envelope(app="app", keys=ring("0b0b0b0b", primary="0b0b0b0b")))


async def test_a_tampered_record_is_told_and_healed_by_consent(tmp_path: Path) -> None:
    """Somebody who changes a row gets DATA_LOSS for that user alone; a new consent replaces it with a later generation."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
        await zoomgate.connect(OMAR)
    store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
    key = RecordKey("loopback|zoomgate-dev", Kind.USER, MONICA)
    other, _ = await store.get(replace(key, subject=OMAR))
    mine, _ = await store.get(key)
    assert mine is not None
    assert other is not None
    await store.put(replace(mine, value=other.value), mine.rev)
    await store.close()
    async with running(tmp_path / "data") as zoomgate:
        wanted = pb.GetConnectionRequest(user_email=MONICA)
        refusal: Refusal = await zoomgate.refusal(zoomgate.auth.GetConnection, wanted)
        assert refusal.short == ("DATA_LOSS", "RECORD_UNREADABLE")
        assert refusal.metadata["record"].startswith("user/")
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))
        await zoomgate.connect()
        healed = await zoomgate.call(zoomgate.auth.GetConnection, wanted)
        assert healed.connection.generation > 1


def test_secrets_do_not_show_in_reprs() -> None:
    """Tokens and keys stay out of tracebacks and logs."""
    shown = repr(
        [
            PAIR,
            connection(revoking=PAIR, alternate_pairs=(PAIR,)),
            Key("0a0a0a0a", b"0123456789abcdef" * 2, True),
        ]
    )
    assert "secret'" not in shown.replace("secret=", "")
    assert "access-secret" not in shown
    assert "0123456789abcdef" not in shown


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
def test_unusable_rings_are_refused(keys: list[Key]) -> None:
    """A ring needs exactly one primary, distinct ids, and keys of 32 random bytes."""
    with pytest.raises(ValueError, match=r"\w"):
        KeyRing(keys)


def test_key_files_are_made_once_and_read_back(tmp_path: Path) -> None:
    """A new key file has mode 0600 and is never overwritten; an open or broken one is refused with a remedy."""
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
