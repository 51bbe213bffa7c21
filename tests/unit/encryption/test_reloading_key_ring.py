"""A ring that follows its file while a service runs."""

import json
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from zoomgate_server.encryption import key_file, reloading_key_ring
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.reloading_key_ring import POLL_INTERVAL, ReloadingKeyRing
from zoomgate_server.errors import KeyUnavailable


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ring of one key."""
    key_file.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def follow(path: Path, reloads: list[None] | None = None) -> tuple[ReloadingKeyRing, Clock]:
    clock = Clock()
    ring = ReloadingKeyRing(
        path, key_file.load(path), clock, lambda: None if reloads is None else reloads.append(None)
    )
    ring.seal(b"", b"")
    return ring, clock


def test_a_new_primary_seals_within_seconds(path: Path) -> None:
    """The ring looks at its file when it is used, at most every few seconds; what the old key sealed opens still."""
    ring, clock = follow(path)
    old = ring.seal(b"text", b"a")
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.primary_id != added
    clock.now += POLL_INTERVAL
    assert ring.primary_id == added
    assert ring.open(old, b"a") == b"text"
    assert key_file.load(path).open(ring.seal(b"new", b"a"), b"a") == b"new"


def test_whoever_wants_to_know_hears_of_a_new_ring(path: Path) -> None:
    """Once per change of the keys, and not when the file was merely touched."""
    reloads: list[None] = []
    ring, clock = follow(path, reloads)
    path.write_bytes(path.read_bytes())
    clock.now += POLL_INTERVAL
    assert ring.primary_id in ring.ids
    assert not reloads
    key_file.add(path, key_file.load(path))
    for _ in range(3):
        clock.now += POLL_INTERVAL
        assert len(ring.ids) == 2
    assert len(reloads) == 1


def test_an_unknown_key_is_looked_for_at_once(path: Path) -> None:
    """Before a key is said to be missing, the file is read, however short ago that was."""
    ring, _ = follow(path)
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.open(key_file.load(path).seal(b"text", b"a"), b"a") == b"text"
    assert ring.ids == key_file.load(path).ids


def test_who_looks_second_does_not_miss_the_new_key(path: Path) -> None:
    """If another thread takes the new ring between the attempt to open and the look at the file, the new ring opens."""

    class Overtaken(KeyRing):
        def open(self, blob: bytes, associated: bytes) -> bytes:
            clock.now += POLL_INTERVAL
            assert ring.primary_id == added  # the other thread
            return super().open(blob, associated)

    clock = Clock()
    ring = ReloadingKeyRing(path, Overtaken(key_file.load(path).keys), clock)
    assert ring.ids
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.open(key_file.load(path).seal(b"text", b"a"), b"a") == b"text"


def test_a_key_that_is_nowhere_is_unavailable(path: Path, tmp_path: Path) -> None:
    """The error names its id."""
    ring, _ = follow(path)
    key_file.create(tmp_path / "other.json")
    other = key_file.load(tmp_path / "other.json")
    with pytest.raises(KeyUnavailable) as missing:
        ring.open(other.seal(b"text", b"a"), b"a")
    assert missing.value.metadata["key_id"] == other.primary_id


@pytest.mark.parametrize("damage", ["gone", "torn", "open to others", "another secret", "another ring"])
def test_a_file_that_cannot_be_used_leaves_the_ring_in_place(
    path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring before goes on, one warning without a key is logged, and the file is taken again once it is right."""
    log = CapturingLogger()
    monkeypatch.setattr(reloading_key_ring, "_log", log)
    ring, clock = follow(path)
    whole, mine = path.read_bytes(), ring.primary_id
    match damage:
        case "gone":
            path.unlink()
        case "torn":
            path.write_bytes(whole[:40])
        case "open to others":
            path.chmod(0o644)
        case "another ring":
            path.unlink()
            key_file.create(path)
        case "another secret":
            path.unlink()
            key_file.create(path)
            path.write_bytes(
                path.read_bytes().replace(key_file.load(path).primary_id.encode(), mine.encode())
            )
    for _ in range(3):
        clock.now += POLL_INTERVAL
        assert ring.open(ring.seal(b"text", b"a"), b"a") == b"text"
    assert [(call.method_name, call.args) for call in log.calls] == [("warning", ("key_ring.reload_failed",))]
    assert not [row["secret"] for row in json.loads(whole)["keys"] if row["secret"] in str(log.calls)]
    path.write_bytes(whole)
    path.chmod(0o600)
    added = key_file.add(path, key_file.load(path))
    clock.now += POLL_INTERVAL
    assert added in ring.ids
