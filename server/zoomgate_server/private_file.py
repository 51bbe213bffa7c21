"""Files with secrets: whole or not there, and for their owner alone."""

import os
import secrets
import stat
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Make a file with mode 0600, durably. Whoever reads the path finds nothing or all of it.

    Raises:
        FileExistsError: There is one already; it was left as it is.
        OSError: It cannot be written; nothing was left behind.
    """
    draft = _draft(path, content)
    try:
        os.link(draft, path)  # unlike a rename it fails if somebody was first
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Give a file another content, durably, with the owner and mode that it had. Whoever reads the path finds all of either.

    Raises:
        OSError: It cannot be written, or not for its owner; it was left as it was.
    """
    path = path.resolve()  # a link stays a link
    before = path.stat()
    draft = _draft(path, content)
    try:
        if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(draft, before.st_uid, before.st_gid)
        draft.chmod(stat.S_IMODE(before.st_mode))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _draft(path: Path, content: bytes) -> Path:
    """Write a file of mode 0600 beside a path, durably."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft
