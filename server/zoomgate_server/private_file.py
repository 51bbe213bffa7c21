"""Atomic writes of files with secrets, readable only by their owner."""

import os
import secrets
import stat
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Create a file with mode 0600, atomically and durably.

    Raises:
        FileExistsError: The file already exists and was not changed.
        OSError: The file cannot be written; no temporary file remains.
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
    path = path.resolve()  # replace the target of a symbolic link, not the link
    temporary = _write_temporary(path, content, path.stat())
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def create_folder(path: Path) -> None:
    """Create a directory with mode 0700, and missing parent directories, durably. An existing directory is not changed."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Sync a directory, so that created and renamed files are durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_temporary(path: Path, content: bytes, like: os.stat_result | None = None) -> Path:
    """Durably write a temporary file in the directory of a path, with mode 0600, or with the owner and mode of an existing file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
