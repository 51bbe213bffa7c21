"""The key ring as a file: JSON, readable by its owner alone.

`{"keys": [{"id": "5e884898", "secret": "<32 bytes, base64>", "state": "primary"}, …]}`; state is `primary` or `decrypt`.
"""

import secrets
import stat
from base64 import b64decode, b64encode
from pathlib import Path

import orjson

from zoomgate_server import private_file
from zoomgate_server.tokens.cipher import KEY_BYTES, KEY_ID_BYTES, Key, KeyRing, KeyRingError

_MAX_BYTES = 64 * 1024


class KeyFileError(Exception):
    """The key file cannot be used. The text is one sentence for the operator, without key material."""


class KeyFileExistsError(KeyFileError):
    """There is a key file already."""


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
        KeyFileExistsError: There is one already; it was left as it is.
        KeyFileError: It cannot be written; nothing was left behind.
    """
    key_id = secrets.token_hex(KEY_ID_BYTES)
    row = {"id": key_id, "secret": b64encode(secrets.token_bytes(KEY_BYTES)).decode(), "state": "primary"}
    content = orjson.dumps({"keys": [row]}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        private_file.create(path, content)
    except FileExistsError:
        raise KeyFileExistsError(f"The key file {path} exists already: it is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be written ({error.strerror})") from None
    return key_id
