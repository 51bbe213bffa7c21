"""Tests for `zoomgate store`: backup while the service is running, and the restore drill."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.faulty_store import FaultyStore
from support.harness import MONICA, OMAR, Harness, running, serving
from support.memory_store import MemoryStore
from support.process import NEW, OLD, Process, RotatingZoom, ring
from zoom_simulator import RefreshTokenReuse, Rules, Simulator, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.encryption import key_check, key_file, shared_secret
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import KeyUnavailable
from zoomgate_server.storage import backup
from zoomgate_server.storage.record_store import Kind, Query, Record, RecordKey, RecordStore, StoreError
from zoomgate_server.storage.scan import pages
from zoomgate_server.storage.sqlite import SqliteStore

OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_MAX_REFRESHES_PER_HOUR": "1000"}


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Harness]:
    """Run a service with one connected user."""
    async with running(Path("data"), environ=OFTEN) as harness:
        await harness.connect(MONICA)
        yield harness


async def refresh(harness: Harness, user: str) -> None:
    await harness.call(harness.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def all_records(store: RecordStore) -> list[Record]:
    return [record for app in await store.apps() async for page in pages(store, app) for record in page]


async def contents(path: Path) -> list[Record]:
    store = await SqliteStore.open(path, time.time)
    records = await all_records(store)
    await store.close()
    return records


async def addresses(store: RecordStore) -> dict[RecordKey, str | None]:
    return {record.key: record.user_email for record in await all_records(store)}


async def write_addresses(store: RecordStore, names: str) -> None:
    """Give the records a, b, c the addresses with these names. `-` stands for no address, `.` for no record."""
    keys = [RecordKey("app", Kind.USER, subject) for subject in "abc"[: len(names)]]
    for key in keys:
        found, _ = await store.get(key)
        if found is not None:
            await store.delete(key, found.rev)
    for key, name in zip(keys, names, strict=True):
        user_email = None if name == "-" else f"{name}@example.com"
        if name != ".":
            await store.put(Record(key=key, value=names.encode(), user_email=user_email), 0)


def moved_after(pages_before: int, store: RecordStore, names: str) -> Callable[..., Any]:
    """Return an interceptor of `page` that returns single records, and calls `write_addresses` after a number of pages."""
    pages_read = 0

    async def page(proceed: Callable[..., Any], app: str, kind: Kind, query: Query) -> object:
        nonlocal pages_read
        found = await proceed(app, kind, replace(query, limit=1))
        pages_read += 1
        if pages_read == pages_before:
            await write_addresses(store, names)
        return found

    return page


def delete_store() -> None:
    """Delete the store, but not the key ring."""
    for path in Path("data").glob("zoomgate.db*"):
        path.unlink()


class TestBackup:
    """Tests for `zoomgate store backup`."""

    async def test_running_service_is_backed_up(self, service: Harness) -> None:
        """The backup is one file with mode 0600, contains all commits, and does not affect the service."""
        output = stdout_of(await command("store", "backup", "backup.db"))
        assert "verified" in output
        assert "The keys are not included" in output
        assert stat.S_IMODE(Path("backup.db").stat().st_mode) == 0o600
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db", "data"]
        await refresh(service, MONICA)
        (monica,) = [record for record in await contents(Path("backup.db")) if record.key.kind is Kind.USER]
        envelope = Envelope(app=monica.key.app, keys=key_file.load(Path("data/keys.json")))
        assert envelope.open(monica).generation == 1

    async def test_backup_contains_commits_that_a_file_copy_lacks(self, service: Harness) -> None:
        """The latest commits are in the write-ahead log next to the database file."""
        await refresh(service, MONICA)
        shutil.copy("data/zoomgate.db", "copied.db")
        stdout_of(await command("store", "backup", "backup.db"))
        with closing(sqlite3.connect("file:copied.db?immutable=1", uri=True)) as copied:
            tables = copied.execute("SELECT count(*) FROM sqlite_master WHERE name = 'record'").fetchone()[0]
            users = (
                copied.execute("SELECT count(*) FROM record WHERE kind = 'user'").fetchone()[0]
                if tables
                else 0
            )
        assert users == 0
        emails = [record.user_email for record in await contents(Path("backup.db"))]
        assert [email for email in emails if email is not None] == [MONICA]

    async def test_existing_file_is_not_overwritten(self, service: Harness) -> None:
        """Neither another file nor the store itself is overwritten, and no temporary file remains."""
        Path("backup.db").write_text("mine")
        for target in ("backup.db", "data/zoomgate.db"):
            assert "never overwritten" in stderr_of(await command("store", "backup", target))
        assert Path("backup.db").read_text() == "mine"
        assert "could not be written" in stderr_of(await command("store", "backup", "none/backup.db"))
        Path("dangling").symlink_to("elsewhere")
        assert "never overwritten" in stderr_of(await command("store", "backup", "dangling"))
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db", "dangling", "data"]

    @pytest.mark.parametrize(
        ("prefix", "reason"),
        [
            ("ulimit -f 256; ", "SQLITE_IOERR_WRITE"),
            ("mount -t tmpfs -o mode=700,size=64k tmpfs full && ", "SQLITE_FULL"),
        ],
    )
    @pytest.mark.usefixtures("service")
    async def test_full_disk_of_the_copy_is_reported(self, prefix: str, reason: str) -> None:
        with closing(sqlite3.connect("data/zoomgate.db")) as store:
            store.execute("CREATE TABLE filler AS SELECT zeroblob(1000000)")
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the command also writes to the log
        Path("full").mkdir()
        result = await asyncio.to_thread(
            subprocess.run,
            [
                *("unshare", "--map-root-user", "--mount", "sh", "-c", prefix + 'exec "$@"', "sh"),
                *(sys.executable, "-m", "zoomgate_server", "store", "backup", "full/backup.db"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.stderr.startswith(("unshare: ", "mount: ")):
            pytest.skip(result.stderr)
        assert result.stderr == (
            f"zoomgate: full/backup.db could not be written ({reason}); check its directory and the free disk space\n"
        )

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
    @pytest.mark.usefixtures("service")
    async def test_stopped_backup_leaves_no_incomplete_file(self, number: signal.Signals, code: int) -> None:
        """The copy in progress is completed, or there is none."""
        with closing(sqlite3.connect("data/zoomgate.db")) as store:
            # so that the copy takes a moment
            store.execute("CREATE TABLE filler AS SELECT zeroblob(100000000)")
        returncode: int | None = 0
        while returncode == 0:  # the backup ended before the signal
            Path("backup.db").unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "zoomgate_server", "store", "backup", "backup.db"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            while process.returncode is None and not list(Path().glob(".backup.db.*")):
                await asyncio.sleep(0.001)
            with suppress(ProcessLookupError):
                process.send_signal(number)
            _, errors = await process.communicate()
            returncode = process.returncode
        assert returncode == code, errors
        assert sorted(path.name for path in Path().iterdir()) in (["backup.db", "data"], ["data"])

    async def test_backup_contains_neither_keys_nor_plaintext_tokens(self, service: Harness) -> None:
        """The records of the backup cannot be decrypted with a different key ring."""
        token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
        fields = json.loads(stdout_of(await command("store", "backup", "backup.db", "--json")))
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

    def test_missing_or_foreign_store_is_not_backed_up(self) -> None:
        assert "there is no store" in stderr_of(zoomgate("store", "backup", "backup.db"))
        Path("data").mkdir()
        with closing(sqlite3.connect("data/zoomgate.db")) as other:
            other.execute("CREATE TABLE t (x)")
        assert "a different program" in stderr_of(zoomgate("store", "backup", "backup.db"))
        assert not Path("backup.db").exists()


class TestRestore:
    """Tests for `zoomgate store restore`."""

    @pytest.mark.parametrize("reuse", [RefreshTokenReuse.REJECTED, RefreshTokenReuse.TOLERATED])
    async def test_restore_after_the_loss_of_the_store(self, folder: Path, reuse: RefreshTokenReuse) -> None:
        """A user whose token was refreshed since the backup must consent again, unless Zoom accepts the previous token."""
        options = SimulatorOptions(port=0, rules=Rules(refresh_token_reuse=reuse))
        async with Simulator(options) as zoom:
            async with serving(zoom, Path("data"), environ=OFTEN) as before:
                await before.connect(MONICA)
                await before.connect(OMAR)
                stdout_of(await command("store", "backup", "backup.db"))
                await refresh(before, MONICA)
            delete_store()
            assert "Restored" in stdout_of(await command("store", "restore", "backup.db"))
            async with serving(zoom, Path("data"), environ=OFTEN) as after:
                await refresh(after, OMAR)
                request = pb.RefreshTokenRequest(user_email=MONICA)
                if reuse is RefreshTokenReuse.TOLERATED:
                    await after.call(after.auth.RefreshToken, request)
                else:
                    refusal = await after.error_of(after.auth.RefreshToken, request)
                    assert refusal.short == ("FAILED_PRECONDITION", "ZOOM_REAUTH_REQUIRED")
                    assert refusal.metadata["cause"] == "REJECTED"
                await refresh(after, OMAR)
                await after.connect(MONICA)
                await refresh(after, MONICA)

    async def test_backup_is_restored_into_an_empty_store_only(self, service: Harness) -> None:
        """A restore does not change a store with records. An empty store receives all records, encrypted with the original keys."""
        stdout_of(await command("store", "backup", "backup.db"))
        await refresh(service, MONICA)
        before = await contents(Path("data/zoomgate.db"))
        assert "not empty" in stderr_of(await command("store", "restore", "backup.db"))
        assert await contents(Path("data/zoomgate.db")) == before
        elsewhere = {"ZOOMGATE_STORE": "sqlite:///empty.db"}
        await (await SqliteStore.open(Path("empty.db"), time.time)).close()
        stdout_of(await command("store", "restore", "backup.db", environ=elsewhere))
        expected = [(record.key, record.value, record.key_id) for record in await contents(Path("backup.db"))]
        assert [
            (record.key, record.value, record.key_id) for record in await contents(Path("empty.db"))
        ] == expected

    async def test_missing_keys_are_reported(self, service: Harness) -> None:
        """The records are restored, but the exit code is 1."""
        stdout_of(await command("store", "backup", "backup.db"))
        used = key_file.load(Path("data/keys.json")).primary_id
        key_file.create(Path("other.json"))
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db", "ZOOMGATE_KEYS": "other.json"}
        result = await command("store", "restore", "backup.db", environ=environ)
        assert result.exit_code == 1
        assert f"does not contain key {used}" in result.stderr
        assert await contents(Path("restored.db"))

    async def test_leftover_log_file_prevents_the_restore(self, service: Harness) -> None:
        """SQLite would apply the leftover log file to the restored store."""
        stdout_of(await command("store", "backup", "backup.db"))
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db"}
        Path("restored.db-wal").write_bytes(Path("data/zoomgate.db-wal").read_bytes())
        assert "restored.db-wal is left over" in stderr_of(
            await command("store", "restore", "backup.db", environ=environ)
        )
        assert not Path("restored.db").exists()

    def test_missing_or_foreign_backup_is_rejected(self) -> None:
        """No store is created."""
        assert "does not exist" in stderr_of(zoomgate("store", "restore", "none.db"))
        Path("text.db").write_text("no database" * 100)
        assert "text.db is not a backup made by `zoomgate store backup`; use a different file" in stderr_of(
            zoomgate("store", "restore", "text.db")
        )
        with closing(sqlite3.connect("other.db")) as other:
            other.execute("CREATE TABLE t (x)")
        assert "not a Zoomgate store" in stderr_of(zoomgate("store", "restore", "other.db"))
        assert not Path("data/zoomgate.db").exists()

    @pytest.mark.parametrize(
        ("directory", "problem"),
        [("x" * 300, "cannot access .* (File name too long)"), ("file", "cannot be created (File exists)")],
    )
    async def test_store_in_an_unusable_directory_is_reported(
        self, service: Harness, directory: str, problem: str
    ) -> None:
        stdout_of(await command("store", "backup", "backup.db"))
        Path("file").touch()
        environ = {"ZOOMGATE_STORE": f"sqlite:///{directory}/z.db"}
        error = stderr_of(await command("store", "restore", "backup.db", environ=environ))
        assert re.search(re.escape(problem).replace(r"\.\*", ".*"), error)
        assert "ZOOMGATE_STORE" in error

    async def test_corrupt_backup_is_rejected(self, service: Harness) -> None:
        """An overwritten page is detected before the store is created."""
        stdout_of(await command("store", "backup", "backup.db"))
        content = bytearray(Path("backup.db").read_bytes())
        content[-3000:] = os.urandom(3000)
        content[4096:4196] = os.urandom(100)
        Path("corrupt.db").write_bytes(content)
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db"}
        stderr_of(await command("store", "restore", "corrupt.db", environ=environ))
        assert not Path("restored.db").exists()


class TestCopyOfFile:
    """Tests for the copy of an SQLite store."""

    async def test_copy_is_a_consistent_snapshot_while_another_process_writes(self, folder: Path) -> None:
        """Every copy passes the integrity check and contains no record newer than its own revision counter."""
        users = [f"user-{number}@example.com" for number in range(40)]
        store = await SqliteStore.open(Path("store.db"), time.time)
        process = Process(store, Envelope(app="app", keys=ring(OLD)), RotatingZoom())
        for user in users:
            await process.connect(user)
        writer = subprocess.Popen(
            [sys.executable, "-m", "support.refreshing_process", str(folder / "store.db"), *users],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        revisions: set[int] = set()
        while len(revisions) < 20:
            assert writer.poll() is None
            Path("copy.db").unlink(missing_ok=True)
            progress: list[int] = []
            count = backup.copy_file(Path("store.db"), Path("copy.db"), progress.append, 1)
            assert count == sum(progress) == len(users)
            with closing(sqlite3.connect("copy.db")) as copy:
                last, newest = copy.execute(
                    "SELECT last, (SELECT max(rev) FROM record) FROM revision"
                ).fetchone()
                assert newest <= last
                assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            revisions.add(last)
        writer.communicate()
        assert writer.returncode == 0
        await store.close()

    async def test_records_written_during_the_copy_are_not_copied(self, folder: Path) -> None:
        """The copy contains the store as of the start of the copy, even if another connection writes between any two pages."""
        store = await SqliteStore.open(Path("store.db"), time.time)
        process = Process(store, Envelope(app="app", keys=ring(OLD)), RotatingZoom())
        for number in range(10):
            await process.connect(f"user-{number}@example.com")
        numbers = iter(range(1000))

        def write(_: int) -> None:
            with closing(sqlite3.connect("store.db")) as other, other:
                other.execute(
                    "INSERT INTO record SELECT app, kind, ? || subject, value, rev, state, key_id, NULL, changed_at, due_at, expire_at"
                    " FROM record WHERE user_email = 'user-0@example.com'",
                    (str(next(numbers)),),
                )

        assert backup.copy_file(Path("store.db"), Path("copy.db"), write, 1) == 10
        assert next(numbers) > 2
        assert len(await all_records(store)) > 10
        await store.close()
        assert len(await contents(Path("copy.db"))) == 10


class TestCopyOfRecords:
    """Tests for backup and restore of a store that is not a file."""

    async def test_any_store_is_backed_up_to_a_file_and_restored(self, folder: Path) -> None:
        """Every record of every app is restored unchanged."""
        store, progress = MemoryStore(time.time), []
        for app in ("app", "other-app"):
            envelope = Envelope(app=app, keys=ring(NEW))
            await key_check.verify(store, envelope)
            process = Process(store, envelope, RotatingZoom())
            for number in range(250):
                await process.connect(f"user-{number}@example.com")
        count = await backup.copy_records(store, Path("backup.db"), time.time, progress.append)
        assert count == sum(progress) == 502
        assert stat.S_IMODE(Path("backup.db").stat().st_mode) == 0o600
        assert sorted(path.name for path in Path().iterdir()) == ["backup.db"]
        target = MemoryStore(time.time)
        assert await backup.restore_records(Path("backup.db"), target, time.time, lambda _: None) == 502
        assert [(row.key, row.value) for row in await all_records(target)] == [
            (row.key, row.value) for row in await all_records(store)
        ]
        with pytest.raises(backup.BackupError, match="not empty"):
            await backup.restore_records(Path("backup.db"), target, time.time, lambda _: None)

    @pytest.mark.parametrize("written", range(5))
    async def test_interrupted_restore_has_no_key_check(self, folder: Path, written: int) -> None:
        """A service whose journal belongs to the store does not start with an incomplete copy of it."""
        store, target = MemoryStore(time.time), MemoryStore(time.time)
        envelope = Envelope(app="app", keys=ring(NEW))
        store_id = await key_check.verify(store, envelope)
        await shared_secret.obtain(store, envelope, "a")
        await shared_secret.obtain(store, envelope, "b")
        await write_addresses(store, "xy")
        await backup.copy_records(store, Path("backup.db"), time.time, lambda _: None)
        failing = FaultyStore(target)
        writes = 0

        async def put(proceed: Callable[..., Any], *arguments: Any) -> object:
            nonlocal writes
            if writes == written:
                raise StoreError("the connection was lost")
            writes += 1
            return await proceed(*arguments)

        with failing.intercept("put", put), pytest.raises(StoreError):
            await backup.restore_records(Path("backup.db"), failing, time.time, lambda _: None)
        assert await key_check.verify(target, envelope, create=False) is None
        copy = await SqliteStore.open(Path("backup.db"), time.time)
        assert await key_check.verify(copy, envelope) == store_id
        await copy.close()

    async def test_email_address_moved_during_the_copy_belongs_to_one_record(self, folder: Path) -> None:
        """If an address is moved from a copied record to one that is not copied yet, the copy contains the final version of both."""
        store = MemoryStore(time.time)
        await write_addresses(store, "x-")
        moving = FaultyStore(store)
        with moving.intercept("page", moved_after(1, store, "-x")):
            assert await backup.copy_records(moving, Path("backup.db"), time.time, lambda _: None) == 2
        copied = [(record.value, record.user_email) for record in await contents(Path("backup.db"))]
        assert copied == [(b"-x", None), (b"-x", "x@example.com")]

    @pytest.mark.parametrize("pages_before", [1, 2, 3])
    @pytest.mark.parametrize(
        ("before", "after"),
        [("xyz", "yzx"), ("xyz", "zxy"), ("xyz", "-xy"), ("xyz", ".xy"), ("x.z", "zx."), ("x-z", "zx-")],
    )
    async def test_every_record_is_copied_while_email_addresses_are_moved(
        self, before: str, after: str, pages_before: int, folder: Path
    ) -> None:
        """Addresses are exchanged and passed on among copied and other records. Each copy is of the time before or after the move."""
        store = MemoryStore(time.time)
        await write_addresses(store, before)
        initial = await addresses(store)
        moving = FaultyStore(store)
        with moving.intercept("page", moved_after(pages_before, store, after)):
            await backup.copy_records(moving, Path("backup.db"), time.time, lambda _: None)
        final = await addresses(store)
        copied = {record.key: record.user_email for record in await contents(Path("backup.db"))}
        assert copied.keys() >= initial.keys() & final.keys()
        for key, user_email in copied.items():
            assert user_email in (initial.get(key), final.get(key))

    async def test_restore_does_not_replace_a_connection_of_a_running_service(self, folder: Path) -> None:
        """A connection that is stored during the restore keeps its email address, and the restore fails."""
        store, target = MemoryStore(time.time), MemoryStore(time.time)
        await write_addresses(store, "xy")
        await backup.copy_records(store, Path("backup.db"), time.time, lambda _: None)
        connection = Record(key=RecordKey("app", Kind.USER, "z"), value=b"1", user_email="y@example.com")

        async def connect_first(proceed: Any, *arguments: Any) -> object:
            await target.put(connection, 0)
            return await proceed(*arguments)

        busy = FaultyStore(target)
        with busy.intercept("put", connect_first), pytest.raises(backup.BackupError, match="not empty"):
            await backup.restore_records(Path("backup.db"), busy, time.time, lambda _: None)
        found, _ = await target.find("app", "y@example.com")
        assert found is not None
        assert found.key == connection.key


class TestStoreOfADifferentFormat:
    """Stores in format 4."""

    @pytest.fixture
    async def newer_store(self, service: Harness, folder: Path) -> Path:
        """Return the path of a copy of the service's store, converted to format 4."""
        path = folder / "newer.db"
        stdout_of(await command("store", "backup", str(path)))
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE record SET value = CAST(x'04' || substr(value, 2) AS BLOB)")
        return path

    async def test_restore_is_rejected_before_anything_is_written(self, newer_store: Path) -> None:
        environ = {"ZOOMGATE_STORE": "sqlite:///restored.db"}
        result = await command("store", "restore", str(newer_store), environ=environ)
        assert "Record format 4 is not supported" in stderr_of(result)
        assert not Path("restored.db").exists()

    @pytest.mark.parametrize("arguments", [("prune", "--dry-run"), ("doctor",)])
    async def test_command_reports_the_format(self, newer_store: Path, arguments: tuple[str, ...]) -> None:
        result = await command(*arguments, environ={"ZOOMGATE_STORE": f"sqlite:///{newer_store}"})
        assert result.exit_code == 1
        assert "Record format 4 is not supported" in result.output
