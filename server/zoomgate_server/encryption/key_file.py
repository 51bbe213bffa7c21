"""The key ring file: JSON, readable by its owner only.

`{"keys": [{"id": "5e884898", "secret": "<32 bytes, base64>", "state": "primary"}, …]}`, oldest first; `state` is `primary` or `decrypt`.
The file is changed under a lock and by a rename, so readers never find a partial file, and concurrent changes are not lost.
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

from zoomgate_server import private_file
from zoomgate_server.encryption.cipher import KEY_BYTES, KEY_ID_BYTES, Key, KeyRing, KeyRingError

_MAX_BYTES = 64 * 1024
_Rows = list[dict[str, Any]]


class KeyFileError(Exception):
    """The key file cannot be used. The text is a sentence for the operator and contains no key material."""


class KeyFileExistsError(KeyFileError):
    """A key file exists already."""


class KeyFileChangedError(KeyFileError):
    """Another process changed the key file between reading and writing."""


def load(path: Path) -> KeyRing:
    """Read a key ring.

    Raises:
        KeyFileError: The file is missing, readable by other users, or not a key ring.
    """
    return _ring(path, _rows(path))


def create(path: Path) -> str:
    """Create a key ring file with one new key, durably and with mode 0600, and return the key's ID.

    Raises:
        KeyFileExistsError: The file exists already. It is unchanged.
        KeyFileError: The file cannot be written. No file is left behind.
    """
    row = _new_row("primary", ())
    try:
        private_file.create(path, _content([row]))
    except FileExistsError:
        raise KeyFileExistsError(
            f"The key file {path} exists already and is never overwritten; name another file"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be written ({error.strerror}); check the folder and its mode"
        ) from None
    return str(row["id"])


def next_key(ring: KeyRing) -> str | None:
    """Return the ID of the newest key, or None if that is the primary key."""
    newest = ring.keys[-1]
    return None if newest.primary else newest.key_id


def add(path: Path, expected: KeyRing) -> str:
    """Append a new key that only opens, and return its ID.

    Args:
        expected: The ring on which the decision was based.

    Raises:
        KeyFileChangedError: The file holds another ring by now. It is unchanged.
        KeyFileError: The file cannot be used or written. It is unchanged.
    """
    created = _new_row("decrypt", [key.key_id for key in expected.keys])
    _change(path, expected, lambda rows: [*rows, created])
    return str(created["id"])


def promote(path: Path, expected: KeyRing, key_id: str) -> None:
    """Make a key the primary key. The previous primary key only opens from then on. Raises like `add`."""
    _change(
        path,
        expected,
        lambda rows: [{**row, "state": "primary" if row["id"] == key_id else "decrypt"} for row in rows],
    )


def remove(path: Path, expected: KeyRing, key_id: str) -> None:
    """Remove a key. Records that it sealed can no longer be opened. Raises like `add`, and `KeyFileError` for the primary key."""
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
                f"The key file {path} cannot be written ({error.strerror}); run this as its owner, on the machine where it is stored"
            ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude concurrent changes. The folder is locked, since each change replaces the file."""
    import fcntl  # noqa: PLC0415 - the service also runs on systems without fcntl

    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(
            f"The folder of the key file {path} cannot be opened ({error.strerror}); check its owner and mode"
        ) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _rows(path: Path) -> _Rows:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"The key file {path} does not exist; restore it, or create one with `zoomgate keys new` if the store is empty"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be read ({error.strerror}); check its owner and mode"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"The key file {path} is accessible to other users; run chmod 600 on it")
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
