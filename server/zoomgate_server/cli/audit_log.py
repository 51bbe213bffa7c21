"""Audit trail of commands that change keys, callers or the store."""

import os
import pwd
from types import TracebackType

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.cli.output import fail
from zoomgate_server.clock import SystemClock
from zoomgate_server.errors import AuditUnavailable
from zoomgate_server.settings import Settings
from zoomgate_server.telemetry.logs import plain


class AuditLog:
    """The configured audit trail, opened before a command changes anything, so that unauditable changes are not made.

    If the folder of the file does not exist, no service has run on this machine, and a command that does not access a store writes
    nothing. A command that accesses a store always writes its line on this machine, even if the store is shared with other machines.

    Args:
        loaded: The settings; None for a command that works without settings.
        key: The HMAC key of the fingerprints, for commands that record tokens.
        store: Whether the command works on an existing store.
    """

    def __init__(self, loaded: Settings | None, key: bytes = b"", *, store: bool = False) -> None:
        self._path = None if loaded is None else loaded.audit_path
        self._trail: AuditTrail | None = None
        if loaded is None or (self._path is not None and not self._path.parent.is_dir() and not store):
            return
        try:
            if self._path is not None and self._path.parent == loaded.data_dir:
                loaded.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._trail = AuditTrail(self._path, key=key, clock=SystemClock(), on_lost=lambda: None)
        except OSError as error:
            fail(
                f"ZOOMGATE_AUDIT: cannot write to {self._path} ({error.strerror}), so nothing was changed;"
                " run this command as the service's user, or set ZOOMGATE_AUDIT to a writable file"
            )

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trail is not None:
            self._trail.close()

    def record(self, action: str, outcome: str = "ok", **details: str | int) -> None:
        """Write a completed action; exit with an error if that fails."""
        self.forward(AuditEvent(action, outcome, "", "", "", "", details=details))

    def forward(self, event: AuditEvent) -> None:
        """Write an event with the operator as its principal; exit with an error if that fails."""
        if not self.try_record(event):
            fail(
                f"{event.action} succeeded but could not be written to {self._path};"
                " free some disk space and record it manually"
            )

    def try_record(self, event: AuditEvent) -> bool:
        """Write an event with the operator as its principal; return False if it could only be logged."""
        try:
            if self._trail is not None:
                self._trail.require(
                    event._replace(principal=_user(), on_behalf_of=_sudo_user(), role="operator")
                )
        except AuditUnavailable:
            return False
        return True


def _user() -> str:
    """Return the system user that runs the command, or its uid if it has no name."""
    try:
        return plain(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        return f"uid {os.geteuid()}"


def _sudo_user() -> str:
    """Return the user that called sudo, or an empty string."""
    return plain(os.environ.get("SUDO_USER", ""))[:64]
