"""Files with secrets: whole or not there, for their owner alone, never overwritten."""

import os
import secrets
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Make a file with mode 0600, durably. Whoever reads the path finds nothing or all of it.

    Raises:
        FileExistsError: There is one already; it was left as it is.
        OSError: It cannot be written; nothing was left behind.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it fails if somebody was first
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
