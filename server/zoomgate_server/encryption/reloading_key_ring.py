"""A key ring that follows its file, so that keys are rotated without a restart."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from zoomgate_server.clock import Clock
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.errors import KeyUnavailable
from zoomgate_server.telemetry import logs

POLL_INTERVAL = 2.0
"""The longest that a ring in use seals with a key of yesterday: so often, at most, it looks at its file."""

_log = logs.get("zoomgate.keys")


class ReloadingKeyRing:
    """Seals and opens as `KeyRing`, with the keys that its file holds now. Safe to use from any thread.

    It looks at the file when it is used and the last look was a while ago, and before it says that it lacks a key. A file that holds no
    ring, another secret under an id that is known, or no key of the ring before leaves that in place and a warning in the log.

    Args:
        path: The file.
        ring: What it held when the service started.
        clock: Time.
        on_reload: Called after another ring was taken.
    """

    def __init__(
        self, path: Path, ring: KeyRing, clock: Clock, on_reload: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._ring = ring
        self._clock = clock
        self._on_reload = on_reload
        self._lock = threading.Lock()
        self._seen: object = None
        self._problem = ""
        self._look_again = clock.monotonic()

    @property
    def primary_id(self) -> str:
        """Id of the key that seals, in hex."""
        return self._current().primary_id

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all keys, in hex."""
        return self._current().ids

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Seal bytes; `open` needs the same associated bytes."""
        return self._current().seal(plaintext, associated)

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Open what `seal` made.

        Raises:
            KeyUnavailable: The key that sealed it is not in the ring, nor in the file.
            RecordUnreadable: It is damaged, was sealed for something else, or is no sealed blob.
        """
        ring = self._current()
        try:
            return ring.open(blob, associated)
        except KeyUnavailable:
            self._look()
            if self._ring is ring:
                raise
            return self._ring.open(blob, associated)

    async def follow(self) -> None:
        """Look although nobody needs a key, so that no step of a rotation is missed; runs until cancelled."""
        while True:
            self._current()
            await asyncio.sleep(POLL_INTERVAL)

    def _current(self) -> KeyRing:
        if self._clock.monotonic() >= self._look_again:
            self._look()
        return self._ring

    def _look(self) -> None:
        """Read the file if it changed, or if it could not be used the last time."""
        with self._lock:
            self._look_alone()

    def _look_alone(self) -> None:
        mark, due = self._mark(), self._clock.monotonic() >= self._look_again
        if due:
            self._look_again = self._clock.monotonic() + POLL_INTERVAL
        if mark == self._seen and not (self._problem and due):
            return
        self._seen = mark
        try:
            fresh = key_file.load(self._path)
            self._compare(fresh)
        except key_file.KeyFileError as error:
            if str(error) != self._problem:
                _log.warning("key_ring.reload_failed", problem=str(error), keys=sorted(self._ring.ids))
            self._problem = str(error)
            return
        self._problem = ""
        if fresh.keys == self._ring.keys:
            return
        self._ring = fresh
        _log.info("key_ring.reloaded", primary=fresh.primary_id, keys=sorted(fresh.ids))
        self._on_reload()

    def _compare(self, fresh: KeyRing) -> None:
        known = {key.key_id: key.secret for key in self._ring.keys}
        for key in fresh.keys:
            if known.get(key.key_id, key.secret) != key.secret:
                raise key_file.KeyFileError(
                    f"The key file {self._path} holds another key under the id {key.key_id}: restore it from your backup"
                )
        if not known.keys() & fresh.ids:  # a rotation keeps one from each step to the next
            raise key_file.KeyFileError(
                f"The key file {self._path} holds no key of the ring in use, as if it were another installation's: put the right one"
                " back, or restart if it is the right one"
            )

    def _mark(self) -> object:
        try:
            found = self._path.stat()
        except OSError:
            return "gone"
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid
