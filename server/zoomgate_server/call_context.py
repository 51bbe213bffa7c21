"""The context of the call being served: caller, user, request ID and deadline.

The authentication stage creates the `Call`; the services and the domain receive it.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import NamedTuple

from zoomgate_server.errors import ZoomgateError
from zoomgate_server.identity import Principal

MAX_USERS = 1000
"""Maximum number of users in a request."""


class Call(NamedTuple):
    """A call being served.

    Attributes:
        request_id: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
        deadline: Reading of the monotonic clock by which the work must be finished; infinite for streams without a deadline. The caller's
            deadline is slightly later, so that the response arrives in time.
        user_email: The user for whom the caller is authorized to act, or empty if the call does not name exactly one user.
    """

    request_id: str
    principal: Principal
    deadline: float
    user_email: str = ""
    method: str = ""


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call that the current task serves. Set after the caller is authenticated; `user_email` is set after it is authorized."""

current_access_check: ContextVar[Callable[[str], bool]] = ContextVar("current_access_check")
"""Function that checks the current stream's authorization again. Returns whether the caller may see a user, and raises an error if the
caller may no longer call the method."""

current_request_id: ContextVar[str] = ContextVar("current_request_id")
"""The request ID of the current call. Set before any other processing."""

current_metadata: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("current_metadata", default=())
"""The metadata of the current call, cached because reading metadata from gRPC is expensive."""

current_unknown_outcome: ContextVar[ZoomgateError | None] = ContextVar(
    "current_unknown_outcome", default=None
)
"""The error for the current call if it was canceled and may take effect nevertheless.

It is a context variable because a cancellation cannot carry an error: the stage that canceled the call receives a plain `CancelledError`.
Code that handles the cancellation in the task of the call sets it.
"""

current_rejection: ContextVar[str] = ContextVar("current_rejection")
"""The error reason of the current call, if the call failed."""
