"""Recognition of network file systems, on which locks, syncs and shared memory are unreliable."""

import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")
"""List of mounted file systems. See proc_pid_mounts(5)."""

_NETWORK = re.compile(
    r"9p|afs|beegfs|ceph(fs)?|cifs|coda|fuse(\.(?!fuse-overlayfs$).*)?|gfs2|glusterfs|gpfs|lustre|nfs4?|ocfs2|orangefs|prl_fs|pvfs2|smb3"
    r"|smbfs|vboxsf|virtiofs|vmhgfs"
)
"""Types of network file systems, of file systems that several machines share, and of directories that a virtual machine shares with its
host. A file system in user space (`fuse.sshfs`, `fuse.s3fs`) counts as remote, except for the root file system of a rootless container."""


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
