"""Tests for `zoomgate keys rotate`, `reencrypt`, `retire` and `list`, with and without a running service."""

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
from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.harness import BASIL, MONICA, OMAR, Harness, browser, consent, running, serving
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.cli.progress import progress
from zoomgate_server.encryption import key_file, key_usage
from zoomgate_server.storage.record_store import Query
from zoomgate_server.storage.sqlite import SqliteStore

OFTEN = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_MAX_REFRESHES_PER_HOUR": "1000"}


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Harness]:
    """Run a service with two connected users and without limits on forced refreshes."""
    async with running(Path("data"), environ=OFTEN) as harness:
        await harness.connect(MONICA)
        await harness.connect(OMAR)
        yield harness


def ring() -> "key_file.KeyRing":
    return key_file.load(Path("data/keys.json"))


def age_key_file() -> None:
    """Set the modification time of the key ring to a minute ago."""
    minute_ago = time.time() - 60
    os.utime("data/keys.json", (minute_ago, minute_ago))


async def refresh(harness: Harness, user: str) -> None:
    await harness.call(harness.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))


async def records_by_key() -> dict[str, int]:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    counts = {key_id: by_kind.total() for key_id, by_kind in (await key_usage.by_key(store)).items()}
    await store.close()
    return counts


class TestRotate:
    """Tests for `zoomgate keys rotate`."""

    async def test_keys_are_rotated_while_the_service_is_running(self, service: Harness) -> None:
        """Every step prints what it changed. After each step, the tokens of all users can be refreshed without a restart."""
        old = ring().primary_id
        output = stdout_of(await command("keys", "rotate"))
        new = key_file.next_key(ring())
        assert new is not None
        assert output.startswith(
            f"Added key {new}, which only decrypts; {old} is still the primary key. Next: "
        )
        await refresh(service, MONICA)
        assert set(await records_by_key()) == {old}
        assert "was just changed" in stderr_of(await command("keys", "rotate"))
        age_key_file()
        output = stdout_of(await command("keys", "rotate"))
        assert output.startswith(f"{new} is the primary key now; {old} only decrypts. ")
        assert f"zoomgate keys retire {old}" in output
        assert set(await records_by_key()) == {new}
        for user in (MONICA, OMAR):
            await refresh(service, user)
        age_key_file()
        assert f"Removed key {old} from" in stdout_of(await command("keys", "retire", old, "--yes"))
        for user in (MONICA, OMAR):
            await refresh(service, user)
        await service.connect(BASIL)
        assert set(await records_by_key()) == {new}
        assert [key.key_id for key in ring().keys] == [new]

    async def test_all_steps_in_one_run_with_a_stopped_service(self, folder: Path) -> None:
        """After `--now`, the service starts with both keys, and every record is encrypted with the new key."""
        async with running(Path("data"), environ=OFTEN) as harness:
            await harness.connect(MONICA)
        old = ring().primary_id
        fields = json.loads(stdout_of(await command("keys", "rotate", "--now", "--json")))
        assert fields["step"] == "promoted"
        assert (fields["failed"], fields["otherKeys"]) == (0, {})
        assert fields["reencrypted"] > 2
        assert fields["recordsPerSecond"] > 0
        assert set(await records_by_key()) == {fields["seals"]}
        age_key_file()
        stdout_of(await command("keys", "retire", old, "--yes", "--json"))
        async with running(Path("data"), environ=OFTEN) as harness:
            shown = await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA))
            assert shown.connection.generation == 1

    def test_key_ring_without_a_store_is_rotated(self) -> None:
        """Before the first start there is nothing to re-encrypt, and no store is created."""
        stdout_of(zoomgate("keys", "new"))
        assert "There is no store yet" in stdout_of(zoomgate("keys", "rotate", "--now"))
        assert {path.name for path in Path("data").iterdir()} == {"keys.json", "audit.jsonl"}

    def test_only_one_of_several_concurrent_rotations_succeeds(self, folder: Path) -> None:
        """One command adds a key. The others fail; otherwise they would promote this key before services have loaded it."""
        old = stdout_of(zoomgate("keys", "new")).strip()
        age_key_file()
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


class TestReencrypt:
    """Tests for `zoomgate keys reencrypt`."""

    async def test_records_under_the_primary_key_are_skipped(self, service: Harness) -> None:
        stdout_of(await command("keys", "rotate", "--now"))
        fields = json.loads(stdout_of(await command("keys", "reencrypt", "--json")))
        assert (fields["reencrypted"], fields["failed"]) == (0, 0)
        assert "Re-encrypted 0 records" in stdout_of(await command("keys", "reencrypt"))

    def test_progress_is_reported_as_lines_without_a_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each line on standard error contains the number of processed records, the total, and the rate."""
        with progress("re-encrypting", 5, line_seconds=0.0) as advance:
            advance(2)
            advance(3)
        lines = capsys.readouterr().err.splitlines()
        for line, count in zip(lines, (2, 5), strict=True):
            assert re.fullmatch(rf"zoomgate: re-encrypting: {count} of 5 records, \d+ records/s", line)

    async def test_progress_is_displayed_as_a_bar_on_a_terminal(self, service: Harness) -> None:
        """The progress bar is written to standard error, so a pipe receives only the result."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "zoomgate_server", "keys", "reencrypt", "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        screen, (output, _) = await asyncio.gather(
            asyncio.to_thread(terminal.read_output, ours), process.communicate()
        )
        os.close(ours)
        shown = screen.decode()
        total = json.loads(output)["current"]
        assert f"{total}/{total}" in re.sub(r"\x1b\[[0-9;?]*\w", "", shown)
        assert "records/s" in shown

    async def test_corrupt_record_fails_the_command_and_is_unchanged(self, service: Harness) -> None:
        """Standard error contains the record key, but not the user."""
        store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
        app = (await store.apps())[0]
        record = next(row for row in await store.page(app, key_usage.Kind.USER, Query(limit=1)))
        corrupt = record.value[:-1] + bytes((record.value[-1] ^ 1,))
        await store.put(record.__class__(record.key, corrupt, key_id=record.key_id), record.rev)
        result = await command("keys", "rotate", "--now")
        assert result.exit_code == 1
        assert "1 record cannot be decrypted and stayed unchanged: user/" in result.stderr
        assert MONICA not in result.output
        stored, _ = await store.get(record.key)
        assert stored is not None
        assert stored.value == corrupt
        await store.close()

    def test_missing_store_is_a_failure(self) -> None:
        """The message explains what to do, since the settings may refer to the wrong store."""
        stdout_of(zoomgate("keys", "new"))
        assert "set your store with ZOOMGATE_STORE" in stderr_of(zoomgate("keys", "reencrypt"))


class TestRetire:
    """Tests for `zoomgate keys retire`."""

    async def test_key_of_stored_records_is_not_retired(self, service: Harness) -> None:
        """The message counts the records of each kind, including tombstones, pending authorizations, exchange marks and shared secrets."""
        await service.begin_authorization(BASIL)
        await service.call(
            service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"
        )
        old = ring().primary_id
        added = key_file.add(Path("data/keys.json"), ring())
        key_file.promote(Path("data/keys.json"), ring(), added)
        age_key_file()
        text = stderr_of(await command("keys", "retire", old, "--yes"))
        for item in (
            "2 user records",
            "state record",
            "1 key_check record",
            "2 exchange records",
            "3 meta records",
        ):
            assert item in text
        assert "zoomgate keys reencrypt" in text
        assert old in ring().ids

    async def test_key_of_a_journal_entry_is_not_retired(self, service: Harness) -> None:
        """A journal entry may contain the only copy of a token. The key that encrypts it is identified by the entry's first bytes."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate", "--now"))
        age_key_file()
        journal = Path("data/journal")
        journal.mkdir(exist_ok=True)
        (journal / "1").write_bytes(b"\x03\x01" + bytes.fromhex(old) + b"sealed")
        (journal / "2").write_bytes(b"\x03\x01" + bytes.fromhex(ring().primary_id) + b"sealed")
        (journal / "truncated").write_bytes(b"\x03\x01")
        assert "1 journal file;" in stderr_of(await command("keys", "retire", old, "--yes"))
        (journal / "1").unlink()
        (journal / "3").write_bytes(b"\x07 another format")
        assert "has an unknown format" in stderr_of(await command("keys", "retire", old, "--yes"))
        (journal / "3").unlink()
        stdout_of(await command("keys", "retire", old, "--yes"))

    async def test_draft_of_a_killed_process_does_not_keep_its_key(self, service: Harness) -> None:
        """The service deletes incomplete drafts from the journal. Only a killed process leaves a draft behind."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate", "--now"))
        age_key_file()
        draft = Path("data/journal") / f".{'a' * 32}-{'b' * 64}"
        draft.write_bytes(b"\x03\x01" + bytes.fromhex(old) + b"incomplete")
        while draft.exists():
            await asyncio.sleep(0.01)
        stdout_of(await command("keys", "retire", old, "--yes"))

    async def test_no_key_is_retired_right_after_a_change(self, service: Harness) -> None:
        """After a change, a service may use the previous key ring for a few more seconds."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate", "--now"))
        assert "was just changed" in stderr_of(await command("keys", "retire", old, "--yes"))
        assert old in ring().ids

    async def test_no_key_is_retired_without_a_readable_store(self, service: Harness) -> None:
        """A missing or wrong store does not prove that the key is unused."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate", "--now"))
        age_key_file()
        text = stderr_of(
            await command("keys", "retire", old, "--yes", environ={"ZOOMGATE_STORE": "sqlite:///none.db"})
        )
        assert "its use cannot be determined" in text
        assert old in ring().ids
        assert not Path("none.db").exists()

    async def test_key_is_retired_only_after_a_confirmation(self, service: Harness) -> None:
        """The key ring may be the only copy of the key. The question states what becomes unreadable without it."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate", "--now"))
        age_key_file()
        question = stderr_of(await command("keys", "retire", old, stdin="n\n"))
        assert "Earlier backups cannot be decrypted without it" in question
        assert "run this command again with --yes" in stderr_of(await command("keys", "retire", old))
        assert old in ring().ids
        assert "keys.retired" not in Path("data/audit.jsonl").read_text()
        stdout_of(await command("keys", "retire", old, stdin="y\n"))
        assert old not in ring().ids

    def test_primary_key_and_unknown_key_are_not_retired(self) -> None:
        key_id = stdout_of(zoomgate("keys", "new")).strip()
        assert "keys rotate" in stderr_of(zoomgate("keys", "retire", key_id))
        assert "keys list" in stderr_of(zoomgate("keys", "retire", "00000000"))


class TestList:
    """Tests for `zoomgate keys list` with a store."""

    async def test_records_are_counted_by_key(self, service: Harness) -> None:
        """The next primary key is marked, and a key that is missing from the file is listed."""
        old = ring().primary_id
        stdout_of(await command("keys", "rotate"))
        new = key_file.next_key(ring())
        rows = [json.loads(row) for row in stdout_of(await command("keys", "list", "--json")).splitlines()]
        assert [(row["keyId"], row["seals"]) for row in rows] == [(old, True), (new, False)]
        assert rows[0]["records"] == (await records_by_key())[old] > 0
        assert rows[1]["records"] == 0
        assert "next primary" in stdout_of(await command("keys", "list"))
        age_key_file()
        stdout_of(await command("keys", "rotate"))
        key_file.create(Path("other.json"))
        output = stdout_of(await command("keys", "list", "other.json"))
        assert f"{new}  missing: restore it" in output

    async def test_keys_of_an_unreadable_store_are_listed_without_counts(self, service: Harness) -> None:
        """Standard error states that the records cannot be counted."""
        Path("broken.db").write_text("no database" * 100)
        result = await command("keys", "list", environ={"ZOOMGATE_STORE": "sqlite:///broken.db"})
        assert ring().primary_id in stdout_of(result)
        assert "records cannot be counted" in result.stderr


async def test_no_token_is_lost_if_one_machine_lacks_the_primary_key(folder: Path) -> None:
    """Until the key is copied to it, the machine returns KEY_UNAVAILABLE, uses no refresh token and writes no record."""
    async with running(Path("data"), environ=OFTEN) as first:
        await first.connect(MONICA)
        await first.connect(OMAR)
        shutil.copy("data/keys.json", "peer.json")
        peer_settings = OFTEN | {"ZOOMGATE_KEYS": "peer.json"}
        async with serving(first.simulator, Path("data"), environ=peer_settings) as peer:
            added = key_file.add(Path("data/keys.json"), ring())
            key_file.promote(Path("data/keys.json"), ring(), added)
            stdout_of(await command("keys", "reencrypt"))
            await refresh(first, MONICA)
            store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
            before = [
                await store.page(app, key_usage.Kind.USER, Query(limit=9)) for app in await store.apps()
            ]
            issued = first.stat("token.refresh_token.issued")
            for method, request, caller in (
                (peer.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA), "service"),
                (peer.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR), "service"),
                (peer.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR), "admin"),
            ):
                refusal = await peer.error_of(method, request, caller)
                assert refusal.short == ("INTERNAL", "KEY_UNAVAILABLE")
                assert refusal.metadata["key_id"] == added
            async with browser() as session:
                page = await consent(session, (await peer.begin_authorization(OMAR)).authorization_url, OMAR)
            assert page.url.query["outcome"] == "try_later"
            assert [
                await store.page(app, key_usage.Kind.USER, Query(limit=9)) for app in await store.apps()
            ] == before
            assert first.stat("token.refresh_token.issued") == issued
            await store.close()
            shutil.copy("data/keys.json", "peer.new")
            Path("peer.new").replace("peer.json")
            await refresh(peer, MONICA)
            await refresh(first, MONICA)
            await peer.connect(OMAR)
            await refresh(first, OMAR)
