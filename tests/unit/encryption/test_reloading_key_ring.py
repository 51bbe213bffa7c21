"""Tests for reloading the key ring file at runtime."""

import json
from pathlib import Path

import pytest

from support.captured_logs import capture_logs
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.reloading_key_ring import ReloadingKeyRing, Timing
from zoomgate_server.errors import KeyUnavailable


class Clock:
    """A clock controlled by the test."""

    now = 100.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a key ring with one key."""
    key_file.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def reloading_ring(path: Path, reloads: list[None] | None = None) -> tuple[ReloadingKeyRing, Clock]:
    clock = Clock()
    ring = ReloadingKeyRing(
        path, key_file.load(path), clock, lambda: None if reloads is None else reloads.append(None)
    )
    ring.seal(b"", b"")
    return ring, clock


def test_new_primary_key_is_used_after_the_poll_interval(path: Path) -> None:
    """Blobs encrypted with the previous primary key can still be decrypted."""
    ring, clock = reloading_ring(path)
    old = ring.seal(b"text", b"a")
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.primary_id != added
    clock.now += Timing().poll_interval
    assert ring.primary_id == added
    assert ring.open(old, b"a") == b"text"
    assert key_file.load(path).open(ring.seal(b"new", b"a"), b"a") == b"new"


def test_callback_is_called_once_per_change_of_the_keys(path: Path) -> None:
    """Rewriting the file with the same content is not treated as a change."""
    reloads: list[None] = []
    ring, clock = reloading_ring(path, reloads)
    path.write_bytes(path.read_bytes())
    clock.now += Timing().poll_interval
    assert ring.primary_id in ring.ids
    assert not reloads
    key_file.add(path, key_file.load(path))
    for _ in range(3):
        clock.now += Timing().poll_interval
        assert len(ring.ids) == 2
    assert len(reloads) == 1


def test_unknown_key_triggers_an_immediate_reload(path: Path) -> None:
    """The reload does not wait for the poll interval."""
    ring, _ = reloading_ring(path)
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.open(key_file.load(path).seal(b"text", b"a"), b"a") == b"text"
    assert ring.ids == key_file.load(path).ids


def test_reload_by_a_different_thread_during_decryption_is_used(path: Path) -> None:
    """Another thread reloads the file after this thread failed to decrypt a blob and before this thread checks the file."""

    class OutdatedKeyRing(KeyRing):
        def open(self, blob: bytes, associated: bytes) -> bytes:
            clock.now += Timing().poll_interval
            assert ring.primary_id == added  # reloads the file, as another thread would
            return super().open(blob, associated)

    clock = Clock()
    ring = ReloadingKeyRing(path, OutdatedKeyRing(key_file.load(path).keys), clock)
    assert ring.ids
    added = key_file.add(path, key_file.load(path))
    key_file.promote(path, key_file.load(path), added)
    assert ring.open(key_file.load(path).seal(b"text", b"a"), b"a") == b"text"


def test_key_missing_from_the_file_is_unavailable(path: Path, tmp_path: Path) -> None:
    """The error contains the ID of the missing key."""
    ring, _ = reloading_ring(path)
    key_file.create(tmp_path / "other.json")
    other = key_file.load(tmp_path / "other.json")
    with pytest.raises(KeyUnavailable) as missing:
        ring.open(other.seal(b"text", b"a"), b"a")
    assert missing.value.metadata["key_id"] == other.primary_id


@pytest.mark.parametrize(
    "fault", ["missing", "truncated", "readable by others", "different secret", "different ring"]
)
def test_unusable_file_leaves_the_previous_ring_in_use(path: Path, fault: str) -> None:
    """One warning without a key is logged, and the file is reloaded once it is correct again."""
    ring, clock = reloading_ring(path)
    content, key_id = path.read_bytes(), ring.primary_id
    match fault:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[:40])
        case "readable by others":
            path.chmod(0o644)
        case "different ring":
            path.unlink()
            key_file.create(path)
        case "different secret":
            path.unlink()
            key_file.create(path)
            path.write_bytes(
                path.read_bytes().replace(key_file.load(path).primary_id.encode(), key_id.encode())
            )
    with capture_logs() as lines:
        for _ in range(3):
            clock.now += Timing().poll_interval
            assert ring.open(ring.seal(b"text", b"a"), b"a") == b"text"
    assert [(line["level"], line["event"]) for line in lines] == [("warning", "key_ring.reload_failed")]
    assert not [row["secret"] for row in json.loads(content)["keys"] if row["secret"] in str(lines)]
    path.write_bytes(content)
    path.chmod(0o600)
    added = key_file.add(path, key_file.load(path))
    clock.now += Timing().poll_interval
    assert added in ring.ids
