"""Python client of Zoomgate.

`Client` is the blocking client and `AsyncClient` the asyncio client. `zoomgate.errors` contains the exceptions that they raise, and
`zoomgate.v1` the generated stubs.
"""

from zoomgate.client import AsyncClient, Client
from zoomgate.errors import (
    AuthorizationFailed,
    ConsentRequired,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotAllowed,
    NotConnected,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ReauthRequired,
    ResumeTokenExpired,
    ScopeMissing,
    ServiceUnavailable,
    Unauthenticated,
    UnexpectedStatus,
    ZoomgateError,
)

__all__ = [
    "AsyncClient",
    "AuthorizationFailed",
    "Client",
    "ConsentRequired",
    "DeadlineExceeded",
    "FieldViolation",
    "InvalidRequest",
    "NotAllowed",
    "NotConnected",
    "NotFound",
    "OutcomeUnknown",
    "RateLimited",
    "ReauthRequired",
    "ResumeTokenExpired",
    "ScopeMissing",
    "ServiceUnavailable",
    "Unauthenticated",
    "UnexpectedStatus",
    "ZoomgateError",
]
