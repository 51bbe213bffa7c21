"""Events of the audit trail."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from zoomgate_server.call_context import Call
from zoomgate_server.secret import Secret

_NO_DETAILS: Mapping[str, str | int] = MappingProxyType({})


class AuditEvent(NamedTuple):
    """An event of the audit trail: an action, its outcome, the caller and the affected user.

    Attributes:
        action: The dotted name, one of `audit.ACTIONS`.
        outcome: `ok`, or the reason for the rejection or failure.
        principal: The name of the caller; `browser` or `zoomgate` if no caller is involved.
        on_behalf_of: The name of the member on whose behalf the caller acts, or empty.
        user_email: The email address of the affected user, or empty.
        request_id: The request ID of the call, or empty.
        role: The role of the caller, or empty.
        method: `Service.Method` of the call, or empty.
        generation: The generation (sequence number) of the token pair, or 0.
        access_token: The access token. Only its fingerprint is written.
        refresh_token: The refresh token. Only its fingerprint is written.
        details: Additional facts; must not contain secrets.
    """

    action: str
    outcome: str
    principal: str
    on_behalf_of: str
    user_email: str
    request_id: str
    role: str = ""
    method: str = ""
    generation: int = 0
    access_token: Secret | None = None
    refresh_token: Secret | None = None
    details: Mapping[str, str | int] = _NO_DETAILS

    @classmethod
    def without_call(
        cls,
        action: str,
        outcome: str,
        user_email: str,
        *,
        principal: str = "browser",
        details: Mapping[str, str | int] = _NO_DETAILS,
    ) -> "AuditEvent":
        """Return an event that was not caused by a call."""
        return cls(action, outcome, principal, "", user_email, "", details=details)

    @classmethod
    def for_call(
        cls,
        call: Call,
        action: str,
        outcome: str,
        user_email: str,
        *,
        generation: int = 0,
        access_token: str = "",
        refresh_token: str = "",
        details: Mapping[str, str | int] = _NO_DETAILS,
    ) -> "AuditEvent":
        """Return an event caused by a call. Empty tokens are omitted."""
        principal = call.principal
        member = principal.on_behalf_of
        return cls(
            action,
            outcome,
            principal.name,
            member.name if member else "",
            user_email,
            call.request_id,
            principal.role_names,
            call.method,
            generation,
            Secret(access_token) if access_token else None,
            Secret(refresh_token) if refresh_token else None,
            details,
        )

    def with_tokens(self, generation: int, access_token: str, refresh_token: str) -> "AuditEvent":
        """Return a copy with these tokens. Empty tokens are omitted."""
        return self._replace(
            generation=generation,
            access_token=Secret(access_token) if access_token else None,
            refresh_token=Secret(refresh_token) if refresh_token else None,
        )


AuditSink = Callable[[AuditEvent], None]
"""A function that receives an audit event and returns after writing its line."""
