"""Facts about the call that is being served: who calls, for whom, under which id, until when.

The authentication interceptor learns them, everything below receives them as a `Call`.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import NamedTuple

from zoomgate_server.identity import Principal


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


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call of the running task; set once the caller is known and allowed."""

current_permit: ContextVar[Callable[[str], bool]] = ContextVar("current_permit")
"""Decides anew whether the caller of the running stream may be told of a user; raises if it may no longer call at all."""

current_request_id: ContextVar[str] = ContextVar("current_request_id")
"""The id of the running call; set before anything else."""

current_metadata: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("current_metadata", default=())
"""The metadata of the running call; reading it from gRPC anew costs more than most of what is done with it."""

current_rejection: ContextVar[str] = ContextVar("current_refusal")
"""The reason that the running call is answered with, if it failed."""
