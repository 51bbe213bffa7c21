"""Tests for key rotation, backup and restore of a store in MongoDB."""

import json
import os
import time
from pathlib import Path

import pytest

from support.command_line import command, stderr_of, stdout_of
from support.harness import MONICA, OMAR, Harness, serving
from support.mongodb import MongoServer
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.encryption import key_file
from zoomgate_server.storage.sqlite import SqliteStore


async def refresh_all(service: Harness) -> None:
    for user in (MONICA, OMAR):
        await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def test_leftover_sqlite_store_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongodb: MongoServer
) -> None:
    """Neither the retirement of keys nor the restore uses a leftover SQLite store in the data directory."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    ring = Path("data/keys.json")
    key_file.create(ring)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    await store.close()
    before = Path("data/zoomgate.db").read_bytes()
    store_settings = {"ZOOMGATE_STORE": mongodb.new_database()}
    async with (
        Simulator(SimulatorOptions(port=0)) as zoom,
        serving(zoom, Path("data"), environ=store_settings) as service,
    ):
        await service.connect(MONICA)
        old = key_file.load(ring).primary_id
        added = key_file.add(ring, key_file.load(ring))
        key_file.promote(ring, key_file.load(ring), added)
        minute_ago = time.time() - 60
        os.utime(ring, (minute_ago, minute_ago))
        assert "user record" in stderr_of(await command("keys", "retire", old, environ=store_settings))
        stdout_of(await command("store", "backup", "backup.db", environ=store_settings))
    store_settings = {"ZOOMGATE_STORE": mongodb.new_database()}
    stdout_of(await command("store", "restore", "backup.db", environ=store_settings))
    assert Path("data/zoomgate.db").read_bytes() == before


async def test_key_rotation_and_backup_work_as_with_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongodb: MongoServer
) -> None:
    """After rotation, retirement, backup and restore, the tokens of all users can be refreshed. The backup is the only SQLite file."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    ring = Path("data/keys.json")
    key_file.create(ring)
    monkeypatch.setenv("ZOOMGATE_STORE", mongodb.new_database())
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    often = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        original = often | {"ZOOMGATE_STORE": os.environ["ZOOMGATE_STORE"]}
        async with serving(zoom, Path("data"), environ=original) as service:
            for user in (MONICA, OMAR):
                await service.connect(user)
            old = key_file.load(ring).primary_id
            stdout_of(await command("keys", "rotate", "--now"))
            await refresh_all(service)
            assert json.loads(stdout_of(await command("keys", "reencrypt", "--json")))["otherKeys"] == {}
            minute_ago = time.time() - 60
            os.utime(ring, (minute_ago, minute_ago))
            stdout_of(await command("keys", "retire", old, "--yes"))
            stdout_of(await command("store", "backup", "backup.db"))
            assert "not empty" in stderr_of(await command("store", "restore", "backup.db"))
        restored = {"ZOOMGATE_STORE": mongodb.new_database()}
        stdout_of(await command("store", "restore", "backup.db", environ=restored))
        async with serving(zoom, Path("data"), environ=often | restored) as service:
            await refresh_all(service)
    assert [path.name for path in tmp_path.rglob("*.db*")] == ["backup.db"]
