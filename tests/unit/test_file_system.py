"""Tests for the recognition of network file systems."""

from pathlib import Path

import pytest

from zoomgate_server.file_system import network_type

NETWORK = [
    "9p",
    "beegfs",
    "ceph",
    "cephfs",
    "cifs",
    "fuse",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "vboxsf",
    "virtiofs",
]
LOCAL = ["btrfs", "ext4", "fuse.fuse-overlayfs", "fuseblk", "nfsd", "overlay", "tmpfs", "xfs", "zfs"]


def network_type_of_mount(folder: Path, kind: str) -> str:
    """Return the result for a file system of a type that is mounted at a directory."""
    mounts = folder / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nsource {folder}/mounted {kind} rw 0 0\n", encoding="utf-8")
    assert network_type(folder / "mounted-elsewhere", mounts) == ""
    return network_type(folder / "mounted" / "data" / "journal", mounts)


@pytest.mark.parametrize("kind", NETWORK)
def test_network_file_system_is_recognized(tmp_path: Path, kind: str) -> None:
    assert network_type_of_mount(tmp_path, kind) == kind


@pytest.mark.parametrize("kind", LOCAL)
def test_local_file_system_is_not_a_network_file_system(tmp_path: Path, kind: str) -> None:
    assert network_type_of_mount(tmp_path, kind) == ""


def test_file_system_without_a_list_of_mounts_is_treated_as_local(tmp_path: Path) -> None:
    """Only Linux has the list."""
    assert network_type(tmp_path, tmp_path / "missing") == ""
