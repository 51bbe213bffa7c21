"""Tests for the token journal, which holds tokens between Zoom's response and the store's acknowledgment."""

import asyncio
import errno
import os
import resource
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.telemetry.metrics import Metrics

RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
TOKENS = TokenPair("access-canary", "refresh-canary", "bearer", "a b", "", 2.0, 1.0)
ENTRY = Entry("0" * 32, Origin.REFRESH, "monica@example.com", "grant-1", 3, TOKENS, epoch=7)


def journal(
    folder: Path, metrics: Metrics | None = None, app: str = "app", ring: KeyRing = RING
) -> TokenJournal:
    """Return a journal for a directory. Each journal acts as one process."""
    return TokenJournal(folder, app=app, key_ring=ring, metrics=metrics or Metrics("0"))


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
    (tmp_path / "journal").write_text("not a directory")
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
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # truncates the first write; the next one fails
    try:
        appended = await mine.append(ENTRY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not appended
    assert list((tmp_path / "journal").iterdir()) == []
    assert await mine.append(ENTRY)


async def test_failed_sync_of_the_directory_leaves_no_entry(
    mine: TokenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process may claim an entry that its writer treats as not written."""

    def fail_for_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_for_directories)
        assert not await mine.append(ENTRY)
    assert list((tmp_path / "journal").iterdir()) == []
    assert await mine.append(ENTRY)


async def test_concurrent_entries_share_a_sync_of_the_directory(
    mine: TokenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No append returns before the file's content and directory entry are durable."""
    syncs, proceed, fsync = [0], threading.Event(), os.fsync

    def sync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if is_directory:
            proceed.wait()
        fsync(descriptor)
        syncs[0] += is_directory

    monkeypatch.setattr(os, "fsync", sync)
    entries = [replace(ENTRY, entry_id=f"{number:032x}") for number in range(51)]
    first = asyncio.create_task(mine.append(entries[0]))
    while not list((tmp_path / "journal").glob("*.entry")):
        await asyncio.sleep(0)
    others = [asyncio.create_task(mine.append(entry)) for entry in entries[1:]]
    await asyncio.sleep(0)
    assert not any(task.done() for task in (first, *others))
    proceed.set()
    assert all(await asyncio.gather(first, *others))
    assert syncs == [2]
    await mine.close()
    successor = journal(tmp_path / "journal")
    assert await successor.claim() == entries
    await successor.close()


async def test_failed_entry_does_not_affect_others_of_the_same_batch(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """The entries that fit on the disk are written."""
    large = replace(ENTRY, entry_id="1" * 32, tokens=replace(TOKENS, scope="s" * 8000))
    small = replace(ENTRY, entry_id="2" * 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        appended = await asyncio.gather(mine.append(ENTRY), mine.append(large), mine.append(small))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert appended == [True, False, True]
    assert sorted(path.stem for path in (tmp_path / "journal").iterdir()) == [ENTRY.entry_id, small.entry_id]


async def test_largest_possible_entry_is_claimed_completely(mine: TokenJournal) -> None:
    """The read buffer is large enough for Zoom responses of the maximum size."""
    largest = replace(ENTRY, tokens=replace(TOKENS, scope="\N{GRINNING FACE}" * 16_384))
    await mine.append(largest)
    await mine.release(largest.entry_id)
    assert await mine.claim() == [largest]
