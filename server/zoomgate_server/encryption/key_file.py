"""The key ring file, in JSON format and readable by its owner only; if the owner is root, also by its group.

`{"keys": [{"id": "5e884898", "secret": "<32 bytes, base64>", "state": "primary"}, …]}`, oldest first; `state` is `primary` or `decrypt`.
The file is changed under a lock and by a rename, so readers never read a partial file, and concurrent changes are not lost.
"""

import contextlib
import os
import secrets
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from zoomgate_server import file_system, private_file
from zoomgate_server.encryption.cipher import KEY_BYTES, KEY_ID_BYTES, Key, KeyRing, KeyRingError

_MAX_BYTES = 64 * 1024
_Rows = list[dict[str, Any]]


class KeyFileError(Exception):
    """The key file cannot be used. The message is one sentence for the operator and contains no key material."""


class KeyFileExistsError(KeyFileError):
    """The key file already exists."""


class KeyFileChangedError(KeyFileError):
    """Another process changed the key file after this process read it and before this process wrote it."""


def load(path: Path) -> KeyRing:
    """Read a key ring.

    Raises:
        KeyFileError: The file is missing, readable by other users, or not a key ring.
    """
    return _ring(path, _rows(path))


def create(path: Path) -> str:
    """Create a key ring file with one new key, durably and with mode 0600, and return the key's ID.

    Raises:
        KeyFileExistsError: The file already exists. The file is unchanged.
        KeyFileError: The file cannot be written. No file is left behind.
    """
    row = _new_row("primary", ())
    try:
        private_file.create(path, _content([row]))
    except FileExistsError:
        raise KeyFileExistsError(
            f"The key file {path} already exists and is never overwritten; specify a different file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be written ({error.strerror}); check its directory and the permissions"
        ) from None
    return str(row["id"])


def next_key(ring: KeyRing) -> str | None:
    """Return the ID of the newest key, or None if the newest key is the primary key."""
    newest = ring.keys[-1]
    return None if newest.primary else newest.key_id


def add(path: Path, expected: KeyRing) -> str:
    """Append a new key that only decrypts to the key ring that the caller expects, and return its ID.

    Raises:
        KeyFileChangedError: The file no longer contains the expected ring. The file is unchanged.
        KeyFileError: The file cannot be used or written. The file is unchanged.
    """
    created = _new_row("decrypt", [key.key_id for key in expected.keys])
    _change(path, expected, lambda rows: [*rows, created])
    return str(created["id"])


def promote(path: Path, expected: KeyRing, key_id: str) -> None:
    """Make a key the primary key. From then on, the previous primary key only decrypts.

    Raises:
        KeyFileError: See `add`.
    """

    def change(rows: _Rows) -> _Rows:
        return [{**row, "state": "primary" if row["id"] == key_id else "decrypt"} for row in rows]

    _change(path, expected, change)


def remove(path: Path, expected: KeyRing, key_id: str) -> None:
    """Remove a key. Records encrypted with that key can no longer be decrypted.

    Raises:
        KeyFileError: The key is the primary key. For other causes, see `add`.
    """
    _change(path, expected, lambda rows: [row for row in rows if row["id"] != key_id])


def _change(path: Path, expected: KeyRing, change: Callable[[_Rows], _Rows]) -> None:
    with _locked(path):
        rows = _rows(path)
        if _ring(path, rows).keys != expected.keys:
            raise KeyFileChangedError(
                f"The key file {path} was just changed by another process; check it with `zoomgate keys list`, and run this again"
            )
        after = change(rows)
        _ring(path, after)
        try:
            private_file.replace(path, _content(after))
        except OSError as error:
            raise KeyFileError(
                f"The key file {path} cannot be written ({error.strerror}); run this command as the file's"
                " owner, on the machine where the file is stored"
            ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude concurrent changes. The directory is locked instead of the file, since each change replaces the file."""
    import fcntl  # noqa: PLC0415 - the service also runs on systems without fcntl

    try:
        directory = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(
            f"The directory of the key file {path} cannot be opened ({error.strerror}); check its owner and permissions"
        ) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _rows(path: Path) -> _Rows:
    try:
        status = path.stat()
        content = file_system.read_regular(path)
    except FileNotFoundError:
        raise KeyFileError(
            f"The key file {path} does not exist; restore it, or create one with `zoomgate keys new` if the store is empty:"
            " a new key cannot decrypt the records of a store in use"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be read ({error.strerror}); check its owner and permissions"
        ) from None
    # secrets that Kubernetes and systemd mount belong to root, and to a group or an access control list of the service
    if stat.S_IMODE(status.st_mode) & (0o037 if status.st_uid == 0 else 0o077):
        raise KeyFileError(f"The key file {path} is accessible to other users; run chmod 600 on that file")
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError
        return list(orjson.loads(content)["keys"])
    except (ValueError, KeyError, TypeError):
        raise _not_a_ring(path) from None


def _ring(path: Path, rows: _Rows) -> KeyRing:
    try:
        keys = [
            Key(
                key_id=str(row["id"]),
                secret=b64decode(row["secret"], validate=True),
                primary={"primary": True, "decrypt": False}[row["state"]],
            )
            for row in rows
        ]
        return KeyRing(keys)
    except KeyRingError as error:
        raise KeyFileError(f"The key file {path} cannot be used: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_a_ring(path) from None


def _not_a_ring(path: Path) -> KeyFileError:
    return KeyFileError(f"The key file {path} is not a key ring; restore it from your backup")


def _new_row(state: str, existing_ids: Sequence[str]) -> dict[str, Any]:
    key_id = secrets.token_hex(KEY_ID_BYTES)
    while key_id in existing_ids:
        key_id = secrets.token_hex(KEY_ID_BYTES)
    return {"id": key_id, "secret": b64encode(secrets.token_bytes(KEY_BYTES)).decode(), "state": state}


def _content(rows: _Rows) -> bytes:
    return orjson.dumps({"keys": rows}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
