"""Tests for changes of the key file: atomicity, concurrency and validation."""

import os
import stat
import subprocess
import sys
from base64 import b64encode
from contextlib import nullcontext
from pathlib import Path

import orjson
import pytest

from support.file_size_limit import file_size_limit
from zoomgate_server.encryption import key_file


def row(key_id: str, secret: bytes, state: str) -> dict[str, str]:
    return {"id": key_id, "secret": b64encode(secret).decode(), "state": state}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_bytes(orjson.dumps({"keys": rows}))
    path.chmod(0o600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a key ring with one key."""
    key_file.create(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def test_key_is_added_promoted_and_removed(path: Path) -> None:
    """Keys are sorted by age, oldest first, and each step changes only the given key."""
    first = key_file.load(path)
    assert key_file.next_key(first) is None
    added = key_file.add(path, first)
    both = key_file.load(path)
    assert [(key.key_id, key.primary) for key in both.keys] == [(first.primary_id, True), (added, False)]
    assert key_file.next_key(both) == added
    key_file.promote(path, both, added)
    promoted = key_file.load(path)
    assert (promoted.primary_id, key_file.next_key(promoted)) == (added, None)
    assert [key.secret for key in promoted.keys] == [key.secret for key in both.keys]
    key_file.remove(path, promoted, first.primary_id)
    assert [key.key_id for key in key_file.load(path).keys] == [added]
    assert list(path.parent.iterdir()) == [path]


def test_change_preserves_file_mode_and_symbolic_links(path: Path, tmp_path: Path) -> None:
    """A stricter mode is preserved, and the target of a symbolic link is changed."""
    path.chmod(0o400)
    link = tmp_path / "link.json"
    link.symlink_to(path.name)
    added = key_file.add(link, key_file.load(link))
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert added in key_file.load(path).ids


def test_change_based_on_an_outdated_ring_is_rejected(path: Path) -> None:
    """The result of the concurrent change is preserved."""
    outdated = key_file.load(path)
    key_file.add(path, outdated)
    before = path.read_bytes()
    for change in (
        lambda: key_file.add(path, outdated),
        lambda: key_file.promote(path, outdated, outdated.primary_id),
        lambda: key_file.remove(path, outdated, outdated.primary_id),
    ):
        with pytest.raises(key_file.KeyFileChangedError, match="run this again"):
            change()
    assert path.read_bytes() == before


ADDER = """
import sys
from pathlib import Path
from zoomgate_server.encryption import key_file
path = Path(sys.argv[1])
for _ in range(10):
    while True:
        try:
            print(key_file.add(path, key_file.load(path)))
            break
        except key_file.KeyFileChangedError:
            pass
"""


def test_concurrent_additions_lose_no_key(path: Path) -> None:
    """While two processes add keys, every read of the file returns a valid key ring."""
    adders = [
        subprocess.Popen([sys.executable, "-c", ADDER, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    while any(adder.poll() is None for adder in adders):
        assert key_file.load(path).ids
    added = [key_id for adder in adders for key_id in adder.communicate()[0].split()]
    assert [adder.returncode for adder in adders] == [0, 0]
    assert len(added) == 20
    assert set(added) < key_file.load(path).ids


def test_failed_write_leaves_the_file_unchanged(path: Path) -> None:
    """No temporary file remains."""
    before, ring = path.read_bytes(), key_file.load(path)
    with file_size_limit(len(before)), pytest.raises(key_file.KeyFileError, match="File too large"):
        key_file.add(path, ring)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_primary_key_cannot_be_removed(path: Path) -> None:
    ring = key_file.load(path)
    with pytest.raises(key_file.KeyFileError, match="0 keys are primary"):
        key_file.remove(path, ring, ring.primary_id)
    assert key_file.load(path).keys == ring.keys


GOOD, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("0a0a0a0a", GOOD, "primary"), row("0a0a0a0a", OTHER, "decrypt")], "share an ID"),
        ([row("0a0a0a0a", bytes(32), "primary")], "not random"),
        ([row("0a0a0a0a", GOOD[:31], "primary")], "31 bytes"),
        ([row("0a0a0a0a", GOOD, "decrypt")], "0 keys are primary"),
        ([row("0a0a0a0a", GOOD, "primary"), row("0b0b0b0b", OTHER, "primary")], "2 keys are primary"),
        ([], "0 keys are primary"),
    ],
)
def test_weak_or_ambiguous_key_ring_is_rejected_and_unchanged(
    tmp_path: Path, rows: list[dict[str, str]], reason: str
) -> None:
    """Loading and changing the key ring fail, and the message contains no key."""
    path = tmp_path / "keys.json"
    write(path, rows)
    before = path.read_bytes()
    key_file.create(tmp_path / "other.json")
    with pytest.raises(key_file.KeyFileError, match=reason):
        key_file.load(path)
    with pytest.raises(key_file.KeyFileError, match=reason) as rejected:
        key_file.add(path, key_file.load(tmp_path / "other.json"))
    assert path.read_bytes() == before
    assert not [entry for entry in rows if entry["secret"] in str(rejected.value)]


@pytest.mark.timeout(10)
def test_pipe_in_place_of_the_file_is_rejected(tmp_path: Path) -> None:
    """A pipe without a writer is not waited for."""
    os.mkfifo(tmp_path / "keys.json", 0o600)
    with pytest.raises(key_file.KeyFileError, match="not a regular file"):
        key_file.load(tmp_path / "keys.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the owner of files")
@pytest.mark.parametrize(
    ("owner", "mode", "is_accepted"),
    [
        (0, 0o400, True),
        (0, 0o440, True),
        (0, 0o640, True),
        (0, 0o660, False),
        (0, 0o444, False),
        (65532, 0o600, True),
        (65532, 0o640, False),
    ],
)
def test_group_may_read_a_key_ring_of_root(path: Path, owner: int, mode: int, is_accepted: bool) -> None:
    """Kubernetes mounts secrets with mode 0440 for the group of the service, and systemd credentials have an access control list."""
    path.chmod(mode)
    os.chown(path, owner, 65532)
    with nullcontext() if is_accepted else pytest.raises(key_file.KeyFileError, match="run chmod 600"):
        key_file.load(path)
