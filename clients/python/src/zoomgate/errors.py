"""Exceptions raised by failed calls.

Every exception is a `ZoomgateError`; the subclass indicates how the caller can react. Every exception is also a `grpc.RpcError` with
`code()` and `details()`, so existing gRPC error handling continues to work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
_REQUEST_ID = "x-request-id"
_DOMAIN = "zoomgate"
_NEVER_CONNECTED = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
    "errors resolving",
)
"""The beginnings of gRPC's messages if the connection was never established, and the call not sent. gRPC reports this only as text."""
_REQUEST_TOO_LARGE = "SERVER: Received message larger than max"
"""The beginning of gRPC's message if the server rejected a request for its size. For a response, it starts with CLIENT."""


@dataclass(frozen=True)
class FieldViolation:
    """An invalid field of a request.

    Attributes:
        field: The path of the field in the request, such as `meeting_details.topic`.
        description: The violated rule and the correction.
    """

    field: str
    description: str


class ZoomgateError(grpc.RpcError):
    """A failed call.

    Attributes:
        reason: The name of an `ErrorReason` without its prefix, such as `ZOOM_NOT_CONNECTED`. Empty if gRPC itself generated the status,
            for example after a connection failure, an exceeded deadline or a call to an unknown method.
        message: A human-readable sentence. Contains no secrets; may quote Zoom.
        metadata: Additional facts, such as `user_email` or `cause`. See `ErrorReason` in the proto files.
        retry_delay: The number of seconds to wait before retrying, or None if the response contains no delay.
        field_violations: All invalid fields of the request.
        request_id: The ID of the call, which also appears in the service's log.
        http_status: Zoom's HTTP status, or None if Zoom sent no response.
        zoom_code: Zoom's error code (https://developers.zoom.us/docs/api/errors/), or None if Zoom returned none.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_delay: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self._code = code
        self.message = message
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_delay = retry_delay
        self.field_violations = field_violations
        self.request_id = request_id

    def code(self) -> grpc.StatusCode:
        """Return the gRPC status code."""
        return self._code

    def details(self) -> str:
        """Return the message, as `grpc.RpcError` does."""
        return self.message

    @property
    def http_status(self) -> int | None:
        """Zoom's HTTP status, or None if Zoom sent no response."""
        return _number(self.metadata.get("http_status"))

    @property
    def zoom_code(self) -> int | None:
        """Zoom's error code, or None if Zoom returned none."""
        return _number(self.metadata.get("zoom_code"))

    def __str__(self) -> str:
        name = f"{self._code.name} / {self.reason}" if self.reason else self._code.name
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{name}: {self.message}{request}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._code, self.message, self._keywords())

    def _keywords(self) -> dict[str, Any]:
        names = ("reason", "metadata", "retry_delay", "field_violations", "request_id")
        return {name: getattr(self, name) for name in names}


class InvalidRequest(ZoomgateError):
    """The service or Zoom rejected the request as invalid; `field_violations` lists the invalid fields. Do not retry without changes."""


class Unauthenticated(ZoomgateError):
    """The key is missing, malformed or unknown. The exact cause appears only in the service's log."""


class NotAllowed(ZoomgateError):
    """The caller may not make this call, or Zoom does not allow the call for the user (reason `ZOOM_REFUSED`)."""


class NotFound(ZoomgateError):
    """The requested meeting or other Zoom resource does not exist."""


class ConsentRequired(ZoomgateError):
    """The user must consent. Start an authorization and send the user its URL."""


class AuthorizationFailed(ConsentRequired):
    """The user declined, a different Zoom user consented, or this Zoom user is already connected under a different email address.

    `wait_for_connection` raises it for every other cause as well. `reason` and `message` give the cause. Start a new authorization once the
    cause is removed.
    """


class NotConnected(ConsentRequired):
    """The user never connected, or was disconnected."""


class ReauthRequired(ConsentRequired):
    """Zoom no longer accepts the user's authorization; `metadata["cause"]` gives the reason."""


class ScopeMissing(ConsentRequired):
    """The user's consent does not cover this call; any one of the scopes in `metadata["scopes"]`, separated by spaces, suffices."""


class RateLimited(ZoomgateError):
    """A limit of Zoom or of the service is reached. The call had no effect; retry after `retry_delay` seconds."""


class UnexpectedStatus(ZoomgateError):
    """Zoom responded to `Client.pages` with an HTTP status other than 2xx, or to `Client.download` with one other than 200 or 206.

    `http_status` is the status. `zoom_code` and `metadata["zoom_message"]` are set if the response contains them.
    """


class ServiceUnavailable(ZoomgateError):
    """The service, its store or Zoom is temporarily unavailable, and the call had no effect, or is safe to retry.

    Calls that are safe to retry have already been retried. If `metadata["connection"]` is `pending`, do not send the code or refresh token
    again: the connection is created automatically later.
    """


class ResumeTokenExpired(ZoomgateError):
    """The resume token of a watch is too old.

    Start a new watch without a token, and treat users that are missing from its snapshot as disconnected.
    """


class DeadlineExceeded(ZoomgateError):
    """The deadline was exceeded. The call had no effect (reason `DEADLINE_TOO_SHORT`), or is safe to retry."""


class OutcomeUnknown(ZoomgateError):
    """A write may have taken effect. Before retrying, check whether it did.

    Zoom's response to the service was lost or the service shut down during the call (reason `ZOOM_OUTCOME_UNKNOWN`), the response exceeds
    the size limit of the service (reason `ZOOM_RESPONSE_TOO_LARGE`; Zoom has processed the write), or the service's response to this client
    was lost: a connection failure, an exceeded deadline or an error of an intermediary, without a reason, on an RPC that is not safe to
    retry.
    """


_BY_REASON: Mapping[str, type[ZoomgateError]] = {
    "ZOOM_NOT_CONNECTED": NotConnected,
    "ZOOM_REAUTH_REQUIRED": ReauthRequired,
    "ZOOM_SCOPE_MISSING": ScopeMissing,
    "AUTHORIZATION_DECLINED": AuthorizationFailed,
    "IDENTITY_MISMATCH": AuthorizationFailed,
    "ZOOM_USER_ALREADY_CONNECTED": AuthorizationFailed,
    "ZOOM_RATE_LIMITED": RateLimited,
    "SERVER_OVERLOADED": RateLimited,
    "ZOOM_OUTCOME_UNKNOWN": OutcomeUnknown,
    "RESUME_TOKEN_EXPIRED": ResumeTokenExpired,
}
_BY_CODE: Mapping[grpc.StatusCode, type[ZoomgateError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_rpc_error(error: Any, request_id: str = "", *, retry_safe: bool = False) -> ZoomgateError:
    """Convert a gRPC error to the matching `ZoomgateError`.

    Args:
        error: A `grpc.RpcError` that is also a `grpc.Call`, or a `grpc.aio.AioRpcError`.
        request_id: The request ID that was sent. Used if the trailing metadata contains no request ID.
        retry_safe: Whether the proto file declares the RPC free of side effects or idempotent.
    """
    code: grpc.StatusCode = error.code()
    # pairs, since grpc.aio before 1.80 returns metadata whose keys() contains pairs too
    trailers: dict[str, Any] = dict(tuple(error.trailing_metadata() or ()))
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    delay = None
    for detail in _status(trailers.get(_DETAILS)).details:
        if _unpack(detail, retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        for known in (info, bad_request):
            _unpack(detail, known)
    reason = info.reason if info.domain == _DOMAIN else ""
    message = error.details() or ""
    never_ran = code is grpc.StatusCode.UNIMPLEMENTED or (
        message.startswith(_NEVER_CONNECTED if code is grpc.StatusCode.UNAVAILABLE else _REQUEST_TOO_LARGE)
    )
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ZoomgateError)
    if not retry_safe and (reason == "ZOOM_RESPONSE_TOO_LARGE" or (not reason and not never_ran)):
        kind = OutcomeUnknown
    return kind(
        code,
        message,
        reason=reason,
        metadata=dict(info.metadata),
        retry_delay=delay,
        field_violations=tuple(
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        ),
        request_id=trailers.get(_REQUEST_ID, request_id),
    )


def _status(details: bytes | None) -> status_pb2.Status:
    if details is None:
        return status_pb2.Status()
    try:
        return status_pb2.Status.FromString(details)
    except Exception:  # noqa: BLE001 - malformed details, for example from a proxy; code and message are still valid
        return status_pb2.Status()


def _unpack(detail: Any, message: Message) -> bool:
    """Parse a detail into `message`, and return whether parsing succeeded. Return False for other types and malformed details."""
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        message.Clear()
        return False


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.removeprefix("-").isdigit() else None


def _restore(
    kind: type[ZoomgateError], code: grpc.StatusCode, message: str, keywords: dict[str, Any]
) -> ZoomgateError:
    return kind(code, message, **keywords)
