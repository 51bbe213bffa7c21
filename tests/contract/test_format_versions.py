"""Two releases on one store: the older one reads what the newer one writes until the store is upgraded, and says so afterwards."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from support import version_1
from support.harness import OMAR, browser, consent, running
from support.process import Process, RotatingZoom
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.connections import disconnection
from zoomgate_server.encryption import key_check
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import NEWEST, Envelope, version_of
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.errors import KeyUnavailable, RecordUnreadable, RecordVersionUnsupported
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore

RING = KeyRing([Key("0a0a0a0a", bytes(range(32)), primary=True)])
USER = "monica@example.com"


class Releases:
    """A store that the older release began, and a process of each."""

    def __init__(self) -> None:
        self.store = MemoryStore(time.time)
        self.zoom = RotatingZoom()
        self.old_vault, self.envelope = (
            version_1.Vault(app="app", keys=RING),
            Envelope(app="app", keys=RING),
        )
        self.old = Process("app", self.store, self.old_vault, self.zoom)
        self.new = Process("app", self.store, self.envelope, self.zoom)

    async def record(self, user: str = USER) -> Record:
        found, _ = await self.store.get(RecordKey("app", Kind.USER, user))
        assert found is not None
        return found

    async def upgrade(self) -> None:
        assert await key_check.upgrade(self.store, Envelope(app="app", keys=RING))
        swept = await reencrypt(self.store, RING, lambda _: None)
        assert not swept.failed


@pytest.fixture
async def releases() -> Releases:
    """A user that the older release connected; both releases have started."""
    made = Releases()
    await version_1.prove(made.store, made.old_vault)
    await made.old.connect(USER)
    await key_check.verify(made.store, made.envelope)
    return made


async def test_a_new_store_has_the_newest_version() -> None:
    """Its canary says so, so an older release refuses to start on it, in one sentence that says what to do."""
    store = MemoryStore(time.time)
    envelope = Envelope(app="app", keys=RING)
    mark = await key_check.verify(store, envelope)
    assert (version_of(mark.value), envelope.version) == (NEWEST, NEWEST)
    with pytest.raises(RecordVersionUnsupported) as refused:
        await version_1.prove(store, version_1.Vault(app="app", keys=RING))
    assert str(refused.value) == "A newer version of Zoomgate wrote a stored record: upgrade this one"


async def test_releases_take_turns_until_the_upgrade(releases: Releases) -> None:
    """What the newer one writes before the upgrade the older one reads and refreshes, so going back is possible."""
    for _ in range(5):
        await releases.new.refresh(USER)
        assert version_of((await releases.record()).value) == 1
        await releases.old.refresh(USER)
    await version_1.prove(releases.store, version_1.Vault(app="app", keys=RING))
    assert await releases.old.holds_living_token(USER)


async def test_after_the_upgrade_the_older_release_leaves_records_alone(releases: Releases) -> None:
    """A process of it that still runs answers RECORD_VERSION for the user, spends nothing and changes nothing; the newer one goes on."""
    seen, _ = await releases.old.connections.read(USER)
    await releases.upgrade()
    before, calls = await releases.record(), releases.zoom.calls
    assert version_of(before.value) == 2
    with pytest.raises(RecordVersionUnsupported):
        await releases.old.refresh(USER)
    assert seen is not None
    assert await releases.old.connections.write(seen) is None
    with pytest.raises(RecordVersionUnsupported):
        await releases.old.connections.read_replaceable(USER)
    assert (await releases.record(), releases.zoom.calls) == (before, calls)
    with pytest.raises(RecordVersionUnsupported):
        await version_1.prove(releases.store, version_1.Vault(app="app", keys=RING))
    await releases.new.refresh(USER)
    assert await releases.new.holds_living_token(USER)


async def test_a_running_process_follows_the_upgrade(releases: Releases) -> None:
    """A process of this release that started before the upgrade writes the new version once it has read it, and both always open."""
    assert releases.envelope.version == 1
    await releases.upgrade()
    await releases.new.refresh(USER)
    assert releases.envelope.version == 2
    assert version_of((await releases.record()).value) == 2


async def test_the_upgrade_changes_what_is_stored_in_nothing_else(releases: Releases) -> None:
    """Generation, grant, times and tokens are as they were; a second upgrade finds nothing to do."""
    before, _ = await releases.new.connections.read(USER)
    columns = await releases.record()
    await releases.upgrade()
    after, _ = await releases.new.connections.read(USER)
    assert before is not None
    assert after == replace(before, rev=(await releases.record()).rev)
    assert (await releases.record()).changed_at == columns.changed_at
    assert not await key_check.upgrade(releases.store, Envelope(app="app", keys=RING))


async def test_a_store_that_lost_its_canary_keeps_the_oldest_version(releases: Releases) -> None:
    """Records are there, so an older release may be, too."""
    mark, _ = await releases.store.get(key_check.key_of("app"))
    assert mark is not None
    await releases.store.delete(mark.key, mark.rev)
    assert version_of((await key_check.verify(releases.store, Envelope(app="app", keys=RING))).value) == 1


async def test_a_record_of_a_version_to_come_fails_for_its_user_alone(releases: Releases) -> None:
    """It is left as it is, by callers and by sweeps; others work."""
    await releases.new.connect("omar@example.com")
    mine = await releases.record()
    await releases.store.put(replace(mine, value=b"\x03" + mine.value[1:]), mine.rev)
    before, calls = await releases.record(), releases.zoom.calls
    with pytest.raises(RecordVersionUnsupported):
        await releases.new.refresh(USER)
    await key_check.upgrade(releases.store, Envelope(app="app", keys=RING))
    swept = await reencrypt(releases.store, RING, lambda _: None)
    assert list(swept.failed.values()) == [
        "A newer version of Zoomgate wrote a stored record: upgrade this one"
    ]
    assert (await releases.record(), releases.zoom.calls) == (before, calls)
    await releases.new.refresh("omar@example.com")
    assert await releases.new.holds_living_token("omar@example.com")


async def test_callers_hear_record_version_for_that_user_alone(tmp_path: Path) -> None:
    """Over gRPC: INTERNAL and RECORD_VERSION for every call about the user, a new consent included; the record stays, others work."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect(USER)
        await zoomgate.connect(OMAR)
        store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
        mine, _ = await store.get(RecordKey("loopback|zoomgate-dev", Kind.USER, USER))
        assert mine is not None
        await store.put(replace(mine, value=b"\x03" + mine.value[1:]), mine.rev)
        before, _ = await store.get(mine.key)
        for method, request in (
            (zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=USER)),
            (zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=USER)),
            (zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=USER)),
        ):
            assert (await zoomgate.refusal(method, request)).short == ("INTERNAL", "RECORD_VERSION")
        async with browser() as session:
            page = await consent(session, (await zoomgate.begin(USER)).authorization_url, USER)
        assert page.url.query["outcome"] == "try_later"
        assert (await store.get(mine.key))[0] == before
        await store.close()
        await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))


async def test_a_tombstone_that_cannot_be_opened_holds_up_no_revocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be revoked at once is revoked later, whatever stands before it in the store."""
    monkeypatch.setattr(disconnection, "RETRY_INTERVAL", 0.01)
    async with running(tmp_path / "data") as zoomgate:
        zoomgate.simulator.faults.add(Fault("revoke", "status", times=-1, status=503))
        for user in (USER, OMAR):
            await zoomgate.connect(user)
            await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user))
        store = await SqliteStore.open(tmp_path / "data" / "zoomgate.db", time.time)
        first = RecordKey("loopback|zoomgate-dev", Kind.USER, USER)
        while True:  # the service writes to it as well
            mine, _ = await store.get(first)
            assert mine is not None
            if await store.put(replace(mine, value=b"\x03" + mine.value[1:]), mine.rev):
                break
        await store.close()
        zoomgate.simulator.faults.clear()
        while not zoomgate.stat("revoke.known"):
            await asyncio.sleep(0.005)


async def test_every_byte_of_version_2_is_authentic(releases: Releases) -> None:
    """A changed byte anywhere, the clear header included, is noticed; version 1 leaves most of the header open to who can write."""
    await releases.upgrade()
    record = await releases.record()
    for position in range(len(record.value)):
        changed = bytearray(record.value)
        changed[position] ^= 1
        with pytest.raises((RecordUnreadable, RecordVersionUnsupported, KeyUnavailable)):
            releases.envelope.open(replace(record, value=bytes(changed)))


@pytest.mark.parametrize(
    "header", [b"[]", b"1", b'"x"', b"{}", b"\xff", b'{"grant": 1, "generation": 1}', b""]
)
async def test_a_header_of_another_form_is_damage(releases: Releases, header: bytes) -> None:
    """Whatever JSON stands in the clear header: it is damaged, no crash, in both versions."""
    sealed = (await releases.record()).value[-200:]
    for version in (b"\x01", b"\x02"):
        value = version + len(header).to_bytes(4, "big") + header + sealed
        with pytest.raises(RecordUnreadable):
            releases.envelope.open(replace(await releases.record(), value=value))
