"""Keys, backup and restore of a store in MongoDB."""

import json
import os
import time
from pathlib import Path

import pytest

from support.command_line import command, done, refused
from support.harness import MONICA, OMAR, Harness, serving
from support.mongodb import MongoServer
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.encryption import key_file
from zoomgate_server.storage.sqlite import SqliteStore


async def use(service: Harness) -> None:
    for user in (MONICA, OMAR):
        await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def test_a_file_that_was_the_store_once_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongodb: MongoServer
) -> None:
    """What is left of an SQLite store in the data folder does not make a key of the database look free, nor is it restored to."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    ring = Path("data/keys.json")
    key_file.create(ring)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    await store.close()
    before = Path("data/zoomgate.db").read_bytes()
    place = {"ZOOMGATE_STORE": mongodb.new_database()}
    async with (
        Simulator(SimulatorOptions(port=0)) as zoom,
        serving(zoom, Path("data"), environ=place) as service,
    ):
        await service.connect(MONICA)
        old = key_file.load(ring).primary_id
        added = key_file.add(ring, key_file.load(ring))
        key_file.promote(ring, key_file.load(ring), added)
        long_ago = time.time() - 60
        os.utime(ring, (long_ago, long_ago))
        assert "record(s) of kind user" in refused(await command("keys", "retire", old, environ=place))
        done(await command("store", "backup", "backup.db", environ=place))
    place = {"ZOOMGATE_STORE": mongodb.new_database()}
    done(await command("store", "restore", "backup.db", environ=place))
    assert Path("data/zoomgate.db").read_bytes() == before


async def test_keys_and_backups_work_as_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongodb: MongoServer
) -> None:
    """Rotate, retire, back up, restore into an empty database: everybody works, and no SQLite file is made but the backup."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    ring = Path("data/keys.json")
    key_file.create(ring)
    monkeypatch.setenv("ZOOMGATE_STORE", mongodb.new_database())
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    often = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        here = often | {"ZOOMGATE_STORE": os.environ["ZOOMGATE_STORE"]}
        async with serving(zoom, Path("data"), environ=here) as service:
            for user in (MONICA, OMAR):
                await service.connect(user)
            old = key_file.load(ring).primary_id
            done(await command("keys", "rotate", "--now"))
            await use(service)
            assert json.loads(done(await command("keys", "reencrypt", "--json")))["otherKeys"] == {}
            long_ago = time.time() - 60
            os.utime(ring, (long_ago, long_ago))
            done(await command("keys", "retire", old))
            done(await command("store", "backup", "backup.db"))
            assert "not empty" in refused(await command("store", "restore", "backup.db"))
        there = {"ZOOMGATE_STORE": mongodb.new_database()}
        done(await command("store", "restore", "backup.db", environ=there))
        async with serving(zoom, Path("data"), environ=often | there) as service:
            await use(service)
    assert [path.name for path in tmp_path.rglob("*.db*")] == ["backup.db"]
