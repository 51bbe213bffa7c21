"""Tests for records and journal entries of other format versions, and for the integrity of the current format."""

import asyncio
import json
import time
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.captured_logs import capture_logs
from support.effect_driver import create_driver
from support.harness import OMAR, browser, consent, running
from support.memory_store import MemoryStore
from support.process import Process, RotatingZoom
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.authorization import pending
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import disconnection
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.lifecycle.effects import Read
from zoomgate_server.connections.token_journal import TokenJournal
from zoomgate_server.encryption import key_check
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import FORMAT, Envelope
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.record_store import Kind, Query, Record, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics

RING = KeyRing([Key("0a0a0a0a", bytes(range(32)), primary=True)])
USER = "monica@example.com"
OTHER_VERSIONS = (1, 2, 4)
UNSUPPORTED = {
    version: f"Record format {version} is not supported; this release reads format 3. Run the release that wrote the record"
    for version in OTHER_VERSIONS
}
GOLDEN = Path(__file__).parent / "golden/records/v3"
GOLDEN_APP = "zoom.us|golden-app"
GOLDEN_RING = KeyRing([Key("901de001", bytes(range(100, 132)), primary=True)])


def of_version(version: int, content: bytes) -> bytes:
    return bytes((version,)) + content[1:]


def golden_record(name: str, version: int) -> Record:
    """Return a golden record with a different format version."""
    fields = json.loads((GOLDEN / f"{name}.json").read_text())["record"]
    key = RecordKey(fields.pop("app"), Kind(fields.pop("kind")), fields.pop("subject"))
    return Record(key=key, **fields | {"value": of_version(version, b64decode(fields["value"]))})


class StoreAndProcess:
    """A store with one connected user, and a process that uses it."""

    def __init__(self) -> None:
        self.store = MemoryStore(time.time)
        self.zoom = RotatingZoom()
        self.envelope = Envelope(app="app", keys=RING)
        self.process = Process(self.store, self.envelope, self.zoom)
        self.driver = create_driver(self.store, SystemClock(), self.zoom, envelope=self.envelope)

    async def record(self) -> Record:
        record, _ = await self.store.find("app", USER)
        assert record is not None
        return record

    async def set_version(self, version: int) -> None:
        record = await self.record()
        assert await self.store.put(replace(record, value=of_version(version, record.value)), record.rev)


@pytest.fixture
async def setup() -> StoreAndProcess:
    created = StoreAndProcess()
    await key_check.verify(created.store, created.envelope)
    await created.process.connect(USER)
    return created


@pytest.mark.parametrize("version", OTHER_VERSIONS)
@pytest.mark.parametrize("name", ["active", "authorization", "key_check", "seen_event", "shared_secret"])
def test_record_of_a_different_version_is_rejected(name: str, version: int) -> None:
    record = golden_record(name, version)
    key = record.key
    envelope = Envelope(app=GOLDEN_APP, keys=GOLDEN_RING)
    decoders: dict[Kind, Any] = {Kind.USER: connection_record.decode, Kind.STATE: pending.decode}
    with pytest.raises(RecordVersionUnsupported) as rejected:
        decoders.get(key.kind, Envelope.open)(envelope, record)
    assert str(rejected.value) == UNSUPPORTED[version]
    assert rejected.value.metadata["version"] == str(version)
    assert rejected.value.metadata["record"].startswith(f"{key.kind.value}/")


@pytest.mark.parametrize("version", OTHER_VERSIONS)
async def test_journal_entry_of_a_different_version_is_rejected_and_retained(
    tmp_path: Path, version: int
) -> None:
    golden = json.loads((GOLDEN / "journal_entry.json").read_text())
    file = tmp_path / f"{golden['opened']['entry_id']}.entry"
    content = of_version(version, b64decode(golden["file"]))
    file.write_bytes(content)
    metrics = Metrics("1", [])
    journal = TokenJournal(tmp_path, app=GOLDEN_APP, key_ring=GOLDEN_RING, metrics=metrics)
    with capture_logs() as logs:
        assert await journal.claim() == []
    await journal.close()
    (line,) = [line for line in logs if line["event"] == "journal.entry_unreadable"]
    assert line["reason"] == UNSUPPORTED[version]
    assert metrics.registry.get_sample_value("zoomgate_journal_corrupt_entries_total") == 1
    assert file.read_bytes() == content


@pytest.mark.parametrize("version", OTHER_VERSIONS)
async def test_key_check_of_a_different_version_fails_the_start(setup: StoreAndProcess, version: int) -> None:
    stored, _ = await setup.store.get(key_check.key_of("app"))
    assert stored is not None
    await setup.store.put(replace(stored, value=of_version(version, stored.value)), stored.rev)
    with pytest.raises(RecordVersionUnsupported) as rejected:
        await key_check.verify(setup.store, setup.envelope)
    assert str(rejected.value) == UNSUPPORTED[version]


@pytest.mark.parametrize("version", OTHER_VERSIONS)
@pytest.mark.parametrize("name", ["active", "authorization", "seen_event", "shared_secret"])
async def test_store_of_a_different_version_without_a_key_check_fails_the_start(
    name: str, version: int
) -> None:
    """A single record of any kind is enough to detect the format."""
    store, envelope = MemoryStore(time.time), Envelope(app=GOLDEN_APP, keys=GOLDEN_RING)
    assert await store.put(golden_record(name, version), 0)
    with pytest.raises(RecordVersionUnsupported):
        await key_check.verify(store, envelope)
    assert (await store.get(key_check.key_of(GOLDEN_APP)))[0] is None


async def test_missing_key_check_is_recreated(setup: StoreAndProcess) -> None:
    stored, _ = await setup.store.get(key_check.key_of("app"))
    assert stored is not None
    await setup.store.delete(stored.key, stored.rev)
    store_id = await key_check.verify(setup.store, setup.envelope)
    recreated, _ = await setup.store.get(stored.key)
    assert recreated is not None
    assert recreated.value[0] == FORMAT
    assert setup.envelope.open(recreated).secret == {"store_id": store_id}


@pytest.mark.parametrize("version", OTHER_VERSIONS)
async def test_record_of_a_different_version_affects_only_its_user(
    setup: StoreAndProcess, version: int
) -> None:
    """Refreshes and re-encryption leave the record unchanged, and tokens of other users can be refreshed."""
    await setup.process.connect("omar@example.com")
    seen, _ = await setup.process.connections.find(USER)
    await setup.set_version(version)
    before, calls = await setup.record(), setup.zoom.calls
    with pytest.raises(RecordVersionUnsupported):
        await setup.process.refresh(USER)
    assert seen is not None
    assert await setup.process.connections.write(seen) is None
    with pytest.raises(RecordVersionUnsupported):
        await setup.driver.perform(Read(before.key.subject, replaceable=True))
    result = await reencrypt(setup.store, RING, lambda _: None)
    assert list(result.failed.values()) == [UNSUPPORTED[version]]
    assert (await setup.record(), setup.zoom.calls) == (before, calls)
    await setup.process.refresh("omar@example.com")
    assert await setup.process.has_valid_token("omar@example.com")


async def test_record_version_error_is_returned_for_that_user_only(tmp_path: Path) -> None:
    """Every call for the user fails, including a new consent, and the record stays unchanged. Other users are not affected."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect(USER)
        await zoomgate.connect(OMAR)
        store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
        mine, _ = await store.find("loopback|zoomgate-dev", USER)
        assert mine is not None
        await store.put(replace(mine, value=of_version(4, mine.value)), mine.rev)
        before, _ = await store.get(mine.key)
        for method, request in (
            (zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=USER)),
            (zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=USER)),
            (zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=USER)),
        ):
            assert (await zoomgate.error_of(method, request)).short == ("INTERNAL", "RECORD_VERSION")
        async with browser() as session:
            page = await consent(session, (await zoomgate.begin_authorization(USER)).authorization_url, USER)
        assert page.url.query["outcome"] == "try_later"
        assert (await store.get(mine.key))[0] == before
        await store.close()
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))


async def test_unreadable_tombstone_does_not_block_other_revocations(tmp_path: Path) -> None:
    """The unreadable tombstone comes first when the store lists the tombstones."""
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.01))
    async with running(tmp_path / "data", timing=timing) as zoomgate:
        zoomgate.simulator.faults.add(Fault("revoke", "status", times=-1, status=503))
        for user in (USER, OMAR):
            await zoomgate.connect(user)
            await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user))
        store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
        first, _ = await store.page("loopback|zoomgate-dev", Kind.USER, Query(limit=2))
        while True:  # retry, since the service may change the record between the read and the write
            mine, _ = await store.get(first.key)
            assert mine is not None
            if await store.put(replace(mine, value=of_version(4, mine.value)), mine.rev):
                break
        await store.close()
        zoomgate.simulator.faults.clear()
        while not zoomgate.stat("revoke.known"):
            await asyncio.sleep(0.005)


async def test_every_byte_of_a_record_is_authenticated(setup: StoreAndProcess) -> None:
    record = await setup.record()
    for position in range(len(record.value)):
        changed = bytearray(record.value)
        changed[position] ^= 1
        with pytest.raises((RecordUnreadable, RecordVersionUnsupported, KeyUnavailable)):
            setup.envelope.open(replace(record, value=bytes(changed)))


@pytest.mark.parametrize(
    "header", [b"[]", b"1", b'"x"', b"{}", b"\xff", b'{"grant": 1, "generation": 1}', b""]
)
async def test_malformed_header_is_reported_as_corruption(setup: StoreAndProcess, header: bytes) -> None:
    record = await setup.record()
    value = bytes((FORMAT,)) + len(header).to_bytes(4, "big") + header + record.value[-200:]
    with pytest.raises(RecordUnreadable):
        setup.envelope.open(replace(record, value=value))
