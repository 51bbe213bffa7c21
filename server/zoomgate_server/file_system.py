"""Access to files that operators edit, and recognition of network file systems, on which locks and syncs are unreliable."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

MOUNTS = Path("/proc/mounts")
"""List of mounted file systems. See proc_pid_mounts(5)."""

_NETWORK = re.compile(
    r"9p|afs|beegfs|ceph(fs)?|cifs|coda|fuse(\.(?!fuse-overlayfs$).*)?|gfs2|glusterfs|gpfs|lustre|nfs4?|ocfs2|orangefs|prl_fs|pvfs2|smb3"
    r"|smbfs|vboxsf|virtiofs|vmhgfs"
)
"""Types of network file systems, of file systems that several machines share, and of directories that a virtual machine shares with its
host. A file system in user space (`fuse.sshfs`, `fuse.s3fs`) counts as remote, except for the root file system of a rootless container."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raise OSError for any other file, since reading a pipe or a device can block or never end."""
    # without O_NONBLOCK, opening a pipe that has no writer would block
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """Read a regular file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def is_public(path: Path) -> bool:
    """Return whether all users can access a regular file; False if the file cannot be accessed."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o007)


def version(path: Path) -> object:
    """Return a value that changes whenever a file, its owner or its mode changes; None if the file cannot be accessed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid


def network_type(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the network file system that contains a path, or an empty string if the file system is local or unknown."""
    kind = _type(path, mounts)
    return kind if _NETWORK.fullmatch(kind) else ""


def _type(path: Path, mounts: Path) -> str:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
        resolved = str(path.resolve())
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # spaces and similar characters are escaped in octal
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        if len(point) >= len(best) and (resolved == point or resolved.startswith(point.rstrip("/") + "/")):
            best, kind = point, fields[2]
    return kind
