"""The journal: what is on disk between Zoom's answer and the store's confirmation."""

import asyncio
import errno
import resource
import stat
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from zoomgate_server import private_file
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing

RING = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
TOKENS = TokenPair("access-canary", "refresh-canary", "bearer", "a b", "", 2.0, 1.0)
ENTRY = Entry("0" * 32, Origin.REFRESH, "monica@example.com", "grant-1", 3, TOKENS, epoch=7)


class Counted:
    """Counts what the journal says."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.entries = 0

    def journal_entries(self, count: int) -> None:
        self.entries = count

    def journal_written(self) -> None:
        self.events["written"] += 1

    def journal_failed(self) -> None:
        self.events["failed"] += 1

    def journal_damaged(self) -> None:
        self.events["damaged"] += 1


def journal(
    folder: Path, observer: Counted | None = None, app: str = "app", ring: KeyRing = RING
) -> TokenJournal:
    """A journal as a process has it."""
    return TokenJournal(folder, app=app, ring=ring, observer=observer or Counted())


@pytest.fixture
async def mine(tmp_path: Path) -> AsyncIterator[TokenJournal]:
    """The journal of this process."""
    opened = journal(tmp_path / "journal")
    assert await opened.prepare()
    yield opened
    await opened.close()


async def test_an_entry_is_sealed_and_for_its_owner_alone(mine: TokenJournal, tmp_path: Path) -> None:
    """Neither tokens nor the person can be read from the file, and nobody else may open it."""
    assert await mine.append(ENTRY)
    (file,) = (tmp_path / "journal").iterdir()
    content = file.read_bytes()
    assert not any(word in content for word in (b"canary", b"monica", b"grant-1"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "canary" not in repr(ENTRY)


async def test_entries_of_the_living_stay_theirs_and_those_of_the_dead_are_claimed_once(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """While a process lives nobody takes its entries; when it is gone one of the others gets them, whole."""
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


async def test_an_entry_that_is_released_is_found_again(mine: TokenJournal) -> None:
    """Who cannot go on now lets go, and finds it at the next look."""
    await mine.append(ENTRY)
    assert await mine.claim() == []
    await mine.release(ENTRY.entry_id)
    assert await mine.claim() == [ENTRY]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "renamed", "no entry at all"])
async def test_a_damaged_file_keeps_nobody_from_the_rest(tmp_path: Path, damage: str) -> None:
    """What cannot be opened is told once and left as it is; the others are claimed."""
    folder, counted = tmp_path / "journal", Counted()
    dead = journal(folder)
    assert await dead.prepare()
    good = replace(ENTRY, entry_id="f" * 32)
    await dead.append(ENTRY)
    await dead.append(good)
    await dead.close()
    file = folder / f"{ENTRY.entry_id}.entry"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped":
            file.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        case "empty":
            file.write_bytes(b"")
        case "renamed":
            file = file.rename(folder / f"{'1' * 32}.entry")
        case _:
            file.write_bytes(b"\x03" + RING.seal(b"[1]", b""))
    left = file.read_bytes()
    alive = journal(folder, counted)
    assert await alive.claim() == [good]
    assert await alive.claim() == []
    assert counted.events["damaged"] == 1
    assert file.read_bytes() == left
    await alive.close()


@pytest.mark.parametrize("other", ["app", "key"])
async def test_entries_of_another_app_or_key_are_left_for_it(tmp_path: Path, other: str) -> None:
    """An entry that this process has no key for, or that is another Zoom app's, stays for whoever can open it."""
    folder, counted = tmp_path / "journal", Counted()
    theirs = journal(folder)
    assert await theirs.prepare()
    await theirs.append(ENTRY)
    await theirs.close()
    wrong = KeyRing([Key("01020304", bytes(range(1, 33)), primary=True)])
    mine = journal(folder, counted, app="other") if other == "app" else journal(folder, counted, ring=wrong)
    assert await mine.claim() == []
    assert counted.events["damaged"] == 1
    await mine.close()
    again = journal(folder)
    assert await again.claim() == [ENTRY]
    await again.close()


async def test_a_journal_that_cannot_be_written_says_so_and_stops_nobody(tmp_path: Path) -> None:
    """Without a folder that takes files nothing is kept, nothing is left behind, and that is counted."""
    (tmp_path / "journal").write_text("in the way")
    counted = Counted()
    opened = journal(tmp_path / "journal", counted)
    assert not await opened.prepare()
    assert not await opened.append(ENTRY)
    await opened.delete(ENTRY.entry_id)
    assert await opened.claim() == []
    assert counted.events == {"failed": 1}
    await opened.close()


async def test_an_entry_that_does_not_fit_on_the_disk_is_not_taken_for_one(
    mine: TokenJournal, tmp_path: Path
) -> None:
    """Where the system takes a part of an entry alone, as on a disk that is about to be full, the entry counts as not written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the first write is cut there, the next one fails
    try:
        kept = await mine.append(ENTRY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not kept
    assert list((tmp_path / "journal").iterdir()) == []
    assert await mine.append(ENTRY)


async def test_a_folder_that_cannot_be_synced_has_no_entry(
    mine: TokenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts as not written is not there either: else it would be claimed beside whoever goes on without it."""

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(private_file, "sync_folder", fail)
        assert not await mine.append(ENTRY)
    assert list((tmp_path / "journal").iterdir()) == []
    assert await mine.append(ENTRY)


async def test_entries_that_come_together_share_a_sync_of_the_folder(
    mine: TokenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears that an entry is kept before its file and its name are durable; many at once wait for the folder once."""
    synced, go_on, real = [0], threading.Event(), private_file.sync_folder

    def sync(folder: Path) -> None:
        go_on.wait()
        real(folder)
        synced[0] += 1

    monkeypatch.setattr(private_file, "sync_folder", sync)
    entries = [replace(ENTRY, entry_id=f"{number:032x}") for number in range(51)]
    first = asyncio.create_task(mine.append(entries[0]))
    while not list((tmp_path / "journal").glob("*.entry")):
        await asyncio.sleep(0)
    others = [asyncio.create_task(mine.append(entry)) for entry in entries[1:]]
    await asyncio.sleep(0)
    assert not any(kept.done() for kept in (first, *others))
    go_on.set()
    assert all(await asyncio.gather(first, *others))
    assert synced == [2]
    await mine.close()
    heir = journal(tmp_path / "journal")
    assert await heir.claim() == entries
    await heir.close()


async def test_one_that_fails_takes_no_others_along(mine: TokenJournal, tmp_path: Path) -> None:
    """Of entries that are written together, those that fit are kept."""
    large = replace(ENTRY, entry_id="1" * 32, tokens=replace(TOKENS, scope="s" * 8000))
    small = replace(ENTRY, entry_id="2" * 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        kept = await asyncio.gather(mine.append(ENTRY), mine.append(large), mine.append(small))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept == [True, False, True]
    assert sorted(path.stem for path in (tmp_path / "journal").iterdir()) == [ENTRY.entry_id, small.entry_id]


async def test_the_largest_answer_is_read_back(mine: TokenJournal) -> None:
    """An entry with all that Zoom may answer is not cut when it is found."""
    largest = replace(ENTRY, tokens=replace(TOKENS, scope="\N{GRINNING FACE}" * 16_384))
    await mine.append(largest)
    await mine.release(largest.entry_id)
    assert await mine.claim() == [largest]
