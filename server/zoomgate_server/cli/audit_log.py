"""The audit trail for commands that change keys, callers or the store."""

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
    """The trail of the settings, opened before a command changes anything: what cannot be told is not done.

    Where the folder of the trail's file does not exist yet, no service has ever run there, and a command that works on no store writes
    nothing. A store may be another machine's as well: who works on it leaves the line here.

    Args:
        loaded: The settings, or None where a command works without any.
        key: Under which fingerprints of tokens are made, for a command that tells of tokens.
        store: Whether the command works on a store, which is there.
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
                f"ZOOMGATE_AUDIT: {self._path} cannot be written ({error.strerror}), so nothing was changed:"
                " run this as the service's user, or name a file that can"
            )

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trail is not None:
            self._trail.close()

    def record(self, action: str, outcome: str = "ok", **details: str | int) -> None:
        """Write what was done; the command ends with a failure if that is not possible any more."""
        self.forward(AuditEvent(action, outcome, "", "", "", "", details=details))

    def forward(self, event: AuditEvent) -> None:
        """Write what was done, by who runs the command; it ends with a failure if that is not possible any more."""
        if not self.try_record(event):
            fail(
                f"{event.action} was done, and {self._path} does not tell so: make room, and note it yourself"
            )

    def try_record(self, event: AuditEvent) -> bool:
        """Write what was done, by who runs the command; False if the line could only go to the log."""
        try:
            if self._trail is not None:
                self._trail.require(
                    event._replace(principal=_user(), on_behalf_of=_behind(), role="operator")
                )
        except AuditUnavailable:
            return False
        return True


def _user() -> str:
    """Give who runs the command, by the name that the system has for it."""
    try:
        return plain(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        return f"uid {os.geteuid()}"


def _behind() -> str:
    """Give who became another user by sudo."""
    return plain(os.environ.get("SUDO_USER", ""))[:64]
