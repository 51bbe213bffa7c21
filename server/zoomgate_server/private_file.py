"""Files that hold secrets: written atomically and readable only by their owner."""

import os
import secrets
import stat
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Create a file with mode 0600, atomically and durably.

    Raises:
        FileExistsError: The file exists already; it was not changed.
        OSError: The file cannot be written; nothing was left behind.
    """
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the file exists
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Replace the content of a file, atomically and durably, preserving its owner and mode.

    Raises:
        OSError: The file cannot be written, or its owner cannot be preserved; the file was not changed.
    """
    path = path.resolve()  # keep a symbolic link
    old_stat = path.stat()
    temporary = _write_temporary(path, content)
    try:
        if (old_stat.st_uid, old_stat.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, old_stat.st_uid, old_stat.st_gid)
        temporary.chmod(stat.S_IMODE(old_stat.st_mode))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder, so that created and renamed files in it are durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_temporary(path: Path, content: bytes) -> Path:
    """Write a temporary file with mode 0600 next to a path, durably."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
