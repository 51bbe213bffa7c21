"""Tests for the token journal, which holds tokens between Zoom's response and the store's acknowledgment."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.captured_logs import capture_logs
from support.file_modes import enforced_file_modes
from support.file_size_limit import file_size_limit
from zoomgate_server.connections.token_journal import Entry, Origin, Timing, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry.metrics import Metrics

RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
TOKENS = TokenPair("access-canary", "refresh-canary", "a b", 2.0, 1.0)
ENTRY = Entry("0" * 32, Origin.REFRESH, "monica@example.com", TOKENS, "grant-1", 3, epoch=7)


INTERRUPTED = [replace(ENTRY, entry_id=letter * 32) for letter in "abc"]
"""The entries that `interrupted_journal` appends."""

TIMING = Timing(first_pause=0.001, max_pause=0.01)


def journal(
    folder: Path, metrics: Metrics | None = None, app: str = "app", ring: KeyRing = RING
) -> TokenJournal:
    """Return a journal for a directory. Each journal acts as one process."""
    return TokenJournal(folder, app=app, key_ring=ring, metrics=metrics or Metrics("0"), timing=TIMING)


def value(metrics: Metrics, name: str) -> float | None:
    """Return the value of a metric of the journal."""
    return metrics.registry.get_sample_value(f"zoomgate_journal_{name}")


def file_of(folder: Path, entry: Entry = ENTRY) -> Path:
    """Return the path of an entry's file."""
    return folder / "journal" / f"{entry.entry_id}.entry"


async def until_exists(path: Path, *, exists: bool = True) -> None:
    """Wait until a file exists, or until it no longer exists."""
    while path.exists() is not exists:
        await asyncio.sleep(0.001)


class Disk:
    """The directories that this process has synced.

    Attributes:
        fails: Whether syncs of directories fail.
        failures: Number of failed syncs.
        held: The kind of files whose syncs wait until `proceed` is set, as returned by `stat.S_IFMT`.
    """

    def __init__(self) -> None:
        self.synced: list[Path] = []
        self.fails, self.failures = False, 0
        self.held, self.proceed = 0, threading.Event()
        self._sync = os.fsync

    def sync(self, descriptor: int) -> None:
        """Sync a file or directory."""
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == self.held:
            self.proceed.wait()
        if kind == stat.S_IFDIR and self.fails:
            self.failures += 1
            raise OSError(errno.EIO, "injected")
        self._sync(descriptor)
        if kind == stat.S_IFDIR:
            self.synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return the disk to which this process syncs its files."""
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.sync)
    return disk


def occupy_descriptors(occupied: list[int]) -> None:
    """Open all descriptors that this process may still use."""
    with contextlib.suppress(OSError):
        while True:
            occupied.append(os.open(os.devnull, os.O_RDONLY))


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[list[int]]:
    """Within the context, this process has no free descriptor. Yield the descriptors that occupy the free ones."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    occupied: list[int] = []
    try:
        occupy_descriptors(occupied)
        yield occupied
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in occupied:
            os.close(descriptor)


@pytest.fixture
async def mine(tmp_path: Path) -> AsyncIterator[TokenJournal]:
    """Return an open journal, which acts as the process of the test."""
    opened = journal(tmp_path / "journal")
    assert await opened.prepare()
    yield opened
    await opened.close()


async def test_entry_is_encrypted_and_private(mine: TokenJournal, tmp_path: Path) -> None:
    """The file does not reveal tokens or the user, and only its owner may read it."""
    assert await mine.append(ENTRY)
    (file,) = (tmp_path / "journal").iterdir()
    content = file.read_bytes()
    assert not any(word in content for word in (b"canary", b"monica", b"grant-1"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "canary" not in repr(ENTRY)


async def test_entries_are_claimed_by_one_process_after_their_holder_exits(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """While the process that wrote an entry is running, no other process can claim the entry."""
    other, third = journal(tmp_path / "journal"), journal(tmp_path / "journal")
    await mine.append(ENTRY)
    assert await other.claim() == []
    await mine.close()
    assert await other.claim() == [ENTRY]
    assert await third.claim() == []
    await other.delete(ENTRY.entry_id)
    await other.close()
    assert await third.claim() == []
    assert list((tmp_path / "journal").iterdir()) == []
    await third.close()


async def test_released_entry_can_be_claimed_again(mine: TokenJournal) -> None:
    """The process that released an entry can claim the entry again."""
    await mine.append(ENTRY)
    assert await mine.claim() == []
    await mine.release(ENTRY.entry_id)
    assert await mine.claim() == [ENTRY]


@pytest.mark.parametrize("fault", ["truncated", "flipped bit", "empty", "zeros", "renamed", "not an entry"])
async def test_corrupt_file_does_not_block_other_entries(tmp_path: Path, fault: str) -> None:
    """A corrupt file is reported once and left unchanged."""
    folder, metrics = tmp_path / "journal", Metrics("0")
    exited = journal(folder)
    assert await exited.prepare()
    intact = replace(ENTRY, entry_id="f" * 32)
    await exited.append(ENTRY)
    await exited.append(intact)
    await exited.close()
    file = folder / f"{ENTRY.entry_id}.entry"
    content = file.read_bytes()
    match fault:
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
        case "flipped bit":
            file.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        case "empty":
            file.write_bytes(b"")
        case "zeros":
            file.write_bytes(bytes(len(content)))
        case "renamed":
            file = file.rename(folder / f"{'1' * 32}.entry")
        case _:
            file.write_bytes(b"\x03" + RING.seal(b"[1]", b""))
    corrupt = file.read_bytes()
    running = journal(folder, metrics)
    with capture_logs() as logs:
        assert await running.claim() == [intact]
        assert await running.claim() == []
    assert [line["reason"] for line in logs if line["event"] == "journal.entry_unreadable"] == [
        "it is corrupt, or belongs to a different Zoom app"
    ]
    assert metrics.registry.get_sample_value("zoomgate_journal_corrupt_entries_total") == 1
    assert file.read_bytes() == corrupt
    await running.close()


@pytest.mark.parametrize("other", ["app", "key"])
async def test_entry_of_a_different_app_or_key_is_retained(tmp_path: Path, other: str) -> None:
    """A process with the correct app and key can still claim the entry."""
    folder, metrics = tmp_path / "journal", Metrics("0")
    theirs = journal(folder)
    assert await theirs.prepare()
    await theirs.append(ENTRY)
    await theirs.close()
    wrong_ring = KeyRing([Key("01020304", bytes(range(1, 33)), primary=True)])
    mine = (
        journal(folder, metrics, app="other") if other == "app" else journal(folder, metrics, ring=wrong_ring)
    )
    assert await mine.claim() == []
    assert metrics.registry.get_sample_value("zoomgate_journal_corrupt_entries_total") == 1
    await mine.close()
    right = journal(folder)
    assert await right.claim() == [ENTRY]
    await right.close()


async def test_unwritable_journal_is_reported_without_an_exception(tmp_path: Path) -> None:
    """The failure is counted, and no file is left behind."""
    (tmp_path / "journal").symlink_to("/proc/self")  # no user can create files there
    metrics = Metrics("0")
    opened = journal(tmp_path / "journal", metrics)
    assert not await opened.prepare()
    assert not await opened.append(ENTRY)
    await opened.delete(ENTRY.entry_id)
    assert await opened.claim() == []
    values = {
        name: metrics.registry.get_sample_value(f"zoomgate_journal_{name}_total")
        for name in ("writes", "failures", "corrupt_entries")
    }
    assert values == {"writes": 0, "failures": 1, "corrupt_entries": 0}
    await opened.close()


async def test_partially_written_entry_is_treated_as_not_written(mine: TokenJournal, tmp_path: Path) -> None:
    """On an almost full disk, it is possible that only a part of the entry is written."""
    with file_size_limit(100):  # truncates the first write; the next one fails
        assert not await mine.append(ENTRY)
        assert list((tmp_path / "journal").iterdir()) == []
    assert await mine.append(ENTRY)


async def test_failed_sync_of_the_directory_leaves_no_entry(
    mine: TokenJournal, tmp_path: Path, disk: Disk
) -> None:
    """No other process may claim an entry that its writer treats as not written."""
    disk.fails = True
    assert not await mine.append(ENTRY)
    assert list((tmp_path / "journal").iterdir()) == []
    disk.fails = False
    assert await mine.append(ENTRY)


async def test_concurrent_entries_share_a_sync_of_the_directory(
    mine: TokenJournal, tmp_path: Path, disk: Disk
) -> None:
    """No append returns before the file's content and directory entry are durable."""
    disk.held = stat.S_IFDIR
    entries = [replace(ENTRY, entry_id=f"{number:032x}") for number in range(51)]
    first = asyncio.create_task(mine.append(entries[0]))
    await until_exists(file_of(tmp_path, entries[0]))
    others = [asyncio.create_task(mine.append(entry)) for entry in entries[1:]]
    await asyncio.sleep(0)
    assert not any(task.done() for task in (first, *others))
    disk.proceed.set()
    assert all(await asyncio.gather(first, *others))
    assert disk.synced == [tmp_path / "journal"] * 2
    await mine.close()
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == entries
    await successor.close()


async def test_created_directories_are_durable(tmp_path: Path, disk: Disk) -> None:
    """After a power failure, the journal and its parent directories exist."""
    opened = journal(tmp_path / "new" / "data" / "journal")
    assert await opened.prepare()
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "data"} <= set(disk.synced)
    await opened.close()


async def test_journal_on_a_network_file_system_is_rejected(tmp_path: Path) -> None:
    """Nothing is created there, because the locks of other machines are unreliable."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nnas:/x {tmp_path / 'share'} nfs4 rw 0 0\n", encoding="utf-8")
    opened = journal(tmp_path / "share" / "journal")
    with pytest.raises(StartError, match=r"on a network file system \(nfs4\).*; use a local disk"):
        await opened.prepare(mounts)
    assert not (tmp_path / "share").exists()
    await opened.close()


async def test_file_in_place_of_the_directory_prevents_a_start(tmp_path: Path) -> None:
    """Otherwise, tokens would be lost if the process is killed. The file is not changed."""
    (tmp_path / "journal").write_text("precious")
    opened = journal(tmp_path / "journal")
    with pytest.raises(StartError, match="is not a directory; move this file away"):
        await opened.prepare()
    assert (tmp_path / "journal").read_text() == "precious"
    await opened.close()


async def test_failed_entry_does_not_affect_others_of_the_same_batch(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """The entries that fit on the disk are written."""
    large = replace(ENTRY, entry_id="1" * 32, tokens=replace(TOKENS, scope="s" * 8000))
    small = replace(ENTRY, entry_id="2" * 32)
    with file_size_limit(4000):
        appended = await asyncio.gather(mine.append(ENTRY), mine.append(large), mine.append(small))
        written = sorted(path.stem for path in (tmp_path / "journal").glob("*.entry"))
    assert appended == [True, False, True]
    assert written == [ENTRY.entry_id, small.entry_id]


async def test_largest_possible_entry_is_claimed_completely(mine: TokenJournal) -> None:
    """The read buffer is large enough for Zoom responses of the maximum size."""
    largest = replace(ENTRY, tokens=replace(TOKENS, scope="\N{GRINNING FACE}" * 16_384))
    await mine.append(largest)
    await mine.release(largest.entry_id)
    assert await mine.claim() == [largest]


async def interrupted_process(folder: Path, action: str, event: str, number: int) -> int:
    """Append entries in a process that is interrupted at an event: the first one alone, and the others together. Return the exit code."""
    arguments = ("-m", "unit.connections.interrupted_journal", str(folder), action, event, str(number))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
    return await process.wait()


async def write_draft(folder: Path) -> None:
    """Append an entry in a process that is killed before it renames the file."""
    assert await interrupted_process(folder, "kill", "os.rename", 1) == -signal.SIGKILL


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_entries_that_were_synced_before_a_kill_are_claimed(tmp_path: Path, number: int) -> None:
    """The process is killed before it renames the first, second or third file."""
    assert await interrupted_process(tmp_path / "journal", "kill", "os.rename", number) == -signal.SIGKILL
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == INTERRUPTED[: 1 if number == 1 else 3]
    for entry in INTERRUPTED:
        await successor.delete(entry.entry_id)
    assert list((tmp_path / "journal").iterdir()) == []
    await successor.close()


@pytest.mark.parametrize("length", [0, 100])
async def test_incomplete_draft_of_a_killed_process_is_deleted(tmp_path: Path, length: int) -> None:
    """Only complete drafts can contain tokens that Zoom issued; an incomplete draft would prevent the retirement of its key."""
    await write_draft(tmp_path / "journal")
    (draft,) = (tmp_path / "journal").iterdir()
    os.truncate(draft, length)
    metrics = Metrics("0")
    successor = journal(tmp_path / "journal", metrics)
    assert await successor.claim() == []
    assert list((tmp_path / "journal").iterdir()) == []
    assert value(metrics, "corrupt_entries_total") == 0
    await successor.close()


async def test_draft_of_a_different_app_is_retained(tmp_path: Path) -> None:
    """The draft is complete, so a process with the correct app can claim it."""
    await write_draft(tmp_path / "journal")
    other = journal(tmp_path / "journal", app="other")
    assert await other.claim() == []
    await other.close()
    right = journal(tmp_path / "journal")
    assert await right.claim() == INTERRUPTED[:1]
    await right.close()


async def test_draft_replaces_the_older_version_of_its_entry(tmp_path: Path) -> None:
    """The killed process had exchanged the refresh token of the older version. A process that holds the older version finishes first."""
    older, other = journal(tmp_path / "journal"), journal(tmp_path / "journal")
    assert await older.prepare()
    await older.append(replace(INTERRUPTED[0], generation=1))
    await write_draft(tmp_path / "journal")
    assert await other.claim() == []
    await older.close()
    assert await other.claim() == INTERRUPTED[:1]
    await other.close()


async def test_poll_before_a_draft_is_locked_does_not_fail_the_write(tmp_path: Path) -> None:
    """At this moment, the other process cannot tell the draft from that of a killed process."""
    assert await interrupted_process(tmp_path / "journal", "poll", "fcntl.flock", 1) == 0
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == INTERRUPTED
    await successor.close()


async def test_draft_of_a_running_process_is_not_claimed(
    mine: TokenJournal, tmp_path: Path, disk: Disk
) -> None:
    other = journal(tmp_path / "journal")
    disk.held = stat.S_IFREG
    appending = asyncio.create_task(mine.append(ENTRY))
    while not list((tmp_path / "journal").iterdir()):
        await asyncio.sleep(0.001)
    assert await other.claim() == []
    disk.proceed.set()
    assert await appending
    await mine.close()
    assert await other.claim() == [ENTRY]
    await other.close()


async def test_entry_that_cannot_be_deleted_is_claimed_by_nobody_and_deleted_later(tmp_path: Path) -> None:
    """Otherwise, every poll of the journal would store and audit the entry again. The failure is reported once."""
    folder, metrics = tmp_path / "journal", Metrics("0")
    with enforced_file_modes():
        mine, other = journal(folder, metrics), journal(folder)
        assert await mine.prepare()
        await mine.append(ENTRY)
        folder.chmod(0o500)
        with capture_logs() as logs:
            await mine.delete(ENTRY.entry_id)
            assert [await each.claim() for each in (mine, other) * 3] == [[]] * 6
        folder.chmod(0o700)
    assert [line["entry"] for line in logs if line["event"] == "journal.delete_failed"] == [ENTRY.entry_id]
    assert value(metrics, "entries") == 0
    assert await mine.claim() == []
    assert list(folder.iterdir()) == []
    await mine.close()
    await other.close()


async def test_new_entry_with_the_id_of_an_undeleted_entry_is_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with enforced_file_modes():
        mine = journal(folder)
        assert await mine.prepare()
        await mine.append(ENTRY)
        folder.chmod(0o500)
        await mine.delete(ENTRY.entry_id)
        folder.chmod(0o700)
    assert await mine.append(replace(ENTRY, generation=9))
    assert await mine.claim() == []
    await mine.release(ENTRY.entry_id)
    assert await mine.claim() == [replace(ENTRY, generation=9)]
    await mine.close()


async def test_failed_write_is_retried_until_it_succeeds(
    mine: TokenJournal, tmp_path: Path, disk: Disk
) -> None:
    """The failure is logged once. The entry is held like any other."""
    other = journal(tmp_path / "journal")
    disk.fails = True
    with capture_logs() as logs:
        assert not await mine.append(ENTRY)
        while disk.failures < 4:
            await asyncio.sleep(0.001)
        disk.fails = False
        await until_exists(file_of(tmp_path))
        while not any(line["event"] == "journal.write_recovered" for line in logs):
            await asyncio.sleep(0.001)
    assert [line["event"] for line in logs] == ["journal.write_failed", "journal.write_recovered"]
    assert await other.claim() == []
    await mine.close()
    assert await other.claim() == [ENTRY]
    await other.close()


async def test_failed_and_recovered_writes_are_each_counted_once(tmp_path: Path) -> None:
    metrics = Metrics("0")
    opened = journal(tmp_path / "journal", metrics)
    assert await opened.prepare()
    with file_size_limit(0):
        assert not await opened.append(ENTRY)
    while not value(metrics, "writes_total"):
        await asyncio.sleep(0.001)
    assert (value(metrics, "failures_total"), value(metrics, "writes_total")) == (1, 1)
    await opened.close()


async def test_failed_write_of_a_deleted_entry_is_not_retried(mine: TokenJournal, tmp_path: Path) -> None:
    with file_size_limit(0):
        assert not await mine.append(ENTRY)
        await mine.delete(ENTRY.entry_id)
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)
    assert list((tmp_path / "journal").iterdir()) == []


async def test_released_entry_can_be_claimed_while_it_cannot_be_written(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """No tokens are lost if their attempt crashes while the disk is full."""
    other = journal(tmp_path / "journal")
    with file_size_limit(0):
        assert not await mine.append(ENTRY)
        assert await mine.claim() == []
        await mine.release(ENTRY.entry_id)
        assert await mine.claim([ENTRY.entry_id]) == []
        assert await mine.claim() == [ENTRY]
        assert await mine.claim() == []
        await mine.release(ENTRY.entry_id)
    while not (claimed := await other.claim()):
        await asyncio.sleep(0.001)
    assert claimed == [ENTRY]
    await other.close()


async def test_entry_is_written_when_no_descriptor_is_free(tmp_path: Path) -> None:
    """The journal reserves descriptors, and reserves them again after entries were deleted."""
    opened = journal(tmp_path / "journal")
    assert await opened.prepare()
    entries = [replace(ENTRY, entry_id=f"{number:032x}") for number in range(10)]
    with no_free_descriptor() as occupied:
        for _ in range(10):
            assert all(await asyncio.gather(*(opened.append(entry) for entry in entries)))
            for entry in entries:
                await opened.delete(entry.entry_id)
            occupy_descriptors(occupied)
    await opened.close()


async def test_entries_beyond_the_reserved_descriptors_are_written_once_descriptors_are_free(
    tmp_path: Path,
) -> None:
    opened = journal(tmp_path / "journal")
    assert await opened.prepare()
    entries = [replace(ENTRY, entry_id=f"{number:032x}") for number in range(40)]
    with no_free_descriptor() as occupied:
        assert False in await asyncio.gather(*(opened.append(entry) for entry in entries))
        for _ in entries:
            os.close(occupied.pop())
        for entry in entries:
            await until_exists(file_of(tmp_path, entry))
    await opened.close()


async def test_entry_appended_during_close_is_written_and_released(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """The entry was queued when the journal was closed."""
    appending = asyncio.create_task(mine.append(ENTRY))
    await asyncio.sleep(0)
    await mine.close()
    assert await appending
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == [ENTRY]
    await successor.close()


async def test_entry_appended_after_close_is_written_and_released(mine: TokenJournal, tmp_path: Path) -> None:
    """A refresh may outlast the drain, and Zoom's response must not be lost."""
    await mine.close()
    assert await mine.append(ENTRY)
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == [ENTRY]
    await successor.close()


async def test_entry_that_could_not_be_written_is_written_on_close(
    mine: TokenJournal, tmp_path: Path
) -> None:
    with file_size_limit(0):
        assert not await mine.append(ENTRY)
    await mine.close()
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == [ENTRY]
    await successor.close()
