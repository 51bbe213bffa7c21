"""The audit trail: a JSON line for each security-relevant event, written before the response is sent.

Each line is a single `write` to a file opened for appending. Several processes can therefore share the file without interleaving their
lines. A written line survives a crash of the process, but it is not synced to disk and may be lost if the machine crashes.

Tokens are never written. They are represented by fingerprints: an HMAC under a secret kept in the store. A leaked token can be looked up
by its fingerprint, but a fingerprint reveals nothing about a token without the store and the key ring.
"""

import asyncio
import errno
import hmac
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from zoomgate_server.audit.event import Actor, AuditEvent
from zoomgate_server.clock import Clock
from zoomgate_server.errors import AuditUnavailable
from zoomgate_server.telemetry import logs

FINGERPRINT_SECRET = "audit-fingerprints"
"""The name of the stored secret that is the HMAC key for fingerprints."""

FINGERPRINT_DIGITS = 16
REJECTIONS_PER_MINUTE = 30
"""The maximum number of lines per minute for each kind of rejection and each caller. Further rejections are only counted."""

WINDOW_SECONDS = 60.0
ACTIONS: Mapping[str, str] = {
    "token.returned": "an access token was returned to a caller, with the refresh token if the caller may read refresh tokens",
    "authorization.started": "a link with which a user can consent was returned to a caller",
    "authorization.rejected": "a consent, or a refresh token sent by a caller, was rejected: declined by the user, rejected by Zoom,"
    " or completed by a different browser or caller",
    "connection.stored": "the tokens of a consent or an import were stored for the user, unless `outcome` states something else",
    "connection.relinked": "the tokens of a consent were stored as the connection of the user who actually consented",
    "connection.unlinked": "an address was disconnected because its Zoom user was renamed, or because a different Zoom user connected it",
    "connection.refreshed": "a refresh token was exchanged for new tokens",
    "connection.reauth_required": "Zoom no longer accepts the tokens; the user must consent again",
    "connection.disconnected": "a user was disconnected by a caller or by an event from Zoom",
    "connection.expired": "a user was disconnected after needing a new consent for too long",
    "connection.pruned": "the record of a disconnected user was deleted after its retention period",
    "call.rejected": "a call was rejected: unknown caller, missing permission, state of a different caller, or forbidden path or header",
    "webhook.rejected": "a webhook was rejected, for example because of a wrong signature",
    "keys.created": "a key ring was created",
    "keys.added": "a key was added to the key ring; until it is promoted, it is used only for decryption",
    "keys.promoted": "a key became the primary key",
    "keys.reencrypted": "records were re-encrypted under the primary key",
    "keys.retired": "a key was removed from the key ring",
    "callers.added": "a key was issued to a caller",
    "callers.key_added": "a second key was issued to a caller",
    "callers.key_removed": "a key of a caller was removed",
    "callers.removed": "a caller was removed",
    "callers.reloaded": "the callers file was read again",
    "store.backed_up": "the store was backed up",
    "store.restored": "a backup was restored into the store",
    "store.adopted": "the journal of a machine was bound to a different store",
}
"""All actions with their meanings."""

LIMITED = frozenset({"call.rejected", "authorization.rejected", "webhook.rejected"})
"""Actions that unauthenticated clients can cause. Their lines are rate limited."""

_log = logs.get("zoomgate.audit")


@lru_cache(maxsize=4096)
def fingerprint(key: bytes, token: str) -> str:
    """Return the fingerprint of a token: the first 16 hex digits of its HMAC-SHA256.

    Results are cached, because the same token is often returned many times, and computing the HMAC takes a tenth of the time of a call.
    """
    return hmac.digest(key, token.encode("utf-8", "replace"), "sha256").hex()[:FINGERPRINT_DIGITS]


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of an audit trail, in seconds.

    Attributes:
        file_check_interval: Time between two checks whether the file was renamed or removed. Not done for every line, because it takes
            longer than writing one.
    """

    file_check_interval: float = 0.1


class AuditTrail:
    """Writer of audit events.

    Args:
        path: The file, created with mode 0600 if it does not exist; None to write to the log.
        key: The HMAC key of the fingerprints.
        on_lost: Called for each line that cannot be written.

    Raises:
        OSError: The file cannot be opened for writing, or is not a regular file.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        key: bytes,
        clock: Clock,
        on_lost: Callable[[], None],
        timing: Timing = Timing(),
    ) -> None:
        self._output = _Log() if path is None else _File(path, clock, timing)
        self._key = key
        self._limit = _Limit(clock)
        self._on_lost = on_lost

    def __call__(self, event: AuditEvent) -> None:
        """Write an event, or log its line as an error if the trail cannot be written."""
        if event.action in LIMITED:
            self._write_suppressed(older_than=WINDOW_SECONDS)
            if not self._limit.allows(event):
                return
        self._write_or_log(event)

    def require(self, event: AuditEvent) -> None:
        """Write an event whose action must not be performed unless the line is written.

        Raises:
            AuditUnavailable: The line could not be written.
        """
        try:
            self._output.write(self._fields(event))
        except OSError as error:
            self._lost(error, event._replace(outcome="AUDIT_UNAVAILABLE"))
            raise AuditUnavailable(
                "The audit trail cannot be written, so no token is returned; fix the problem reported in the server log",
                retry_after=5.0,
            ) from None

    async def flush_suppressed(self) -> None:
        """Write the number of suppressed rejections once per minute, until canceled."""
        while True:
            await asyncio.sleep(WINDOW_SECONDS)
            self._write_suppressed(older_than=WINDOW_SECONDS)

    def close(self) -> None:
        """Write the number of suppressed rejections and close the file."""
        self._write_suppressed(older_than=0)
        self._output.close()

    def _write_suppressed(self, *, older_than: float) -> None:
        for event in self._limit.pop(older_than):
            self._write_or_log(event)

    def _write_or_log(self, event: AuditEvent) -> None:
        try:
            self._output.write(self._fields(event))
        except OSError as error:
            self._lost(error, event)

    def _lost(self, error: OSError, event: AuditEvent) -> None:
        self._on_lost()
        _log.error(
            "audit.write_failed", problem=error.strerror or type(error).__name__, **self._fields(event)
        )

    def _fields(self, event: AuditEvent) -> dict[str, Any]:
        """Return the fields of a line. Only the details are escaped, because all other values were validated on input."""
        fields: dict[str, Any] = {
            "time": _now(),
            "action": event.action,
            "outcome": event.outcome,
            "principal": event.actor.principal,
            "role": event.actor.role,
            "on_behalf_of": event.actor.on_behalf_of,
            "user": event.user_email,
            "method": event.actor.method,
            "request_id": event.actor.request_id,
        }
        if event.generation:
            fields["generation"] = event.generation
        if event.access_token is not None:
            fields["access_fingerprint"] = fingerprint(self._key, event.access_token.reveal())
        if event.refresh_token is not None:
            fields["refresh_fingerprint"] = fingerprint(self._key, event.refresh_token.reveal())
        if event.details:
            fields["details"] = {
                name: logs.plain(value)[:500] if isinstance(value, str) else value
                for name, value in event.details.items()
            }
        return fields


def _now() -> str:
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Log:
    """The log of the process. It receives lines regardless of the log level. A line that the log cannot write is lost."""

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line to the log."""
        logs.write_line({"source": "zoomgate.audit", "event": "audit", "level": "info"} | fields)

    def close(self) -> None:
        """Do nothing, because the process continues to use the log."""


class _File:
    """A file shared with other processes. It may be renamed or removed at any time."""

    def __init__(self, path: Path, clock: Clock, timing: Timing) -> None:
        self._path = path
        self._clock = clock
        self._timing = timing
        self._next_check = 0.0
        self._descriptor = -1
        self._identity = (0, 0)
        self._incomplete = False
        self._open()

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line, or raise OSError. A renamed or removed file may still receive lines for `file_check_interval` seconds."""
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        if self._clock.monotonic() >= self._next_check:
            self._reopen_if_moved()
        if self._incomplete:
            line = b"\n" + line  # separates this line from the preceding incomplete line
        if os.write(self._descriptor, line) != len(line):
            self._incomplete = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._incomplete = False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _reopen_if_moved(self) -> None:
        try:
            status = self._path.stat()
            moved = (status.st_dev, status.st_ino) != self._identity
        except FileNotFoundError:
            moved = True
        if moved:
            self._open()
        self._next_check = self._clock.monotonic() + self._timing.file_check_interval

    def _open(self) -> None:
        # without O_NONBLOCK, opening a pipe that has no reader would block the whole process
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode)):
                raise OSError(errno.EINVAL, "not a file")
        except OSError:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor, self._identity, self._incomplete = descriptor, (status.st_dev, status.st_ino), False


@dataclass(slots=True)
class _Window:
    start: float
    count: int = 0


class _Limit:
    """Rate limit for rejections: `REJECTIONS_PER_MINUTE` of each kind are written per minute; further ones are only counted.

    A kind is an action, an outcome and an actor without method and request ID. The number of kinds is bounded, because callers and
    members come from a file and outcomes from a fixed list. The counts of a kind are discarded after a minute.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str, Actor], _Window] = {}

    def allows(self, event: AuditEvent) -> bool:
        """Count an event, and return whether to write a line for the event."""
        kind = (event.action, event.outcome, event.actor._replace(method="", request_id=""))
        window = self._windows.setdefault(kind, _Window(self._clock.monotonic()))
        window.count += 1
        return window.count <= REJECTIONS_PER_MINUTE

    def pop(self, older_than: float) -> list[AuditEvent]:
        """Discard counts older than a number of seconds. Return an event for each kind that has suppressed lines, with their number."""
        before, suppressed = self._clock.monotonic() - older_than, []
        for kind, window in list(self._windows.items()):
            if window.start <= before:
                del self._windows[kind]
                if window.count > REJECTIONS_PER_MINUTE:
                    action, outcome, actor = kind
                    details = {"suppressed": window.count - REJECTIONS_PER_MINUTE}
                    suppressed.append(AuditEvent(action, outcome, "", actor, details=details))
        return suppressed
