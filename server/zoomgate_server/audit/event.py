"""Events of the audit trail."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from zoomgate_server.call_context import Call
from zoomgate_server.identity import Principal
from zoomgate_server.secret import Secret

_NO_DETAILS: Mapping[str, str | int] = MappingProxyType({})


class Actor(NamedTuple):
    """The originator of an audited action. Unknown values are empty.

    Attributes:
        principal: The name of the caller; `browser`, `zoom` or `zoomgate` if no caller is involved.
        on_behalf_of: The name of the member on whose behalf the caller acts.
        method: `Service.Method` of the call.
    """

    principal: str = ""
    on_behalf_of: str = ""
    role: str = ""
    method: str = ""
    request_id: str = ""

    @classmethod
    def of(cls, principal: Principal | None, method: str, request_id: str) -> "Actor":
        """Return the caller of a method; `principal` is None if the caller could not be authenticated."""
        if principal is None:
            return cls(method=method, request_id=request_id)
        member = principal.on_behalf_of
        return cls(principal.name, member.name if member else "", principal.role_names, method, request_id)

    @classmethod
    def of_call(cls, call: Call) -> "Actor":
        """Return the caller of a call."""
        return cls.of(call.principal, call.method, call.request_id)


BROWSER, ZOOM, ZOOMGATE = Actor("browser"), Actor("zoom"), Actor("zoomgate")


class AuditEvent(NamedTuple):
    """An event of the audit trail. Only fingerprints of the tokens are written.

    Attributes:
        action: The dotted name, one of `audit.ACTIONS`.
        outcome: `ok`, or the reason for the rejection or failure.
        user_email: The email address of the affected user, or empty.
        generation: The generation of the token pair, or 0.
        details: Additional facts; must not contain secrets.
    """

    action: str
    outcome: str
    user_email: str
    actor: Actor
    generation: int = 0
    access_token: Secret | None = None
    refresh_token: Secret | None = None
    details: Mapping[str, str | int] = _NO_DETAILS

    def with_tokens(self, generation: int, access_token: str, refresh_token: str) -> "AuditEvent":
        """Return a copy with these tokens. Empty tokens are omitted."""
        return AuditEvent(
            self.action,
            self.outcome,
            self.user_email,
            self.actor,
            generation,
            Secret(access_token) if access_token else None,
            Secret(refresh_token) if refresh_token else None,
            self.details,
        )


AuditSink = Callable[[AuditEvent], None]
"""A function that receives an audit event and returns after writing its line."""
