"""The key ring as a file: JSON, readable by its owner alone.

`{"keys": [{"id": "5e884898", "secret": "<32 bytes, base64>", "state": "primary"}, …]}`, oldest first; state is `primary` or `decrypt`. The
file is changed under a lock and by a rename, so it is whole at every moment and two who change it lose nothing.
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
    """The key file cannot be used. The text is one sentence for the operator, without key material."""


class KeyFileExistsError(KeyFileError):
    """There is a key file already."""


class KeyFileChangedError(KeyFileError):
    """Somebody else changed the ring between reading and writing."""


def load(path: Path) -> KeyRing:
    """Read a key ring.

    Raises:
        KeyFileError: The file is missing, readable by others, or not a key ring.
    """
    return _ring(path, _rows(path))


def create(path: Path) -> str:
    """Write a ring of one new key, mode 0600, durably, and give the key's id.

    Raises:
        KeyFileExistsError: There is one already; it was left as it is.
        KeyFileError: It cannot be written; nothing was left behind.
    """
    row = _new_row("primary", ())
    try:
        private_file.create(path, _content([row]))
    except FileExistsError:
        raise KeyFileExistsError(f"The key file {path} exists already: it is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be written ({error.strerror})") from None
    return str(row["id"])


def next_key(ring: KeyRing) -> str | None:
    """Give the id of the newest key that is newer than the primary, or None if the primary is the newest."""
    newest = ring.keys[-1]
    return None if newest.primary else newest.key_id


def add(path: Path, expected: KeyRing) -> str:
    """Append a new key that only opens, and give its id.

    Args:
        path: The file.
        expected: The ring that the decision was made on.

    Raises:
        KeyFileChangedError: The file holds another ring by now; it was left as it is.
        KeyFileError: The file cannot be used or written; it was left as it was.
    """
    made = _new_row("decrypt", [key.key_id for key in expected.keys])
    _change(path, expected, lambda rows: [*rows, made])
    return str(made["id"])


def promote(path: Path, expected: KeyRing, key_id: str) -> None:
    """Make a key of the ring the one that seals; the one before opens from then on. Raises as `add`."""
    _change(
        path,
        expected,
        lambda rows: [{**row, "state": "primary" if row["id"] == key_id else "decrypt"} for row in rows],
    )


def remove(path: Path, expected: KeyRing, key_id: str) -> None:
    """Take a key out of the ring. What it sealed opens no more. Raises as `add`, and `KeyFileError` for the primary."""
    _change(path, expected, lambda rows: [row for row in rows if row["id"] != key_id])


def _change(path: Path, expected: KeyRing, change: Callable[[_Rows], _Rows]) -> None:
    with _locked(path):
        rows = _rows(path)
        if _ring(path, rows).keys != expected.keys:
            raise KeyFileChangedError(
                f"The key file {path} was changed by somebody else just now: look at it with `zoomgate keys list`, and run this again"
            )
        after = change(rows)
        _ring(path, after)
        try:
            private_file.replace(path, _content(after))
        except OSError as error:
            raise KeyFileError(
                f"The key file {path} cannot be written ({error.strerror}): run this as its owner, on the machine where it is kept"
            ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others from changing the file. The lock is the folder's: the file itself is another one after each change."""
    import fcntl  # noqa: PLC0415 - the service itself runs where there is none

    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"The folder of the key file {path} cannot be opened ({error.strerror})") from None
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
        return list(orjson.loads(content)["keys"])
    except (ValueError, KeyError, TypeError):
        raise _no_ring(path) from None


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
        raise _no_ring(path) from None


def _no_ring(path: Path) -> KeyFileError:
    return KeyFileError(f"The key file {path} is no key ring: restore it from your backup")


def _new_row(state: str, taken: Sequence[str]) -> dict[str, Any]:
    key_id = secrets.token_hex(KEY_ID_BYTES)
    while key_id in taken:
        key_id = secrets.token_hex(KEY_ID_BYTES)
    return {"id": key_id, "secret": b64encode(secrets.token_bytes(KEY_BYTES)).decode(), "state": state}


def _content(rows: _Rows) -> bytes:
    return orjson.dumps({"keys": rows}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
