"""Events of the audit trail."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from zoomgate_server.call_context import Call
from zoomgate_server.secret import Secret

_NO_DETAILS: Mapping[str, str | int] = MappingProxyType({})


class AuditEvent(NamedTuple):
    """One decision that matters later: who did what for whom, and how it ended.

    Attributes:
        action: Dotted name, one of `audit.ACTIONS`.
        outcome: `ok` or the reason of the refusal.
        principal: Name of the caller, or `browser` and `zoomgate` where no caller is involved.
        on_behalf_of: Name of the member, or empty.
        user_email: Whom it is about, or empty.
        request_id: The call's id, or empty.
        role: What the caller is, or empty.
        method: `Service.Method` of the call, or empty.
        generation: Of the tokens that it is about, or 0.
        access_token: The access token that it is about; a fingerprint of it is written.
        refresh_token: The refresh token, likewise.
        details: More facts, free of secrets.
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
    def unattended(
        cls,
        action: str,
        outcome: str,
        user_email: str,
        *,
        principal: str = "browser",
        details: Mapping[str, str | int] = _NO_DETAILS,
    ) -> "AuditEvent":
        """Describe something that no call did."""
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
        """Describe something that a call did. What is empty is left out."""
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
        """Add the tokens that it is about; an empty one is left out."""
        return self._replace(
            generation=generation,
            access_token=Secret(access_token) if access_token else None,
            refresh_token=Secret(refresh_token) if refresh_token else None,
        )


AuditSink = Callable[[AuditEvent], None]
"""Hears of events. It returns when the line is written."""
