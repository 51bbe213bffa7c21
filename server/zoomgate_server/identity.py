"""Callers: their roles, and the users, methods and paths that they may use."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache


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
