"""Callers' keys as they are made and kept on this machine."""

import contextlib
import hashlib
import re
import secrets
import stat
from pathlib import Path

from zoomgate_server import private_file

CALLER_KEY_FILE = "caller.key"
MEMBER_KEY_FILE = "member.key"


def new_key() -> str:
    """Make a key: 32 random bytes, recognisable by its beginning."""
    return f"zgk_{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """Give the SHA-256 of a key, as the callers file has it."""
    return hashlib.sha256(key.encode()).hexdigest()


class CallerKeyError(Exception):
    """A key file cannot be used. The text is one sentence for the person at the keyboard, without the key."""


def read(path: Path) -> str:
    """Give the key in a file.

    Raises:
        CallerKeyError: The file holds no key.
        OSError: It cannot be read.
    """
    key = path.read_bytes().decode("ascii", "replace").strip()
    if not is_key(key):
        raise CallerKeyError(f"{path} holds no key: it must be one line of visible ASCII characters")
    return key


def is_key(text: str) -> bool:
    """Tell whether a text can be sent as a key at all."""
    return re.fullmatch(r"[!-~]{1,4096}", text) is not None


def obtain(path: Path) -> str:
    """Give the key in a file, made with mode 0600 if there is none.

    Raises:
        CallerKeyError: The file holds no key of ours, or others can read it.
        OSError: It can be neither read nor made.
    """
    with contextlib.suppress(FileExistsError):
        private_file.create(path, new_key().encode())
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise CallerKeyError(f"{path} is open to other users: delete it, and the next start makes a new key")
    key = read(path) if path.stat().st_size else ""
    if not re.fullmatch(r"zgk_[A-Za-z0-9_-]{43}", key):  # an empty one is what a crash leaves behind
        raise CallerKeyError(f"{path} holds no key: delete it, and the next start makes a new one")
    return key
