"""Creation of caller keys and their files on this machine."""

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
    """Return a new key: the prefix `zgk_`, by which leaked keys can be recognized, and 32 random bytes."""
    return f"zgk_{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """Return the SHA-256 of a key as in the callers file."""
    return hashlib.sha256(key.encode()).hexdigest()


class CallerKeyError(Exception):
    """An unusable key file. The message is one sentence for the user of the command and does not contain the key."""


def read(path: Path) -> str:
    """Return the key in a file.

    Raises:
        CallerKeyError: The file does not contain a valid key.
        OSError: The file cannot be read.
    """
    key = path.read_bytes().decode("ascii", "replace").strip()
    if not is_key(key):
        raise CallerKeyError(f"{path} does not contain a key; a key is one line of visible ASCII characters")
    return key


def is_key(text: str) -> bool:
    """Return whether a text has the form of a key that can be sent."""
    return re.fullmatch(r"[!-~]{1,4096}", text) is not None


def obtain(path: Path) -> str:
    """Return the key in a file; if the file does not exist, create it with a new key and mode 0600.

    Raises:
        CallerKeyError: The file does not contain a key of Zoomgate, or other users can access it.
        OSError: The file can be neither read nor created.
    """
    with contextlib.suppress(FileExistsError):
        private_file.create(path, new_key().encode())
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise CallerKeyError(
            f"{path} is accessible to other users; delete it, and the next start creates a new key"
        )
    key = read(path) if path.stat().st_size else ""
    if not re.fullmatch(r"zgk_[A-Za-z0-9_-]{43}", key):  # a crash can leave an empty file
        raise CallerKeyError(
            f"{path} does not contain a key; delete it, and the next start creates a new one"
        )
    return key
