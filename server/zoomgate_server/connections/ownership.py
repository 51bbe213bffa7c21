"""The check that a caller owns a connection."""

from zoomgate_server.call_context import Call
from zoomgate_server.errors import CallerNotAllowed
from zoomgate_server.identity import Role


def check_owner(call: Call, owner: str | None) -> None:
    """Reject a member whose identity is not the connection's owner, such as a new member with a reassigned email address.

    A connection that was initiated by a service has no owner. A member with a static key may use a connection without an owner, because the
    operator who created the key vouches for the email address.

    Raises:
        CallerNotAllowed: The connection belongs to a different member.
    """
    member = call.principal.member
    if member is None or Role.MEMBER not in member.roles or owner == member.identity:
        return
    if owner is None and member.issuer == "key":
        return
    text = "This caller may not act for this user"
    raise CallerNotAllowed(text, internal="the connection belongs to a different member")
