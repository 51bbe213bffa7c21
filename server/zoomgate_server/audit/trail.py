"""The audit trail: one line of JSON for each decision that matters later, written before its answer is sent.

Every line is one `write` to a file that is opened for appending, so that several processes write to the same file and none of them tears
a line of another. A line is in the kernel's hands then: it survives the end of the process, not of the machine.

Tokens never get there. A fingerprint takes their place: an HMAC under a secret of the store, by which a token that was found somewhere can
be looked up, and from which nothing can be learnt without the store and its keys.
"""

import asyncio
import errno
import hmac
import os
import stat
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.clock import Clock
from zoomgate_server.errors import AuditUnavailable
from zoomgate_server.telemetry import logs

FINGERPRINT_SECRET = "audit-fingerprints"
"""Name of the secret of the store under which fingerprints are made."""

FINGERPRINT_DIGITS = 16
REJECTIONS_PER_MINUTE = 30
"""Lines about refusals of one kind and caller in a minute; what is above is counted."""

FILE_CHECK_INTERVAL = 0.1
"""How long lines may go to a file that has lost its name. Each look costs more than a line."""

WINDOW_SECONDS = 60.0
ACTIONS: Mapping[str, str] = {
    "token.returned": "a caller gets an access token, and a refresh token if it may see those",
    "authorization.started": "a caller gets a link with which a person can consent",
    "authorization.rejected": "a consent, or a refresh token that a caller brought, led to nothing: declined, refused by Zoom,"
    " or brought by somebody else than who began",
    "connection.stored": "tokens of a consent or an import are stored, or turned out to be somebody else's",
    "connection.relinked": "tokens of a consent went to the connection of the person who really consented",
    "connection.unlinked": "a connection ended since its Zoom user is connected under another address now",
    "connection.refreshed": "a refresh token was spent, and Zoom gave new tokens",
    "connection.reauth_required": "Zoom does not take the tokens any more: the person has to consent again",
    "connection.disconnected": "a caller ended a connection, or Zoom said that it has ended",
    "connection.expired": "a connection that had needed a consent for too long was ended",
    "connection.pruned": "the record of a connection that had ended was deleted, its time being over",
    "call.rejected": "a call was refused: unknown caller, not allowed, foreign state, forbidden path or header",
    "webhook.rejected": "an event that Zoom is said to have sent was not taken: wrong signature, stale, malformed",
    "keys.created": "a key ring was made",
    "keys.added": "a key was added to the ring, which opens and does not seal yet",
    "keys.promoted": "another key seals from now on",
    "keys.reencrypted": "records were sealed anew",
    "keys.retired": "a key was taken out of the ring",
    "callers.added": "a caller got a key",
    "store.backed_up": "the store was copied",
    "store.restored": "a backup was written into the store",
}
"""Every action there is, and what a line with it tells."""

LIMITED = frozenset({"call.rejected", "authorization.rejected", "webhook.rejected"})
"""Actions that somebody without any right can bring about as often as he likes."""

_log = logs.get("zoomgate.audit")


@lru_cache(maxsize=4096)
def fingerprint(key: bytes, token: str) -> str:
    """Give the fingerprint of a token: 16 hex digits of its HMAC-SHA256.

    The last ones are remembered: the same token is often given many times, and making it anew costs a tenth of the whole call.
    """
    return hmac.digest(key, token.encode("utf-8", "replace"), "sha256").hex()[:FINGERPRINT_DIGITS]


class AuditTrail:
    """Writes events.

    Args:
        path: The file, made with mode 0600 when it is not there; None for lines among those of the log.
        key: Under which fingerprints are made.
        clock: Time, for the limit on refusals and for looks at the file's name.
        on_lost: Called for each line that could not be written.

    Raises:
        OSError: The file cannot be opened for writing, or is none.
    """

    def __init__(self, path: Path | None, *, key: bytes, clock: Clock, on_lost: Callable[[], None]) -> None:
        self._out: _Out = _Log() if path is None else _File(path, clock)
        self._key = key
        self._limit = _Limit(clock)
        self._on_lost = on_lost

    def __call__(self, event: AuditEvent) -> None:
        """Write an event that has happened or is refused in any case; if that fails, its line goes to the log as an error."""
        if event.action in LIMITED:
            for kind, left_out in self._limit.over():
                self._write_or_log(_suppressed_event(kind, left_out))
            if not self._limit.take(event):
                return
        self._write_or_log(event)

    def require(self, event: AuditEvent) -> None:
        """Write an event that must not happen without its line.

        Raises:
            AuditUnavailable: The line could not be written.
        """
        try:
            self._out.write(self._fields(event))
        except OSError as error:
            self._lost(error, event._replace(outcome="AUDIT_UNAVAILABLE"))
            raise AuditUnavailable(
                "The audit trail cannot be written, and no token is handed out without its line: an operator has to look",
                retry_after=5.0,
            ) from None

    async def flush_suppressed(self) -> None:
        """Write once a minute how many refusals have no line of their own; runs until cancelled."""
        while True:
            await asyncio.sleep(WINDOW_SECONDS)
            for kind, left_out in self._limit.over():
                self._write_or_log(_suppressed_event(kind, left_out))

    def close(self) -> None:
        """Write how many refusals have no line of their own, and end."""
        for kind, left_out in self._limit.all():
            self._write_or_log(_suppressed_event(kind, left_out))
        self._out.close()

    def _write_or_log(self, event: AuditEvent) -> None:
        try:
            self._out.write(self._fields(event))
        except OSError as error:
            self._lost(error, event)

    def _lost(self, error: OSError, event: AuditEvent) -> None:
        self._on_lost()
        _log.error(
            "audit.write_failed", problem=error.strerror or type(error).__name__, **self._fields(event)
        )

    def _fields(self, event: AuditEvent) -> dict[str, Any]:
        """Lay a line out. All its values were checked where they came in, but for the details."""
        fields: dict[str, Any] = {
            "time": _now(),
            "action": event.action,
            "outcome": event.outcome,
            "principal": event.principal,
            "role": event.role,
            "on_behalf_of": event.on_behalf_of,
            "user": event.user_email,
            "method": event.method,
            "request_id": event.request_id,
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
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1_000_000:03}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Out(Protocol):
    """Where lines go."""

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            OSError: It is not written, or not whole.
        """
        ...

    def close(self) -> None:
        """End."""
        ...


class _Log:
    """The log of the process, whatever its level is; a line that the log loses is lost."""

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line."""
        logs.write_line({"source": "zoomgate.audit", "event": "audit", "level": "info"} | fields)

    def close(self) -> None:
        """Nothing: the log belongs to the process."""


class _File:
    """A file that others append to as well, and that may be renamed or removed at any moment."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._look_again = 0.0
        self._descriptor = -1
        self._mark = (0, 0)
        self._torn = False
        self._open()

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line to the file that has the name, or had it a moment ago.

        Raises:
            OSError: It is not written, or not whole.
        """
        line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        if self._clock.monotonic() >= self._look_again:
            self._look()
        if self._torn:
            line = b"\n" + line  # the rest of a line must not take this one with it
        if os.write(self._descriptor, line) != len(line):
            self._torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _look(self) -> None:
        try:
            found = self._path.stat()
            moved = (found.st_dev, found.st_ino) != self._mark
        except FileNotFoundError:
            moved = True
        if moved:
            self._open()
        self._look_again = self._clock.monotonic() + FILE_CHECK_INTERVAL

    def _open(self) -> None:
        # a pipe without a reader would keep the whole process waiting
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fresh = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(fresh)
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode)):
                raise OSError(errno.EINVAL, "it is no file")
            self._give_away(fresh, found)
        except OSError:
            os.close(fresh)
            raise
        self.close()
        self._descriptor, self._mark, self._torn = fresh, (found.st_dev, found.st_ino), False

    def _give_away(self, fresh: int, found: os.stat_result) -> None:
        """Let a file that root has just made belong to who has the folder: else the service could not write to it."""
        folder = self._path.parent.stat()
        if os.geteuid() == 0 and found.st_uid == 0 and found.st_size == 0 and folder.st_uid != 0:
            os.fchown(fresh, folder.st_uid, folder.st_gid)


class _Kind(NamedTuple):
    """What refusals that are counted together have in common."""

    action: str
    outcome: str
    principal: str
    on_behalf_of: str
    role: str


class _Limit:
    """Lets so many refusals of a kind through in a minute, and counts the others.

    Callers and members come from a file and outcomes from a list, so there are never many kinds; one is forgotten with its minute.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[_Kind, list[Any]] = {}  # when it began, lines written, lines left out

    def take(self, event: AuditEvent) -> bool:
        """Tell whether an event gets a line."""
        kind = _Kind(event.action, event.outcome, event.principal, event.on_behalf_of, event.role)
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = [self._clock.monotonic(), 0, 0]
        written: bool = window[1] < REJECTIONS_PER_MINUTE
        window[1 if written else 2] += 1
        return written

    def over(self) -> list[tuple[_Kind, int]]:
        """Give what was left out in minutes that are over, once."""
        before = self._clock.monotonic() - WINDOW_SECONDS
        return self._end([kind for kind, window in self._windows.items() if window[0] <= before])

    def all(self) -> list[tuple[_Kind, int]]:
        """Give everything that was left out, once."""
        return self._end(list(self._windows))

    def _end(self, kinds: list[_Kind]) -> list[tuple[_Kind, int]]:
        ended = [(kind, self._windows.pop(kind)[2]) for kind in kinds]
        return [(kind, left_out) for kind, left_out in ended if left_out]


def _suppressed_event(kind: _Kind, count: int) -> AuditEvent:
    return AuditEvent(
        action=kind.action,
        outcome=kind.outcome,
        principal=kind.principal,
        on_behalf_of=kind.on_behalf_of,
        user_email="",
        request_id="",
        role=kind.role,
        details={"suppressed": count},
    )
