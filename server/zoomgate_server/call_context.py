"""Facts about the call that is being served: who calls, for whom, under which id, until when.

The authentication interceptor learns them, everything below receives them as a `Call`.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from zoomgate_server.secret import Secret


class Role(StrEnum):
    """What a caller is."""

    SERVICE = "service"
    MEMBER = "member"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class UserPatterns:
    """Which users a caller may act for.

    Attributes:
        everyone: True for `*`.
        addresses: Exact addresses in canonical form.
        domains: Domains of `*@domain` patterns, without the `@`.
    """

    everyone: bool = False
    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    def matches(self, user_email: str) -> bool:
        """Tell whether a canonical address is covered."""
        return self.everyone or user_email in self.addresses or user_email.rpartition("@")[2] in self.domains


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who presented a credential.

    Attributes:
        name: The name in logs, metrics and audit.
        roles: What it may do in general; more than one only for the `dev` caller.
        users: Whom a service may act for; ignored for members and administrators.
        methods: Full names such as `AuthService.GetToken` that the caller is limited to, or None for all that its roles allow.
        email: A member's own address in canonical form.
        issuer: Who vouches for the caller: `key` for static keys.
        subject: The caller's identifier at the issuer; never re-assigned.
        access_tokens: Whether it may see access tokens.
        refresh_tokens: Whether it may see refresh tokens.
        proxy_paths: Patterns of the paths that it may use through the proxy.
        on_behalf_of: The member whose credential a service forwards; both policies then bind the call.
    """

    name: str
    roles: frozenset[Role]
    users: UserPatterns = field(default_factory=UserPatterns)
    methods: frozenset[str] | None = None
    email: str | None = None
    issuer: str = "key"
    subject: str = ""
    access_tokens: bool = False
    refresh_tokens: bool = False
    proxy_paths: tuple[str, ...] = ()
    on_behalf_of: "Principal | None" = None

    @property
    def role_names(self) -> str:
        """Its roles in one word: `service`, `member`, `admin`, or several of them with `+` in between."""
        return _role_names(self.roles)

    @property
    def identity(self) -> str:
        """`issuer|subject`, with the member's behind it where there is one: what a consent is bound to."""
        own = f"{self.issuer}|{self.subject}"
        return own if self.on_behalf_of is None else f"{own}>{self.on_behalf_of.identity}"

    def oversees(self, user_email: str) -> bool:
        """Tell whether it is shown the connection of a user among others: administrators are shown everybody's."""
        return (Role.ADMIN in self.roles and self.on_behalf_of is None) or self.users.matches(user_email)

    @property
    def member(self) -> "Principal | None":
        """The member behind the call: the one on whose behalf a service calls, or the caller itself."""
        if self.on_behalf_of is not None:
            return self.on_behalf_of
        return self if Role.MEMBER in self.roles else None


@lru_cache
def _role_names(roles: frozenset[Role]) -> str:
    return "+".join(sorted(roles))


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

    def about(self, generation: int, access_token: str, refresh_token: str) -> "AuditEvent":
        """Add the tokens that it is about; an empty one is left out."""
        return self._replace(
            generation=generation,
            access_token=Secret(access_token) if access_token else None,
            refresh_token=Secret(refresh_token) if refresh_token else None,
        )


AuditSink = Callable[[AuditEvent], None]
"""Hears of events. It returns when the line is written."""


class Call(NamedTuple):
    """One call while it is served.

    Attributes:
        request_id: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
        principal: Who calls.
        deadline: Reading of the monotonic clock, in seconds, after which nobody waits for the answer.
        user_email: The user that the caller was found to be allowed to act for, or empty where the call names none.
        method: `Service.Method`.
    """

    request_id: str
    principal: Principal
    deadline: float
    user_email: str = ""
    method: str = ""

    def audit_event(
        self,
        action: str,
        outcome: str,
        user_email: str,
        *,
        generation: int = 0,
        access_token: str = "",
        refresh_token: str = "",
        details: Mapping[str, str | int] = _NO_DETAILS,
    ) -> AuditEvent:
        """Describe something that this call did. What is empty is left out."""
        principal = self.principal
        member = principal.on_behalf_of
        return AuditEvent(
            action,
            outcome,
            principal.name,
            member.name if member else "",
            user_email,
            self.request_id,
            principal.role_names,
            self.method,
            generation,
            Secret(access_token) if access_token else None,
            Secret(refresh_token) if refresh_token else None,
            details,
        )


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call of the running task; set once the caller is known and allowed."""

current_permit: ContextVar[Callable[[str], bool]] = ContextVar("current_permit")
"""Decides anew whether the caller of the running stream may be told of a user; raises if it may no longer call at all."""

current_request_id: ContextVar[str] = ContextVar("current_request_id")
"""The id of the running call; set before anything else."""

current_metadata: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("current_metadata", default=())
"""The metadata of the running call; reading it from gRPC anew costs more than most of what is done with it."""

current_refusal: ContextVar[str] = ContextVar("current_refusal")
"""The reason that the running call is answered with, if it failed."""
