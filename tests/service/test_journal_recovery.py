"""Tests for the recovery of a killed process's journal entries by the next process with the same data directory."""

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
from zoomgate_server.connections.lifecycle import linking
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
    """Read a connection from the store of a stopped service."""
    clock = SystemClock()
    store = await SqliteStore.open(data_dir / "zoomgate.db", clock.wall)
    envelope = Envelope(app=APP, keys=key_file.load(data_dir / "keys.json"))
    try:
        record, _ = await ConnectionRepository(
            app=APP, store=store, envelope=envelope, clock=clock, on_read=lambda: None
        ).find(user)
    finally:
        await store.close()
    assert record is not None
    return record


async def write_journal(data_dir: Path, *entries: Entry) -> None:
    """Write journal entries as if by a process that is then killed."""
    journal = TokenJournal(
        data_dir / "journal",
        app=APP,
        key_ring=key_file.load(data_dir / "keys.json"),
        metrics=Metrics("0", []),
    )
    assert await journal.prepare()
    for entry in entries:
        assert await journal.append(entry)
    await journal.close()


async def refresh_with_zoom(zoom: Simulator, record: ConnectionRecord) -> TokenPair:
    """Refresh a record's tokens with Zoom, and return the issued pair."""
    assert record.tokens is not None
    async with aiohttp.ClientSession() as session:
        status, response = await Client(zoom, session).refresh(record.tokens.refresh_token)
    assert status == 200
    now = time.time()
    return replace(
        record.tokens,
        access_token=response["access_token"],
        refresh_token=response["refresh_token"],
        access_expire_at=now + 3600,
        obtained_at=now,
    )


def refresh_entry(record: ConnectionRecord, tokens: TokenPair, entry_id: str) -> Entry:
    """Return the journal entry of a refresh."""
    return Entry(
        entry_id,
        Origin.REFRESH,
        record.user_email,
        tokens,
        record.grant,
        record.generation,
        record.zoom_user_id,
        epoch=record.epoch + 1,
    )


async def wait_for_generation(zoomgate: Harness, user: str, generation: int) -> Connection:
    """Wait until a connection has at least a given generation."""
    while True:
        response = await zoomgate.call(zoomgate.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        if response.connection.generation >= generation:
            connection: Connection = response.connection
            return connection
        await asyncio.sleep(0.05)


async def wait_for_metrics(zoomgate: Harness, **values: float) -> None:
    """Wait until `/metrics` contains the given values."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{zoomgate.http_url}/metrics") as page:
                text = await page.text()
            if all(f"\n{name} {value}\n" in text for name, value in values.items()):
                return
            await asyncio.sleep(0.05)


async def test_journaled_refresh_is_stored_after_restart(tmp_path: Path) -> None:
    """Zoom had already rotated the stored refresh token when the process was killed."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        await write_journal(data_dir, refresh_entry(record, await refresh_with_zoom(zoom, record), "a" * 32))
        async with serving(zoom, data_dir, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as zoomgate:
            connection = await wait_for_generation(zoomgate, MONICA, 2)
            assert connection.state == Connection.STATE_ACTIVE
            response = await zoomgate.call(
                zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA)
            )
            assert response.token.generation == 3
            await wait_for_metrics(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=0.0)
        assert list((data_dir / "journal").glob("*.entry")) == []


async def test_malformed_entry_does_not_block_the_others(tmp_path: Path) -> None:
    """A malformed entry, possibly written by a newer release, remains in the journal and is counted in the metrics."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        malformed = replace(await refresh_with_zoom(zoom, record), obtained_at="later")  # type: ignore[arg-type]
        await write_journal(
            data_dir,
            Entry("0" * 32, Origin.CONSENT, OMAR, malformed, marked_at=time.time()),
            refresh_entry(record, replace(malformed, obtained_at=time.time()), "a" * 32),
        )
        async with serving(zoom, data_dir) as zoomgate:
            await wait_for_generation(zoomgate, MONICA, 2)
            await wait_for_metrics(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=1.0)
        assert [path.name for path in (data_dir / "journal").glob("*.entry")] == [f"{'0' * 32}.entry"]


async def test_deferred_consent_is_counted_once_it_is_stored(tmp_path: Path) -> None:
    """The consent is not counted until Zoom confirms which user the tokens belong to."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        record = await stored(data_dir, MONICA)
        tokens = await refresh_with_zoom(zoom, record)
        await write_journal(data_dir, Entry("c" * 32, Origin.CONSENT, MONICA, tokens, marked_at=time.time()))
        zoom.faults.add(Fault("users_me", "status", times=linking.IDENTITY_ATTEMPTS))
        async with serving(zoom, data_dir) as zoomgate:
            while zoomgate.stat("faults.status") < linking.IDENTITY_ATTEMPTS:
                await asyncio.sleep(0.05)
            await wait_for_metrics(zoomgate, zoomgate_journal_replays_total=0.0, zoomgate_journal_entries=1.0)
            await wait_for_metrics(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=0.0)
        assert list((data_dir / "journal").glob("*.entry")) == []


async def test_stored_consent_without_audit_event_is_audited_after_restart(tmp_path: Path) -> None:
    """The process was killed after the write to the store and before the audit event."""
    data_dir = tmp_path / "data"
    trail = data_dir / "audit.jsonl"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        (line,) = _audit_events(trail, "connection.stored")
        trail.unlink()
        record = await stored(data_dir, MONICA)
        assert record.tokens is not None
        await write_journal(
            data_dir,
            Entry(record.commit_id, Origin.CONSENT, MONICA, record.tokens, initiated_by="key|service"),
        )
        async with serving(zoom, data_dir) as zoomgate:
            await wait_for_metrics(zoomgate, zoomgate_journal_replays_total=1.0, zoomgate_journal_entries=0.0)
        (recovered,) = _audit_events(trail, "connection.stored")
        changed = {name for name in line if line[name] != recovered[name]}
        assert changed == {"time", "principal"}, "a browser started it, and the service recovered it"


def _audit_events(trail: Path, action: str) -> list[dict[str, Any]]:
    lines = map(json.loads, trail.read_text().splitlines())
    return [line for line in lines if line["action"] == action]


async def test_journaled_pair_of_an_earlier_generation_is_stored_as_alternate_pair(tmp_path: Path) -> None:
    """Storing the alternate pair does not disconnect the user."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
            early = await stored(data_dir, MONICA)
            await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        late = TokenPair("a", "r", "", time.time() + 3600, time.time())
        await write_journal(data_dir, refresh_entry(early, late, "b" * 32))
        async with serving(zoom, data_dir) as zoomgate:
            await wait_for_metrics(
                zoomgate, zoomgate_alternate_pairs_kept_total=1.0, zoomgate_journal_entries=0.0
            )
            assert (await wait_for_generation(zoomgate, MONICA, 2)).state == Connection.STATE_ACTIVE
        assert (await stored(data_dir, MONICA)).alternate_pairs == (late,)


async def test_unreadable_entry_is_counted_and_preserved(tmp_path: Path) -> None:
    """An unreadable entry does not affect other refreshes."""
    data_dir = tmp_path / "data"
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as zoomgate:
            await zoomgate.connect()
        (data_dir / "journal" / f"{'d' * 32}.entry").write_bytes(b"damaged")
        async with serving(zoom, data_dir) as zoomgate:
            await wait_for_metrics(zoomgate, zoomgate_journal_corrupt_entries_total=1.0)
            await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
            await wait_for_metrics(zoomgate, zoomgate_journal_writes_total=1.0, zoomgate_journal_entries=0.0)
        assert len(list((data_dir / "journal").glob("*.entry"))) == 1


async def test_refreshes_work_without_a_journal(tmp_path: Path) -> None:
    """If the journal cannot be written, each failed write is counted: two for the consent, and one for the refresh."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "journal").symlink_to("/proc/self")  # no user can create files there
    async with Simulator(SimulatorOptions(port=0)) as zoom, serving(zoom, data_dir) as zoomgate:
        await zoomgate.connect()
        response = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))
        assert response.token.generation == 2
        await wait_for_metrics(
            zoomgate, zoomgate_journal_failures_total=3.0, zoomgate_journal_writes_total=0.0
        )
