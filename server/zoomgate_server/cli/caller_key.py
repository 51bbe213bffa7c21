"""Callers' keys as they are made and kept on this machine."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

CALLER_KEY_FILE = "caller.key"
MEMBER_KEY_FILE = "member.key"


def new_key() -> str:
    """Make a key: 32 random bytes, recognisable by its beginning."""
    return f"zgk_{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """Give the SHA-256 of a key, as the callers file has it."""
    return hashlib.sha256(key.encode()).hexdigest()


def obtain(path: Path) -> str:
    """Give the key in a file, made with mode 0600 if there is none.

    Raises:
        OSError: It can be neither read nor made.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(new_key())
    return path.read_text(encoding="utf-8").strip()
