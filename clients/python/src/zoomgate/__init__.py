"""Python client of Zoomgate.

`Client` blocks, `AsyncClient` is awaited; `zoomgate.errors` says what they raise; the generated stubs are in `zoomgate.v1`.
"""

from zoomgate.client import AsyncClient, Client
from zoomgate.errors import (
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
    ZoomgateError,
)

__all__ = [
    "AsyncClient",
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
    "ZoomgateError",
]
