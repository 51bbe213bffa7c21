"""Which member a connection belongs to."""

from zoomgate_server.call_context import Call
from zoomgate_server.errors import CallerNotAllowed
from zoomgate_server.identity import Role


def check_owner(call: Call, owner: str | None) -> None:
    """Keep a member off a connection that belongs to somebody who had the same address before.

    A connection that a service began has no owner; a member with a static key may use it, since the operator who made the key
    vouches for its address.
    """
    member = call.principal.member
    if member is None or Role.MEMBER not in member.roles or owner == member.identity:
        return
    if owner is None and member.issuer == "key":
        return
    raise CallerNotAllowed("This caller may not act for this user")
