"""`zoomgate store`: backup beside a running service, the restore drill, and the upgrade."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from support import version_1
from support.command_line import command, done, refused, zoomgate
from support.harness import MONICA, OMAR, Harness, running, serving
from support.process import NEW, OLD, Process, RotatingZoom, ring
from zoom_simulator import Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.envelope import Envelope, version_of
from zoomgate_server.errors import KeyUnavailable, RecordVersionUnsupported
from zoomgate_server.storage import backup
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore
from zoomgate_server.storage.scan import pages
from zoomgate_server.storage.sqlite import SqliteStore

OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_MAX_REFRESHES_PER_HOUR": "1000"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the data folder in it is the one of the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    return tmp_path


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Harness]:
    """A service with a connected person."""
    async with running(Path("data"), environ=OFTEN) as harness:
        await harness.connect(MONICA)
        yield harness


async def refresh(harness: Harness, user: str) -> None:
    await harness.call(harness.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def everything(store: RecordStore) -> list[Record]:
    return [record for app in await store.apps() async for page in pages(store, app) for record in page]


async def contents(path: Path) -> list[Record]:
    store = await SqliteStore.open(path, time.time)
    found = await everything(store)
    await store.close()
    return found


def take_away_store() -> None:
    """Lose the store, and nothing else."""
    for path in Path("data").glob("zoomgate.db*"):
        path.unlink()


class TestBackup:
    """`zoomgate store backup`."""

    async def test_a_copy_is_made_beside_a_running_service(self, service: Harness) -> None:
        """It is whole in one file of mode 0600, holds what was committed, and the service goes on."""
        said = done(await command("store", "backup", "backup.db"))
        assert "verified" in said
        assert "The keys are not in it" in said
        assert stat.S_IMODE(Path("backup.db").stat().st_mode) == 0o600
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db", "data"]
        await refresh(service, MONICA)
        (monica,) = [record for record in await contents(Path("backup.db")) if record.key.kind is Kind.USER]
        envelope = Envelope(app=monica.key.app, keys=key_file.load(Path("data/keys.json")))
        assert envelope.open(monica).generation == 1

    async def test_copying_the_file_alone_would_lose_tokens(self, service: Harness) -> None:
        """What was committed last is in the log beside the file: a plain copy lacks it, the backup has it."""
        await refresh(service, MONICA)
        shutil.copy("data/zoomgate.db", "copied.db")
        done(await command("store", "backup", "backup.db"))
        with closing(sqlite3.connect("file:copied.db?immutable=1", uri=True)) as copied:
            tables = copied.execute("SELECT count(*) FROM sqlite_master WHERE name = 'record'").fetchone()[0]
            users = (
                copied.execute("SELECT count(*) FROM record WHERE kind = 'user'").fetchone()[0]
                if tables
                else 0
            )
        assert users == 0
        assert [
            record.key.subject for record in await contents(Path("backup.db")) if record.key.kind is Kind.USER
        ] == [MONICA]

    async def test_nothing_is_written_over(self, service: Harness) -> None:
        """An existing file, the store itself included, stays as it is, and no draft is left."""
        Path("backup.db").write_text("mine")
        for target in ("backup.db", "data/zoomgate.db"):
            assert "never overwritten" in refused(await command("store", "backup", target))
        assert Path("backup.db").read_text() == "mine"
        assert "could not be written" in refused(await command("store", "backup", "none/backup.db"))
        Path("dangling").symlink_to("elsewhere")
        assert "never overwritten" in refused(await command("store", "backup", "dangling"))
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db", "dangling", "data"]

    async def test_a_backup_opens_nothing_without_its_keys(self, service: Harness) -> None:
        """Neither key nor token is in it."""
        token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
        fields = json.loads(done(await command("store", "backup", "backup.db", "--json")))
        assert fields["records"] == len(await contents(Path("backup.db")))
        content = Path("backup.db").read_bytes()
        keys = json.loads(Path("data/keys.json").read_text())["keys"]
        for secret in (token.access_token, token.refresh_token, *(row["secret"] for row in keys)):
            assert secret.encode() not in content
        key_file.create(Path("other.json"))
        for record in await contents(Path("backup.db")):
            envelope = Envelope(app=record.key.app, keys=key_file.load(Path("other.json")))
            with pytest.raises(KeyUnavailable):
                envelope.open(record)

    def test_what_is_no_store_is_not_backed_up(self) -> None:
        """No file is made."""
        assert "There is no store" in refused(zoomgate("store", "backup", "backup.db"))
        Path("data").mkdir()
        with closing(sqlite3.connect("data/zoomgate.db")) as other:
            other.execute("CREATE TABLE t (x)")
        assert "another program" in refused(zoomgate("store", "backup", "backup.db"))
        assert not Path("backup.db").exists()


class TestRestore:
    """`zoomgate store restore`."""

    @pytest.mark.parametrize("tolerance", [0, 1])
    async def test_the_drill(self, folder: Path, tolerance: int) -> None:
        """Who was refreshed since the backup has to consent again at the next use, or works where Zoom is tolerant; nobody else notices."""
        async with Simulator(SimulatorOptions(port=0, tolerance=tolerance)) as zoom:
            async with serving(zoom, Path("data"), environ=OFTEN) as before:
                await before.connect(MONICA)
                await before.connect(OMAR)
                done(await command("store", "backup", "backup.db"))
                await refresh(before, MONICA)
            take_away_store()
            assert "holds" in done(await command("store", "restore", "backup.db"))
            async with serving(zoom, Path("data"), environ=OFTEN) as after:
                await refresh(after, OMAR)
                wanted = pb.RefreshTokenRequest(user_email=MONICA)
                if tolerance:
                    await after.call(after.auth.RefreshToken, wanted)
                else:
                    refusal = await after.refusal(after.auth.RefreshToken, wanted)
                    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
                    assert refusal.metadata["cause"] == "REJECTED"
                await refresh(after, OMAR)
                await after.connect(MONICA)
                await refresh(after, MONICA)

    async def test_only_an_empty_store_takes_a_backup(self, service: Harness) -> None:
        """One with records keeps them; one without gets all of the backup's, under the keys that sealed them."""
        done(await command("store", "backup", "backup.db"))
        await refresh(service, MONICA)
        before = await contents(Path("data/zoomgate.db"))
        assert "not empty" in refused(await command("store", "restore", "backup.db"))
        assert await contents(Path("data/zoomgate.db")) == before
        elsewhere = {"ZOOMGATE_STORE": "sqlite:///empty.db"}
        await (await SqliteStore.open(Path("empty.db"), time.time)).close()
        done(await command("store", "restore", "backup.db", environ=elsewhere))
        bare = [(record.key, record.value, record.key_id) for record in await contents(Path("backup.db"))]
        assert [
            (record.key, record.value, record.key_id) for record in await contents(Path("empty.db"))
        ] == bare

    async def test_missing_keys_are_named(self, service: Harness) -> None:
        """The records are there, and what is left to do is said, with exit code 1."""
        done(await command("store", "backup", "backup.db"))
        used = key_file.load(Path("data/keys.json")).primary_id
        key_file.create(Path("other.json"))
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db", "ZOOMGATE_KEYS": "other.json"}
        result = await command("store", "restore", "backup.db", environ=environ)
        assert result.exit_code == 1
        assert f"lacks what opens them, key {used}" in result.stderr
        assert await contents(Path("restored.db"))

    async def test_a_log_that_was_left_over_is_not_taken_for_the_backups_own(self, service: Harness) -> None:
        """SQLite would play it into the restored file."""
        done(await command("store", "backup", "backup.db"))
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db"}
        Path("restored.db-wal").write_bytes(Path("data/zoomgate.db-wal").read_bytes())
        assert "restored.db-wal is left over" in refused(
            await command("store", "restore", "backup.db", environ=environ)
        )
        assert not Path("restored.db").exists()

    def test_what_is_no_backup_is_refused(self) -> None:
        """A file that is missing, another program's, or damaged makes no store."""
        assert "does not exist" in refused(zoomgate("store", "restore", "none.db"))
        Path("text.db").write_text("no database" * 100)
        assert "cannot be read" in refused(zoomgate("store", "restore", "text.db"))
        with closing(sqlite3.connect("other.db")) as other:
            other.execute("CREATE TABLE t (x)")
        assert "not a Zoomgate store" in refused(zoomgate("store", "restore", "other.db"))
        assert not Path("data/zoomgate.db").exists()

    async def test_a_damaged_backup_is_refused(self, service: Harness) -> None:
        """A page that was overwritten is noticed before anything is put in place."""
        done(await command("store", "backup", "backup.db"))
        content = bytearray(Path("backup.db").read_bytes())
        content[-3000:] = os.urandom(3000)
        content[4096:4196] = os.urandom(100)
        Path("damaged.db").write_bytes(content)
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db"}
        refused(await command("store", "restore", "damaged.db", environ=environ))
        assert not Path("restored.db").exists()


class TestUpgrade:
    """`zoomgate store upgrade`."""

    async def test_an_older_store_is_upgraded_beside_the_service(self, folder: Path) -> None:
        """A store that an older release began keeps its version until then; afterwards that release refuses it in one sentence."""
        Path("data").mkdir(mode=0o700)
        key_file.create(Path("data/keys.json"))
        keys = key_file.load(Path("data/keys.json"))
        app = "loopback|zoomgate-dev"
        store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
        await version_1.prove(store, version_1.Vault(app=app, keys=keys))
        async with running(Path("data"), environ=OFTEN) as harness:
            await harness.connect(MONICA)
            assert {version_of(record.value) for record in await everything(store)} == {1}
            await version_1.prove(store, version_1.Vault(app=app, keys=keys))
            said = done(await command("store", "upgrade"))
            assert said.startswith("The store was brought to version 2. ")
            assert {version_of(record.value) for record in await everything(store)} == {2}
            await refresh(harness, MONICA)
            await harness.connect(OMAR)
            assert {version_of(record.value) for record in await everything(store)} == {2}
        with pytest.raises(RecordVersionUnsupported, match="upgrade this one"):
            await version_1.prove(store, version_1.Vault(app=app, keys=keys))
        await store.close()
        fields = json.loads(done(await command("store", "upgrade", "--json")))
        assert (fields["upgraded"], fields["reencrypted"], fields["version"]) == (False, 0, 2)

    async def test_a_missing_key_stops_it(self, service: Harness) -> None:
        """Nothing is changed, and the key is named."""
        before = await contents(Path("data/zoomgate.db"))
        used = key_file.load(Path("data/keys.json")).primary_id
        key_file.create(Path("other.json"))
        assert used in refused(await command("store", "upgrade", environ={"ZOOMGATE_KEYS": "other.json"}))
        assert await contents(Path("data/zoomgate.db")) == before


class TestCopyOfFile:
    """A copy of an SQLite store at one moment."""

    async def test_a_copy_is_of_one_moment_while_another_process_writes(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Page by page, while others write all the time: every copy is whole and has no record that is newer than its own counter."""
        monkeypatch.setattr(backup, "_PAGES", 1)
        users = [f"user-{number}@example.com" for number in range(40)]
        store = await SqliteStore.open(Path("store.db"), time.time)
        process = Process("app", store, Envelope(app="app", keys=ring(OLD)), RotatingZoom())
        for user in users:
            await process.connect(user)
        writer = subprocess.Popen(
            [sys.executable, "-m", "support.refreshing_process", str(folder / "store.db"), *users],
            cwd=Path(version_1.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        moments: set[int] = set()
        while len(moments) < 20:
            assert writer.poll() is None
            Path("copy.db").unlink(missing_ok=True)
            told: list[int] = []
            count = backup.copy_file(Path("store.db"), Path("copy.db"), told.append)
            assert count == sum(told) == len(users)
            with closing(sqlite3.connect("copy.db")) as copy:
                last, newest = copy.execute(
                    "SELECT last, (SELECT max(rev) FROM record) FROM revision"
                ).fetchone()
                assert newest <= last
                assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            moments.add(last)
        writer.communicate()
        assert writer.returncode == 0
        await store.close()

    async def test_what_comes_in_meanwhile_is_not_in_the_copy(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The moment is that of the beginning, even if somebody writes between any two pages."""
        monkeypatch.setattr(backup, "_PAGES", 1)
        store = await SqliteStore.open(Path("store.db"), time.time)
        process = Process("app", store, Envelope(app="app", keys=ring(OLD)), RotatingZoom())
        for number in range(10):
            await process.connect(f"user-{number}@example.com")
        looks = iter(range(1000))

        def write(_: int) -> None:
            with closing(sqlite3.connect("store.db")) as other, other:
                other.execute(
                    "INSERT INTO record SELECT app, kind, ? || subject, value, rev, state, key_id, NULL, changed_at, due_at, expire_at"
                    " FROM record WHERE subject = 'user-0@example.com'",
                    (str(next(looks)),),
                )

        assert backup.copy_file(Path("store.db"), Path("copy.db"), write) == 10
        assert next(looks) > 2
        assert len(await everything(store)) > 10
        await store.close()
        assert len(await contents(Path("copy.db"))) == 10


class TestCopyOfRecords:
    """Backup and restore of a store that is no file."""

    async def test_any_store_goes_into_a_file_and_back(self, folder: Path) -> None:
        """Every record of every app comes back as it was."""
        store, told = MemoryStore(time.time), []
        for app in ("app", "other-app"):
            envelope = Envelope(app=app, keys=ring(NEW))
            await key_check.verify(store, envelope)
            process = Process(app, store, envelope, RotatingZoom())
            for number in range(250):
                await process.connect(f"user-{number}@example.com")
        count = await backup.copy_records(store, Path("backup.db"), time.time, told.append)
        assert count == sum(told) == 502
        assert stat.S_IMODE(Path("backup.db").stat().st_mode) == 0o600
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db"]
        fresh = MemoryStore(time.time)
        assert await backup.restore_records(Path("backup.db"), fresh, time.time, lambda _: None) == 502
        assert [(row.key, row.value) for row in await everything(fresh)] == [
            (row.key, row.value) for row in await everything(store)
        ]
        with pytest.raises(backup.BackupError, match="not empty"):
            await backup.restore_records(Path("backup.db"), fresh, time.time, lambda _: None)

    async def test_a_zoom_user_who_moves_meanwhile_is_copied_once(self, folder: Path) -> None:
        """If a Zoom user goes from one record to another between the two reads, the copy has both as they are in the end."""
        store = MemoryStore(time.time)
        first = Record(key=RecordKey("app", Kind.USER, "a"), value=b"1", zoom_user_id="z", state="ACTIVE")
        rev = await store.put(first, 0)

        class Moving:
            async def page(self, *args: object, after: str = "", **kwargs: object) -> object:
                page = await store.page(*args, after=after, **kwargs)
                if page and page[0].key.subject == "a":
                    gone = Record(key=first.key, value=b"gone", state="DISCONNECTED", zoom_user_id="z")
                    await store.put(gone, rev or 0)
                    second = Record(
                        key=RecordKey("app", Kind.USER, "b"), value=b"2", zoom_user_id="z", state="ACTIVE"
                    )
                    await store.put(second, 0)
                return page

            def __getattr__(self, name: str) -> object:
                return getattr(store, name)

        assert await backup.copy_records(Moving(), Path("backup.db"), time.time, lambda _: None) == 2
        assert [record.value for record in await contents(Path("backup.db"))] == [b"gone", b"2"]
