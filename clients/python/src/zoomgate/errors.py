"""What a failed call raises.

Every failure is a `ZoomgateError`; its class says what the caller can do about it, its fields say the rest. All of them are
`grpc.RpcError`s with `code()` and `details()`, so that code which is written for gRPC keeps working.
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


@dataclass(frozen=True)
class FieldViolation:
    """A field that the service refused.

    Attributes:
        field: Path of the field in the request, such as `meeting_details.topic`.
        description: The rule, and what to send instead.
    """

    field: str
    description: str


class ZoomgateError(grpc.RpcError):
    """A call failed.

    Attributes:
        reason: A name of the contract's `ErrorReason` without its prefix, such as `ZOOM_NOT_CONNECTED`; empty when the status was made
            by gRPC itself: no connection, a missed deadline, an unknown method.
        message: One sentence for people. It holds no secret; parts may be Zoom's own words.
        metadata: What the service added, such as `user_email` or `cause`. See the contract's `ErrorReason`.
        retry_delay: Seconds to wait before the call makes sense again, or None if the service did not say.
        field_violations: Every field that was refused, at once.
        request_id: The id of the call; the service's log line has it too.
        http_status: Zoom's HTTP status, where Zoom answered; else None.
        zoom_code: Zoom's own error code (https://developers.zoom.us/docs/api/errors/), where it gave one; else None.
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
        """Give the gRPC status code."""
        return self._code

    def details(self) -> str:
        """Give the message, under the name that gRPC has for it."""
        return self.message

    @property
    def http_status(self) -> int | None:
        """Zoom's HTTP status, or None."""
        return _number(self.metadata.get("http_status"))

    @property
    def zoom_code(self) -> int | None:
        """Zoom's own error code, or None."""
        return _number(self.metadata.get("zoom_code"))

    def __str__(self) -> str:
        name = f"{self._code.name} / {self.reason}" if self.reason else self._code.name
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{name}: {self.message}{request}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._code, self.message, self._rest())

    def _rest(self) -> dict[str, Any]:
        names = ("reason", "metadata", "retry_delay", "field_violations", "request_id")
        return {name: getattr(self, name) for name in names}


class InvalidRequest(ZoomgateError):
    """The request is wrong, by the service's rules or by Zoom's; `field_violations` says where. Repeating it does not help."""


class Unauthenticated(ZoomgateError):
    """The key is missing, malformed or unknown. Why is in the service's log alone."""


class NotAllowed(ZoomgateError):
    """This caller may not do that, or Zoom does not let the person do it (reason `ZOOM_REFUSED`)."""


class NotFound(ZoomgateError):
    """The meeting, or whatever was asked for at Zoom, does not exist."""


class ConsentRequired(ZoomgateError):
    """The person has to consent: begin an authorization and send them its link."""


class NotConnected(ConsentRequired):
    """The person never connected, or was disconnected."""


class ReauthRequired(ConsentRequired):
    """Zoom no longer accepts the person's authorization; `metadata["cause"]` says why."""


class ScopeMissing(ConsentRequired):
    """The consent does not cover this call; `metadata["scopes"]` names what is missing, separated by spaces."""


class RateLimited(ZoomgateError):
    """A limit of Zoom's or of the service's own is reached: wait `retry_delay` seconds. Nothing was done."""


class ServiceUnavailable(ZoomgateError):
    """The service, its store or Zoom cannot be reached just now, and nothing was done. Calls that are safe to repeat were repeated."""


class ResumeTokenExpired(ZoomgateError):
    """The resume token of a watch is too old: watch again without one, and take whoever is not in the snapshot for disconnected."""


class DeadlineExceeded(ZoomgateError):
    """The time for the call was over. A write may have taken effect, unless the reason is `DEADLINE_TOO_SHORT`."""


class OutcomeUnknown(ZoomgateError):
    """A write was sent to Zoom and its answer was lost: look whether it took effect before you repeat it."""


_BY_REASON: Mapping[str, type[ZoomgateError]] = {
    "ZOOM_NOT_CONNECTED": NotConnected,
    "ZOOM_REAUTH_REQUIRED": ReauthRequired,
    "ZOOM_SCOPE_MISSING": ScopeMissing,
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


def from_rpc_error(error: Any, request_id: str = "") -> ZoomgateError:
    """Make our error of gRPC's.

    Args:
        error: A `grpc.RpcError` that is a call, or a `grpc.aio.AioRpcError`.
        request_id: The id that was sent; used if the answer has none.
    """
    code: grpc.StatusCode = error.code()
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    delay = None
    for detail in _status(trailers.get(_DETAILS)).details:
        if _unpack(detail, retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        for known in (info, bad):
            _unpack(detail, known)
    reason = info.reason if info.domain == _DOMAIN else ""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ZoomgateError)
    return kind(
        code,
        error.details() or "",
        reason=reason,
        metadata=dict(info.metadata),
        retry_delay=delay,
        field_violations=tuple(FieldViolation(row.field, row.description) for row in bad.field_violations),
        request_id=trailers.get(_REQUEST_ID, request_id),
    )


def _status(details: bytes | None) -> status_pb2.Status:
    if details is None:
        return status_pb2.Status()
    try:
        return status_pb2.Status.FromString(details)
    except Exception:  # noqa: BLE001 - something in between made it; the code and the message still stand
        return status_pb2.Status()


def _unpack(detail: Any, message: Message) -> bool:
    """Read a detail into a message of its kind; False if it is of another kind, or broken."""
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        message.Clear()
        return False


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.removeprefix("-").isdigit() else None


def _restore(
    kind: type[ZoomgateError], code: grpc.StatusCode, message: str, rest: dict[str, Any]
) -> ZoomgateError:
    return kind(code, message, **rest)
