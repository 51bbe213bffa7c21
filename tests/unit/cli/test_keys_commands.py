"""`zoomgate keys rotate`, `sweep` and `retire`, beside a running service and without one."""

import asyncio
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import terminal
from support.command_line import command, done, refused, zoomgate
from support.harness import BASIL, MONICA, OMAR, Harness, browser, consent, running, serving
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.cli import progress
from zoomgate_server.encryption import key_file, key_usage
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
    """A service with two connected people, that refreshes whenever it is asked."""
    async with running(Path("data"), environ=OFTEN) as harness:
        await harness.connect(MONICA)
        await harness.connect(OMAR)
        yield harness


def ring() -> "key_file.KeyRing":
    return key_file.load(Path("data/keys.json"))


def settle() -> None:
    """Let the last change of the ring be a minute ago."""
    long_ago = time.time() - 60
    os.utime("data/keys.json", (long_ago, long_ago))


async def refresh(harness: Harness, user: str) -> None:
    await harness.call(harness.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def sealed_by() -> dict[str, int]:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    found = {key_id: counted.total() for key_id, counted in (await key_usage.by_key(store)).items()}
    await store.close()
    return found


class TestRotate:
    """`zoomgate keys rotate`."""

    async def test_keys_are_rotated_under_a_running_service(self, service: Harness) -> None:
        """Add, let seal, retire: each step says what it did, the service needs no restart, and everybody goes on."""
        old = ring().primary_id
        said = done(await command("keys", "rotate"))
        new = key_file.next_key(ring())
        assert new is not None
        assert said.startswith(f"Key {new} was added and opens; {old} still seals. Next: ")
        await refresh(service, MONICA)
        assert set(await sealed_by()) == {old}
        assert "changed just now" in refused(await command("keys", "rotate"))
        settle()
        said = done(await command("keys", "rotate"))
        assert said.startswith(f"Key {new} seals now, {old} only opens. ")
        assert f"zoomgate keys retire {old}" in said
        assert set(await sealed_by()) == {new}
        for user in (MONICA, OMAR):
            await refresh(service, user)
        settle()
        assert f"{old} is no longer in" in done(await command("keys", "retire", old))
        for user in (MONICA, OMAR):
            await refresh(service, user)
        await service.connect(BASIL)
        assert set(await sealed_by()) == {new}
        assert [key.key_id for key in ring().keys] == [new]

    async def test_all_at_once_for_one_machine(self, folder: Path) -> None:
        """With --now a stopped service finds the new key, the old one and all records under the new one."""
        async with running(Path("data"), environ=OFTEN) as harness:
            await harness.connect(MONICA)
        old = ring().primary_id
        fields = json.loads(done(await command("keys", "rotate", "--now", "--json")))
        assert fields["step"] == "promoted"
        assert (fields["failed"], fields["otherKeys"]) == (0, {})
        assert fields["reencrypted"] > 2
        assert fields["recordsPerSecond"] > 0
        assert set(await sealed_by()) == {fields["seals"]}
        settle()
        done(await command("keys", "retire", old, "--json"))
        async with running(Path("data"), environ=OFTEN) as harness:
            shown = await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
            assert shown.connection.generation == 1

    def test_a_ring_without_a_store_rotates_alone(self) -> None:
        """Before the first start there is nothing to seal anew, and no store is made."""
        done(zoomgate("keys", "new"))
        assert "There is no store yet" in done(zoomgate("keys", "rotate", "--now"))
        assert {path.name for path in Path("data").iterdir()} == {"keys.json", "audit.jsonl"}

    def test_of_rotations_at_once_one_is_carried_out(self, folder: Path) -> None:
        """One key is added; who comes second is told to come back, and does not let seal what others do not know yet."""
        old = done(zoomgate("keys", "new")).strip()
        settle()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "zoomgate_server", "keys", "rotate", "--json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        results = [process.communicate() for process in processes]
        (added,) = [json.loads(out)["keyId"] for out, _ in results if out]
        assert [(key.key_id, key.primary) for key in ring().keys] == [(old, True), (added, False)]
        assert sum("run this again" in err for _, err in results) == 3


class TestSweep:
    """`zoomgate keys reencrypt`."""

    async def test_only_what_needs_it_is_sealed_anew(self, service: Harness) -> None:
        """A second sweep finds nothing to do."""
        done(await command("keys", "rotate", "--now"))
        fields = json.loads(done(await command("keys", "reencrypt", "--json")))
        assert (fields["reencrypted"], fields["failed"]) == (0, 0)
        assert "were sealed anew" in done(await command("keys", "reencrypt"))

    async def test_progress_is_said_line_by_line(
        self, service: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where standard error is no terminal, a line now and then has what is done, how much there is, and the rate."""
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        result = await command("keys", "rotate", "--now", "--json")
        total = json.loads(done(result))["reencrypted"]
        assert re.search(
            rf"^zoomgate: sealing anew: {total} of {total} records, \d+ records/s$", result.stderr, re.M
        )

    async def test_progress_is_a_bar_on_a_terminal(self, service: Harness) -> None:
        """The bar is on standard error; standard output has the answer alone, for a program behind a pipe."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "zoomgate_server", "keys", "reencrypt", "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        screen, (answer, _) = await asyncio.gather(
            asyncio.to_thread(terminal.read_output, ours), process.communicate()
        )
        os.close(ours)
        shown = screen.decode()
        total = json.loads(answer)["current"]
        assert f"{total}/{total}" in re.sub(r"\x1b\[[0-9;?]*\w", "", shown)
        assert "records/s" in shown

    async def test_what_cannot_be_opened_ends_in_failure_and_stays(self, service: Harness) -> None:
        """The answer tells the rest, and standard error names the record, not the person."""
        store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
        app = (await store.apps())[0]
        record = next(row for row in await store.page(app, key_usage.Kind.USER, limit=1))
        damaged = record.value[:-1] + bytes((record.value[-1] ^ 1,))
        await store.put(record.__class__(record.key, damaged, key_id=record.key_id), record.rev)
        result = await command("keys", "rotate", "--now")
        assert result.exit_code == 1
        assert "1 record(s) cannot be opened and were left as they are: user/" in result.stderr
        assert MONICA not in result.output
        found, _ = await store.get(record.key)
        assert found is not None
        assert found.value == damaged
        await store.close()

    def test_without_a_store_there_is_nothing_to_sweep(self) -> None:
        """That is a failure with a remedy, since the settings may name the wrong place."""
        done(zoomgate("keys", "new"))
        assert "name yours in ZOOMGATE_STORE" in refused(zoomgate("keys", "reencrypt"))


class TestRetire:
    """`zoomgate keys retire`."""

    async def test_a_key_in_use_stays(self, service: Harness) -> None:
        """It is said how many of what it sealed, tombstones, states, canary and shared secrets included."""
        await service.begin(BASIL)
        await service.call(
            service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"
        )
        old = ring().primary_id
        added = key_file.add(Path("data/keys.json"), ring())
        key_file.promote(Path("data/keys.json"), ring(), added)
        settle()
        text = refused(await command("keys", "retire", old))
        for what in (
            "2 record(s) of kind user",
            "record(s) of kind state",
            "1 record(s) of kind canary",
            "2 record(s) of kind meta",
        ):
            assert what in text
        assert "zoomgate keys reencrypt" in text
        assert old in ring().ids

    async def test_a_key_of_the_journal_stays(self, service: Harness) -> None:
        """A file of the journal holds the only copy of a token: its first bytes say which key it needs."""
        old = ring().primary_id
        done(await command("keys", "rotate", "--now"))
        settle()
        journal = Path("data/journal")
        journal.mkdir(exist_ok=True)
        (journal / "1").write_bytes(b"\x01" + bytes.fromhex(old) + b"sealed")
        (journal / "2").write_bytes(b"\x01" + bytes.fromhex(ring().primary_id) + b"sealed")
        (journal / "torn").write_bytes(b"\x01")
        assert "1 file(s) in the journal" in refused(await command("keys", "retire", old))
        (journal / "1").unlink()
        (journal / "3").write_bytes(b"\x07 of another form")
        assert "does not say which key" in refused(await command("keys", "retire", old))
        (journal / "3").unlink()
        done(await command("keys", "retire", old))

    async def test_a_ring_that_changed_just_now_loses_no_key(self, service: Harness) -> None:
        """A service may seal with the ring before for a few seconds still."""
        old = ring().primary_id
        done(await command("keys", "rotate", "--now"))
        assert "was changed just now" in refused(await command("keys", "retire", old))
        assert old in ring().ids

    async def test_what_cannot_be_counted_keeps_its_key(self, service: Harness) -> None:
        """Where there is no store, or not the right one, nothing says that the key is free."""
        old = ring().primary_id
        done(await command("keys", "rotate", "--now"))
        settle()
        text = refused(await command("keys", "retire", old, environ={"ZOOMGATE_STORE": "sqlite:///none.db"}))
        assert "cannot be told what it sealed" in text
        assert old in ring().ids
        assert not Path("none.db").exists()

    def test_the_key_that_seals_and_one_that_is_not_there(self) -> None:
        """Neither can be taken out."""
        key_id = done(zoomgate("keys", "new")).strip()
        assert "keys rotate" in refused(zoomgate("keys", "retire", key_id))
        assert "keys list" in refused(zoomgate("keys", "retire", "00000000"))


class TestList:
    """`zoomgate keys list` with a store."""

    async def test_records_are_counted_by_key(self, service: Harness) -> None:
        """Each key has its number, the next one says so, and a missing one is listed."""
        old = ring().primary_id
        done(await command("keys", "rotate"))
        new = key_file.next_key(ring())
        rows = [json.loads(row) for row in done(await command("keys", "list", "--json")).splitlines()]
        assert [(row["keyId"], row["seals"]) for row in rows] == [(old, True), (new, False)]
        assert rows[0]["records"] == (await sealed_by())[old] > 0
        assert rows[1]["records"] == 0
        assert "opens, seals next" in done(await command("keys", "list"))
        settle()
        done(await command("keys", "rotate"))
        key_file.create(Path("other.json"))
        missing = done(await command("keys", "list", "other.json"))
        assert f"{new}  missing: restore it" in missing

    async def test_a_store_that_cannot_be_read_costs_the_numbers_alone(self, service: Harness) -> None:
        """The keys are listed, and standard error says why they are not counted."""
        Path("broken.db").write_text("no database" * 100)
        result = await command("keys", "list", environ={"ZOOMGATE_STORE": "sqlite:///broken.db"})
        assert ring().primary_id in done(result)
        assert "cannot be counted" in result.stderr


async def test_the_wrong_order_harms_nobody(folder: Path) -> None:
    """A peer without the key that seals elsewhere answers KEY_UNAVAILABLE, spends and changes nothing, and works once it has it."""
    async with running(Path("data"), environ=OFTEN) as first:
        await first.connect(MONICA)
        await first.connect(OMAR)
        shutil.copy("data/keys.json", "peer.json")
        peer_settings = OFTEN | {"ZOOMGATE_KEYS": "peer.json"}
        async with serving(first.simulator, Path("data"), environ=peer_settings) as peer:
            added = key_file.add(Path("data/keys.json"), ring())
            key_file.promote(Path("data/keys.json"), ring(), added)
            done(await command("keys", "reencrypt"))
            await refresh(first, MONICA)
            store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
            before = [await store.page(app, key_usage.Kind.USER, limit=9) for app in await store.apps()]
            spent = first.stat("token.refresh_token.issued")
            for method, request, caller in (
                (peer.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA), "service"),
                (peer.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR), "service"),
                (peer.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"),
            ):
                refusal = await peer.refusal(method, request, caller)
                assert refusal.short == ("INTERNAL", "KEY_UNAVAILABLE")
                assert refusal.metadata["key_id"] == added
            async with browser() as session:
                page = await consent(session, (await peer.begin(OMAR)).authorization_url, OMAR)
            assert page.url.query["outcome"] == "try_later"
            assert [
                await store.page(app, key_usage.Kind.USER, limit=9) for app in await store.apps()
            ] == before
            assert first.stat("token.refresh_token.issued") == spent
            await store.close()
            shutil.copy("data/keys.json", "peer.new")
            Path("peer.new").replace("peer.json")
            await refresh(peer, MONICA)
            await refresh(first, MONICA)
            await peer.connect(OMAR)
            await refresh(first, OMAR)
