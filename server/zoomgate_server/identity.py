"""Callers: their roles and the users, methods and paths that they may access."""

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """The role of a caller."""

    SERVICE = "service"
    MEMBER = "member"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class UserPatterns:
    """The users for whom a caller may act.

    Attributes:
        domains: The domains of the `*@domain` patterns, without the `@`.
    """

    everyone: bool = False
    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    def matches(self, user_email: str) -> bool:
        """Return whether an address in canonical form matches."""
        return self.everyone or user_email in self.addresses or user_email.rpartition("@")[2] in self.domains


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: The caller's name in logs, metrics and the audit trail.
        roles: The caller's roles. Only the `dev` caller has more than one.
        users: The users for whom a service may act. Ignored for members and administrators.
        methods: The only methods that the caller may call, such as `AuthService.GetToken`. If None, all
            methods of its roles.
        issuer: The issuer of the credential: `key` for static keys.
        subject: The caller's identifier at the issuer. Never reassigned to another caller.
        proxy_paths: Patterns of the paths that the caller may use through the proxy.
        on_behalf_of: The member whose credential the service forwards or whose address it names, if any. The policies of both then
            apply.
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
        """The roles as one string: `service`, `member`, `admin`, or several joined with `+`."""
        return "+".join(sorted(self.roles))

    @property
    def identity(self) -> str:
        """`issuer|subject`, followed by `>` and the identity of the member in `on_behalf_of`, if any. Binds authorizations to callers."""
        own = f"{self.issuer}|{self.subject}"
        return own if self.on_behalf_of is None else f"{own}>{self.on_behalf_of.identity}"

    def can_view(self, user_email: str) -> bool:
        """Return whether lists and watches of this caller include a user. Administrators see all users."""
        return (Role.ADMIN in self.roles and self.on_behalf_of is None) or self.users.matches(user_email)

    @property
    def member(self) -> "Principal | None":
        """The member who makes the call: the member on whose behalf the service calls, or the caller if the caller is a member."""
        if self.on_behalf_of is not None:
            return self.on_behalf_of
        return self if Role.MEMBER in self.roles else None
