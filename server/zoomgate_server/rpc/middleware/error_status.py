"""Turns failures into gRPC statuses: the one table from our errors to code, reason and details.

This stage is also where two traps of grpc.aio end. A handler that lets `CancelledError` out although its call was not cancelled would
send no status at all, and the caller would wait for ever; and the text of an unhandled exception would be sent to the caller.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server import errors
from zoomgate_server.call_context import current_rejection, current_request_id
from zoomgate_server.rpc.middleware.pipeline import Context, Method, Respond
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs

DOMAIN = "zoomgate"
MAX_MESSAGE = 1024
MAX_DETAILS = 4096
"""Bytes, the message's as gRPC sends it. Clients take 8 KiB of headers by default, and these two are most of them."""

_MAX_INFO = 1024
_MAX_REPEATED = 512
"""Bytes of the metadata of ErrorInfo, and of a message that a detail repeats."""

_C = grpc.StatusCode
_R = ErrorReason

MAPPING: Mapping[type[errors.ZoomgateError], tuple[grpc.StatusCode, "ErrorReason.ValueType"]] = {
    errors.CallerUnauthenticated: (_C.UNAUTHENTICATED, _R.ERROR_REASON_CALLER_UNAUTHENTICATED),
    errors.CallerNotAllowed: (_C.PERMISSION_DENIED, _R.ERROR_REASON_CALLER_NOT_ALLOWED),
    errors.InvalidRequest: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_FIELD),
    errors.MalformedRequest: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_MALFORMED_REQUEST),
    errors.InvalidState: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_STATE),
    errors.CodeRefused: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_CODE_REFUSED),
    errors.IdentityMismatch: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_IDENTITY_MISMATCH),
    errors.InvalidPath: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_PATH),
    errors.HeaderNotAllowed: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_HEADER_NOT_ALLOWED),
    errors.InvalidPageToken: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_PAGE_TOKEN),
    errors.InvalidResumeToken: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_RESUME_TOKEN),
    errors.ResumeTokenExpired: (_C.OUT_OF_RANGE, _R.ERROR_REASON_RESUME_TOKEN_EXPIRED),
    errors.MeetingNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_MEETING_NOT_FOUND),
    errors.NotConnected: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_NOT_CONNECTED),
    errors.ConnectionNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_ZOOM_NOT_CONNECTED),
    errors.ReauthRequired: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_REAUTH_REQUIRED),
    errors.ScopeMissing: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_SCOPE_MISSING),
    errors.RefreshInProgress: (_C.UNAVAILABLE, _R.ERROR_REASON_REFRESH_IN_PROGRESS),
    errors.StoreUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_STORE_UNAVAILABLE),
    errors.AuditUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_AUDIT_UNAVAILABLE),
    errors.RecordUnreadable: (_C.DATA_LOSS, _R.ERROR_REASON_RECORD_UNREADABLE),
    errors.RecordVersionUnsupported: (_C.INTERNAL, _R.ERROR_REASON_RECORD_VERSION),
    errors.KeyUnavailable: (_C.INTERNAL, _R.ERROR_REASON_KEY_UNAVAILABLE),
    errors.AppCredentialsRejected: (_C.INTERNAL, _R.ERROR_REASON_APP_CREDENTIALS_REJECTED),
    errors.ZoomRateLimited: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_ZOOM_RATE_LIMITED),
    errors.ServerOverloaded: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_SERVER_OVERLOADED),
    errors.ZoomUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_ZOOM_UNAVAILABLE),
    errors.ZoomOutcomeUnknown: (_C.UNKNOWN, _R.ERROR_REASON_ZOOM_OUTCOME_UNKNOWN),
    errors.ZoomBadResponse: (_C.INTERNAL, _R.ERROR_REASON_ZOOM_BAD_RESPONSE),
    errors.ZoomResponseTooLarge: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_ZOOM_RESPONSE_TOO_LARGE),
    errors.ZoomRefusedArguments: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedPermission: (_C.PERMISSION_DENIED, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedConflict: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.DeadlineTooShort: (_C.DEADLINE_EXCEEDED, _R.ERROR_REASON_DEADLINE_TOO_SHORT),
    errors.ShuttingDown: (_C.UNAVAILABLE, _R.ERROR_REASON_SHUTTING_DOWN),
    errors.Unexpected: (_C.INTERNAL, _R.ERROR_REASON_INTERNAL),
}
"""Every error class has exactly one row."""

_log = logs.get("zoomgate.status")


class Status:
    """The stage that answers failures."""

    def wrap(self, method: Method, respond: Respond) -> Respond:
        """Catch everything that a call can raise."""

        async def answer(request: Any, context: Context) -> Any:
            try:
                return await respond(request, context)
            except errors.ZoomgateError as error:
                failure = error
            except grpc.aio.AbortError:
                raise
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the caller left; there is nobody to answer
                failure = errors.ShuttingDown(
                    "The work for this call was given up: call again", retry_after=1.0
                )
                _log.warning("rpc.abandoned", method=method.name, request_id=current_request_id.get(""))
            except StoreError:
                failure = errors.StoreUnavailable(
                    "The token store does not answer: call again in a moment", retry_after=1.0
                )
            except Exception:  # noqa: BLE001 - the last resort; the text goes to the log alone
                _log.exception("rpc.failed", method=method.name, request_id=current_request_id.get(""))
                failure = errors.Unexpected(
                    "Something went wrong inside Zoomgate",
                    metadata={"request_id": current_request_id.get("")},
                )
            if failure.internal:
                _log.info(
                    "rpc.rejected",
                    method=method.name,
                    request_id=current_request_id.get(""),
                    cause=failure.internal,
                )
            status = status_of(failure)
            current_rejection.set(reason_of(failure))
            answered = rpc_status.to_status(status)
            # what an abort is given replaces what the call's trailing metadata had: the request id must not get lost
            trailing = (*(context.trailing_metadata() or ()), *answered.trailing_metadata)
            await context.abort(answered.code, answered.details, trailing)
            return None

        return answer


def reason_of(error: errors.ZoomgateError) -> str:
    """Give an error's word of the vocabulary."""
    return _R.Name(MAPPING[type(error)][1]).removeprefix("ERROR_REASON_")


def status_of(error: errors.ZoomgateError) -> status_pb2.Status:
    """Build the status of an error, details included."""
    code, name = MAPPING[type(error)][0], reason_of(error)
    message = _clipped(error.message, MAX_MESSAGE)
    repeated = _clipped(error.message, _MAX_REPEATED)
    info = error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=_metadata(error.metadata))
    details: list[Any] = [info]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, int(error.retry_after * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.InvalidRequest):
        details.append(_bad_request(error))
    elif isinstance(error, errors.ZoomRateLimited):
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_clipped(error.metadata.get("limit_type", "zoom"), 64), description=repeated
        )
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    elif code is _C.FAILED_PRECONDITION:
        unmet = error_details_pb2.PreconditionFailure.Violation(type=name, description=repeated)
        details.append(error_details_pb2.PreconditionFailure(violations=[unmet]))
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def _metadata(facts: Mapping[str, str]) -> dict[str, str]:
    """Keep the facts that fit."""
    kept: dict[str, str] = {}
    left = _MAX_INFO
    for key, value in facts.items():
        text = _clipped(value, 500)
        left -= len(key.encode()) + len(text.encode()) + 8
        if text and left >= 0:
            kept[key] = text
    return kept


def _clipped(text: str, limit: int) -> str:
    """Cut a text so that it takes at most `limit` bytes as gRPC sends a message: what is not ASCII takes three for each of its own."""
    if text.isascii():
        return text[:limit]
    taken = 0
    for index, character in enumerate(text):
        taken += 1 if character.isascii() else 3 * len(character.encode("utf-8", "replace"))
        if taken > limit:
            return text[:index]
    return text


def _bad_request(error: errors.InvalidRequest) -> error_details_pb2.BadRequest:
    """List the violations, as many as fit."""
    listed = error_details_pb2.BadRequest()
    for index, violation in enumerate(error.violations):
        row = listed.field_violations.add()
        row.field, row.description = _clipped(violation.field, 200), _clipped(violation.description, 500)
        if listed.ByteSize() > MAX_DETAILS - _MAX_INFO - 512:
            row.field = "…"
            more = len(error.violations) - index
            row.description = f"{more} more fields are wrong: send the named ones right first"
            break
    return listed
