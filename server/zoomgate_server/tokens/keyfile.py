"""The key ring as a file: JSON, readable by its owner alone.

`{"keys": [{"id": "5e884898", "secret": "<32 bytes, base64>", "state": "primary"}, …]}`; state is `primary` or `decrypt`.
"""

import os
import secrets
import stat
from base64 import b64decode, b64encode
from pathlib import Path

import orjson

from zoomgate_server.tokens.cipher import KEY_BYTES, KEY_ID_BYTES, Key, KeyRing, KeyRingError

_MAX_BYTES = 64 * 1024


class KeyFileError(Exception):
    """The key file cannot be used. The text is one sentence for the operator, without key material."""


def load(path: Path) -> KeyRing:
    """Read a key ring.

    Raises:
        KeyFileError: The file is missing, readable by others, or not a key ring.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"The key file {path} does not exist: restore it, or make a new one with `zoomgate keys new` if nothing is stored yet"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be read ({error.strerror}): check its owner and mode"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"The key file {path} is open to other users: run chmod 600 on it")
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError
        keys = [
            Key(
                key_id=str(row["id"]),
                secret=b64decode(row["secret"], validate=True),
                primary={"primary": True, "decrypt": False}[row["state"]],
            )
            for row in orjson.loads(content)["keys"]
        ]
        return KeyRing(keys)
    except KeyRingError as error:
        raise KeyFileError(f"The key file {path} cannot be used: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KeyFileError(f"The key file {path} is no key ring: restore it from your backup") from None


def create(path: Path) -> str:
    """Write a ring of one new key, mode 0600, durably, and give the key's id.

    Raises:
        KeyFileError: The file exists already or cannot be written; nothing was changed then.
    """
    key_id = secrets.token_hex(KEY_ID_BYTES)
    row = {"id": key_id, "secret": b64encode(secrets.token_bytes(KEY_BYTES)).decode(), "state": "primary"}
    content = orjson.dumps({"keys": [row]}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"The key file {path} exists already: it is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be made ({error.strerror})") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"The key file {path} cannot be written ({error.strerror})") from None
    return key_id
