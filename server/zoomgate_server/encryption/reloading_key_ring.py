"""A key ring that reloads its file, so that keys can be rotated without a restart."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoomgate_server import file_system
from zoomgate_server.clock import Clock
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.errors import KeyUnavailable
from zoomgate_server.telemetry import logs

_log = logs.get("zoomgate.keys")


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a reloading key ring, in seconds.

    Attributes:
        poll_interval: Time between two checks of the file. After a rotation, a service encrypts with the previous primary key for at
            most this long.
    """

    poll_interval: float = 2.0


class ReloadingKeyRing:
    """A key ring with the current keys of its file, safe to use from any thread.

    The file is checked on use, at most once per poll interval, and before a key is reported as missing. The previous ring stays in
    use, and a warning is logged, if the file is not a key ring, contains a different secret under a known ID, or shares no key with
    the previous ring.

    Args:
        ring: The content of the file at startup.
        on_reload: Called after a different ring was loaded.
    """

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        clock: Clock,
        on_reload: Callable[[], None] = lambda: None,
        timing: Timing = Timing(),
    ) -> None:
        self._path = path
        self._ring = ring
        self._clock = clock
        self._on_reload = on_reload
        self._timing = timing
        self._lock = threading.Lock()
        self._loaded_version: object = ""  # differs from every version
        self._problem = ""
        self._next_check = clock.monotonic()

    @property
    def primary_id(self) -> str:
        """ID of the primary key, in hex."""
        return self._current().primary_id

    @property
    def ids(self) -> frozenset[str]:
        """IDs of all keys, in hex."""
        return self._current().ids

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt bytes under the primary key. See `Ring.seal`."""
        return self._current().seal(plaintext, associated)

    def open(self, blob: bytes, associated: bytes) -> bytes:
        """Decrypt a blob, with the current keys of the file if its key is not in the ring. See `Ring.open`."""
        ring = self._current()
        try:
            return ring.open(blob, associated)
        except KeyUnavailable:
            self._reload()
            if self._ring is ring:
                raise
            return self._ring.open(blob, associated)

    def reload(self) -> str:
        """Load the file now. Return the reason why it is unusable, or an empty string."""
        self._loaded_version = ""
        self._reload()
        return self._problem

    async def watch_file(self) -> None:
        """Check the file periodically, even if no key is used, so that no step of a rotation is missed. Runs until canceled."""
        while True:
            self._current()
            await asyncio.sleep(self._timing.poll_interval)

    def _current(self) -> KeyRing:
        if self._clock.monotonic() >= self._next_check:
            self._reload()
        return self._ring

    def _reload(self) -> None:
        """Load the file if it has changed, or if the last attempt to load it failed."""
        with self._lock:
            version, due = file_system.version(self._path), self._clock.monotonic() >= self._next_check
            if due:
                self._next_check = self._clock.monotonic() + self._timing.poll_interval
            if version == self._loaded_version and not (self._problem and due):
                return
            self._loaded_version = version
            try:
                loaded = key_file.load(self._path)
                self._check_successor(loaded)
            except key_file.KeyFileError as error:
                if str(error) != self._problem:
                    _log.warning("key_ring.reload_failed", problem=str(error), keys=sorted(self._ring.ids))
                self._problem = str(error)
                return
            self._problem = ""
            if loaded.keys == self._ring.keys:
                return
            self._ring = loaded
            _log.info("key_ring.reloaded", primary=loaded.primary_id, keys=sorted(loaded.ids))
            self._on_reload()

    def _check_successor(self, loaded: KeyRing) -> None:
        """Reject a ring that contains a different secret under a known ID, or shares no key with the ring in use."""
        known = {key.key_id: key.secret for key in self._ring.keys}
        for key in loaded.keys:
            if known.get(key.key_id, key.secret) != key.secret:
                raise key_file.KeyFileError(
                    f"The key file {self._path} contains a different key under the ID {key.key_id}; restore the file from your backup"
                )
        if not known.keys() & loaded.ids:  # consecutive steps of a rotation always share a key
            raise key_file.KeyFileError(
                f"The key file {self._path} contains none of the keys in use and may belong to a different installation; restore the"
                " correct file, or restart the service if this file is correct"
            )
