"""What a process that was killed left in the journal, as the next one on the same data folder finds it."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from support.harness import MONICA, OMAR, Harness, serving
from support.zoom_app import Client
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics

APP = "loopback|zoomgate-dev"


async def stored(data_dir: Path, user: str) -> ConnectionRecord:
    """A connection as it is in the store of a service that has ended."""
    clock = SystemClock()
    store = await SqliteStore.open(data_dir / "zoomgate.db", clock.wall)
    envelope = Envelope(app=APP, keys=key_file.load(data_dir / "keys.json"))
    try:
        record, _ = await ConnectionRepository(
            app=APP, store=store, envelope=envelope, clock=clock, on_read=lambda: None
        ).read(user)
    finally:
        await store.close()
    assert record is not None
    return record


async def leave(data_dir: Path, *entries: Entry) -> None:
    """Leave entries in the journal as a process does that is killed."""
    journal = TokenJournal(
        data_dir / "journal",
        app=APP,
        ring=key_file.load(data_dir / "keys.json"),
        observer=Metrics("0", []),
    )
    assert await journal.prepare()
    for entry in entries:
        assert await journal.append(entry)
    await journal.close()


async def spent(zoom: Simulator, record: ConnectionRecord) -> TokenPair:
    """Refresh at Zoom, and give what it answered."""
    assert record.tokens is not None
    async with aiohttp.ClientSession() as session:
        status, answer = await Client(zoom, session).refresh(record.tokens.refresh_token)
    assert status == 200
    now = time.time()
    return replace(
        record.tokens,
        access_token=answer["access_token"],
        refresh_token=answer["refresh_token"],
        access_expire_at=now + 3600,
        obtained_at=now,
    )


def refreshed(record: ConnectionRecord, tokens: TokenPair, entry_id: str) -> Entry:
    """The entry of a refresh of a record."""
    return Entry(
        entry_id, Origin.REFRESH, record.user_email, record.grant, record.generation, tokens, record.epoch + 1
    )


async def generation_of(zoomgate: Harness, user: str, wanted: int) -> Connection:
    """Wait until a connection has a generation."""
    while True:
        shown = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        if shown.connection.generation >= wanted:
            found: Connection = shown.connection
            return found
        await asyncio.sleep(0.05)


async def until_shown(zoomgate: Harness, **values: float) -> None:
    """Wait until `/metrics` shows values."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{zoomgate.http_url}/metrics") as page:
                text = await page.text()
            if all(f"\n{name} {value}\n" in text for name, value in values.items()):
                return
            await asyncio.sleep(0.05)


async def test_an_answer_that_only_the_journal_has_comes_into_the_store(tmp_path: Path) -> None:
    """Zoom had spent the stored token when the process was killed: the next process has the new one, and the person notices nothing."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        await leave(data_dir, refreshed(record, await spent(zoom, record), "a" * 32))
        async with serving(zoom, data_dir, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as zoomgate:
            found = await generation_of(zoomgate, MONICA, 2)
            assert found.state == Connection.STATE_ACTIVE
            answer = await zoomgate.call(
                zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)
            )
            assert answer.token.generation == 3
            await until_shown(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=0.0)
        assert list((data_dir / "journal").iterdir()) == []


async def test_an_entry_that_cannot_be_dealt_with_holds_up_nobody_behind_it(tmp_path: Path) -> None:
    """An entry that is not as this release writes them, as after going back to an older one, stays, shows, and others are stored."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        strange = replace(await spent(zoom, record), access_expire_at="later")  # type: ignore[arg-type]
        await leave(
            data_dir,
            Entry("0" * 32, Origin.CONSENT, OMAR, "", 0, strange),
            refreshed(record, replace(strange, access_expire_at=time.time() + 3600), "a" * 32),
        )
        async with serving(zoom, data_dir) as zoomgate:
            await generation_of(zoomgate, MONICA, 2)
            await until_shown(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=1.0)
        assert [path.name for path in (data_dir / "journal").iterdir()] == [f"{'0' * 32}.entry"]


async def test_a_consent_that_waits_for_zoom_is_counted_when_it_is_stored(tmp_path: Path) -> None:
    """While Zoom does not say whose the tokens are, nothing counts as brought to the store; then it counts once."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        tokens = await spent(zoom, record)
        await leave(
            data_dir, Entry("c" * 32, Origin.CONSENT, MONICA, record.grant, record.generation, tokens)
        )
        zoom.faults.add(Fault("users_me", "status", times=1))
        async with serving(zoom, data_dir) as zoomgate:
            while not zoomgate.stat("faults.status"):
                await asyncio.sleep(0.05)
            await until_shown(zoomgate, zoomgate_journal_replays_total=0.0, zoomgate_journal_entries=0.0)
            await until_shown(zoomgate, zoomgate_journal_replays_total=1.0)
        assert list((data_dir / "journal").iterdir()) == []


async def test_a_consent_that_was_stored_and_not_told_is_told(tmp_path: Path) -> None:
    """A process was killed when the store had the tokens and the audit trail did not: the next one writes their line."""
    data_dir = tmp_path / "data"
    trail = data_dir / "audit.jsonl"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        (line,) = _lines(trail, "connection.stored")
        trail.unlink()
        record = await stored(data_dir, MONICA)
        assert record.tokens is not None
        await leave(
            data_dir,
            Entry(record.commit_id, Origin.CONSENT, MONICA, "", 0, record.tokens, initiated_by="key|service"),
        )
        async with serving(zoom, data_dir) as zoomgate:
            await until_shown(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=0.0)
        (again,) = _lines(trail, "connection.stored")
        changed = {name for name in line if line[name] != again[name]}
        assert changed == {"time", "principal"}, "a browser brought it, and the service told it"


def _lines(trail: Path, action: str) -> list[dict[str, Any]]:
    lines = map(json.loads, trail.read_text().splitlines())
    return [line for line in lines if line["action"] == action]


async def test_a_late_answer_is_kept_as_a_spare_and_counted(tmp_path: Path) -> None:
    """When the grant moved on before the journal was found, its answer is kept beside the newer one, and the person stays connected."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
            early = await stored(data_dir, MONICA)
            await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        late = TokenPair("a", "r", "bearer", "", "", time.time() + 3600, time.time())
        await leave(data_dir, refreshed(early, late, "b" * 32))
        async with serving(zoom, data_dir) as zoomgate:
            await until_shown(zoomgate, zoomgate_alternate_pairs_kept_total=1.0, zoomgate_journal_entries=0.0)
            assert (await generation_of(zoomgate, MONICA, 2)).state == Connection.STATE_ACTIVE
        assert (await stored(data_dir, MONICA)).alternate_pairs == (late,)


async def test_a_damaged_entry_is_counted_and_left(tmp_path: Path) -> None:
    """A file that cannot be opened shows in the metrics, stays where it is, and keeps nobody from working."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        (data_dir / "journal" / f"{'d' * 32}.entry").write_bytes(b"damaged")
        async with serving(zoom, data_dir) as zoomgate:
            await until_shown(zoomgate, zoomgate_journal_corrupt_entries_total=1.0)
            await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
            await until_shown(zoomgate, zoomgate_journal_writes_total=1.0, zoomgate_journal_entries=0.0)
        assert len(list((data_dir / "journal").iterdir())) == 1


async def test_without_a_journal_refreshes_go_on_and_it_shows(tmp_path: Path) -> None:
    """Where the journal cannot be written, as on a full disk, tokens are refreshed all the same, and each miss is counted."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "journal").write_text("no folder")
    async with Simulator(SimulatorOptions(port=0)) as zoom, serving(zoom, data_dir) as zoomgate:
        await zoomgate.connect()
        answer = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        assert answer.token.generation == 2
        await until_shown(zoomgate, zoomgate_journal_failures_total=2.0, zoomgate_journal_writes_total=0.0)
