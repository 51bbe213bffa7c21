"""Who may call what: one row per RPC, decided before anything is looked up."""

from collections.abc import Mapping
from dataclasses import dataclass

from zoomgate_server.errors import CallerNotAllowed
from zoomgate_server.identity import Principal, Role

_S, _M, _A = Role.SERVICE, Role.MEMBER, Role.ADMIN


@dataclass(frozen=True, slots=True)
class Policy:
    """A row.

    Attributes:
        roles: Who may call.
        user_field: The request's field that names the user or several, or empty where the call is about nobody or anybody.
        access_tokens: Whether the caller must be one who may see access tokens.
    """

    roles: frozenset[Role]
    user_field: str = "user_email"
    access_tokens: bool = False


def _row(*roles: Role, user_field: str = "user_email", access_tokens: bool = False) -> Policy:
    return Policy(frozenset(roles), user_field, access_tokens)


METHOD_POLICY: Mapping[str, Policy] = {
    "/zoomgate.v1.AuthService/BeginAuthorization": _row(_S, _M),
    "/zoomgate.v1.AuthService/CompleteAuthorization": _row(_S, _M, user_field=""),  # bound to who began it
    "/zoomgate.v1.AuthService/CreateToken": _row(_S, _M),
    "/zoomgate.v1.AuthService/GetToken": _row(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/RefreshToken": _row(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/RequestToken": _row(_S, access_tokens=True),
    "/zoomgate.v1.AuthService/CheckToken": _row(_S, _M),
    "/zoomgate.v1.AuthService/ValidateUser": _row(
        _S, _M, user_field=""
    ),  # tells nothing but whether two addresses are one
    "/zoomgate.v1.AuthService/GetConnection": _row(_S, _M, _A),
    "/zoomgate.v1.AuthService/ListConnections": _row(
        _S, _A, user_field=""
    ),  # services get their users' alone
    "/zoomgate.v1.AuthService/DeleteConnection": _row(_S, _M, _A),
    "/zoomgate.v1.AuthService/WatchConnections": _row(
        _S, _A, user_field="user_emails"
    ),  # without any: services get their users' alone
    "/zoomgate.v1.MeetingsService/CreateMeeting": _row(_S, _M),
    "/zoomgate.v1.MeetingsService/GetMeeting": _row(_S, _M),
    "/zoomgate.v1.MeetingsService/DeleteMeeting": _row(_S, _M),
    "/zoomgate.v1.ProxyService/Get": _row(_S),
    "/zoomgate.v1.ProxyService/Delete": _row(_S),
    "/zoomgate.v1.ProxyService/Post": _row(_S),
    "/zoomgate.v1.ProxyService/Patch": _row(_S),
    "/zoomgate.v1.ProxyService/Put": _row(_S),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _row(_S, _M, _A, user_field=""),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _row(_S, _M, _A, user_field=""),
}
"""Every RPC that needs a credential. One without a row is refused."""

OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
    }
)
"""RPCs that need no credential."""


def method_name(path: str) -> str:
    """Give `Service.Method` of `/package.Service/Method`."""
    service, _, method = path.removeprefix("/").partition("/")
    return f"{service.rpartition('.')[2]}.{method}"


CALLABLE_METHODS = frozenset(method_name(path) for path in METHOD_POLICY if path.startswith("/zoomgate."))
"""What a caller's `methods` may name."""


def check_method(principal: Principal, path: str) -> Policy:
    """Decide whether a caller may call a method at all.

    Raises:
        CallerNotAllowed: It may not, or the member that it forwards may not.
    """
    policy = METHOD_POLICY.get(path)
    name = method_name(path)
    if policy is None:
        raise _refused(name)
    for party in _parties(principal):
        if not policy.roles & party.roles or not (party.methods is None or _granted(party.methods, path)):
            raise _refused(name)
    if policy.access_tokens and (not principal.access_tokens or principal.on_behalf_of is not None):
        raise _refused(name)
    return policy


def check_user(principal: Principal, path: str, user_email: str) -> None:
    """Decide whether a caller may act for a user, given by a canonical address.

    Nothing is looked up, so the answer is the same whether the user exists or not.

    Raises:
        CallerNotAllowed: It may not, or the member that it forwards may not.
    """
    if not may_act_for(principal, path, user_email):
        raise _refused(path)


def may_act_for(principal: Principal, path: str, user_email: str) -> bool:
    """Tell whether a caller, and the member that it forwards, may act for a user."""
    policy = METHOD_POLICY[path]
    for party in _parties(principal):
        usable = policy.roles & party.roles
        if not (
            (_S in usable and party.users.matches(user_email))
            or (_M in usable and party.email == user_email)
            or _A in usable
        ):
            return False
    return True


def _granted(methods: frozenset[str], path: str) -> bool:
    return method_name(path) in methods or not path.startswith("/zoomgate.")


def _parties(principal: Principal) -> tuple[Principal, ...]:
    """Everybody whose policy binds the call: the caller, and the member whose credential it forwards."""
    return (principal,) if principal.on_behalf_of is None else (principal, principal.on_behalf_of)


def _refused(path: str) -> CallerNotAllowed:
    return CallerNotAllowed("This caller may not do this", metadata={"method": method_name(path)})
