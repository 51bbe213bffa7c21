"""The audit trail of commands that change keys, callers or the store."""

import contextlib
import os
import pwd

from zoomgate_server.audit.event import Actor, AuditEvent
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.cli.output import fail
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.clock import SystemClock
from zoomgate_server.errors import AuditUnavailable
from zoomgate_server.settings import Settings
from zoomgate_server.telemetry.logs import plain


class AuditLog(contextlib.AbstractContextManager["AuditLog"]):
    """The configured audit trail, opened before a command makes changes.

    If the trail cannot be opened, the command exits without any change.

    If the directory of the audit file does not exist, no service has run on the local machine. In this case, a command that does not access
    a store writes nothing. A command that accesses a store always writes a line on the local machine, even if the store is shared.

    Args:
        loaded: None for a command that works without settings.
        store: Whether the command accesses an existing store.
    """

    def __init__(self, loaded: Settings | None, *, store: bool = False) -> None:
        self._path = None if loaded is None else loaded.audit
        self._trail: AuditTrail | None = None
        if loaded is None or (self._path is not None and not self._path.parent.is_dir() and not store):
            return
        if self._path is not None:
            run_as_owner(self._path)
        try:
            if self._path is not None and self._path.parent == loaded.data_dir:
                loaded.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._trail = AuditTrail(self._path, key=b"", clock=SystemClock(), on_lost=lambda: None)
        except OSError as error:
            fail(
                f"{loaded.names['audit']}: cannot write to {self._path} ({error.strerror}), so nothing was changed;"
                " run this command as the service's user, or set it to a writable file"
            )

    def __exit__(self, *_: object) -> None:
        if self._trail is not None:
            self._trail.close()

    def record(self, action: str, outcome: str = "ok", **details: str | int) -> None:
        """Write a completed action; exit with an error if the action cannot be written."""
        self.forward(AuditEvent(action, outcome, "", Actor(), details=details))

    def forward(self, event: AuditEvent) -> None:
        """Write an event with the operator as principal; exit with an error if the event cannot be written."""
        if self._trail is None:
            return
        actor = Actor(user_name(os.geteuid()), _sudo_user(), "operator")
        try:
            self._trail.require(event._replace(actor=actor))
        except AuditUnavailable:
            fail(
                f"{event.action} succeeded but could not be written to {self._path};"
                " free some disk space and record it manually"
            )


def user_name(uid: int) -> str:
    """Return the name of a system user, or the uid if the user has no name."""
    try:
        return plain(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return f"uid {uid}"


def _sudo_user() -> str:
    return plain(os.environ.get("SUDO_USER", ""))[:64]
