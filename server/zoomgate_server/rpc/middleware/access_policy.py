"""The access policy: one entry per RPC, checked before any data is read."""

from collections.abc import Mapping
from dataclasses import dataclass

from zoomgate_server.errors import CallerNotAllowed
from zoomgate_server.identity import Principal, Role

_S, _M, _A = Role.SERVICE, Role.MEMBER, Role.ADMIN


@dataclass(frozen=True, slots=True)
class Policy:
    """The access policy of an RPC.

    Attributes:
        user_fields: The request fields with the email addresses to check. The caller acts for the users in the first one.
        access_tokens: Whether the caller needs permission to read access tokens.
        refresh_tokens: Whether a service needs permission to read refresh tokens.
        defaults_to_member: Whether an empty `user_email` stands for the address of the calling member.
    """

    roles: frozenset[Role]
    user_fields: tuple[str, ...] = ("user_email",)
    access_tokens: bool = False
    refresh_tokens: bool = False
    defaults_to_member: bool = False


def _policy(
    *roles: Role,
    user_fields: tuple[str, ...] = ("user_email",),
    access_tokens: bool = False,
    refresh_tokens: bool = False,
    defaults_to_member: bool = False,
) -> Policy:
    return Policy(frozenset(roles), user_fields, access_tokens, refresh_tokens, defaults_to_member)


METHOD_POLICY: Mapping[str, Policy] = {
    "/zoomgate.v1.AuthService/BeginAuthorization": _policy(_S, _M, user_fields=("user_email", "zoom_email")),
    # the state is bound to the caller that started the authorization
    "/zoomgate.v1.AuthService/CompleteAuthorization": _policy(_S, _M, user_fields=()),
    "/zoomgate.v1.AuthService/GetAuthorization": _policy(_S, _M, user_fields=()),
    "/zoomgate.v1.AuthService/CreateToken": _policy(_S, _M, defaults_to_member=True),
    "/zoomgate.v1.AuthService/GetToken": _policy(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/RefreshToken": _policy(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/RequestToken": _policy(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/ImportConnection": _policy(_S, _A, refresh_tokens=True),
    "/zoomgate.v1.AuthService/CheckToken": _policy(_S, _M),
    # reveals only whether two addresses are equal
    "/zoomgate.v1.AuthService/ValidateUser": _policy(_S, _M, user_fields=(), defaults_to_member=True),
    "/zoomgate.v1.AuthService/GetConnection": _policy(_S, _M, _A),
    # services receive only the users that they may act for
    "/zoomgate.v1.AuthService/ListConnections": _policy(_S, _A, user_fields=()),
    "/zoomgate.v1.AuthService/DeleteConnection": _policy(_S, _M, _A),
    # if user_emails is empty, services receive only the users that they may act for
    "/zoomgate.v1.AuthService/WatchConnections": _policy(_S, _A, user_fields=("user_emails",)),
    "/zoomgate.v1.MeetingsService/CreateMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/GetMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/ListMeetings": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/UpdateMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/DeleteMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/RecoverMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/EndMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/GetMeetingInvitation": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/GetPastMeeting": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/ListPastInstances": _policy(_S, _M),
    "/zoomgate.v1.MeetingsService/ListPastParticipants": _policy(_S, _M),
    "/zoomgate.v1.RegistrantsService/AddRegistrant": _policy(_S, _M),
    "/zoomgate.v1.RegistrantsService/ListRegistrants": _policy(_S, _M),
    "/zoomgate.v1.RegistrantsService/GetRegistrant": _policy(_S, _M),
    "/zoomgate.v1.RegistrantsService/UpdateRegistrantStatus": _policy(_S, _M),
    "/zoomgate.v1.RegistrantsService/DeleteRegistrant": _policy(_S, _M),
    "/zoomgate.v1.ProxyService/Get": _policy(_S),
    "/zoomgate.v1.ProxyService/Delete": _policy(_S),
    "/zoomgate.v1.ProxyService/Post": _policy(_S),
    "/zoomgate.v1.ProxyService/Patch": _policy(_S),
    "/zoomgate.v1.ProxyService/Put": _policy(_S),
    "/zoomgate.v1.ProxyService/ListPages": _policy(_S),
    "/zoomgate.v1.ProxyService/Download": _policy(_S),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _policy(_S, _M, _A, user_fields=()),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _policy(_S, _M, _A, user_fields=()),
}
"""The policy of each RPC that requires credentials. An RPC in neither this table nor OPEN_METHODS is rejected."""

UNKNOWN_METHOD = "/zoomgate.v1.Unknown/Unknown"
"""The path that stands for all RPCs that do not exist. They are rejected whatever the credential."""

OPEN_METHODS = frozenset(
    {UNKNOWN_METHOD, *(f"/grpc.health.v1.Health/{method}" for method in ("Check", "Watch", "List"))}
)
"""The RPCs that require no credential."""


def method_name(path: str) -> str:
    """Return `Service.Method` for a path `/package.Service/Method`."""
    service, _, method = path.removeprefix("/").partition("/")
    return f"{service.rpartition('.')[2]}.{method}"


CALLABLE_METHODS = frozenset(method_name(path) for path in METHOD_POLICY if path.startswith("/zoomgate."))
"""The method names that the key `methods` in the callers file may contain."""


def check_method(principal: Principal, path: str) -> Policy:
    """Check that a caller may call a method, and return the method's policy.

    Raises:
        CallerNotAllowed: The caller, or the member on whose behalf it calls, may not call the method.
    """
    policy = METHOD_POLICY.get(path)
    if policy is None:
        raise CallerNotAllowed(internal="the method has no policy")
    name = method_name(path)
    for party in _parties(principal):
        if party.methods is not None and name not in party.methods and path.startswith("/zoomgate."):
            raise CallerNotAllowed(internal=f"methods of {party.name} does not include {name}")
        if not policy.roles & party.roles:
            raise CallerNotAllowed(internal=f"role of {party.name} does not allow {name}")
    if policy.access_tokens and (not principal.access_tokens or principal.on_behalf_of is not None):
        raise _missing("access_tokens", principal)
    if policy.refresh_tokens and not (principal.refresh_tokens or _A in principal.roles):
        raise _missing("refresh_tokens", principal)
    return policy


def check_user(principal: Principal, path: str, user_email: str) -> None:
    """Check that a caller may act for a user with the given canonical address.

    No data is read, so the result does not depend on whether the user exists.
    """
    if may_act_for(principal, path, user_email):
        return
    member = principal.on_behalf_of
    if member is not None and member.email != user_email:
        cause = f"the call is on behalf of {member.email}"
    else:
        key = "users" if _S in principal.roles else "email"
        cause = f"{key} of {principal.name} does not include {user_email}"
    raise CallerNotAllowed(internal=cause)


def may_act_for(principal: Principal, path: str, user_email: str) -> bool:
    """Return whether a caller, and the member on whose behalf it calls, may act for a user."""
    roles = METHOD_POLICY[path].roles
    member = principal.on_behalf_of
    return _role_allows(principal, roles, user_email) and (
        member is None or _role_allows(member, roles, user_email)
    )


def _missing(key: str, principal: Principal) -> CallerNotAllowed:
    """Return the error for a caller without the permission for tokens."""
    if principal.on_behalf_of is not None:
        return CallerNotAllowed(internal="calls with tokens are not possible on behalf of a member")
    return CallerNotAllowed(internal=f"{key} of {principal.name} is not true")


def _role_allows(party: Principal, roles: frozenset[Role], user_email: str) -> bool:
    """Return whether one of the party's roles that may call the method allows the user."""
    roles &= party.roles
    return (
        (_S in roles and party.users.matches(user_email))
        or (_M in roles and party.email == user_email)
        or _A in roles
    )


def _parties(principal: Principal) -> tuple[Principal, ...]:
    """Return the principals whose policies apply to the call: the caller, and the member on whose behalf it calls, if any."""
    return (principal,) if principal.on_behalf_of is None else (principal, principal.on_behalf_of)
